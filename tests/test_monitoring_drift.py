"""The population stability index: its value by hand, its own bins, and what chance does to it."""

import json

import numpy as np
import pyarrow as pa
import pytest

from monitoring import drift
from training.stability import SOME


def one(training: list[float] | np.ndarray, live: list[float] | np.ndarray) -> drift.Drift:
    (found,) = drift.psi(drift.build_profile({"x": training}), {"x": live})
    return found


def test_psi_is_the_sum_over_bins_computed_by_hand() -> None:
    # Two values, so two bins: half and half before; a quarter and three quarters now.
    found = one([1.0] * 50 + [2.0] * 50, [1.0] * 25 + [2.0] * 75)
    by_hand = (0.25 - 0.5) * np.log(0.25 / 0.5) + (0.75 - 0.5) * np.log(0.75 / 0.5)
    assert found.psi == pytest.approx(by_hand, abs=1e-12)
    assert found.expected == pytest.approx(1 / 100 + 1 / 100)


def test_equal_samples_have_no_psi() -> None:
    values = np.random.default_rng(1).lognormal(size=1000)
    assert one(values, values).psi == 0


def test_a_shift_of_half_a_standard_deviation_is_seen_at_its_known_size() -> None:
    rng = np.random.default_rng(2)
    found = one(rng.normal(size=50_000), rng.normal(0.5, 1, size=50_000))
    # For equal variances the continuous limit of PSI is the squared shift: 0.25; ten bins lose a little of
    # it.
    assert 0.2 < found.psi < 0.25
    assert found.band == "some"


def test_zero_and_null_have_bins_of_their_own() -> None:
    column = drift.build_profile({"x": [0.0, -0.0, 0.5, -1.0, np.nan, 3.0]})["columns"]["x"]
    assert (column["zero"], column["null"], sum(column["counts"])) == (2, 1, 3)


def test_more_nulls_alone_are_drift() -> None:
    rng = np.random.default_rng(3)
    live = rng.normal(5, 1, size=5000)
    live[:1500] = np.nan
    found = one(rng.normal(5, 1, size=5000), live)
    assert found.band == "large"
    assert (found.null_before, found.null) == (0, 0.3)


def test_more_zeros_alone_are_drift_though_other_values_lie_on_both_sides_of_zero() -> None:
    rng = np.random.default_rng(4)
    live = rng.normal(size=5000)
    live[:1500] = 0
    assert one(rng.normal(size=5000), live).band == "large"


def test_a_frequent_value_stands_alone_among_rarer_ones() -> None:
    training = [1.0] * 5 + [2.0] * 90 + [3.0, 4.0, 5.0, 6.0, 7.0]
    column = drift.build_profile({"x": training})["columns"]["x"]
    assert column["counts"] == [5, 90, 5]
    assert column["edges"] == [2.0, 3.0]


def test_there_are_at_most_ten_quantile_bins_of_like_size() -> None:
    values = np.random.default_rng(5).normal(size=10_000)
    counts = drift.build_profile({"x": values})["columns"]["x"]["counts"]
    assert len(counts) == 10
    assert max(counts) - min(counts) <= 2


def test_a_column_constant_before_and_now_has_no_drift() -> None:
    assert one([0.0] * 10, [0.0] * 3).psi == 0
    assert one([np.nan] * 10, [np.nan] * 3).band == "none"


def test_a_constant_column_that_changes_is_large_drift() -> None:
    assert one([0.0] * 1000, [1.0] * 1000).band == "large"


def test_an_empty_bin_too_small_to_be_seen_adds_nothing() -> None:
    # One training row in a thousand is null; a hundred live rows cannot be expected to show one.
    training = [np.nan] + [1.0] * 500 + [2.0] * 499
    assert one(training, [1.0] * 50 + [2.0] * 50).psi < 1e-4


@pytest.mark.parametrize("live_rows", [50, 500, 5000])
def test_without_drift_psi_is_on_average_what_its_formula_expects_and_raises_no_band(live_rows: int) -> None:
    rng = np.random.default_rng(live_rows)

    def draw(rows: int) -> np.ndarray:
        values = rng.gamma(2.0, size=rows)
        values[rng.random(rows) < 0.2] = 0
        values[rng.random(rows) < 0.1] = np.nan
        return values

    reference = drift.build_profile({"x": draw(20_000)})
    found = [drift.psi(reference, {"x": draw(live_rows)})[0] for _ in range(300)]
    assert np.mean([f.psi for f in found]) == pytest.approx(found[0].expected, rel=0.15)
    assert {f.band for f in found} == {"none"}


def test_the_customary_band_alone_would_call_fifty_fresh_rows_a_drift() -> None:
    rng = np.random.default_rng(8)
    reference = drift.build_profile({"x": rng.normal(size=20_000)})
    found = [drift.psi(reference, {"x": rng.normal(size=50)})[0] for _ in range(200)]
    assert np.mean([f.psi > SOME for f in found]) > 0.8


def test_a_profile_survives_json_to_the_bit() -> None:
    rng = np.random.default_rng(6)
    reference = drift.build_profile({"x": rng.normal(size=1000), "score": rng.random(300)})
    again = drift.as_profile(json.loads(json.dumps(reference)))
    live = {"x": rng.normal(size=100), "score": rng.random(100)}
    assert drift.psi(again, live) == drift.psi(reference, live)


def test_a_profile_of_a_table_takes_nulls_as_nan() -> None:
    table = pa.table({"a": pa.array([1, None, 0], pa.int64()), "b": [1.5, None, 2.5], "c": ["x", "y", "z"]})
    columns = drift.profile(table, ["a", "b"])["columns"]
    assert {name: column["null"] for name, column in columns.items()} == {"a": 1, "b": 1}


def test_a_table_without_the_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['b'\] are not in the table"):
        drift.profile(pa.table({"a": [1.0]}), ["a", "b"])


def test_a_live_column_unknown_to_the_profile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no column \['y'\]"):
        drift.psi(drift.build_profile({"x": [1.0]}), {"y": [1.0]})


def test_a_column_without_live_rows_is_left_out() -> None:
    assert drift.psi(drift.build_profile({"x": [1.0]}), {"x": []}) == []


def test_a_document_that_is_no_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="not a profile of version 1"):
        drift.as_profile({"version": 2, "columns": {}})
