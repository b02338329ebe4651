"""What matured labels say of two models that were both scored in production."""

from datetime import timedelta
from typing import Any

import numpy as np

from feature_repo.lake import snapshot
from feature_repo.settings import settings
from monitoring.comparison import Pairs
from pipelines.load_journal import load_journal
from pipelines.train import known_until
from training.instants import from_us
from training.labels import labels
from training.policy import DECISIONS, costs_cents
from training.promotion import judge
from training.registry import load_version

__all__ = ["matured"]


def matured(both: Pairs, champion: str) -> dict[str, Any] | None:
    """The judgement on those transactions that both scored and whose labels have matured; None while there are none of both
    classes, or where the champion does not say when a label matures.

    What the service recorded is loaded into the lake first, for chargebacks are among it. Costs are by the champion's policy.
    """
    here, bundle = settings(), load_version(champion)
    maturity_us = bundle.spec.training.get("dataset", {}).get("maturity_us")
    if not len(both) or maturity_us is None:
        return None
    load_journal(here.journal, here.lake)
    known = labels(
        snapshot(here.lake / "transactions"),
        snapshot(here.lake / "chargebacks"),
        from_us(int(both.event_timestamp_us.min())),
        from_us(int(both.event_timestamp_us.max()) + 1),
        as_of=known_until(here.lake),
        maturity=timedelta(microseconds=maturity_us),
    )
    label = dict(zip(known["transaction_id"].to_pylist(), known["label"].to_pylist(), strict=True))
    found = [label.get(each) for each in both.transaction_id]
    ripe = np.array([each is not None for each in found], dtype=np.bool_)
    truth = np.array([each for each in found if each is not None], dtype=np.int8)
    if len(np.unique(truth)) < 2:
        return None
    amounts = both.amounts_usd_cents[ripe]
    decided = (
        np.array([DECISIONS.index(each) for each in given], dtype=np.int8)[ripe]
        for given in (both.champion_decisions, both.challenger_decisions)
    )
    costs = [costs_cents(bundle.spec.policy, each, truth, amounts) for each in decided]
    customers = np.unique(np.array(both.customer_id)[ripe], return_inverse=True)[1].astype(np.int64)
    judgement = judge(truth, customers, both.champion[ripe], both.challenger[ripe], costs[0], costs[1])
    return judgement.as_dict()
