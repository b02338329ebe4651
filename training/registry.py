"""The model registry: which bundle serves, and which one asks to.

One registered model, ``fraud``; its versions are bundles; the aliases ``champion`` and ``challenger`` name
versions. Versions are strings here, as MLflow's addresses write them.
"""

from pathlib import Path
from typing import Any, Final, Literal

from training.bundle import Bundle
from training.tracking import connect, pyfunc

__all__ = [
    "MODEL_NAME",
    "Alias",
    "alias_version",
    "load_alias",
    "load_champion",
    "load_version",
    "promote",
    "register",
    "set_alias",
]

MODEL_NAME: Final = "fraud"

Alias = Literal["champion", "challenger"]

# What MLflow writes down for whoever serves the model outside this project.
_REQUIREMENTS: Final = ("fraud-feature-store", "numpy", "onnxruntime")


def register(bundle_folder: Path, run_id: str) -> str:
    """Log a bundle as the model of a run and register it; returns the new version.

    Raises:
        BundleError: the folder is no sound bundle; nothing is registered.
    """
    Bundle.load(bundle_folder)
    client = connect()
    import mlflow

    with mlflow.start_run(run_id=run_id):
        logged = pyfunc().log_model(
            name="bundle",
            loader_module="training.bundle",
            data_path=str(bundle_folder),
            pip_requirements=list(_REQUIREMENTS),
        )
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        client.create_registered_model(MODEL_NAME)
    version = client.create_model_version(
        MODEL_NAME, source=logged.model_uri, run_id=run_id, model_id=logged.model_id
    )
    return str(version.version)


def alias_version(alias: Alias) -> str | None:
    """The version that has the alias, or None."""
    return _alias_version(connect(), alias)


def load_version(version: str) -> Bundle:
    """The bundle of one version.

    Raises:
        BundleError: it is damaged.
        LookupError: there is no such version.
    """
    client = connect()
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        source = client.get_model_version(MODEL_NAME, version).source
    except MlflowException as error:
        raise LookupError(
            f"registry: model {MODEL_NAME!r} has no version {version!r}: {error.message}"
        ) from error
    folder = Path(mlflow.artifacts.download_artifacts(source))
    found = sorted(folder.glob("data/*/bundle.json")) or [folder / "data" / "bundle.json"]
    return Bundle.load(found[0].parent)


def load_alias(alias: Alias) -> tuple[Bundle, str]:
    """The bundle that has the alias, and its version.

    Raises:
        LookupError: no version has it.
        BundleError: it is damaged.
    """
    version = alias_version(alias)
    if version is None:
        raise LookupError(
            f"registry: no version of model {MODEL_NAME!r} is the {alias}; train one (fraud train)"
        )
    return load_version(version), version


def load_champion() -> tuple[Bundle, str]:
    """The bundle that serves, and its version; see ``load_alias``."""
    return load_alias("champion")


def set_alias(alias: Alias, version: str) -> None:
    """Give the alias to a version; the one that had it loses it."""
    connect().set_registered_model_alias(MODEL_NAME, alias, version)


def promote(version: str) -> None:
    """Make a version the champion; if it was the challenger, it is no longer."""
    client = connect()
    client.set_registered_model_alias(MODEL_NAME, "champion", version)
    if _alias_version(client, "challenger") == version:
        client.delete_registered_model_alias(MODEL_NAME, "challenger")


def _alias_version(client: Any, alias: Alias) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(MODEL_NAME, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
