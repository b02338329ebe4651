"""A filter or a condition of a windowed view: a SQL boolean expression, parsed once, run in two places.

Offline it becomes DuckDB SQL; online it is evaluated on one event. Both are derived from the same syntax tree, in which
only columns, literals, comparisons, ``IN``, ``BETWEEN``, ``IS NULL`` and boolean operators may stand, so nothing a person
writes in a declaration reaches the database as text. As in SQL, a comparison with null is unknown, and an event counts
only where the whole expression is true.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any

import sqlglot
from sqlglot import expressions as sql

Truth = bool | None
Value = Callable[[Mapping[str, Any]], Any]

_COMPARISONS: dict[type[sql.Expr], Callable[[Any, Any], bool]] = {
    sql.EQ: lambda a, b: bool(a == b),
    sql.NEQ: lambda a, b: bool(a != b),
    sql.GT: lambda a, b: bool(a > b),
    sql.GTE: lambda a, b: bool(a >= b),
    sql.LT: lambda a, b: bool(a < b),
    sql.LTE: lambda a, b: bool(a <= b),
}


class Predicate:
    """A parsed filter.

    Args:
        tag: the view's tag that it stands in, for messages.

    Raises:
        ValueError: the text is no SQL expression, or uses more than is allowed; the message names the part.
    """

    def __init__(self, text: str, tag: str = "window.where") -> None:
        self.text = text
        where = f"{tag} {text!r}"
        try:
            self._tree = sqlglot.parse_one(text, dialect="duckdb")
        except sqlglot.errors.SqlglotError as error:
            raise ValueError(f"{where}: not a SQL expression: {error}") from error
        self._test = _boolean(self._tree, where)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it reads, sorted."""
        return tuple(sorted({column.name for column in self._tree.find_all(sql.Column)}))

    @cached_property
    def sql(self) -> str:
        """The expression for DuckDB, written anew from the tree, names quoted."""
        return self._tree.sql(dialect="duckdb", identify=True, comments=False)

    def truth(self, event: Mapping[str, Any]) -> Truth:
        """True, false, or None for unknown; raises as a call does."""
        return self._test(event)

    def __call__(self, event: Mapping[str, Any]) -> bool:
        """Whether the event counts.

        Raises:
            KeyError: the event lacks a column (a null column is present, with None).
            TypeError: a value cannot be compared with the literal it is compared with.
        """
        return self._test(event) is True


def _refuse(node: sql.Expr, where: str) -> ValueError:
    return ValueError(
        f"{where}: {node.sql(dialect='duckdb')!r} ({type(node).__name__}) is not allowed; "
        "use columns, literals, comparisons, IN, BETWEEN, IS NULL, AND, OR, NOT"
    )


def _boolean(node: sql.Expr, where: str) -> Callable[[Mapping[str, Any]], Truth]:
    """Compile a boolean node to a function of the event, in SQL's three-valued logic."""
    if isinstance(node, sql.Paren):
        return _boolean(node.this, where)
    if isinstance(node, sql.And | sql.Or):
        return _connective(node, where)
    if isinstance(node, sql.Not):
        inner = _boolean(node.this, where)
        return lambda event: None if (truth := inner(event)) is None else not truth
    if type(node) in _COMPARISONS:
        return _comparison(
            _COMPARISONS[type(node)], _value(node.this, where), _value(node.args["expression"], where), where
        )
    if isinstance(node, sql.Is) and isinstance(node.expression, sql.Null):
        operand = _value(node.this, where)
        return lambda event: operand(event) is None
    if isinstance(node, sql.Between) and not node.args.get("symmetric"):
        return _between(node, where)
    if isinstance(node, sql.In) and node.expressions:
        return _membership(node, where)
    if isinstance(node, sql.Boolean):
        constant = bool(node.this)
        return lambda _event: constant
    if isinstance(node, sql.Column):
        return _flag(_value(node, where), node.name, where)
    raise _refuse(node, where)


def _flag(operand: Value, name: str, where: str) -> Callable[[Mapping[str, Any]], Truth]:
    def test(event: Mapping[str, Any]) -> Truth:
        value = operand(event)
        if value is not None and not isinstance(value, bool):
            raise TypeError(f"{where}: column {name!r} stands as a condition but holds {value!r}; compare it")
        return value

    return test


def _connective(node: sql.And | sql.Or, where: str) -> Callable[[Mapping[str, Any]], Truth]:
    left, right = _boolean(node.left, where), _boolean(node.right, where)
    decisive = isinstance(node, sql.Or)

    def test(event: Mapping[str, Any]) -> Truth:
        truths = left(event), right(event)
        if decisive in truths:
            return decisive
        return None if None in truths else not decisive

    return test


def _comparison(
    compare: Callable[[Any, Any], bool], left: Value, right: Value, where: str
) -> Callable[[Mapping[str, Any]], Truth]:
    def test(event: Mapping[str, Any]) -> Truth:
        a, b = left(event), right(event)
        if a is None or b is None:
            return None
        if isinstance(a, str) != isinstance(b, str):
            raise TypeError(f"{where}: cannot compare {a!r} with {b!r}; one is text and the other is not")
        if isinstance(a, float) or isinstance(b, float):
            return compare(_rank(float(a)), _rank(float(b)))
        return compare(a, b)

    return test


def _rank(real: float) -> tuple[bool, float]:
    """As DuckDB orders doubles, to which it turns whatever a double is compared with: NaN equals itself and is greatest."""
    return (True, 0.0) if math.isnan(real) else (False, real)


def _check_alike(node: sql.Expr, items: Sequence[sql.Expr], where: str) -> None:
    """Refuse a float among others: DuckDB compares all of them as floats then, and here each is compared as it is."""
    reals = [_is_real(item.unnest(), where) for item in items if not isinstance(item.unnest(), sql.Null)]
    if any(reals) and not all(reals):
        raise ValueError(
            f"{where}: {node.sql(dialect='duckdb')!r} has floats (1e3 is one) beside other values; write all of them alike"
        )


def _is_real(node: sql.Expr, where: str) -> bool:
    return isinstance(node, sql.Neg | sql.Literal) and isinstance(_constant(node, where), float)


def _between(node: sql.Between, where: str) -> Callable[[Mapping[str, Any]], Truth]:
    _check_alike(node, [node.args["low"], node.args["high"]], where)
    between = sql.And(this=sql.GTE(this=node.this, expression=node.args["low"]),
                      expression=sql.LTE(this=node.this, expression=node.args["high"]))  # fmt: skip
    return _boolean(between, where)


def _membership(node: sql.In, where: str) -> Callable[[Mapping[str, Any]], Truth]:
    operand = _value(node.this, where)
    _check_alike(node, node.expressions, where)
    equals = [
        _comparison(_COMPARISONS[sql.EQ], operand, _value(item, where), where) for item in node.expressions
    ]

    def test(event: Mapping[str, Any]) -> Truth:
        truths = {equal(event) for equal in equals}
        if True in truths:
            return True
        return None if None in truths else False

    return test


def _value(node: sql.Expr, where: str) -> Value:
    """Compile a scalar node: a column, or a literal (typed as DuckDB does: 1 int, 1.5 Decimal, 1e3 float)."""
    if isinstance(node, sql.Paren):
        return _value(node.this, where)
    if isinstance(node, sql.Column) and not node.table:
        name = node.name
        return lambda event: event[name]
    constant = _constant(node, where)
    return lambda _event: constant


def _constant(node: sql.Expr, where: str) -> Any:
    if isinstance(node, sql.Neg) and isinstance(node.this, sql.Neg | sql.Literal) and not node.this.is_string:
        return -_constant(node.this, where)
    if isinstance(node, sql.Literal):
        if node.is_string:
            return node.name
        if node.is_int:
            return int(node.name)
        return float(node.name) if "e" in node.name.lower() else Decimal(node.name)
    if isinstance(node, sql.Boolean):
        return bool(node.this)
    if isinstance(node, sql.Null):
        return None
    raise _refuse(node, where)
