"""Platt's calibration: log-odds in, honest log-odds out, by two numbers.

Isotonic regression is not used: it leaves a few dozen distinct scores, so ties blunt every ranking below
them.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

__all__ = ["Calibration", "fit_calibration"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """``probability = 1 / (1 + exp(-(slope * margin + intercept)))``; the slope is positive, so the order
    stays.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not (self.slope > 0 and math.isfinite(self.slope) and math.isfinite(self.intercept)):
            raise ValueError(
                f"calibration: slope {self.slope}, intercept {self.intercept}: the slope must be positive and both finite"
            )

    def probability(self, margin: FloatArray) -> FloatArray:
        """Calibrated probabilities.

        The exponential is taken value by value: numpy's vector code may round a value differently by its
        place in the array, and a row alone must get the bits that it gets in a batch.
        """
        odds = (-(self.slope * margin + self.intercept)).tolist()
        return np.fromiter((1.0 / (1.0 + math.exp(min(z, 700.0))) for z in odds), np.float64, len(odds))


def fit_calibration(margin: FloatArray, labels: npt.NDArray[np.int8]) -> Calibration:
    """Platt's fit on rows that the model has not learned from, with his smoothed targets.

    Source: Platt, Probabilistic outputs for support vector machines, 1999. Where the margins do not rank the labels at
    all (a slope at or below 0), only the intercept is fitted.

    Raises:
        ValueError: rows of one class only.
    """
    frauds = int(labels.sum())
    genuine = len(labels) - frauds
    if not frauds or not genuine:
        raise ValueError(
            f"calibration: {len(labels)} rows with {frauds} frauds; both classes are needed: give a longer stretch"
        )
    target = np.where(labels == 1, (frauds + 1.0) / (frauds + 2.0), 1.0 / (genuine + 2.0))
    slope, intercept = _fit(margin, target)
    if slope <= 0:
        intercept = float(np.log(frauds / genuine) - margin.mean())
        slope = 1.0
    return Calibration(slope, intercept)


def _fit(margin: FloatArray, target: FloatArray) -> tuple[float, float]:
    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        z = parameters[0] * margin + parameters[1]
        error = np.exp(-np.logaddexp(0.0, -z)) - target
        value = np.mean(np.logaddexp(0.0, z) - target * z)
        return float(value), np.array([np.mean(error * margin), np.mean(error)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS")
    return float(found.x[0]), float(found.x[1])
