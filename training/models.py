"""The models that are always fitted beside each other, through one small interface.

``fit(values, labels)`` takes float64[rows, features] (null as NaN) and 1/0; ``margin(values)`` answers
log-odds as float64, higher is more suspicious. ``probability`` turns margins into probabilities.
"""

from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt
from catboost import CatBoostClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from training.rules import RuleList, fit_rules

__all__ = ["CATBOOST_PARAMETERS", "CatBoostModel", "LogisticModel", "Model", "RulesModel", "probability"]

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.int8]

CATBOOST_PARAMETERS: Final[dict[str, Any]] = {
    "iterations": 300,
    "depth": 4,
    "learning_rate": 0.05,
    "l2_leaf_reg": 6,
    "rsm": 0.3,
    "loss_function": "Logloss",
    "random_seed": 7,
}
"""Found under the prequential protocol. No class weights: they lower average precision and spoil the
probabilities.
"""


class Model(Protocol):
    """What every model here can do."""

    name: str

    def fit(self, values: FloatArray, labels: LabelArray) -> Self:
        """Learn; returns itself."""
        ...

    def margin(self, values: FloatArray) -> FloatArray:
        """Log-odds of fraud."""
        ...


class CatBoostModel:
    """Gradient-boosted oblivious trees on numbers; a null is its own side of every split's lowest border."""

    name = "catboost"

    def __init__(self, parameters: dict[str, Any] | None = None, *, threads: int = 2) -> None:
        self.parameters = {**CATBOOST_PARAMETERS, **(parameters or {})}
        self.classifier = CatBoostClassifier(
            **self.parameters, thread_count=threads, verbose=False, allow_writing_files=False
        )

    def fit(self, values: FloatArray, labels: LabelArray) -> Self:
        """Learn; the same rows, parameters and seed give the same trees."""
        self.classifier.fit(values, labels)
        return self

    def margin(self, values: FloatArray) -> FloatArray:
        """The sum of the trees' leaves, by CatBoost's own evaluator."""
        return np.asarray(self.classifier.predict(values, prediction_type="RawFormulaVal"), np.float64)

    def importance(self) -> FloatArray:
        """Share of each feature in the change of the prediction, in per cent."""
        return np.asarray(self.classifier.get_feature_importance(), np.float64)


class LogisticModel:
    """Logistic regression on standard-scaled features; a null is the median of the training rows."""

    name = "logistic_regression"

    def __init__(self) -> None:
        self.pipeline: Pipeline = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler(),
            # Many rows and few columns: Newton's method takes a handful of passes where L-BFGS takes hundreds.
            LogisticRegression(solver="newton-cholesky", max_iter=1000),
        )

    def fit(self, values: FloatArray, labels: LabelArray) -> Self:
        """Learn; a feature that is null everywhere counts as 0."""
        self.pipeline.fit(values, labels)
        return self

    def margin(self, values: FloatArray) -> FloatArray:
        """The linear form."""
        return np.asarray(self.pipeline.decision_function(values), np.float64)


class RulesModel:
    """A short list of readable rules, learned greedily (``training.rules``)."""

    name = "rules"

    def __init__(self, feature_names: tuple[str, ...]) -> None:
        self.feature_names = feature_names
        self.rules = RuleList((), 0.5)

    def fit(self, values: FloatArray, labels: LabelArray) -> Self:
        """Learn the list."""
        self.rules = fit_rules(values, labels, self.feature_names)
        return self

    def margin(self, values: FloatArray) -> FloatArray:
        """Log-odds of the fraud rate under the first rule that holds."""
        columns = {name: values[:, i] for i, name in enumerate(self.feature_names)}
        rate = self.rules.rate(columns)
        result: FloatArray = np.log(rate) - np.log1p(-rate)
        return result


def probability(margin: FloatArray) -> FloatArray:
    """Log-odds as probabilities."""
    result: FloatArray = np.exp(-np.logaddexp(0.0, -margin))
    return result
