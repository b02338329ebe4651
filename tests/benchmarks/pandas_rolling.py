"""W against pandas: ``groupby(...).rolling(window, closed="left")``.

pandas has neither a distinct count nor a delay: the first is left out, the second is the difference of two windows.
"""

from itertools import groupby

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake
from tests.benchmarks.versus import against
from tests.benchmarks.workload import AMOUNT, Column

_TIME = "event_timestamp"
_READ = ["transaction_id", "customer_id", "terminal_id", _TIME, AMOUNT]


def run(bench: Bench) -> None:
    """All of W that it has."""
    lacking = frozenset({"count_distinct"})
    against(bench, "pandas, groupby rolling", compute, goal=">= 30", rounds=1, without=lacking)


def compute(lake: Lake, columns: list[Column]) -> pa.Table:
    """W of every transaction, in no order; read from the lake's files, as ours is."""
    rows = ds.dataset(lake.files("transactions")).to_table(columns=_READ).to_pandas()
    frauds = ds.dataset(lake.files("chargebacks")).to_table(columns=["transaction_id"]).to_pandas()
    rows["fraud"] = rows["transaction_id"].isin(frauds["transaction_id"]).astype("float64")
    rows["us"] = rows[_TIME].astype("datetime64[us, UTC]").astype("int64")
    parts = []
    for keys, wanted in groupby(columns, key=lambda column: column.keys):
        ordered = rows.sort_values([*keys, _TIME], ignore_index=True)
        computed = {column.name: _column(ordered, column) for column in wanted}
        parts.append(pd.DataFrame(computed).set_index(pd.Index(ordered["transaction_id"])))
    return pa.Table.from_pandas(pd.concat(parts, axis=1).reset_index(), preserve_index=False)


def _column(ordered: pd.DataFrame, column: Column) -> pd.Series:
    of = (
        "fraud"
        if column.source == "chargebacks"
        else "us"
        if column.function == "seconds_since_last"
        else AMOUNT
    )
    grouped = ordered.set_index(_TIME).groupby(list(column.keys), sort=True, observed=True)[of]

    def over(window_us: int, function: str) -> pd.Series:
        rolling = grouped.rolling(pd.Timedelta(window_us, "us"), closed="left")
        return getattr(rolling, function)().reset_index(drop=True)

    if column.function == "seconds_since_last":
        return (ordered["us"] - over(column.window_us, "max")) / 1e6
    function = "sum" if column.source == "chargebacks" else column.function
    answer = over(column.window_us + column.delay_us, function)
    if column.delay_us:
        answer = answer.fillna(0) - over(column.delay_us, function).fillna(0)
    whole = column.function in ("count", "sum")
    return answer.fillna(0).astype("int64") if whole else answer
