"""Scored transactions a second of one worker, saturated: against a bare endpoint and the usual way, in turns in one run."""

from contextlib import ExitStack

from tests.benchmarks import served
from tests.benchmarks.bench import Bench
from tests.benchmarks.load import Load
from tests.benchmarks.measure import median
from tests.benchmarks.serving_costs import spent


def run(bench: Bench) -> None:
    """Three servers at once, of which one is asked at a time; eight connections."""
    deployment = served.deploy(bench)
    sender = served.Sender(deployment)
    rounds, seconds = bench.size(*served.ROUNDS), float(bench.size(*served.ROUND_S))
    with ExitStack() as stack:
        bench.step("starting the servers")
        service = stack.enter_context(served.service(bench))
        bare = stack.enter_context(served.bare(bench))
        usual = stack.enter_context(served.usual(bench, deployment))
        others = {"bare": bare, "usual": usual}
        bench.step("warming")
        sender.closed(service, seconds, served.WHOLE)
        for url in others.values():
            sender.closed(url, seconds)
        loads: dict[str, list[Load]] = {"service": [], "bare": [], "usual": []}
        bench.step("in turns")
        costs = []
        for _ in range(rounds):
            with spent(service, bench.home) as cost:
                loads["service"].append(sender.closed(service, seconds, served.WHOLE))
            costs.append(cost)
            for name, url in others.items():
                loads[name].append(sender.closed(url, seconds))
    conditions = {
        "connections": served.CLOSED_CONNECTIONS,
        "seconds": seconds,
        **{f"{name}_per_s": [round(load.rate, 1) for load in each] for name, each in loads.items()},
        # Of every process of the run: what the generator takes of a core, the service does not have.
        "generator_cpu_us": round(median([load.cpu_s / len(load.latencies_s) for load in loads["service"]]) * 1e6, 1),
        **sorted(costs, key=lambda cost: cost.worker_us)[len(costs) // 2].conditions(),
    }  # fmt: skip
    scored = median([load.rate for load in loads["service"]])
    bench.record("scored", scored, "a second", goal=">= 2000", **conditions)
    bench.record(
        "of_bare", served.ratio(loads["service"], loads["bare"]), "of its rate", goal=">= 0.15", **conditions,
        against="a bare Starlette endpoint that returns a constant, under the same uvicorn settings",
    )  # fmt: skip
    bench.record(
        "over_usual", served.ratio(loads["service"], loads["usual"]), "x", goal=">= 10", **conditions,
        against="a BentoML endpoint with defaults, get_online_features, a one-row DataFrame and predict_proba",
    )  # fmt: skip
