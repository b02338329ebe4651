"""Health of the service as its journal tells it."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from monitoring.decisions import Decisions

__all__ = ["Health", "measure"]


@dataclass(frozen=True)
class Health:
    """What was answered, how fast, and with how much of the input missing.

    Attributes:
        degraded_share: decisions taken without the model; by reason in ``degraded``.
        p50_ms, p99_ms: the service's own latency of a decision; None without decisions.
        null_share: of all feature values of decisions that had features; None without such.
        nulls: share of nulls by feature, the highest first.
        first_us, last_us: event times of the earliest and latest decision; None without decisions.
    """

    decisions: int
    by_decision: dict[str, int]
    by_model: dict[str, int]
    degraded_share: float
    degraded: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    null_share: float | None
    nulls: dict[str, float]
    first_us: int | None
    last_us: int | None


def measure(decisions: Decisions) -> Health:
    """Measure all of ``decisions``; none of them is no error."""
    rows = len(decisions)
    reasons = Counter(reason for reason in decisions.degraded if reason is not None)
    null = np.isnan(decisions.features[decisions.has_features])
    shares = dict(zip(decisions.feature_names, null.mean(axis=0).tolist(), strict=True)) if null.size else {}
    latency = decisions.latency_us[~np.isnan(decisions.latency_us)] / 1000
    times = decisions.event_timestamp_us
    return Health(
        decisions=rows,
        by_decision=dict(sorted(Counter(decisions.decision).items())),
        by_model=dict(
            sorted(Counter(" ".join(model) if model else "none" for model in decisions.model).items())
        ),
        degraded_share=reasons.total() / rows if rows else 0.0,
        degraded=dict(reasons.most_common()),
        p50_ms=float(np.quantile(latency, 0.50)) if latency.size else None,
        p99_ms=float(np.quantile(latency, 0.99)) if latency.size else None,
        null_share=float(null.mean()) if null.size else None,
        nulls=dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))),
        first_us=int(times.min()) if rows else None,
        last_us=int(times.max()) if rows else None,
    )
