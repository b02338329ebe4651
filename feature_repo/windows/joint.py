"""Two plans read in one round trip: a view that both read is read and computed once, and so is a transform.

Each plan answers to the bit what it answers alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from feature_repo.windows.plan import Answer, OnlinePlan, asked
from feature_repo.windows.reading import StateReader
from feature_repo.windows.transform import TIME, Transform

__all__ = ["JointPlan"]


class JointPlan:
    """``first`` and ``second``, two plans of one store.

    Attributes:
        shared: the features, by name, that are the same in both: made of the same views and requests in the same way.
    """

    def __init__(self, first: OnlinePlan, second: OnlinePlan) -> None:
        views = list(dict.fromkeys([*first.state_views, *second.state_views]))
        self._first, self._second = first, second
        self._reader = StateReader(first.client, views)
        self._reader.require((*first.marks, *second.marks))
        self._of_first = [views.index(view) for view in first.state_views]
        self._of_second = [views.index(view) for view in second.state_views]
        windows, transforms = _same_windows(first, second), _same_transforms(first, second)
        made = {name for each in transforms for name in each.outputs}
        names = set(first.feature_names) & set(second.feature_names)
        self.shared = frozenset(names & (windows | made))
        place = {name: i for i, name in enumerate(first.feature_names)}
        self._made = [(name, place[name]) for name in sorted(made)]
        # The usual case, a model trained anew on the same FeatureService: nothing is left to compute.
        self._order = (
            np.array([place[name] for name in second.feature_names])
            if self.shared.issuperset(second.feature_names)
            else None
        )

    def read(
        self, rows: Sequence[Mapping[str, Any]], ends_ns: list[int] | None = None
    ) -> tuple[Answer, Answer]:
        """Features of each row as either plan has them; ``rows`` need what either plan's need, ``ends_ns`` is as there.

        Raises:
            As ``OnlinePlan.read``, whichever of the two it concerns.
        """
        windows, instants, known = self._reader.read(rows, *asked(rows), ends_ns)
        one = self._first.answer(rows, [windows[i] for i in self._of_first], instants, known)
        if self._order is not None:
            seen = {view.spec.view: windows[i][1] for view, i in self._views_of_second()}
            return one, Answer(one.values[:, self._order], known, seen)
        made = {name: np.ascontiguousarray(one.values[:, place]) for name, place in self._made}
        two = self._second.answer(rows, [windows[i] for i in self._of_second], instants, known, made)
        return one, two

    def warm(self) -> None:
        """As ``OnlinePlan.warm``."""
        self._reader.warm()

    def _views_of_second(self) -> Any:
        return zip(self._second.state_views, self._of_second, strict=True)


def _same_windows(first: OnlinePlan, second: OnlinePlan) -> set[str]:
    """Outputs of the views that both read."""
    both = set(first.state_views) & set(second.state_views)
    return {aggregate.name for view in both for aggregate in view.spec.aggregates}


def _same_transforms(first: OnlinePlan, second: OnlinePlan) -> list[Transform]:
    """Transforms of ``second`` that ``first`` applies to the same inputs, and whose outputs are all among its features."""
    requested = set(first.request_columns) & set(second.request_columns)
    known = _same_windows(first, second) | requested | {TIME}
    same = []
    for each in second.transforms:
        given = set(first.feature_names).issuperset(each.outputs)
        if each in first.transforms and given and known.issuperset(each.inputs):
            same.append(each)
            known |= set(each.outputs)
    return same
