"""Counters, gauges and histograms over cells: what to count, told once, and the text in which Prometheus reads it.

The library's own take 2 to 4 microseconds to count one thing, and a decision counts a dozen; these take a few tenths of one.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from math import isnan
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from bento.cells import Cells, Run

__all__ = ["Counter", "Gauge", "Histogram", "Meters", "Observed", "observe_each"]

Values = Sequence[float]
_lock = Lock()  # of all cells: an addition reads, then writes


class Meters:
    """What a process counts; each metric is made by one of its methods, once, under a name of its own."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self._families: dict[str, Callable[[list[Run]], Metric]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> "Counter":
        """A number that grows; shown as ``NAME_total``, summed over the workers."""
        self._families[name] = lambda runs: _counter(name, about, labels, runs)
        return Counter(self.cells, name, labels)

    def gauge(
        self,
        name: str,
        about: str,
        labels: Sequence[str] = (),
        *,
        over_workers: Callable[[Iterable[float]], float] = max,
    ) -> "Gauge":
        """A number that is set; ``over_workers`` makes one of those of the workers that run and have set it."""
        self._families[name] = lambda runs: _gauge(name, about, labels, runs, over_workers)
        self.cells.forget(name)
        return Gauge(self.cells, name, labels)

    def histogram(self, name: str, about: str, bounds: Values, labels: Sequence[str] = ()) -> "Histogram":
        """How many values were at most each of ``bounds``, which ascend, and their sum; summed over the workers."""
        self._families[name] = lambda runs: _histogram(name, about, labels, bounds, runs)
        return Histogram(self.cells, name, labels, bounds)

    def collect(self) -> Iterator[Metric]:
        """All that is counted, of all workers, as the library has it."""
        runs: dict[str, list[Run]] = defaultdict(list)
        for run in self.cells.read():
            runs[run.metric].append(run)
        for name, family in self._families.items():
            yield family(runs[name])

    def exposition(self) -> tuple[bytes, str]:
        """The text to scrape, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class Counter:
    """Counts by the values of its labels: ``labels("a", "b").inc()``; without labels, ``inc()``."""

    def __init__(self, cells: Cells, name: str, labels: Sequence[str]) -> None:
        self._cells, self._name, self._width = cells, name, len(labels)
        self._of: dict[tuple[str, ...], _Count] = {}
        if not labels:
            self.labels()

    def labels(self, *values: str) -> "_Count":
        """That of these values, one for each label.

        Raises:
            ValueError: there are more or fewer.
        """
        found = self._of.get(values)
        if found is None:
            _fits(self._name, self._width, values)
            found = self._of[values] = _Count(self._cells, self._cells.run(self._name, values))
        return found

    def inc(self, amount: float = 1.0) -> None:
        """Count without labels."""
        self.labels().inc(amount)


class _Count:
    def __init__(self, cells: Cells, at: int) -> None:
        self._values, self._at = cells.values, at

    def inc(self, amount: float = 1.0) -> None:
        with _lock:
            self._values[self._at] += amount


class Gauge:
    """Shows numbers by the values of its labels: ``labels("a").set(1)``; without labels, ``set(1)``."""

    def __init__(self, cells: Cells, name: str, labels: Sequence[str]) -> None:
        self._cells, self._name, self._width = cells, name, len(labels)

    def labels(self, *values: str) -> "_Shown":
        """As of a counter."""
        _fits(self._name, self._width, values)
        return _Shown(self._cells, self._cells.run(self._name, values))

    def set(self, value: float) -> None:
        """Show without labels."""
        self.labels().set(value)


class _Shown:
    def __init__(self, cells: Cells, at: int) -> None:
        self._values, self._at = cells.values, at

    def set(self, value: float) -> None:
        self._values[self._at] = value


class Histogram:
    """Observes by the values of its labels: ``labels("a").observe(0.1)``; without labels, ``observe(0.1)``."""

    def __init__(self, cells: Cells, name: str, labels: Sequence[str], bounds: Values) -> None:
        self._cells, self._name, self._width, self._bounds = cells, name, len(labels), tuple(bounds)
        self._of: dict[tuple[str, ...], Observed] = {}
        if not labels:
            self.labels()

    def labels(self, *values: str) -> "Observed":
        """As of a counter."""
        found = self._of.get(values)
        if found is None:
            _fits(self._name, self._width, values)
            at = self._cells.run(self._name, values, len(self._bounds) + 2)
            found = self._of[values] = Observed(self._cells, at, self._bounds)
        return found

    def observe(self, value: float) -> None:
        """Observe without labels."""
        self.labels().observe(value)


class Observed:
    """A sum, then how many values lie in each bucket, the last one without a bound."""

    def __init__(self, cells: Cells, at: int, bounds: Values) -> None:
        self.cells, self.at, self.bounds = cells.values, at, bounds

    def observe(self, value: float) -> None:
        """Observe one."""
        observe_each((self,), (value,))


def observe_each(observed: Sequence[Observed], values: Values) -> None:
    """Observe a value of each: cheaper than one by one."""
    with _lock:
        for each, value in zip(observed, values, strict=True):
            cells, at = each.cells, each.at
            cells[at] += value
            cells[at + 1 + bisect_left(each.bounds, value)] += 1.0


def _fits(name: str, width: int, values: tuple[str, ...]) -> None:
    if len(values) != width:
        raise ValueError(f"{name}: labels {values}: it has {width}; give a value for each")


def _merged(runs: list[Run], length: int) -> Iterator[tuple[tuple[str, ...], list[tuple[float, ...]]]]:
    """The values of all workers by their labels."""
    found: dict[tuple[str, ...], list[tuple[float, ...]]] = defaultdict(list)
    for run in runs:
        if len(run.values) == length:
            found[run.labels].append(run.values)
    yield from sorted(found.items())


def _counter(name: str, about: str, labels: Sequence[str], runs: list[Run]) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for of, values in _merged(runs, 1):
        family.add_metric(of, sum(value for (value,) in values))
    return family


def _gauge(
    name: str,
    about: str,
    labels: Sequence[str],
    runs: list[Run],
    over_workers: Callable[[Iterable[float]], float],
) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    shown = [run for run in runs if run.alive and not any(map(isnan, run.values))]
    for of, values in _merged(shown, 1):
        family.add_metric(of, over_workers(value for (value,) in values))
    return family


def _histogram(name: str, about: str, labels: Sequence[str], bounds: Values, runs: list[Run]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    ends = [str(floatToGoString(bound)) for bound in (*bounds, float("inf"))]  # type: ignore[no-untyped-call]
    for of, values in _merged(runs, len(bounds) + 2):
        total, *counts = map(sum, zip(*values, strict=True))
        family.add_metric(of, list(zip(ends, accumulate(counts), strict=True)), total)
    return family
