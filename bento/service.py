"""The service as BentoML runs it: ``bentoml serve bento.service:FraudScorer``.

The hot path is an ASGI app mounted beside BentoML's own endpoints. BentoML's access log, metrics and
traces are off, as they cost more than a decision; the app has its own metrics at ``/metrics``.
"""

import gc
import logging
import sys
from typing import Any

import bentoml
from starlette.responses import Response

from bento.access import Access
from bento.app import create_app
from bento.cells import shared_cells
from bento.exchange import failed
from bento.gate import Gate
from bento.line_ends import LineEnds
from bento.logs import CANNOT_START, configure
from bento.probes import Probes
from bento.problem import MEDIA_TYPE, Problem
from bento.processor import anywhere, check, keep_to_one
from bento.service_settings import service_settings
from bento.short_way import ShortWay
from bento.tracing import Tracing
from bento.what_if import WHAT_IF_PATH, WhatIfBodies

__all__ = ["FraudScorer", "app"]

_log = logging.getLogger(__name__)

# For as long a thread beside the requests (champion, definitions, health) may keep them from going on when they come back
# from the store; Python's own 5 ms are what some ten decisions take.
_SWITCH_S = 0.0005

app = create_app()


@bentoml.asgi_app(app)
@bentoml.service(
    workers=1,
    # BentoML never cancels its timers: by its default of 60 s each request would leave one for a minute, and
    # at a thousand requests a second the garbage collector would stop all to walk through 60,000 of them.
    traffic={"timeout": 1},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class FraudScorer:
    """Scores card transactions: ``POST /v1/score`` for one, ``/v1/what_if`` to ask without leaving a trace."""

    def __init__(self) -> None:
        # BentoML's supervisor imports this module too, and needs none of what takes seconds to import.
        from bento.lake_loading import LakeLoading
        from bento.metrics import Metrics
        from bento.serving import Serving

        configure()
        try:
            check()
            app.state.access = Access(service_settings())
            app.state.tracing = self._tracing = Tracing.of_environment()
            self._serving: Serving = Serving.open(metrics=Metrics(shared_cells()))
        except Exception as error:
            _log.critical("%s: %s", CANNOT_START, error)
            raise
        app.state.serving = self._serving
        self._loading = LakeLoading(self._serving.metrics)
        self._serving.health.also(self._loading.lag.show)
        self._loading.start()
        # All that is loaded now stays: the collector need never walk through it again.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_S)
        # Last: threads that were started before may run anywhere.
        keep_to_one()

    async def __is_ready__(self) -> bool:
        return self._serving.ready

    @bentoml.on_shutdown
    def close(self) -> None:
        """Stop following the registry, close the journal, load what is left of it, and export what traces are left."""
        self._serving.close()
        self._loading.stop()
        self._tracing.close()

    @bentoml.api(route=WHAT_IF_PATH)
    def what_if(self, transactions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Score up to 500 transactions as ``/v1/score`` would now; nothing is recorded or journalled."""
        # BentoML calls it in a thread of its own.
        anywhere()
        try:
            return self._serving.what_if(transactions)
        except Problem as error:
            found = failed(self._serving, WHAT_IF_PATH, error)
            return Response(found.body(), found.status, media_type=MEDIA_TYPE)  # type: ignore[return-value]


# The first is the outermost.
FraudScorer.add_asgi_middleware(Gate, state=app.state)  # type: ignore[attr-defined]
FraudScorer.add_asgi_middleware(Probes, state=app.state)  # type: ignore[attr-defined]
FraudScorer.add_asgi_middleware(WhatIfBodies, state=app.state)  # type: ignore[attr-defined]
FraudScorer.add_asgi_middleware(LineEnds)  # type: ignore[attr-defined]
FraudScorer.add_asgi_middleware(ShortWay, routes=app)  # type: ignore[attr-defined]
