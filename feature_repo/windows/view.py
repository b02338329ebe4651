"""The constructor of windowed views: one line an aggregate, names derived, everything native to Feast."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from feast import Aggregation, Entity, Field, StreamFeatureView
from feast.data_source import PushSource

from feature_repo.windows.derived import as_tag
from feature_repo.windows.durations import format_duration, microseconds, parse_duration
from feature_repo.windows.functions import FUNCTIONS
from feature_repo.windows.spec import (
    CONDITIONS_TAG,
    CORRECTED_TAG,
    DELAY_TAG,
    DERIVED_TAG,
    EVENT_ID_TAG,
    SCALE_TAG,
    WHERE_TAG,
    Derived,
    view_spec,
)


def aggregate(prefix: str, source: str, function: str, column: str, window: str) -> Aggregation:
    """One aggregation, named ``{prefix}_{column}_{function}_{window}``.

    A function that needs no column (``count``, ``seconds_since_last``) takes the source's name in the column's place:
    ``customer_transactions_count_7d``.

    Raises:
        ValueError: the window is no duration, or the function is not known.
    """
    if function not in FUNCTIONS:
        raise ValueError(f"function {function!r} is not known; use one of {', '.join(FUNCTIONS)}")
    length = parse_duration(window)
    needs_column = FUNCTIONS[function].needs != "events"
    subject = column if needs_column else source
    name = f"{prefix}_{subject}_{function}_{format_duration(length)}"
    # Feast's proto wants a column; a function of the events themselves counts rows, whatever it names.
    return Aggregation(
        column=column if needs_column else "", function=function, time_window=length, name=name
    )


def windowed_view(
    name: str,
    *,
    prefix: str,
    entities: Sequence[Entity],
    source: PushSource,
    aggregates: Mapping[tuple[str, str], Sequence[str]],
    event_id: str,
    where: str = "",
    delay: str = "0s",
    scale: Mapping[str, int] | None = None,
    conditions: Mapping[str, str] | None = None,
    derived: Sequence[Derived] = (),
    corrected: bool = False,
    description: str = "",
    **feast: Any,
) -> StreamFeatureView:
    """A windowed view as Feast's own ``StreamFeatureView``.

    Args:
        name: the view's name.
        prefix: first part of every output's name; unique over the repository.
        entities: whose windows these are; two or more make a composite key.
        source: a push source over the batch source with the events.
        aggregates: (function, column) to windows: ``{("sum", "amount_usd_cents"): ["1d", "7d"], ("count", ""): ["1d"]}``.
        event_id: column that identifies an event.
        where: SQL condition over the event's columns; only such events count.
        delay: how long an event waits before it counts: with ``7d`` the window ``[t - 7d - w, t - 7d)`` is aggregated.
        scale: decimal places of decimal columns; values are then in units of the last place.
        conditions: boolean columns by SQL condition over the event's own, to be aggregated by name; the mean of one is the share
            of events that match: ``{"declined": "status = 'declined'"}``.
        derived: columns computed from features when the event happened (see ``derive``), to be aggregated or filtered on.
        corrected: the source may hold several versions of an event (one id, one event time, one key); of those known at an
            instant, the one known last counts. Without it, the first that passes ``where`` counts, and the others are
            taken for repetitions.
        description: shown by Feast.
        feast: any other argument of ``StreamFeatureView``.

    Raises:
        ValueError: the engine cannot compute the view exactly; the message says what and why.
    """
    batch = source.batch_source
    try:
        outputs = [
            aggregate(prefix, batch.name, function, column, window)
            for (function, column), windows in aggregates.items()
            for window in windows
        ]
        delayed = microseconds(parse_duration(delay)) > 0
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    tags = {EVENT_ID_TAG: event_id}
    if where:
        tags[WHERE_TAG] = where
    if delayed:
        tags[DELAY_TAG] = delay
    if scale:
        tags[SCALE_TAG] = json.dumps(dict(scale), sort_keys=True)
    if conditions:
        tags[CONDITIONS_TAG] = json.dumps(dict(conditions), sort_keys=True)
    if derived:
        tags[DERIVED_TAG] = as_tag(derived)
    if corrected:
        tags[CORRECTED_TAG] = "true"
    view = StreamFeatureView(
        name=name,
        entities=list(entities),
        source=source,
        aggregations=outputs,
        timestamp_field=batch.timestamp_field,
        schema=[Field(name=a.name, dtype=FUNCTIONS[a.function].returns) for a in outputs],
        tags=tags | feast.pop("tags", {}),
        description=description,
        **feast,
    )
    view_spec(view, list(entities))
    return view
