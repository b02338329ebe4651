"""The service's description is valid and whole, and the service keeps to it: fuzzed by schemathesis from it.

The app runs in this process, over a real Valkey and a real journal. Each request that is refused is checked to have
changed neither.
"""

import json
from contextlib import closing
from datetime import timedelta

import pytest
import requests
import schemathesis
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Match, Route

from bento.app import create_app
from bento.openapi import BENTOML, document
from bento.problem import KINDS
from tests.asgi import Client, kind_of
from tests.deployments import after_load, body_of, events, opened, with_bundle
from tests.fuzzing import FUZZING, SEMANTIC
from tests.homes import client_of

TRANSACTIONS, CHARGEBACKS = events(seed=4, count=150)
ROW = after_load(TRANSACTIONS)[0]
APP = create_app()
OF_APP = schemathesis.openapi.from_asgi("/docs.json", APP).exclude(tag=BENTOML)
FEW_IDS = 5


def sent(case):
    """The answer to a case, in this thread, where the service was opened; it must be as described."""
    request = requests.Request(**case.as_transport_kwargs(base_url="http://service")).prepare()
    answer = Client(APP).request(
        request.method, request.url, headers=dict(request.headers), content=request.body
    )
    case.validate_response(answer, excluded_checks=SEMANTIC)
    return answer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    with with_bundle(folder, TRANSACTIONS, CHARGEBACKS):
        yield folder


@pytest.fixture(scope="module")
def state(home):
    """The app serves; gives what the service has recorded so far, in Redis, journal and index."""
    with (
        closing(opened(home)) as serving,
        client_of(home) as client,
    ):
        APP.state.serving = serving

        def recorded():
            # Which recorders are alive, and up to where the state has the journal, is told every few seconds, whatever is asked.
            keys = sorted(key for key in client.keys("*") if not key.endswith((b":live", b":journal")))
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.dump(key)
                kept = dict(zip(keys, pipeline.execute(), strict=True))
            lines = {path.name: path.stat().st_size for path in (home / "journal").glob("*.jsonl")}
            return kept, lines, serving.recording.seen._db.execute("SELECT count(*) FROM seen").fetchall()

        yield recorded


def test_the_description_is_valid():
    OpenAPIV31SpecValidator(document()).validate()


def test_the_description_has_every_route_and_no_other():
    described = {
        (path, method.upper())
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if BENTOML not in operation["tags"]
    }
    routes = {
        (route.path.replace(":any}", "}"), method)
        for route in APP.routes
        if isinstance(route, Route) and route.methods is not None
        for method in route.methods - {"HEAD"}
    }
    assert described == routes


def test_the_description_has_every_kind_of_problem_but_those_of_the_path_itself():
    told = set()
    for methods in document()["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                told |= {part.partition(":")[0] for part in response["description"].split("; ")}
    assert set(KINDS) - told == {"method-not-allowed"}


def test_what_the_page_tries_out_is_accepted(state):
    client, statuses = Client(APP), []
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in content and BENTOML not in operation["tags"]:
                statuses.append(client.request(method.upper(), path, json=content["example"]).status_code)
    assert statuses
    assert set(statuses) == {200}


@OF_APP.parametrize()
@FUZZING
def test_the_service_keeps_to_its_description(case, state):
    before = state()
    answer = sent(case)
    if answer.status_code != 200:
        kind_of(json.loads(answer.content))
    if answer.status_code != 200 or case.method == "GET" or case.path == "/v1/features":
        assert state() == before


@OF_APP.include(path=["/v1/score", "/v1/transactions", "/v1/chargebacks"]).parametrize()
@FUZZING
def test_what_is_sent_again_gets_the_first_answer_or_a_conflict(case, state):
    """Made likely to be accepted, and of few ids, so that they meet."""
    if not isinstance(case.body, dict):
        return
    likely = body_of(ROW, transaction_id=f"again{len(str(case.body)) % FEW_IDS}")
    if case.path == "/v1/chargebacks":
        likely["created_timestamp"] = (ROW["created_timestamp"] + timedelta(days=3)).isoformat()
    case.body |= {
        name: likely[name]
        for name in ("transaction_id", "event_timestamp", "created_timestamp", "customer_id", "terminal_id")
        if name in case.body or name != "customer_id"
    }
    before = state()
    answer = sent(case)
    if answer.status_code == 200:
        after = state()
        assert (after == before) == ("idempotent-replayed" in answer.headers)
        again = sent(case)
        assert again.content == answer.content
        assert again.headers["idempotent-replayed"] == "true"
        before = after
    assert state() == before


def test_the_description_is_served_where_bentoml_s_page_looks_for_it():
    (served,) = [route for route in APP.routes if route.path == "/docs.json"]
    scope = {"type": "http", "path": "/docs.json", "method": "GET", "headers": []}
    assert served.matches(scope)[0] is Match.FULL
    assert Client(APP).get("/docs.json").json() == document()
