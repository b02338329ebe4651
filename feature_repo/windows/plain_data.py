"""Frozen plans of this engine (dataclasses, tuples, plain values) as JSON-ready data, and back, checked by their types."""

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Union, cast, get_args, get_origin, get_type_hints


def to_data(value: Any) -> Any:
    """A frozen plan of this engine (dataclasses, tuples, plain values) as JSON-ready data."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_data(getattr(value, field.name)) for field in fields(value)}
    return [to_data(each) for each in value] if isinstance(value, tuple) else value


def from_data(kind: Any, data: Any) -> Any:
    """The inverse of ``to_data`` for a value of the type ``kind``; what the data lacks takes its default.

    Raises:
        TypeError: the data does not fit the type.
    """
    if get_origin(kind) in (Union, types.UnionType):
        return None if data is None else from_data(_not_none(kind), data)
    if is_dataclass(kind):
        hints, make = get_type_hints(kind), cast(Callable[..., Any], kind)
        unknown = sorted(set(data) - set(hints))
        if unknown:
            raise TypeError(f"{kind} has no {unknown}")
        return make(**{name: from_data(hints[name], each) for name, each in data.items()})
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        kinds = parts[:1] * len(data) if parts[1:] == (...,) else parts
        return tuple(from_data(k, each) for k, each in zip(kinds, data, strict=True))
    if not isinstance(data, kind):
        raise TypeError(f"{data!r} is no {kind}")
    return data


def _not_none(kind: Any) -> Any:
    return next(each for each in get_args(kind) if each is not type(None))
