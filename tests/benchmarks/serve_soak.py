"""Ten minutes at 70% of saturation: memory, the journal, and parity of everything that was scored."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bento.repeating import Repeating
from feature_repo.journal import read_decisions
from pipelines.parity import parity
from tests.benchmarks import served
from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import median, memory_bytes, percentile
from tests.benchmarks.serve_latency import SHARE, saturation
from tests.deployments import worker_pid

# A journalled decision, its event and both in the lake.
_BYTES_A_REQUEST = 8_000
_SAMPLES = 600


def run(bench: Bench) -> None:
    """Resident memory is that of the worker, once a second; the first minute of the time is not counted."""
    seconds = float(bench.size(600, 4))
    deployment = served.deploy(bench)
    sender = served.Sender(deployment)
    with served.service(bench) as url:
        rate = SHARE * saturation(bench, sender, url)
        bench.need_disk(round(rate * seconds * _BYTES_A_REQUEST))
        bench.step(f"{rate:.0f} a second for {seconds:.0f} s")
        with _sampled(worker_pid(bench.home), seconds / _SAMPLES) as resident:
            load = sender.open(url, rate, seconds, served.WHOLE)
        sent = _ids(deployment.bodies, load.end)
    first, last = resident[len(resident) // 10], median(resident[-len(resident) // 10 :])
    conditions = {
        "seconds": seconds, "rate_per_s": round(rate, 1), "requests": len(load.latencies_s),
        "p99_ms": round(percentile(load.latencies_s.tolist(), 99) * 1e3, 3),
    }  # fmt: skip
    bench.record(
        "rss_growth", (last / first - 1) * 100, "%", against="resident memory after the first minute", goal="<= 5",
        first_gb=round(first / 1e9, 3), last_gb=round(last / 1e9, 3), **conditions,
    )  # fmt: skip
    bench.step("the journal")
    journalled = Counter(line["transaction_id"] for line in read_decisions(bench.home / "journal"))
    wrong = sum(journalled[each] != 1 for each in sent) + len(journalled.keys() - sent)
    bench.record(
        "journal", wrong, "records", against="lost or doubled of those that were answered", goal="<= 0",
        answered=len(sent), **conditions,
    )  # fmt: skip
    bench.step("parity")
    report = parity().report
    bench.record(
        "parity", report.mismatches + report.score_mismatches, "values", goal="<= 0",
        against="features and scores recomputed from the lake, to the bit", decisions=report.decisions,
        compared=report.values_compared + report.scores_compared, attributed=report.attributed, **conditions,
    )  # fmt: skip


@contextmanager
def _sampled(process: int, every_s: float) -> Iterator[list[float]]:
    """Resident bytes of a process, taken in a thread from now on."""
    found: list[float] = []

    def sample() -> None:
        found.append(float(memory_bytes(process=process)))

    sample()
    repeating = Repeating("memory", sample, every_s)
    repeating.start()
    try:
        yield found
    finally:
        repeating.stop()


def _ids(bodies: Path, end: int) -> set[str]:
    """The transactions of the requests that were sent."""
    with bodies.open("rb") as file:
        return {json.loads(line)["transaction_id"] for line in file.read(end).splitlines()}
