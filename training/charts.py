"""Charts of an evaluation, as one HTML page that needs no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from sklearn.metrics import precision_recall_curve

__all__ = ["calibration_chart", "importance_chart", "precision_recall_chart", "reliability", "write_page"]

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.int8]

_MAX_POINTS = 1500


def precision_recall_chart(labels: LabelArray, scores: Mapping[str, FloatArray]) -> go.Figure:
    """Precision over recall, one line a model."""
    figure = go.Figure()
    for name, score in scores.items():
        precision, recall, _ = precision_recall_curve(labels, score)
        shown = np.unique(np.linspace(0, len(recall) - 1, _MAX_POINTS).astype(np.int64))
        figure.add_scatter(x=recall[shown], y=precision[shown], name=name, mode="lines")
    return figure.update_layout(
        title="Precision over recall, test rows", xaxis_title="recall", yaxis_title="precision"
    )


def calibration_chart(labels: LabelArray, scores: Mapping[str, FloatArray]) -> go.Figure:
    """Observed fraud rate over the predicted one, both on logarithmic axes; the diagonal is perfect."""
    figure = go.Figure()
    for name, score in scores.items():
        predicted, observed, counts = reliability(labels, score)
        figure.add_scatter(
            x=predicted, y=observed, name=name, mode="lines+markers", text=[f"{n} rows" for n in counts]
        )
    figure.add_scatter(x=[1e-4, 1], y=[1e-4, 1], name="perfect", mode="lines", line={"dash": "dot"})
    return figure.update_layout(
        title="Calibration, test rows",
        xaxis={"title": "predicted probability", "type": "log"},
        yaxis={"title": "observed fraud rate", "type": "log"},
    )


def reliability(
    labels: LabelArray, scores: FloatArray, bins: int = 20
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Mean score, fraud rate and count of bins of equally many frauds (most of a rare class lies at the top)."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order])
    step = np.minimum((found - labels[order]) * bins // max(int(found[-1]), 1), bins - 1)
    counts = np.bincount(step, minlength=bins)
    used = counts > 0
    predicted = np.bincount(step, weights=scores[order], minlength=bins)[used] / counts[used]
    observed = np.bincount(step, weights=labels[order], minlength=bins)[used] / counts[used]
    return predicted, observed, counts[used]


def importance_chart(names: Sequence[str], importance: FloatArray, top: int = 30) -> go.Figure:
    """The most important features, the first on top."""
    order = np.argsort(importance)[-top:]
    figure = go.Figure(go.Bar(x=importance[order], y=[names[i] for i in order], orientation="h"))
    return figure.update_layout(title="Feature importance (CatBoost, per cent)", height=200 + 20 * len(order))


def write_page(path: Path, title: str, figures: Sequence[go.Figure]) -> None:
    """Write the figures under each other; the script comes from the installed plotly."""
    parts = "\n".join(figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures)
    path.write_text(
        f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title>'
        f"<script>{get_plotlyjs()}</script></head><body><h1>{title}</h1>{parts}</body></html>",
        encoding="utf-8",
    )
