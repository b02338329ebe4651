"""W against PySpark, ``local[2]``: ``rangeBetween`` windows over integer microseconds.

Spark has no distinct count over a window; it gets the size of a collected set. What it computes is let go where it is made
(the ``noop`` format): that is in its favour, for ours makes an Arrow table.
"""

import os
import shutil
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import handbook
from tests.benchmarks.measure import UnavailableError, in_turns, median, need, rounded
from tests.benchmarks.workload import AMOUNT, ASKED, Column, columns, open_store, retrieve


def run(bench: Bench) -> None:
    """All of W, both in turns, after one call of each that is not counted."""
    if shutil.which("java") is None:
        raise UnavailableError("there is no Java on the path, which PySpark needs")
    need("pyspark")
    from pyspark.sql import SparkSession

    lake = handbook(bench)
    store = open_store(bench.home, lake)
    entities = lake.entity_frame()[ASKED]
    wanted = columns(lake.path)
    bench.step("starting Spark")
    spark = _session(SparkSession.builder, bench)
    try:
        files = (lake.files("transactions"), lake.files("chargebacks"))
        calls = {"ours": lambda: retrieve(store, entities), "spark": lambda: compute(spark, *files, wanted)}
        bench.step("warming")
        in_turns(calls, 1)
        bench.step("timing")
        taken = in_turns(calls, bench.size(2, 1))
        version = spark.version
    finally:
        spark.stop()
    bench.record(
        "faster", median(taken["spark"]) / median(taken["ours"]), "x", against="PySpark local[2], range windows",
        goal=">= 10", rows=len(entities), columns=len(wanted), ours_s=rounded(taken["ours"]),
        other_s=rounded(taken["spark"]), spark=version,
    )  # fmt: skip


def _session(builder: Any, bench: Bench) -> Any:
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    settings = {
        "spark.driver.memory": "6g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "8",
        "spark.sql.session.timeZone": "UTC",
        "spark.local.dir": str(bench.home / "spark"),
        "spark.sql.warehouse.dir": str(bench.home / "warehouse"),
        "spark.log.level": "ERROR",
    }
    builder = builder.master("local[2]").appName("bench")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def compute(spark: Any, transactions: list[str], chargebacks: list[str], columns: list[Column]) -> None:
    """W of every transaction, computed and let go."""
    from pyspark.sql import functions as f

    frauds = (
        spark.read.parquet(*chargebacks).select("transaction_id").distinct().withColumn("fraud", f.lit(1))
    )
    rows = (
        spark.read.parquet(*transactions)
        .select("transaction_id", "customer_id", "terminal_id", "event_timestamp", AMOUNT)
        .join(frauds, "transaction_id", "left")
        .withColumn("us", f.unix_micros("event_timestamp"))
    )
    # One projection a key, so that Spark sorts once for all windows of it.
    for keys in dict.fromkeys(column.keys for column in columns):
        outputs = [_expression(f, column).alias(column.name) for column in columns if column.keys == keys]
        rows = rows.select("*", *outputs)
    rows.write.format("noop").mode("overwrite").save()


def _expression(f: Any, column: Column) -> Any:
    from pyspark.sql import Window

    window = (
        Window.partitionBy(*column.keys)
        .orderBy("us")
        .rangeBetween(-column.delay_us - column.window_us, -column.delay_us - 1)
    )
    if column.source == "chargebacks":
        return f.count("fraud").over(window)
    if column.function == "seconds_since_last":
        return (f.col("us") - f.max("us").over(window)) / 1e6
    expressions = {
        "count": f.count(f.lit(1)),
        "sum": f.sum(AMOUNT),
        "mean": f.avg(AMOUNT),
        "max": f.max(AMOUNT),
        "std": f.stddev_samp(AMOUNT),
        "count_distinct": f.size(f.collect_set("terminal_id").over(window)),
    }
    expression = expressions[column.function]
    return expression if column.function == "count_distinct" else expression.over(window)
