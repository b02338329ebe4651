"""Everything that is served, as one folder without pickles: trees, calibration, feature order, policy.

    bundle.json   what it is, and the digests of the files beside it
    model.cbm     CatBoost's own format (importances, further training)
    model.onnx    the same trees for serving; answers the same bits for a row alone and in a batch
    contributions.npz  what each feature adds in each leaf, for reasons; folders written before it was have none

MLflow loads it through ``_load_pyfunc`` (``loader_module="training.bundle"``).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd

from training.calibration import Calibration
from training.contributions import Contributions, contributions_of
from training.policy import Decision, Policy
from training.rules import REQUEST_COLUMNS, Rule, RuleList, request_columns

__all__ = ["Bundle", "BundleError", "BundleSpec", "write_bundle"]

FORMAT: Final = 1
_CONTRIBUTIONS: Final = "contributions.npz"
_FILES: Final = ("model.cbm", "model.onnx", _CONTRIBUTIONS)
_ROWS_AT_ONCE: Final = 65_536

FloatArray = npt.NDArray[np.float64]


class BundleError(ValueError):
    """A bundle's folder is incomplete, changed, or of another format."""


@dataclass(frozen=True)
class BundleSpec:
    """What a bundle says beside its trees; ``bundle.json`` as an object.

    ``fallback`` decides on the request alone; ``training`` is the training set's manifest and how the model
    was fitted. ``definitions`` are those of its features (``feature_repo.windows.resolve``), by which it can be
    served when others are registered; None if they cannot be written down.
    """

    feature_service: str
    definitions_digest: str
    feature_names: tuple[str, ...]
    calibration: Calibration
    policy: Policy
    fallback: RuleList
    training: dict[str, Any] = field(default_factory=dict)
    definitions: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "feature_service": self.feature_service,
            "definitions_digest": self.definitions_digest,
            "feature_names": list(self.feature_names),
            "calibration": {"slope": self.calibration.slope, "intercept": self.calibration.intercept},
            "policy": self.policy.as_dict(),
            "fallback": self.fallback.as_dict(),
            "training": self.training,
            "definitions": self.definitions,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BundleSpec":
        """The inverse of ``as_dict``."""
        return cls(
            feature_service=str(data["feature_service"]),
            definitions_digest=str(data["definitions_digest"]),
            feature_names=tuple(data["feature_names"]),
            calibration=Calibration(**data["calibration"]),
            policy=Policy.from_dict(data["policy"]),
            fallback=RuleList.from_dict(data["fallback"]),
            training=dict(data["training"]),
            definitions=data.get("definitions"),
        )


def write_bundle(folder: Path, classifier: Any, spec: BundleSpec) -> Path:
    """Write a fitted CatBoost ``classifier`` and its ``spec`` to ``folder``; ``bundle.json`` comes last.

    Raises:
        ValueError: the classifier has another number of features than ``spec``, or trees deeper than
            ``training.contributions.MAX_DEPTH``.
    """
    from training.onnx_export import export_onnx, trees_of

    width = len(classifier.feature_names_)
    if width != len(spec.feature_names):
        raise ValueError(
            f"bundle: the model has {width} features and {len(spec.feature_names)} are named; name each"
        )
    folder.mkdir(parents=True, exist_ok=True)
    classifier.save_model(str(folder / "model.cbm"))
    export_onnx(classifier, folder / "model.onnx")
    contributions_of(trees_of(classifier)).save(folder / _CONTRIBUTIONS)
    files = {name: _digest(folder / name) for name in _FILES}
    content = {"format": FORMAT, **spec.as_dict(), "files": files}
    (folder / "bundle.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


class Bundle:
    """A loaded model with all that its decisions need. Scoring is thread-safe."""

    def __init__(self, spec: BundleSpec, session: Any, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self._session = session
        self._contributions: Contributions | None = None

    @classmethod
    def load(cls, folder: Path | str) -> "Bundle":
        """Read a folder that ``write_bundle`` wrote.

        Raises:
            BundleError: a file is missing, or is not what ``bundle.json`` says.
        """
        path = Path(folder)
        spec = _read_spec(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(path / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no base but this
            raise BundleError(
                f"{path / 'model.onnx'}: onnxruntime cannot read it: {error}; train anew"
            ) from error
        width = session.get_inputs()[0].shape[1]
        if width != len(spec.feature_names):
            raise BundleError(
                f"{path}: the graph has {width} features and bundle.json names {len(spec.feature_names)}; "
                "train anew"
            )
        return cls(spec, session, path)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features in the order of the columns that ``score`` takes."""
        return self.spec.feature_names

    @property
    def feature_service(self) -> str:
        """The FeatureService that provides them."""
        return self.spec.feature_service

    @property
    def definitions_digest(self) -> str:
        """The digest of the feature definitions that the model has learned from."""
        return self.spec.definitions_digest

    def margin(self, values: FloatArray) -> FloatArray:
        """Uncalibrated log-odds of float64[n, features] (null as NaN); see ``score``."""
        if values.ndim != 2 or values.shape[1] != len(self.feature_names):
            raise ValueError(
                f"bundle: values have the shape {values.shape}; give [rows, {len(self.feature_names)}] in the order "
                "of feature_names"
            )
        parts = [self._run(values[i : i + _ROWS_AT_ONCE]) for i in range(0, len(values), _ROWS_AT_ONCE)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])

    def score(self, values: FloatArray) -> FloatArray:
        """Calibrated probability of fraud of each row: float64[n], the same bits alone and in any batch.

        Args:
            values: float64[n, features] in the order of ``feature_names``, null as NaN.

        Raises:
            ValueError: another number of columns.
        """
        return self.spec.calibration.probability(self.margin(values))

    @property
    def contributions(self) -> Contributions:
        """What each feature adds to the margin; read when first asked for."""
        if self._contributions is None:
            self._contributions = _read_contributions(self.folder)
        return self._contributions

    def decide(self, score: float, amount_usd_cents: int) -> Decision:
        """The policy's decision on a calibrated score."""
        return self.spec.policy.decide(score, amount_usd_cents)

    def decide_without_model(self, row: Mapping[str, Any]) -> Decision:
        """Decide on the request alone, by rules learned from it: approve or review, never decline.

        ``row`` needs ``amount_usd_cents`` and ``event_timestamp_us``; without either the policy's default is the answer.
        """
        columns = _request_columns(row)
        if columns is None:
            return self.spec.policy.default
        rate = self.spec.fallback.rate(columns)
        decision = self.decide(float(rate[0]), int(row["amount_usd_cents"]))
        return "approve" if decision == "approve" else "review"

    def rule_without_model(self, row: Mapping[str, Any]) -> Rule | None:
        """The rule by which ``decide_without_model`` decides on this row; None where none holds."""
        columns = _request_columns(row)
        return None if columns is None else self.spec.fallback.first(columns)

    def _run(self, values: FloatArray) -> FloatArray:
        # CatBoost compares values in 32 bits, so they are rounded before the 64-bit graph sees them.
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float32).astype(np.float64)
        result: FloatArray = self._session.run(None, {"features": rounded})[0][:, 0]
        return result


class _PyFunc:
    """MLflow's view of a bundle: a frame with the feature columns in, calibrated probabilities out."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> FloatArray:
        """Score a pandas frame by column names."""
        columns = model_input[list(self.bundle.feature_names)]
        return self.bundle.score(np.asarray(columns, np.float64))


def _load_pyfunc(data_path: str) -> _PyFunc:
    return _PyFunc(Bundle.load(data_path))


def _read_spec(folder: Path) -> BundleSpec:
    file = folder / "bundle.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder}: bundle.json is missing; this is no bundle, or one half-written"
        ) from error
    except ValueError as error:
        raise BundleError(f"{file}: it is no JSON ({error}); restore it or train anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(
            f"{file}: it is not of format {FORMAT}; load it with the version that wrote it, or train anew"
        )
    files = content.get("files", {})
    for name in _FILES:
        if name in files or name != _CONTRIBUTIONS:
            _check_file(folder / name, str(files.get(name)))
    try:
        return BundleSpec.from_dict(content)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{file}: {error!r}: a field is missing or wrong; restore it or train anew"
        ) from error


def _request_columns(row: Mapping[str, Any]) -> dict[str, FloatArray] | None:
    """What the fallback's rules look at, of one row; None where the row does not say it."""
    amount, instant = row.get("amount_usd_cents"), row.get("event_timestamp_us")
    if amount is None or instant is None:
        return None
    columns = request_columns(np.array([amount], np.int64), np.array([instant], np.int64))
    return {name: columns[:, place] for place, name in enumerate(REQUEST_COLUMNS)}


def _read_contributions(folder: Path) -> Contributions:
    if (folder / _CONTRIBUTIONS).is_file():
        return Contributions.load(folder / _CONTRIBUTIONS)
    # Written before contributions were: a second or two, most of it to import CatBoost.
    from catboost import CatBoostClassifier

    from training.onnx_export import trees_of

    return contributions_of(trees_of(CatBoostClassifier().load_model(str(folder / "model.cbm"))))


def _check_file(file: Path, expected: str) -> None:
    if not file.is_file():
        raise BundleError(f"{file.parent}: {file.name} is missing; copy the whole folder, or train anew")
    found = _digest(file)
    if found != expected:
        raise BundleError(
            f"{file}: its digest is {found} and bundle.json says {expected}; it was changed or cut short: "
            "restore it, or train anew"
        )


def _digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
