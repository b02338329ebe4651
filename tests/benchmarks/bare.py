"""What no service avoids: a Starlette endpoint that returns a constant, under uvicorn as BentoML starts it.

``python -m tests.benchmarks.bare PORT``
"""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def _constant(request: Request) -> Response:
    return JSONResponse({"decision": "approve"})


app = Starlette(routes=[Route("/v1/score", _constant, methods=["POST"])])


if __name__ == "__main__":
    # As in BentoML's worker; like there, nothing logs accesses.
    config = uvicorn.Config(
        app, port=int(sys.argv[1]), backlog=2048, log_config=None, workers=1, timeout_keep_alive=5,
        server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run()
