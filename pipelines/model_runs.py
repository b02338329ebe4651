"""What the registry remembers of how a model version was made."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from training.bundle import Bundle
from training.registry import MODEL_NAME
from training.tracking import connect

__all__ = ["Origin", "origin"]


@dataclass(frozen=True)
class Origin:
    """How a version was made.

    Attributes:
        maturity: age at which silence meant genuine in its labels.
        average_precision: on its test rows; None if its run recorded none.
        train_start, train_end, test_start, test_end: its fold; None if its run recorded none.
    """

    maturity: timedelta
    average_precision: float | None
    train_start: datetime | None
    train_end: datetime | None
    test_start: datetime | None
    test_end: datetime | None

    @property
    def train_days(self) -> int | None:
        """Whole days of training, None if unknown."""
        return _days(self.train_start, self.train_end)

    @property
    def test_days(self) -> int | None:
        """Whole days of test, None if unknown."""
        return _days(self.test_start, self.test_end)


def origin(bundle: Bundle, version: str) -> Origin:
    """How ``version``, whose bundle this is, was made."""
    client = connect()
    run = client.get_run(client.get_model_version(MODEL_NAME, version).run_id).data
    metric = run.metrics.get("catboost.average_precision")
    return Origin(
        timedelta(microseconds=bundle.spec.training["dataset"]["maturity_us"]),
        None if metric is None else float(metric),
        *(_instant(run.params, name) for name in ("train_start", "train_end", "test_start", "test_end")),
    )


def _instant(parameters: dict[str, Any], name: str) -> datetime | None:
    text = parameters.get(f"fold.{name}")
    return None if text is None else datetime.fromisoformat(text)


def _days(start: datetime | None, end: datetime | None) -> int | None:
    return None if start is None or end is None else max((end - start).days, 1)
