"""What a shadow costs: the rate of one worker, saturated, with the champion alone and with a challenger beside it, in turns."""

import json
import time
from urllib.request import urlopen

from feature_repo.store import open_store
from pipelines.rollout import Desk
from tests.benchmarks import served
from tests.benchmarks.bench import Bench
from tests.benchmarks.load import Load
from tests.deployments import registered
from training.registry import register
from training.tracking import connect, experiment_id

# It is the cost that is measured: no guard rail is to end it.
_WIDE = {"max_score_psi": 1e9, "max_decline_ratio": 1e9, "max_p99_ms": 1e9, "max_error_rate": 1.0}
_FOLLOWED_S = 30.0


def run(bench: Bench) -> None:
    """Challengers: the champion's bundle once more, and one of another FeatureService, with a view that the champion lacks."""
    deployment = served.deploy(bench)
    client = connect()
    alike = register(deployment.bundle, client.create_run(experiment_id(client)).info.run_id)
    other = registered(bench.home / "other", open_store(), service="published_v1")
    challengers = {"alone": None, "alike": alike, "other": other}
    sender, seconds = served.Sender(deployment), float(bench.size(*served.ROUND_S))
    loads: dict[str, list[Load]] = {name: [] for name in challengers}
    with served.service(bench) as url:
        bench.step("warming")
        sender.closed(url, seconds, served.WHOLE)
        bench.step("in turns")
        for _ in range(bench.size(*served.ROUNDS)):
            for name, challenger in challengers.items():
                _put(url, challenger)
                loads[name].append(sender.closed(url, seconds, served.WHOLE))
    conditions = {
        "connections": served.CLOSED_CONNECTIONS,
        "seconds": seconds,
        **{f"{name}_per_s": [round(load.rate, 1) for load in each] for name, each in loads.items()},
    }
    about = {"alike": "of the same FeatureService", "other": "of another FeatureService"}
    for name, what in about.items():
        bench.record(
            f"{name}_of_alone", served.ratio(loads[name], loads["alone"]), "of its rate", goal=">= 0.75", **conditions,
            against=f"the champion alone; the shadow is {what}",
        )  # fmt: skip


def _put(url: str, challenger: str | None) -> None:
    """Roll out, and wait until the service has followed.

    Raises:
        RuntimeError: it does not follow.
    """
    mode = "champion"
    if challenger is not None:
        Desk("bench").shadow(challenger, _WIDE)
        mode = "shadow"
    elif _shown(url)[0] != "champion":
        Desk("bench").rollback()
    deadline = time.monotonic() + _FOLLOWED_S
    while _shown(url) != (mode, challenger):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{url}: the rollout in force is {_shown(url)}, not {(mode, challenger)}; see its log"
            )
        time.sleep(0.2)


def _shown(url: str) -> tuple[str, str | None]:
    with urlopen(f"{url}/v1/model") as answer:  # noqa: S310 - an address of our own
        rollout = json.load(answer)["rollout"]
    return rollout["mode"], rollout["challenger"]
