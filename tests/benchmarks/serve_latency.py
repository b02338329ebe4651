"""Latency at 70% of saturation, counted from when each request was due, and what each stage of it costs.

Beside it stands the latency of an endpoint that returns a constant, at the same rate: what the machine takes by itself.
"""

from tests.benchmarks import served
from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import median, percentile
from tests.benchmarks.serving_costs import Spent, spent

SHARE = 0.7
"""Of the saturation throughput, at which latency and endurance are measured."""


def run(bench: Bench) -> None:
    """Saturation first, in the same process of the service; then a minute of random arrivals."""
    sender = served.Sender(served.deploy(bench))
    with served.service(bench) as url:
        rate = SHARE * saturation(bench, sender, url)
        bench.step(f"{rate:.0f} a second")
        with spent(url, bench.home) as cost:
            load = sender.open(url, rate, float(bench.size(60, 2)), served.WHOLE)
    with served.bare(bench) as url:
        bare = sender.open(url, rate, float(bench.size(30, 1))).latencies_s.tolist()
    latencies = load.latencies_s.tolist()
    conditions = {
        "rate_per_s": round(rate, 1), "share_of_saturation": SHARE, "arrivals": "Poisson", "requests": len(latencies),
        "p50_ms": round(median(latencies) * 1e3, 3), "max_ms": round(max(latencies) * 1e3, 3),
        "bare_p50_ms": round(median(bare) * 1e3, 3), **cost.conditions(),
    }  # fmt: skip
    for name, percent, goal in (("p99", 99.0, "<= 5"), ("p999", 99.9, "<= 15")):
        bare_ms = round(percentile(bare, percent) * 1e3, 3)
        bench.record(
            name, percentile(latencies, percent) * 1e3, "ms", against="due time; bare_ms: a constant, at this rate", goal=goal,
            bare_ms=bare_ms, **conditions,
        )  # fmt: skip
    show(bench, cost)


def saturation(bench: Bench, sender: served.Sender, url: str) -> float:
    """Scored transactions a second at most, once warm."""
    bench.step("saturation")
    seconds = float(bench.size(8, 1))
    sender.closed(url, seconds / 2, served.WHOLE)
    return sender.closed(url, seconds, served.WHOLE).rate


def show(bench: Bench, cost: Spent) -> None:
    """Print what each stage of scoring took on average."""
    for stage, microseconds in cost.stages.items():
        bench.console.print(f"    {stage:10} {microseconds:8.1f} us")
    bench.console.print(f"    {'processor':10} {cost.worker_us:8.1f} us of the worker a request, all threads")
