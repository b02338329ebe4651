"""The filter of a windowed view: what is refused, and that Python and DuckDB keep the same events."""

import math
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows.predicate import Predicate

CONNECTION = duckdb.connect()
COLUMNS = {
    "amount": pa.int64(),
    "price": pa.decimal128(12, 2),
    "latitude": pa.float64(),
    "place": pa.string(),
    "online": pa.bool_(),
}
WHOLE = ["-3", "0", "1", "7", "10000000000"]
DECIMALS = ["0.1", "-0.50", "1.0", "2.25", ".5"]
REALS = ["1e0", "-2.5e-1", "1E3"]
TEXTS = ["''", "'x'", "'X'", "'it''s'", "'ä'", "'z'"]
VALUES = {
    "amount": [-3, 0, 1, 2, 7, 10**10],
    "price": [Decimal(text) for text in ("-0.50", "0.00", "0.10", "1.00", "2.25", "1000.00")],
    "latitude": [-0.25, 0.0, -0.0, 0.1, 0.5, 1.0, 2.25, 1000.0, math.inf, -math.inf, math.nan],
    "place": ["", "x", "X", "it's", "ä", "z"],
    "online": [True, False],
}


def spell(draw, literals):
    return draw(st.sampled_from([*literals, "NULL"]))


@st.composite
def conditions(draw):
    """One comparison, between things that SQL can compare."""
    kind = draw(st.sampled_from(["number", "number", "text", "flag"]))
    if kind == "flag":
        return draw(st.sampled_from(["online", "online = TRUE", "online <> FALSE", "online IS NULL", "TRUE"]))
    literals = TEXTS if kind == "text" else [*WHOLE, *DECIMALS, *REALS]
    columns = ["place"] if kind == "text" else ["amount", "price", "latitude"]
    column = draw(st.sampled_from(columns))
    other = draw(st.sampled_from(columns)) if draw(st.integers(0, 4)) == 0 else spell(draw, literals)
    negated = draw(st.sampled_from(["", "NOT "]))
    form = draw(st.sampled_from(["compare", "compare", "in", "between", "null"]))
    if form == "compare":
        operator = draw(st.sampled_from(["=", "==", "<>", "!=", "<", "<=", ">", ">="]))
        sides = [column, other]
        left, right = sides if draw(st.booleans()) else sides[::-1]
        return f"{left} {operator} {right}"
    if form in ("in", "between") and kind == "number":
        # Floats stand among floats only.
        literals = draw(st.sampled_from([[*WHOLE, *DECIMALS], REALS]))
        other = spell(draw, literals)
    if form == "in":
        items = ", ".join([other, *(spell(draw, literals) for _ in range(draw(st.integers(0, 3))))])
        return f"{column} {negated}IN ({items})"
    if form == "between":
        return f"{column} {negated}BETWEEN {other} AND {spell(draw, literals)}"
    return f"{column} IS {negated}NULL"


EXPRESSIONS = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        inner.map(lambda text: f"NOT {text}"),
        inner.map(lambda text: f"({text})"),
        st.tuples(inner, st.sampled_from(["AND", "OR", "and", "or"]), inner).map(" ".join),
    ),
    max_leaves=6,
)
ROWS = st.lists(
    st.fixed_dictionaries({name: st.sampled_from([*values, None]) for name, values in VALUES.items()}),
    min_size=1,
    max_size=12,
)


@given(EXPRESSIONS, ROWS)
@settings(max_examples=200, deadline=None)
def test_python_and_duckdb_keep_the_same_rows(text, rows):
    predicate = Predicate(text)
    table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()})
    CONNECTION.register("events", table)
    ((*kept,),) = CONNECTION.execute(f"SELECT list({text}), list({predicate.sql}) FROM events").fetchall()
    of_text, of_tree = ([truth is True for truth in truths] for truths in kept)
    assert of_text == of_tree
    assert [predicate(row) for row in rows] == of_tree


@given(EXPRESSIONS)
@settings(max_examples=50, deadline=None)
def test_the_rewritten_text_reads_back_as_itself(text):
    once = Predicate(text)
    assert Predicate(once.sql).sql == once.sql
    assert Predicate(once.sql).columns == once.columns


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not a SQL expression"),
        ("amount = ", "not a SQL expression"),
        ("place = 'open", "not a SQL expression"),
        ("amount > 1 LIMIT 1", "not a SQL expression"),
        ("amount > 1; DROP TABLE events", "DROP TABLE"),
        ("SELECT TRUE", "Select"),
        ("(SELECT TRUE)", "Subquery"),
        ("amount IN (SELECT 1)", "IN (SELECT 1)"),
        ("amount IN ()", "IN ()"),
        ("amount + 1 > 2", "amount + 1"),
        ("length(place) > 3", "LENGTH(place)"),
        ("place LIKE 'x%'", "LIKE"),
        ("amount = ?", "Placeholder"),
        ("amount = $1", "Placeholder"),
        ("t.amount = 1", "t.amount"),
        ("*", "Star"),
        ("NULL", "Null"),
        ("1", "Literal"),
        ("1 < amount < 5", "1 < amount"),
        ("amount = CAST('1' AS INT)", "CAST"),
        ("amount::INT = 1", "CAST"),
        ("amount BETWEEN SYMMETRIC 5 AND 1", "Between"),
        ("amount IS DISTINCT FROM 3", "DISTINCT"),
        ("online IS TRUE", "IS TRUE"),
        ("CASE WHEN online THEN TRUE END", "Case"),
        ("amount > 1 AS big", "Alias"),
        ("-amount > 1", "amount"),
        ("amount = -'1'", "-'1'"),
        ("amount = -NULL", "-NULL"),
        ("place COLLATE NOCASE = 'x'", "COLLATE"),
        ("event_timestamp > DATE '2024-01-01'", "CAST"),
        ("COLUMNS(*) > 1", "COLUMNS"),
        ("amount = 1 OR random() > 0.5", "RANDOM()"),
        ("amount = getvariable('x')", "GETVARIABLE"),
    ],
)
def test_what_is_more_than_a_condition_on_columns_is_refused_by_name(text, named):
    with pytest.raises(ValueError, match=r"^window\.where ") as refusal:
        Predicate(text)
    assert named in str(refusal.value)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "amount IN (1e400, 0.1)",
        "amount IN (-1e3, 2)",
        "amount NOT IN (price, 1e3)",
        "price BETWEEN 0.5 AND 1e3",
    ],
)
def test_a_float_among_other_values_is_refused_since_duckdb_makes_all_of_them_floats(text):
    with pytest.raises(ValueError, match="write all of them alike"):
        Predicate(text)


def test_names_are_quoted_and_columns_listed_once_in_order():
    predicate = Predicate('"odd ""name" = 1 OR zone IN (area, 2) -- and\n AND area IS NULL /* no more */')
    assert predicate.columns == ("area", 'odd "name', "zone")
    assert predicate.sql == '"odd ""name" = 1 OR "zone" IN ("area", 2) AND "area" IS NULL'


def test_a_missing_column_is_an_error_and_a_null_one_is_not():
    predicate = Predicate("amount > 1")
    assert predicate({"amount": None}) is False
    with pytest.raises(KeyError, match="amount"):
        predicate({"place": "x"})


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("amount > 'x'", {"amount": 1}),
        ("place = 1", {"place": "x"}),
        ("place IN ('x', 1)", {"place": "y"}),
        ("place", {"place": "x"}),
        ("amount OR TRUE", {"amount": 1}),
    ],
)
def test_values_that_cannot_be_compared_are_an_error_not_a_guess(text, event):
    with pytest.raises(TypeError, match=r"window\.where "):
        Predicate(text)(event)


def test_a_double_is_compared_with_a_decimal_as_double_and_nan_is_greatest():
    assert not Predicate("latitude > 0.1")({"latitude": 0.1})
    assert Predicate("latitude = 0.1")({"latitude": 0.1})
    assert Predicate("latitude > 1e300")({"latitude": math.nan})
    assert Predicate("latitude = latitude")({"latitude": math.nan})
