"""On-demand transforms, written once: a vectorised function from named columns to named columns.

The same function runs over a million rows offline, inside ``get_online_features`` and in the service. Every column is a
contiguous float64 array, null is NaN, and ``event_timestamp`` comes as whole seconds since 1970 UTC (Feast's own online
timestamps carry no more). Feast stores a small function that finds the transform by its import path, so the registry holds
no copy of the formula.
"""

import hashlib
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import Field, OnDemandFeatureView, RequestSource
from feast.types import Float64
from numpy.typing import NDArray

# Feast warns that on-demand views do not scale offline; these are vectorised, and do.
warnings.filterwarnings(
    "ignore", message="On demand feature view is an experimental", category=RuntimeWarning
)

PATH_TAG = "transform.path"
# What the formula was when it was applied: the registry holds no copy of it.
DIGEST_TAG = "transform.digest"
TIME = "event_timestamp"
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Transform:
    """One on-demand transform.

    Attributes:
        path: where it stands, ``module:name``.
        inputs: columns that it reads. outputs: columns that it gives, in order.
        function: from a mapping of the inputs to a mapping of the outputs, arrays of one length.
    """

    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    function: Callable[[Mapping[str, Reals]], Mapping[str, Reals]]

    @property
    def digest(self) -> str:
        """Names the formula: its declaration, its source text, and that of everything of this project it uses. 64 hex digits."""
        parts = [self.path, self.inputs, self.outputs, inspect.getsource(self.function)]
        return hashlib.sha256(repr([*parts, sorted(_used(self.function).items())]).encode()).hexdigest()

    def __call__(self, columns: Mapping[str, Reals]) -> dict[str, Reals]:
        """Apply to float64 arrays.

        Raises:
            ValueError: the function gives other columns than it declares.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            result = self.function({name: columns[name] for name in self.inputs})
        if set(result) != set(self.outputs):
            raise ValueError(f"{self.path}: returned {sorted(result)}, declared {sorted(self.outputs)}")
        return {name: np.ascontiguousarray(result[name], dtype=np.float64) for name in self.outputs}

    def apply_arrow(self, columns: Mapping[str, Any]) -> dict[str, pa.Array]:
        """Apply to Arrow columns; NaN results become null."""
        result = self({name: reals(columns[name]) for name in self.inputs})
        return {name: pa.array(values, mask=np.isnan(values)) for name, values in result.items()}

    def apply_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Apply to a frame, as Feast does it online."""
        return pd.DataFrame(self({name: _series(frame[name]) for name in self.inputs}))

    def view(
        self, name: str, sources: Sequence[Any], request: RequestSource, description: str = ""
    ) -> OnDemandFeatureView:
        """The transform as a Feast on-demand feature view.

        Raises:
            ValueError: an input is in none of the sources, nor in the request.
        """
        given = {field.name for source in sources for field in source.projection.features}
        missing = sorted(set(self.inputs) - given - {field.name for field in request.schema})
        if missing:
            raise ValueError(
                f"{name}: inputs {missing} are in none of its sources; select them from a view, or add them to the request"
            )
        path = self.path

        def udf(frame: pd.DataFrame) -> pd.DataFrame:
            from feature_repo.windows.transform import resolve

            return resolve(path).apply_frame(frame)

        return OnDemandFeatureView(
            name=name,
            sources=[*sources, request],
            schema=[Field(name=output, dtype=Float64) for output in self.outputs],
            udf=udf,
            udf_string=f"{path}({', '.join(self.inputs)})",
            mode="pandas",
            tags={PATH_TAG: path, DIGEST_TAG: self.digest},
            description=description,
        )


def transform(
    inputs: Sequence[str], outputs: Sequence[str]
) -> Callable[[Callable[[Mapping[str, Reals]], Mapping[str, Reals]]], Transform]:
    """Declare a module-level function as a transform of ``inputs`` to ``outputs``."""

    def wrap(function: Callable[[Mapping[str, Reals]], Mapping[str, Reals]]) -> Transform:
        return Transform(
            f"{function.__module__}:{function.__name__}", tuple(inputs), tuple(outputs), function
        )

    return wrap


def _used(function: Callable[..., Any]) -> dict[str, str]:
    """Functions of the same package and constants that a function uses, and those that they use: text by name."""
    package = function.__module__.partition(".")[0]
    used: dict[str, str] = {}
    waiting = [function]
    while waiting:
        user = waiting.pop()
        for name in _names(user.__code__):
            value = user.__globals__.get(name)
            if name in used or name not in user.__globals__:
                continue
            if inspect.isfunction(value) and value.__module__.partition(".")[0] == package:
                used[name] = inspect.getsource(value)
                waiting.append(value)
            elif isinstance(value, int | float | str | tuple):
                used[name] = repr(value)
    return used


def _names(body: CodeType) -> Iterator[str]:
    yield from body.co_names
    for constant in body.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def resolve(path: str) -> Transform:
    """The transform at ``module:name``.

    Raises:
        TypeError: something else stands there.
    """
    module, _, name = path.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Transform):
        raise TypeError(f"{path} is {type(found).__name__}, not a Transform; declare it with @transform")
    return found


def declared_transform(view: OnDemandFeatureView) -> Transform | None:
    """The transform behind an on-demand view, or None for one declared in Feast's own way."""
    path = view.tags.get(PATH_TAG)
    return resolve(path) if path else None


def reals(column: pa.ChunkedArray | pa.Array) -> Reals:
    """An Arrow column as contiguous float64, null as NaN, times as whole seconds.

    Raises:
        TypeError: the column holds no numbers.
    """
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())
        seconds: Reals = np.floor_divide(micros.to_numpy(zero_copy_only=False), 1_000_000).astype(np.float64)
        return seconds
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
    ):
        raise TypeError(f"a transform reads numbers, not {column.type}")
    return np.ascontiguousarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _series(column: pd.Series) -> Reals:
    return reals(pa.array(column, from_pandas=True))
