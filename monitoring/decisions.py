"""Journalled decisions as columns: what every measure of this package starts from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Decisions", "batches", "collect"]

Record = Mapping[str, Any]
BATCH = 20_000
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Decisions:
    """Decisions of one set of features, in the order of the journal; all arrays have one length.

    Attributes:
        feature_names: columns of ``features``, sorted.
        features: float64 [rows, features], the bits that the service saw; null = NaN.
        event_timestamp_us, known_as_of_us, decided_at_us: microseconds since 1970 UTC.
        has_features: whether any feature was journalled; degraded decisions may have none.
        score: null = NaN (the model did not answer).
        degraded: the reason as text, or None.
        model, definitions_digest, feature_service: None where no model was loaded.
        state_seen: for each row, events in the state of each view's key when it was read.
    """

    feature_names: tuple[str, ...]
    features: npt.NDArray[np.float64]
    has_features: npt.NDArray[np.bool_]
    transaction_id: list[str]
    customer_id: list[str]
    terminal_id: list[str]
    request: list[Mapping[str, Any]]
    event_timestamp_us: npt.NDArray[np.int64]
    known_as_of_us: npt.NDArray[np.int64]
    decided_at_us: npt.NDArray[np.int64]
    latency_us: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    decision: list[str]
    degraded: list[str | None]
    model: list[tuple[str, str] | None]
    definitions_digest: list[str | None]
    feature_service: list[str | None]
    state_seen: list[Mapping[str, int]]

    def __len__(self) -> int:
        return len(self.transaction_id)

    def columns(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """The named features in that order, float64 [rows, names]; one that was not journalled is null."""
        at = {name: i for i, name in enumerate(self.feature_names)}
        chosen = np.full((len(self), len(names)), np.nan)
        for i, name in enumerate(names):
            if name in at:
                chosen[:, i] = self.features[:, at[name]]
        return chosen

    def take(self, keep: npt.NDArray[np.bool_]) -> "Decisions":
        """The rows where ``keep`` is true."""
        index = np.flatnonzero(keep)
        chosen: dict[str, Any] = {"feature_names": self.feature_names}
        for field in fields(self)[1:]:
            column = getattr(self, field.name)
            chosen[field.name] = (
                column[index] if isinstance(column, np.ndarray) else [column[i] for i in index]
            )
        return Decisions(**chosen)


def collect(records: Iterable[Record]) -> Decisions:
    """Columns of all ``records``: their features are the union of names, NaN where a record has none.

    What only the audit reads (request, state) is left out, for it takes more memory than all the rest.
    """
    slim = ({**record, "request": _NOTHING, "state_seen": _NOTHING} for record in records)
    return _concatenate(list(batches(slim)) or [_columns([])])


def batches(records: Iterable[Record], size: int = BATCH) -> Iterator[Decisions]:
    """Columns of at most ``size`` records at a time, in order, so that memory does not grow with the
    journal."""
    rows = iter(records)
    while chunk := list(islice(rows, size)):
        yield _columns(chunk)


def _columns(rows: list[Record]) -> Decisions:
    names = tuple(sorted(set(chain.from_iterable(row["features"] for row in rows))))
    at = {name: i for i, name in enumerate(names)}
    features = np.full((len(rows), len(names)), np.nan)
    for i, row in enumerate(rows):
        for name, value in row["features"].items():
            if value is not None:
                features[i, at[name]] = value
    return Decisions(
        feature_names=names,
        features=features,
        has_features=np.array([bool(row["features"]) for row in rows], dtype=np.bool_),
        transaction_id=[row["transaction_id"] for row in rows],
        customer_id=[row["customer_id"] for row in rows],
        terminal_id=[row["terminal_id"] for row in rows],
        request=[row["request"] for row in rows],
        event_timestamp_us=_ints(rows, "event_timestamp_us"),
        known_as_of_us=_ints(rows, "known_as_of_us"),
        decided_at_us=_ints(rows, "decided_at_us"),
        latency_us=_floats(rows, "latency_us"),
        score=_floats(rows, "score"),
        decision=[row["decision"] for row in rows],
        degraded=[row["degraded"] for row in rows],
        model=[_model(row) for row in rows],
        definitions_digest=[row["definitions_digest"] for row in rows],
        feature_service=[row["feature_service"] for row in rows],
        state_seen=[row["state_seen"] or _NOTHING for row in rows],
    )


def _concatenate(parts: list[Decisions]) -> Decisions:
    names = tuple(sorted(set(chain.from_iterable(part.feature_names for part in parts))))
    columns: dict[str, Any] = {
        "feature_names": names,
        "features": np.vstack([p.columns(names) for p in parts]),
    }
    for field in fields(Decisions)[2:]:
        pieces = [getattr(part, field.name) for part in parts]
        is_array = isinstance(pieces[0], np.ndarray)
        columns[field.name] = np.concatenate(pieces) if is_array else list(chain.from_iterable(pieces))
    return Decisions(**columns)


def _ints(rows: list[Record], name: str) -> npt.NDArray[np.int64]:
    return np.fromiter((row[name] for row in rows), np.int64, len(rows))


def _floats(rows: list[Record], name: str) -> npt.NDArray[np.float64]:
    values = (row[name] for row in rows)
    return np.fromiter((np.nan if value is None else value for value in values), np.float64, len(rows))


def _model(row: Record) -> tuple[str, str] | None:
    name, version = row["model_name"], row["model_version"]
    return None if name is None or version is None else (str(name), str(version))
