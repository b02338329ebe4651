"""What monitoring found, for programs (JSON) and for people (one HTML page that needs no network)."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from monitoring.drift import Drift
from monitoring.health import Health
from monitoring.performance import Performance, Point
from monitoring.ranking import Interval
from monitoring.verdict import Verdict
from training.instants import from_us

__all__ = ["MonitorReport", "as_html", "as_json", "write"]

WHAT_IS_NOT = "—"


@dataclass(frozen=True)
class MonitorReport:
    """One run of monitoring.

    Attributes:
        as_of_us: labels and chargebacks are taken as known at this instant (µs UTC).
        model_version: whose decisions drift and performance are about; None if there are none.
        drift: features in the model's order of drift, the largest PSI first, then the score.
        unjudged: features reported but not judged, with the reason.
        reference: the model's average precision when it was trained.
        mismatches: of the last parity audit; None without one.
    """

    as_of_us: int
    model_version: str | None
    verdict: Verdict
    health: Health
    drift: tuple[Drift, ...]
    unjudged: Mapping[str, str]
    performance: Performance
    reference: float | None
    mismatches: int | None


def as_json(report: MonitorReport) -> str:
    """The report as JSON text; what is infinite or no number is null."""
    return json.dumps(_plain(asdict(report)), indent=1, allow_nan=False)


def as_html(report: MonitorReport) -> str:
    """The report as one page, its script inline (about 5 MB)."""
    title = f"Fraud monitoring, {_time(report.as_of_us)}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _verdict_html(report.verdict),
        _chart_html(report),
        "<h2>Performance on matured labels</h2>",
        _table(("measure", "value", "95% interval"), _performance_rows(report.performance)),
        "<h2>Drift against the training set</h2>",
        _table(_DRIFT_HEAD, [_drift_row(drift, report.unjudged) for drift in report.drift]),
        "<h2>Service</h2>",
        _table(("measure", "value"), _health_rows(report.health)),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>{''.join(parts)}</body></html>\n"
    )


def write(report: MonitorReport, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.json`` and ``name.html`` into ``folder`` (made if absent); the JSON comes last, as one rename."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / f"{name}.html", folder / f"{name}.json"
    page.write_text(as_html(report), encoding="utf-8")
    half = data.with_suffix(".part")
    half.write_text(as_json(report) + "\n", encoding="utf-8")
    half.replace(data)
    return data, page


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color:
#1b1f24; } table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: left;
border-bottom: 1px solid #d8dee4; } td.number, th.number { text-align: right; font-variant-numeric:
tabular-nums; } .verdict { padding: .6rem 1rem; border-left: .5rem solid; background: #f6f8fa; } .ok {
border-color: #1a7f37; } .watch { border-color: #bf8700; } .retrain { border-color: #cf222e; } tr.some td {
background: #fff8c5; } tr.large td { background: #ffebe9; }
"""

_DRIFT_HEAD = (
    "feature",
    "PSI",
    "expected by chance",
    "band",
    "zero before",
    "zero",
    "null before",
    "null",
    "note",
)


def _verdict_html(verdict: Verdict) -> str:
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in verdict.reasons)
    return f'<div class="verdict {verdict.level}"><b>{verdict.level}</b><ul>{reasons}</ul></div>'


def _chart_html(report: MonitorReport) -> str:
    points = report.performance.points
    if not any(point.matured or point.early for point in points):
        why = html.escape(report.performance.early.why or "there are too few frauds")
        return f"<p>There is no average precision to draw: {why}.</p>"
    figure = go.Figure()
    _draw(figure, "matured labels", "#0969da", [(p, p.matured) for p in points if p.matured])
    _draw(figure, "early estimate", "#bf8700", [(p, p.early) for p in points if p.early])
    if report.reference is not None:
        text = f"when trained: {report.reference:.3f}"
        figure.add_hline(
            y=report.reference, line_dash="dot", annotation_text=text, annotation_position="top left"
        )
    figure.update_layout(
        title="Average precision of served scores, with 95% intervals",
        yaxis={"range": [0, 1.02], "title": "average precision"},
        xaxis_title="event time (UTC)",
        template="plotly_white",
        height=420,
    )
    # A name of its own for the element: the default one is random, and the same report would differ each
    # time.
    options = {"full_html": False, "include_plotlyjs": False, "div_id": "average-precision"}
    return str(figure.to_html(**options, config={"displayModeBar": False, "responsive": True}))


def _draw(figure: go.Figure, name: str, colour: str, points: Sequence[tuple[Point, Interval]]) -> None:
    if not points:
        return
    values = [interval.value for _, interval in points]
    figure.add_scatter(
        x=[from_us((point.start_us + point.end_us) // 2).isoformat() for point, _ in points],
        y=values,
        error_y={
            "array": [max(i.high - i.value, 0) for _, i in points],
            "arrayminus": [max(i.value - i.low, 0) for _, i in points],
        },
        name=name,
        mode="markers+lines",
        line={"color": colour},
        text=[f"{point.frauds} frauds of {point.rows:,} decisions" for point, _ in points],
    )


def _performance_rows(performance: Performance) -> list[tuple[str, ...]]:
    matured, early = performance.matured, performance.early
    days = performance.maturity_us / 86_400_000_000
    rows: list[tuple[str, ...]] = [
        ("decisions older than the maturity period", f"{matured.rows:,}", f"{days:g} days"),
        ("frauds among them", f"{matured.frauds:,}", ""),
        ("average precision", *_interval(matured.average_precision)),
        ("ROC AUC", *_interval(matured.auc_roc)),
        ("recall in the first decile", *_interval(matured.recall_first_decile)),
        ("card precision at 100", *_interval(matured.card_precision_100)),
        ("younger decisions to estimate from", f"{early.rows:,}", early.why or ""),
        ("frauds reported so far, expected in all", f"{early.reported:,}, {early.expected:,.0f}", ""),
        ("average precision, early estimate", *_interval(early.average_precision)),
    ]
    left_out = (
        ("unscored", "without a score"),
        ("unknown", "not in the lake"),
        ("excluded", "without a label"),
    )
    rows += [(f"decisions {text}", f"{getattr(performance, name):,}", "") for name, text in left_out]
    return rows


def _drift_row(drift: Drift, unjudged: Mapping[str, str]) -> tuple[str, ...]:
    shares = (drift.zero_before, drift.zero, drift.null_before, drift.null)
    figures = (f"{drift.psi:.4f}", f"{drift.expected:.4f}")
    return (
        drift.name,
        *figures,
        drift.band,
        *(f"{share:.1%}" for share in shares),
        unjudged.get(drift.name, ""),
    )


def _health_rows(health: Health) -> list[tuple[str, ...]]:
    span = [WHAT_IS_NOT if us is None else _time(us) for us in (health.first_us, health.last_us)]
    return [
        ("decisions", f"{health.decisions:,}"),
        *((f"decided: {name}", f"{count:,}") for name, count in health.by_decision.items()),
        *((f"model {name}", f"{count:,}") for name, count in health.by_model.items()),
        ("event time", f"{span[0]} to {span[1]}"),
        ("taken without the model", f"{health.degraded_share:.2%}"),
        *((f"because of {name}", f"{count:,}") for name, count in health.degraded.items()),
        ("latency p50", _milliseconds(health.p50_ms)),
        ("latency p99", _milliseconds(health.p99_ms)),
        (
            "nulls among feature values",
            WHAT_IS_NOT if health.null_share is None else f"{health.null_share:.2%}",
        ),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(_cell("th", text, i) for i, text in enumerate(head)) + "</tr>"]
    for row in rows:
        band = next((f' class="{text}"' for text in row if text in ("some", "large")), "")
        lines.append(f"<tr{band}>" + "".join(_cell("td", text, i) for i, text in enumerate(row)) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(tag: str, text: str, column: int) -> str:
    kind = ' class="number"' if column else ""
    return f"<{tag}{kind}>{html.escape(text)}</{tag}>"


def _interval(interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return WHAT_IS_NOT, ""
    return f"{interval.value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"


def _milliseconds(value: float | None) -> str:
    return WHAT_IS_NOT if value is None else f"{value:.2f} ms"


def _time(us: int) -> str:
    return f"{from_us(us):%Y-%m-%d %H:%M} UTC"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
