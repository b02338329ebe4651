"""Where sampled requests' spans go: to an OTLP collector, if the standard ``OTEL_`` variables name one.

=====================================================  ==============================================================
``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_...``)  the collector; without it, and without ``OTEL_TRACES_EXPORTER=otlp``,
                                                       nothing is exported
``OTEL_TRACES_SAMPLER``, ``OTEL_TRACES_SAMPLER_ARG``   as everywhere; default ``parentbased_traceidratio`` of 0.01: a decision
                                                       takes less time than its spans do
``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``    as everywhere; default name ``fraud-scorer``
``OTEL_SDK_DISABLED=true``                             nothing is exported
=====================================================  ==============================================================

The protocol is ``http/protobuf``, OpenTelemetry's own default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Sampling", "provider_of", "sampling_of"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_DEFAULT_RATIO = 0.01
# A collector that does not answer must not hold up the service's end, as ten seconds by default would.
_TIMEOUT_S = 2


@dataclass(frozen=True)
class Sampling:
    """Which requests are sampled: a share of those that begin a trace, and of others those whose caller sampled them.

    Attributes:
        ratio: the share, 0 to 1. parent_based: whether the caller decides where there is one; else the share holds for all.
    """

    ratio: float
    parent_based: bool


def sampling_of(environment: Mapping[str, str]) -> Sampling:
    """What ``OTEL_TRACES_SAMPLER`` says.

    Raises:
        ValueError: a sampler or a share that is not known here.
    """
    name = environment.get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio"
    given = environment.get("OTEL_TRACES_SAMPLER_ARG")
    try:
        share = float(given) if given else 1.0 if "OTEL_TRACES_SAMPLER" in environment else _DEFAULT_RATIO
        if not 0 <= share <= 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG: {given!r}: give a share from 0 to 1") from None
    kind = name.removeprefix("parentbased_")
    ratios = {"always_on": 1.0, "always_off": 0.0, "traceidratio": share}
    if kind not in ratios:
        known = ", ".join([*ratios, *(f"parentbased_{each}" for each in ratios)])
        raise ValueError(f"OTEL_TRACES_SAMPLER: {name!r} is not known here; there are {known}")
    return Sampling(ratios[kind], name != kind)


def provider_of(environment: Mapping[str, str]) -> "TracerProvider | None":
    """The provider whose spans are exported; None where nothing is. What to sample has been decided when it is asked.

    Raises:
        ValueError: a protocol or an exporter that is not supported.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    named = any(environment.get(name) for name in (*_ENDPOINTS, "OTEL_TRACES_EXPORTER"))
    if not named or exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER: {exporter!r} is not supported; give otlp or none")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is not supported; give http/protobuf")
    return _exporting(None if any(environment.get(name) for name in _TIMEOUTS) else _TIMEOUT_S)


def _exporting(timeout_s: float | None) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "fraud-scorer"}))
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout_s)))
    return provider
