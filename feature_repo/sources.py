"""Where events come from: Delta tables for history, a push source each for what arrives.

Both tables say when an event happened and when it became known. ``transactions`` also has ``scored_timestamp``: as of when
the service read the features of a transaction that it scored as it happened, null of all others. A derived column declared
with ``as_of="scored_timestamp"`` is thus computed from exactly what the decision was made on.
"""

from pathlib import Path

from feast import FileSource, PushSource, RequestSource
from feast.data_format import DeltaFormat
from feast.field import Field
from feast.types import Float64, Int64, UnixTimestamp

from feature_repo.settings import settings


def place(source: PushSource, lake: Path) -> None:
    """Point a source at a lake; a registry that it is applied to from then on names that one."""
    source.batch_source.file_options.uri = str(lake / source.batch_source.name)


def _events(name: str, description: str) -> PushSource:
    table = FileSource(
        name=name,
        path=str(settings().lake / name),
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
    )
    return PushSource(name=f"{name}_stream", batch_source=table)


transactions = _events("transactions", "Card transactions, one row each.")
chargebacks = _events(
    "chargebacks", "Chargebacks, at the time of their transaction, known when they were reported."
)

request = RequestSource(
    name="request",
    schema=[
        Field(name="event_timestamp", dtype=UnixTimestamp),
        Field(name="amount_usd_cents", dtype=Int64),
        Field(name="customer_latitude", dtype=Float64),
        Field(name="customer_longitude", dtype=Float64),
        Field(name="terminal_latitude", dtype=Float64),
        Field(name="terminal_longitude", dtype=Float64),
    ],
    description="What the transaction itself says.",
)
