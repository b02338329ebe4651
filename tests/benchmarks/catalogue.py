"""Every benchmark by name, in the order in which all of them run."""

from dataclasses import dataclass

_MINUTE = 60.0


@dataclass(frozen=True)
class Entry:
    """One benchmark: the module with its ``run(bench)``, what it measures, and after how long it is ended."""

    module: str
    about: str
    limit_s: float = 10 * _MINUTE


CATALOGUE = {
    "floor": Entry("floor", "workload W on the Handbook's rows against DuckDB sorting them by each key"),
    "range": Entry("range_sql", "the same against DuckDB's RANGE windows, and every value compared"),
    "polars": Entry("polars_rolling", "the same against polars' rolling windows"),
    "pandas": Entry("pandas_rolling", "the same against pandas' rolling windows", 15 * _MINUTE),
    "spark": Entry("spark_range", "the same against PySpark's RANGE windows, local[2]", 15 * _MINUTE),
    "feast": Entry("feast_store", "50,000 entity rows against Feast's DuckDB store given the aggregates", 30 * _MINUTE),
    "online": Entry("online", "45 features over three keys: the compiled plan and get_online_features"),
    "recording": Entry("recording", "a million events recorded in bulk on one core"),
    "materialize": Entry("materialize", "a million keys of state from history", 15 * _MINUTE),
    "hot_key": Entry("hot_key", "a key with a million events: reading it, writing to it", 15 * _MINUTE),
    "state": Entry("state", "bytes of online state an event and a key"),
    "sparse": Entry("sparse", "200,000 labels at arbitrary instants over 20M events", 40 * _MINUTE),
    "stream_20m": Entry("stream_20m", "workload W on 20M rows, streamed to Parquet, against the floor and RANGE", 60 * _MINUTE),
    "stream_100m": Entry("stream_100m", "workload W on 100M rows, streamed to Parquet, and its memory", 90 * _MINUTE),
    "serve_throughput": Entry("serve_throughput", "scoring rate of a worker against a constant and the usual way", 20 * _MINUTE),
    "serve_latency": Entry("serve_latency", "latency at 70% of saturation, and what each stage costs", 15 * _MINUTE),
    "serve_shadow": Entry("serve_shadow", "scoring rate with a shadow model on, against the champion alone", 20 * _MINUTE),
    "serve_soak": Entry("serve_soak", "ten minutes at 70%: memory, journal, parity", 60 * _MINUTE),
}  # fmt: skip


def chosen(only: str) -> list[str]:
    """The names in ``only``, separated by commas; all of them if it is empty.

    Raises:
        ValueError: there is no benchmark of a name.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise ValueError(
            f"benchmark {unknown[0]!r}: there is none of this name; there are {', '.join(CATALOGUE)}"
        )
    return names or list(CATALOGUE)
