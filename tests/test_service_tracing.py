"""W3C trace context through the gate, and what a collector receives of the requests that are sampled."""

import asyncio
import logging
import time
from types import SimpleNamespace

import httpx
import pytest

from bento.gate import Gate
from bento.metrics import STAGES
from bento.service_settings import ServiceSettings
from bento.trace_export import Sampling, provider_of, sampling_of
from bento.tracing import Tracing, current_trace
from tests.asgi import gate_state
from tests.collector import collecting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


@pytest.fixture
def sent(tmp_path):
    """Sends a request through the gate with such tracing: the answer, and the trace that was current meanwhile."""

    def send(tracing, path="/v1/score", status=200, **headers):
        seen = []

        async def app(scope, receive, send):
            trace = current_trace()
            seen.append(trace)
            if trace is not None:
                now = time.perf_counter_ns()
                trace.stages(STAGES, [now - 3000, now - 2000, now - 500, now])
                trace.decided("t1", "review", None)
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        state = gate_state(ServiceSettings(tmp_path / "keys.json"), tracing=tracing)

        async def sending():
            transport = httpx.ASGITransport(Gate(app, state))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
                return await http.post(path, headers=headers)

        answer = asyncio.run(sending())
        return answer, seen[0] if seen else None

    return send


def exporting(url, **environment):
    return Tracing.of_environment({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url}/v1/traces", **environment})


@pytest.fixture(autouse=True)
def endpoint(monkeypatch):
    """The exporter reads the environment itself."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)

    def use(url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{url}/v1/traces")

    return use


def test_without_trace_context_there_is_no_trace(sent):
    answer, trace = sent(Tracing.of_environment({}))
    assert trace is None
    assert "traceresponse" not in answer.headers


@pytest.mark.parametrize("traceparent", [SAMPLED, NOT_SAMPLED, f"01-{TRACE}-{SPAN}-03-more"])
def test_a_caller_s_trace_id_is_kept_and_answered_also_without_a_collector(sent, traceparent):
    answer, trace = sent(Tracing.of_environment({}), traceparent=traceparent)
    assert trace.trace_id == TRACE
    version, trace_id, span_id, flags = answer.headers["traceresponse"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "00")
    assert span_id == trace.span_id != SPAN
    assert current_trace() is None


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE[:-1]}-{SPAN}-01",
    ],
)
def test_a_malformed_trace_context_is_as_none(sent, traceparent):
    answer, trace = sent(Tracing.of_environment({}), traceparent=traceparent)
    assert (answer.status_code, trace) == (200, None)


def test_a_sampled_request_becomes_spans_of_its_stages_under_the_caller_s(sent, endpoint, caplog):
    caplog.set_level(logging.INFO)
    with collecting() as collector:
        endpoint(collector.url)
        tracing = exporting(collector.url)
        answer, trace = sent(tracing, traceparent=SAMPLED, status=503)
        tracing.close()
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{trace.span_id}-01"
    assert {service for service, _ in collector.spans} == {"fraud-scorer"}
    spans = {span.name: span for _, span in collector.spans}
    assert list(spans) == [*STAGES[:3], "POST /v1/score"]
    whole = spans.pop("POST /v1/score")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    assert whole.span_id.hex() == trace.span_id
    attributes = {each.key: each.value for each in whole.attributes}
    assert attributes["http.route"].string_value == "/v1/score"
    assert attributes["http.response.status_code"].int_value == 503
    assert attributes["fraud.transaction_id"].string_value == "t1"
    assert [record.transaction_id for record in caplog.records if record.message == "decided"] == ["t1"]
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (whole.trace_id, whole.span_id)
    lasted = [span.end_time_unix_nano - span.start_time_unix_nano for span in spans.values()]
    assert lasted == [1000, 1500, 500]
    assert abs(whole.end_time_unix_nano - time.time_ns()) < 60e9


def test_what_the_caller_does_not_sample_is_not_exported(sent, endpoint):
    with collecting() as collector:
        endpoint(collector.url)
        tracing = exporting(collector.url, OTEL_TRACES_SAMPLER="parentbased_always_on")
        sent(tracing, traceparent=NOT_SAMPLED)
        _, begun = sent(tracing, path="/v1/decisions/4711")
        tracing.close()
    assert [(span.name, span.trace_id.hex()) for _, span in collector.spans if not span.parent_span_id] == [
        ("POST /v1/decisions/*", begun.trace_id)
    ]


def test_a_collector_that_is_gone_stops_nobody(sent, endpoint):
    with collecting() as collector:
        pass
    endpoint(collector.url)
    tracing = exporting(collector.url)
    answer, _ = sent(tracing, traceparent=SAMPLED)
    assert answer.status_code == 200
    began = time.monotonic()
    tracing.close()
    assert time.monotonic() - began < 10


def test_a_request_that_is_refused_begins_no_trace(sent, endpoint):
    with collecting() as collector:
        endpoint(collector.url)
        tracing = exporting(collector.url)
        answer, _ = sent(tracing, traceparent=SAMPLED, **{"x-forwarded-for": "203.0.113.7"})
        tracing.close()
    assert (answer.status_code, collector.spans) == (403, [])


@pytest.mark.parametrize(
    ("environment", "sampling"),
    [
        ({}, Sampling(0.01, True)),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, Sampling(1, False)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampling(0, True)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, Sampling(1, False)),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"},
            Sampling(0.2, True),
        ),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.5"}, Sampling(0.5, True)),
    ],
)
def test_what_is_sampled_follows_the_standard_variables(environment, sampling):
    assert sampling_of(environment) == sampling


def test_a_share_is_about_that_share():
    tracing = Tracing(None, Sampling(0.25, False))
    assert not any(tracing._samples(None) for _ in range(100))
    with_collector = Tracing(SimpleNamespace(get_tracer=lambda name: None), Sampling(0.25, False))
    assert 150 < sum(with_collector._samples(None) for _ in range(1000)) < 350


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_exported_unless_a_collector_is_named(environment):
    assert provider_of(environment) is None


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER: 'jaeger_remote' is not known here"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG: '2': give a share from 0 to 1"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is not supported"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not supported; give http/protobuf",
        ),
    ],
)
def test_what_is_not_supported_is_said_at_the_start(environment, why):
    with pytest.raises(ValueError, match=why):
        Tracing.of_environment(environment)
