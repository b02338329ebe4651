"""Point-in-time-correct training sets from a FeatureService: a row a transaction, as the service sees it.

    dataset = build_dataset(store, "fraud_v1", start, end, as_of=as_of, maturity=timedelta(days=7))
    dataset.table, dataset.to_pandas(), dataset.to_parquet("train.parquet"), dataset.manifest

Rows are the transactions that happened in [start, end), of every status, since each is scored before its
status is known; rows without a label at ``as_of`` are dropped unless ``keep_unlabelled`` (see
``training.labels``).

**Which question is asked.** The decision on a transaction is made when it arrives, so its features are asked
as of its own ``created_timestamp`` where that is later than its event time (a late transaction sees what had
become known by its arrival), and as of its event time otherwise. That is the question that the service
answers and the journal keeps.

**Built again to the bit.** The manifest names everything that the content depends on: FeatureService, the
digest of the feature definitions, the Delta versions, range, maturity, ``as_of``; and the digest of the
content. ``rebuild`` builds the set from it and raises unless the content is the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.lake import Snapshot, snapshot
from feature_repo.settings import settings
from feature_repo.windows.digest import definitions_digest, service_features
from feature_repo.windows.sources import pinned
from training.digest import content_digest
from training.instants import duration_us, from_us, instant_us
from training.labels import UNLABELLED, labels_sql, run, with_known_timestamp

__all__ = [
    "ENTITY_COLUMNS",
    "MANIFEST",
    "Dataset",
    "Recipe",
    "arranged",
    "build_dataset",
    "entity_frame",
    "frauds_in",
    "rebuild",
]

MANIFEST = "_manifest.json"
"""The file of a streamed set's manifest, in its folder."""

ENTITY_COLUMNS = (
    "transaction_id",
    "customer_id",
    "terminal_id",
    "event_timestamp",
    "created_timestamp",
    "amount_usd_cents",
    "customer_latitude",
    "customer_longitude",
    "terminal_latitude",
    "terminal_longitude",
)
"""What an entity frame carries: the join keys, both times, the request columns."""

_LEADING = ("transaction_id", "customer_id", "terminal_id", "event_timestamp", "amount_usd_cents")
_LABEL = ("label", "label_known_timestamp")
_TABLES = ("transactions", "chargebacks")


@dataclass(frozen=True)
class Dataset:
    """A training set: ids, event time, amount, features in the FeatureService's order, label and its known time.

    Features are float64 (null: no value). ``label`` is int8, null where unlabelled.
    """

    table: pa.Table
    manifest: dict[str, Any]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features, in the model's order."""
        return tuple(self.manifest["feature_names"])

    @property
    def maturity_us(self) -> int:
        """The maturity period of the labels, in µs."""
        return int(self.manifest["maturity_us"])

    def values(self) -> npt.NDArray[np.float64]:
        """The features as float64[rows, features], null as NaN."""
        columns = [self.column(name) for name in self.feature_names]
        return np.column_stack(columns) if columns else np.empty((self.table.num_rows, 0))

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A numeric column as float64, null as NaN."""
        return _float64(self.table.column(name))

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """An integer or timestamp (µs UTC) column as int64; null as the smallest int64."""
        column = self.table.column(name).cast(pa.int64()).fill_null(np.iinfo(np.int64).min)
        return np.asarray(column.to_numpy(), np.int64)

    def labels(self) -> npt.NDArray[np.int8]:
        """The labels: 1, 0, or ``UNLABELLED``."""
        return np.asarray(self.table.column("label").fill_null(UNLABELLED).to_numpy(), np.int8)

    def codes(self, name: str) -> npt.NDArray[np.int64]:
        """A string column as small integers in the strings' sort order: ties break alike on every machine."""
        values = pd.factorize(self.table.column(name).to_pandas(), sort=True)[0]
        return np.asarray(values, np.int64)

    def to_pandas(self) -> pd.DataFrame:
        """The table as a pandas frame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def to_parquet(self, path: Path | str) -> None:
        """Write the table with its manifest in the file's metadata; ``from_parquet`` reads both."""
        metadata = {**(self.table.schema.metadata or {}), b"manifest": json.dumps(self.manifest).encode()}
        pq.write_table(self.table.replace_schema_metadata(metadata), path)

    @classmethod
    def from_parquet(cls, path: Path | str) -> "Dataset":
        """Read a set that ``to_parquet`` or ``training.stream.stream_dataset`` wrote.

        Raises:
            ValueError: the file carries no manifest, or its content is not what its manifest says.
        """
        table = pq.read_table(path)
        metadata = dict(table.schema.metadata or {})
        beside = Path(path) / MANIFEST
        if beside.exists():
            metadata[b"manifest"] = beside.read_bytes()
        if b"manifest" not in metadata:
            raise ValueError(
                f"{path}: no manifest with it; write training sets with Dataset.to_parquet or stream_dataset"
            )
        manifest = json.loads(metadata.pop(b"manifest"))
        dataset = cls(table.replace_schema_metadata(None), manifest)
        _check_digest(str(path), dataset.table, manifest)
        return dataset


def build_dataset(
    store: Any,
    feature_service: str,
    start: datetime,
    end: datetime,
    *,
    as_of: datetime,
    maturity: timedelta,
    lake: Path | None = None,
    versions: Mapping[str, int] | None = None,
    keep_unlabelled: bool = False,
) -> Dataset:
    """The transactions that happened in [start, end), with features and with the labels known at ``as_of``.

    Args:
        store: a Feast FeatureStore with the definitions applied (``feature_repo.store.open_store()``).
        feature_service: name of a FeatureService over the sources ``transactions`` and ``chargebacks``.
        as_of: labels reported at or after this instant are not used; neither are transactions known only then.
        maturity: how long a transaction must have been silent to count as genuine.
        lake: folder of the Delta tables (default: this deployment's); the one that the store's sources read.
        versions: Delta versions by table (default: the newest), for the rows, labels and features alike.
        keep_unlabelled: keep rows that have no label at ``as_of`` (null label).

    Raises:
        ValueError: an instant without a time zone, an empty range, or no row with a label in it.
    """
    recipe = Recipe.of(
        store, feature_service, start, end, as_of=as_of, maturity=maturity, lake=lake, versions=versions,
        keep_unlabelled=keep_unlabelled,
    )  # fmt: skip
    rows = run(f"{recipe.sql} ORDER BY event_timestamp, transaction_id")
    if rows.num_rows == 0:
        recipe.refuse_no_rows()
    service = store.get_feature_service(feature_service)
    with pinned(recipe.versions):
        table = _with_features(store, service, recipe.feature_names, with_known_timestamp(rows))
    return Dataset(table, recipe.manifest(table.num_rows, frauds_in(table), content_digest(table)))


@dataclass(frozen=True)
class Recipe:
    """What a training set is made of: everything that its content depends on.

    Attributes:
        versions: Delta versions by table. maturity: of the labels.
        sql: query of the rows, with ``ENTITY_COLUMNS``, ``label`` and ``label_known_us``, in any order.
    """

    feature_service: str
    feature_names: tuple[str, ...]
    definitions_digest: str
    versions: dict[str, int]
    start: datetime
    end: datetime
    as_of: datetime
    maturity: timedelta
    keep_unlabelled: bool
    sql: str

    @classmethod
    def of(
        cls, store: Any, feature_service: str, start: datetime, end: datetime, *, as_of: datetime, maturity: timedelta,
        lake: Path | None, versions: Mapping[str, int] | None, keep_unlabelled: bool,
    ) -> Self:  # fmt: skip
        """The arguments of ``build_dataset``, resolved; raises as it does."""
        snapshots = _snapshots(lake or settings().lake, versions)
        sql = labels_sql(
            snapshots["transactions"], snapshots["chargebacks"], start, end, as_of=as_of, maturity=maturity,
            columns=ENTITY_COLUMNS, ordered=False,
        )  # fmt: skip
        return cls(
            feature_service, service_features(store.get_feature_service(feature_service)),
            definitions_digest(store, feature_service), {name: part.version for name, part in snapshots.items()},
            start, end, as_of, maturity, keep_unlabelled,
            f"SELECT * FROM ({sql})" + ("" if keep_unlabelled else " WHERE label IS NOT NULL"),
        )  # fmt: skip

    def refuse_no_rows(self) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(
            f"dataset: no transaction with a label in [{self.start.isoformat()}, {self.end.isoformat()}) as of "
            f"{self.as_of.isoformat()} at a maturity of {self.maturity}; choose an earlier range or a later as_of"
        )

    def manifest(self, rows: int, frauds: int, digest: str) -> dict[str, Any]:
        """The manifest of the set that was made."""
        return {
            "format": 1,
            "feature_service": self.feature_service,
            "feature_names": list(self.feature_names),
            "definitions_digest": self.definitions_digest,
            "versions": self.versions,
            "start": _text(self.start),
            "end": _text(self.end),
            "as_of": _text(self.as_of),
            "maturity_us": duration_us("maturity", self.maturity),
            "keep_unlabelled": self.keep_unlabelled,
            "rows": rows,
            "frauds": frauds,
            "digest": digest,
        }


def frauds_in(table: pa.Table) -> int:
    """How many rows of a set are labelled frauds."""
    return int(pc.sum(pc.fill_null(table.column("label"), 0)).as_py() or 0)


def arranged(answer: pa.Table, labelled: pa.Table, names: Sequence[str]) -> pa.Table:
    """A set's columns in their order: what leads and the label from ``labelled``, the features, as reals, from ``answer``."""
    columns = {name: labelled.column(name) for name in _LEADING}
    columns |= {name: pa.array(_float64(answer.column(name)), from_pandas=True) for name in names}
    columns |= {name: labelled.column(name) for name in _LABEL}
    return pa.table(columns).combine_chunks()


def rebuild(manifest: Mapping[str, Any], store: Any, *, lake: Path | None = None) -> Dataset:
    """Build the set that ``manifest`` describes again.

    Raises:
        ValueError: the feature definitions are not those of the manifest, or the content differs.
    """
    service = manifest["feature_service"]
    now = definitions_digest(store, service)
    if now != manifest["definitions_digest"]:
        raise ValueError(
            f"dataset: {service} is defined as {now} and the manifest was made with "
            f"{manifest['definitions_digest']}; check out and apply the definitions of that time"
        )
    dataset = build_dataset(
        store,
        service,
        datetime.fromisoformat(manifest["start"]),
        datetime.fromisoformat(manifest["end"]),
        as_of=datetime.fromisoformat(manifest["as_of"]),
        maturity=timedelta(microseconds=manifest["maturity_us"]),
        lake=lake,
        versions=manifest["versions"],
        keep_unlabelled=manifest["keep_unlabelled"],
    )
    _check_digest("rebuild", dataset.table, manifest)
    return dataset


def entity_frame(rows: pa.Table) -> pd.DataFrame:
    """Transactions as an entity frame; ``created_timestamp`` stays only if some row arrived late.

    The engine has a fast path for frames without one, and a row that arrived in time asks the same question
    either way.
    """
    event, created = (rows.column(f"{name}_timestamp").combine_chunks() for name in ("event", "created"))
    late = pc.greater(created, event)
    index = rows.schema.get_field_index("created_timestamp")
    if pc.any(late).as_py():
        rows = rows.set_column(index, "created_timestamp", pc.if_else(late, created, event))
    else:
        rows = rows.remove_column(index)
    frame: pd.DataFrame = rows.to_pandas()
    return frame


def _with_features(store: Any, service: Any, names: tuple[str, ...], rows: pa.Table) -> pa.Table:
    answer = store.get_historical_features(entity_frame(rows.drop_columns(list(_LABEL))), service).to_arrow()
    asked, answered = (table.column("transaction_id").combine_chunks() for table in (rows, answer))
    if answered.to_pylist() != asked.to_pylist():
        raise ValueError(f"dataset: {service.name} answered other rows, or in another order, than were asked")
    return arranged(answer, rows, names)


def _float64(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan).to_numpy(), np.float64)


def _snapshots(lake: Path, versions: Mapping[str, int] | None) -> dict[str, Snapshot]:
    return {name: snapshot(lake / name, versions[name] if versions else None) for name in _TABLES}


def _check_digest(where: str, table: pa.Table, manifest: Mapping[str, Any]) -> None:
    digest = content_digest(table)
    if digest != manifest["digest"]:
        raise ValueError(
            f"{where}: the content's digest is {digest} and the manifest says {manifest['digest']}; the lake, the "
            "definitions or the file were changed since: build the set anew"
        )


def _text(instant: datetime) -> str:
    return from_us(instant_us("instant", instant)).isoformat()
