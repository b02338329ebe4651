"""Plain views in Redis, laid out as Feast lays them out: one hash an entity, one field a feature, shared by the entity's views.

Beside Feast's field ``_ts:{view}``, the event time, stands ``_created:{view}``: when the row was created, microseconds as text.
Of the rows of an entity the one with the newest event time is kept, of several at that time the one created last, of several of
those the one written last; in whatever order they arrive, and from however many processes.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import pandas as pd
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3 as field_of
from feast.infra.online_stores.helpers import _redis_key as redis_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.windows.scripts import Call, script
from feature_repo.windows.state import to_microseconds

_ROWS_PER_ROUND_TRIP = 1000
_NEVER_CREATED = -(2**63)


@dataclass(frozen=True)
class Found:
    """A row as it is kept: its event time, microseconds, and its values by feature; a null is a ``Value`` of nothing."""

    time_us: int
    values: dict[str, Value]


@dataclass(frozen=True)
class _Row:
    key: bytes
    time_us: int
    created_us: int
    values: dict[str, Value]

    @property
    def rank(self) -> tuple[int, int]:
        return self.time_us, self.created_us


class PlainRows:
    """The rows of one plain view in one Redis."""

    def __init__(self, client: Any, config: RepoConfig, view: FeatureView) -> None:
        self._client = client
        self._config = config
        self._view = view
        self._name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        self._time, self._created = f"_ts:{self._name}".encode(), f"_created:{self._name}".encode()

    def write(self, data: Iterable[tuple[EntityKey, dict[str, Value], datetime, datetime | None]]) -> None:
        """Keep each entity's newest row, of those given and the one that is there.

        Rows with a null join key, which nobody could ask for, are left out.

        Raises:
            ValueError: a row without an event time.
        """
        newest: dict[bytes, _Row] = {}
        for entity_key, values, time, created in data:
            if any(value.WhichOneof("val") is None for value in entity_key.entity_values):
                continue
            row = self._row(entity_key, values, time, created)
            held = newest.get(row.key)
            if held is None or row.rank >= held.rank:
                newest[row.key] = row
        rows = list(newest.values())
        for start in range(0, len(rows), _ROWS_PER_ROUND_TRIP):
            self._put(rows[start : start + _ROWS_PER_ROUND_TRIP])

    def commands(self, keys: Sequence[EntityKey], features: Sequence[str]) -> list[tuple[bytes, list[bytes]]]:
        """What to read for ``found``: the key and the fields of one ``HMGET`` for each entity."""
        fields = [self._time, *(self._field(name) for name in features)]
        return [(self._key(key), fields) for key in keys]

    def found(self, features: Sequence[str], reply: Sequence[bytes | None]) -> Found | None:
        """The row in a reply to one of ``commands``; None if the entity has none."""
        time, *values = reply
        if not time:
            return None
        parsed = (Value.FromString(value) if value else Value() for value in values)
        return Found(_microseconds(time), dict(zip(features, parsed, strict=True)))

    def remove(self) -> None:
        """Remove the view's rows; those of other views with the same entities stay.

        Field by field, for another view may be written meanwhile. With an entity's last view goes what else stands there:
        features that the view once had.
        """
        fields = [self._time, self._created, *(self._field(feature.name) for feature in self._view.features)]
        for keys in batches(entity_hashes(self._client, self._config.project)):
            names = self._piped(lambda pipeline, key: pipeline.hkeys(key), keys)
            held = [
                (key, there if times == {self._time} else fields)
                for key, there in zip(keys, names, strict=True)
                if self._time in (times := _times(there))
            ]
            self._piped(lambda pipeline, row: pipeline.hdel(row[0], *row[1]), held)

    def _row(
        self, key: EntityKey, values: dict[str, Value], time: datetime, created: datetime | None
    ) -> _Row:
        if pd.isna(time):
            raise ValueError(f"{self._name}: event time null for {_text(key)}; give every row its time")
        known = (
            _NEVER_CREATED if created is None or pd.isna(created) else to_microseconds(make_tzaware(created))
        )
        return _Row(self._key(key), to_microseconds(make_tzaware(time)), known, values)

    def _put(self, rows: list[_Row]) -> None:
        """Write rows that rank no lower than what is there; one that is overtaken meanwhile is looked at again."""
        while rows:
            held = self._piped(lambda pipeline, row: pipeline.hmget(row.key, self._time, self._created), rows)
            due = [
                (row, there) for row, there in zip(rows, held, strict=True) if row.rank >= _rank_of(*there)
            ]
            answers = script("put").run(self._client, [self._call(row, *there) for row, there in due])
            rows = [row for (row, _), written in zip(due, answers, strict=True) if not written]

    def _piped(self, command: Callable[[Any, Any], Any], items: Iterable[Any]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for item in items:
            command(pipeline, item)
        answers: list[Any] = pipeline.execute()
        return answers

    def _call(self, row: _Row, time: bytes | None, created: bytes | None) -> Call:
        kept = Timestamp()
        kept.FromMicroseconds(row.time_us)
        fields: list[Any] = [self._time, kept.SerializeToString(), self._created, b"%d" % row.created_us]
        for name, value in row.values.items():
            fields += [self._field(name), value.SerializeToString()]
        expiry = self._config.online_store.key_ttl_seconds or 0
        return [row.key], [self._time, time or b"", self._created, created or b"", expiry, *fields]

    def _key(self, key: EntityKey) -> bytes:
        made: bytes = redis_key(self._config.project, key, self._config.entity_key_serialization_version)
        return made

    def _field(self, feature: str) -> bytes:
        field: bytes = field_of(f"{self._name}:{feature}")
        return field


def entity_hashes(client: Any, project: str) -> Iterator[bytes]:
    """The keys of all entities that the project keeps rows of plain views for, and of no other project."""
    name = project.encode()
    for key in client.scan_iter(b"*" + escaped(name), count=1000):
        if _project_of(key) == name:
            yield key


def escaped(text: bytes) -> bytes:
    """The pattern that matches this text and nothing else."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\" else bytes([c]) for c in text)


def remove_keys(client: Any, keys: Iterable[bytes]) -> None:
    """Remove keys, a thousand at a time."""
    for some in batches(keys):
        client.unlink(*some)


def batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The keys in lists of a thousand; none that is empty."""
    remaining = iter(keys)
    while some := list(islice(remaining, _ROWS_PER_ROUND_TRIP)):
        yield some


def _times(fields: Iterable[bytes]) -> set[bytes]:
    """Those of a hash's fields that say when a view's row happened."""
    return {field for field in fields if field.startswith(b"_ts:")}


def _rank_of(time: bytes | None, created: bytes | None) -> tuple[int, int]:
    """How a row that is there ranks; one of Feast's own store does not say when it was created."""
    if not time:
        return -(2**63), _NEVER_CREATED
    return _microseconds(time), int(created) if created else _NEVER_CREATED


def _microseconds(time: bytes) -> int:
    return int(Timestamp.FromString(time).ToMicroseconds())


def _project_of(key: bytes) -> bytes | None:
    """The project at the end of an entity's key, which a project's name alone does not tell from a longer name's end.

    A key is the number of join keys, type, length and text of each, type, length and bytes of each value, and the project.
    """
    try:
        (count,) = struct.unpack_from("<I", key)
        offset = 4
        for _ in range(2 * count):
            offset += 8 + struct.unpack_from("<I", key, offset + 4)[0]
    except struct.error:
        return None
    return key[offset:]


def _text(key: EntityKey) -> str:
    values = (getattr(value, value.WhichOneof("val"), None) for value in key.entity_values)
    return ", ".join(f"{name}={value!r}" for name, value in zip(key.join_keys, values, strict=True))
