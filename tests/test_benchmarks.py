"""The benchmarks' harness: what a figure is, which are replaced, and that one benchmark's trouble stays its own.

Nothing here times anything.
"""

import importlib
import json
import operator
import sys
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tests.benchmarks import __main__ as harness
from tests.benchmarks import figures
from tests.benchmarks.bench import Bench
from tests.benchmarks.catalogue import CATALOGUE, Entry, chosen
from tests.benchmarks.measure import UnavailableError, in_own_process, in_turns, need, percentile
from tests.benchmarks.workload import columns, online_part

SHAPE = {"name", "value", "unit", "against", "goal", "met", "conditions"}


@pytest.fixture
def bench(tmp_path):
    home = tmp_path / "bench" / "tried"
    home.mkdir(parents=True)
    return Bench("tried", home, tmp_path / "data", home / "figures.jsonl")


def entries(bench):
    return [json.loads(line) for line in bench.entries.read_text().splitlines()]


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [
        (6, "<= 6", True),
        (6.1, "<= 6", False),
        (4, "< 4", False),
        (3.9, "< 4", True),
        (50, ">= 50", True),
        (49, ">= 50", False),
        (0.1, "<= 0.1", True),
        (1, "> 1", False),
        (1, None, None),
        (None, "< 4", False),
    ],
)
def test_a_goal_is_met_by_the_numbers_that_it_names(value, goal, met):
    assert figures.is_met(value, goal) is met


def test_a_goal_of_another_form_is_refused():
    with pytest.raises(ValueError, match="goal 'about 6'"):
        figures.is_met(6, "about 6")


def test_a_figure_says_what_where_and_against_what(bench):
    bench.record("ratio", 5.5, "x", against="the floor", goal="<= 6", rows=10)
    (entry,) = entries(bench)
    assert set(entry) == SHAPE
    assert (entry["name"], entry["value"], entry["met"]) == ("tried.ratio", 5.5, True)
    assert entry["conditions"]["rows"] == 10
    assert {"cores", "cpu", "date", "versions"} <= set(entry["conditions"])


def test_a_figure_of_little_data_has_no_goal(bench):
    bench.small = True
    bench.record("ratio", 50, "x", goal="<= 6")
    assert [(e["goal"], e["met"]) for e in entries(bench)] == [(None, None)]


def test_only_the_figures_of_what_ran_are_replaced_and_where_they_stood():
    old = [
        figures.figure(name, 1, "x") for name in ("floor.ratio", "online.p50", "online.p99", "state.bytes")
    ]
    new = {
        "online": [figures.figure("online.p50", 2, "x")],
        "sparse": [figures.figure("sparse.ratio", 3, "x")],
    }
    found = figures.merged(old, new)
    assert [(e["name"], e["value"]) for e in found] == [
        ("floor.ratio", 1),
        ("online.p50", 2),
        ("state.bytes", 1),
        ("sparse.ratio", 3),
    ]


def test_names_are_chosen_by_commas_and_unknown_ones_are_refused():
    assert chosen("online, floor") == ["online", "floor"]
    assert chosen("") == list(CATALOGUE)
    with pytest.raises(ValueError, match="'flor'"):
        chosen("flor")


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_benchmark_is_there_without_what_is_optional(name):
    assert callable(importlib.import_module(f"tests.benchmarks.{CATALOGUE[name].module}").run)


def test_the_workload_has_49_columns_and_45_of_them_online(tmp_path):
    everything, online = columns(tmp_path), online_part(tmp_path)
    assert len({column.name for column in everything}) == 49
    assert len(online) == 45
    assert set(online) < set(everything)


def listed(monkeypatch, **names):
    """Make benchmarks known by name and limit; their modules are not there."""
    monkeypatch.setattr(harness, "CATALOGUE", {name: Entry(name, "", limit) for name, limit in names.items()})


@pytest.mark.parametrize(
    ("raised", "code", "met", "key", "text"),
    [
        (UnavailableError("no polars"), 0, None, "skipped", "no polars"),
        (ValueError("broken\nat length"), 1, False, "error", "ValueError: broken"),
    ],
)
def test_what_stops_a_benchmark_stands_beside_the_figures_it_had(
    bench, monkeypatch, raised, code, met, key, text
):
    def run(bench):
        bench.record("ratio", 1, "x")
        raise raised

    listed(monkeypatch, tried=1)
    monkeypatch.setitem(sys.modules, "tests.benchmarks.tried", SimpleNamespace(run=run))
    assert harness._run_here(bench) == code
    first, second = entries(bench)
    assert first["name"] == "tried.ratio"
    assert (second["name"], second["value"], second["met"]) == ("tried", None, met)
    assert second["conditions"][key] == text


@pytest.mark.parametrize(("limit", "text"), [(60, "KeyError"), (0.01, "not done after")])
def test_a_benchmark_that_breaks_or_hangs_in_its_process_is_reported_and_removed(
    bench, monkeypatch, limit, text
):
    listed(monkeypatch, tried=limit)
    (found,) = harness._run_apart(bench)
    assert text in found["conditions"]["error"]
    assert found["met"] is False
    assert not bench.home.exists()


def test_a_run_of_some_leaves_the_other_figures(tmp_path, monkeypatch):
    figures.save(
        tmp_path / "bench.json", [figures.figure(f"{name}.x", 1, "x") for name in ("floor", "online")]
    )
    monkeypatch.setattr(harness, "_run_apart", lambda bench: [figures.failed(bench.name, "broke")])
    result = CliRunner().invoke(harness.app, ["--only", "online", "--build", str(tmp_path)])
    assert result.exit_code == 1
    assert [e["name"] for e in figures.load(tmp_path / "bench.json")] == ["floor.x", "online"]


# Only what is quick to import: a fresh process imports the module of what it calls.
def test_a_call_in_its_own_process_brings_its_value_and_its_peak_of_memory():
    outcome = in_own_process(operator.mul, 6, 7)
    assert outcome.value == 42
    assert outcome.peak_bytes > 0


@pytest.mark.parametrize(
    ("call", "arguments", "limit", "error", "text"),
    [
        (operator.mul, (None, None), None, RuntimeError, "TypeError"),
        (need, ("no_such_package",), None, UnavailableError, "no_such_package is not installed"),
        (time.sleep, (60,), 0.1, TimeoutError, "sleep: not done"),
    ],
)
def test_trouble_in_an_own_process_comes_back(call, arguments, limit, error, text):
    with pytest.raises(error, match=text):
        in_own_process(call, *arguments, limit_s=limit)


def test_calls_are_timed_in_turns():
    order = []
    taken = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert [len(samples) for samples in taken.values()] == [2, 2]


def test_a_percentile_is_one_of_the_samples():
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([5.0], 50) == 5.0
