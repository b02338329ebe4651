"""The usual way to serve a model on Feast: ``bentoml serve tests.benchmarks.usual:Usual``.

A BentoML endpoint with its defaults; each request asks ``get_online_features``, makes a DataFrame of one row and calls
``predict_proba``. It neither records what it scored nor keeps a journal, which saves it much of the work.

``FRAUD_HOME`` is the deployment, ``USUAL_MODEL`` the folder of a bundle.
"""

import os
from datetime import datetime
from decimal import Decimal
from typing import Any

import bentoml


@bentoml.service
class Usual:
    """Scores one transaction a request."""

    def __init__(self) -> None:
        from catboost import CatBoostClassifier

        from feature_repo.store import open_store
        from training.bundle import Bundle

        folder = os.environ["USUAL_MODEL"]
        bundle = Bundle.load(folder)
        self._store = open_store()
        self._service = self._store.get_feature_service(bundle.feature_service)
        self._names = list(bundle.feature_names)
        self._model = CatBoostClassifier().load_model(f"{folder}/model.cbm")

    @bentoml.api(route="/v1/score")
    def score(
        self, transaction_id: str, customer_id: str, terminal_id: str, event_timestamp: str, amount: str, currency: str
    ) -> dict[str, Any]:  # fmt: skip
        """A probability of fraud."""
        row = {
            "customer_id": customer_id,
            "terminal_id": terminal_id,
            "event_timestamp": datetime.fromisoformat(event_timestamp),
            "amount_usd_cents": int(Decimal(amount) * 100),
            **dict.fromkeys(_COORDINATES, float("nan")),
        }
        frame = self._store.get_online_features(self._service, [row]).to_df()
        score = float(self._model.predict_proba(frame[self._names])[0, 1])
        return {"transaction_id": transaction_id, "score": score}


_COORDINATES = ("customer_latitude", "customer_longitude", "terminal_latitude", "terminal_longitude")
