"""How much each feature moved a score: exact Shapley values of oblivious trees, read from a table.

What a feature adds to the margin of one tree depends only on the leaf that the row ends in, for an oblivious tree asks the
same questions on every path. So the values are computed once for each leaf, when the bundle is written, and a row costs a
comparison a split and an addition: microseconds, where CatBoost takes milliseconds.

The values are CatBoost's ``ShapValues`` (path-dependent TreeSHAP: Lundberg, Erion and Lee, Consistent Individualized Feature
Attribution for Tree Ensembles, 2018): a feature that is taken as unknown is averaged over at each of its splits, by how many
training rows went either way; what no training row came to counts as 0.
"""

from dataclasses import dataclass
from math import factorial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_DEPTH", "Contributions", "contributions_of"]

MAX_DEPTH: Final = 10
"""Of trees of this depth all subsets of features are gone through in seconds; each level more takes four times as long."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass
class Contributions:
    """The trees of a model of ``width`` features; those less deep than the deepest have splits that never hold.

    Attributes:
        base: the margin that is expected of a training row: what is left when every contribution is taken from a margin.
        features: int64[t, d], borders: float32[t, d]: the splits, in CatBoost's order.
        owners: int64[t, d] the feature of each column of ``values``; ``width`` of a column that is none's.
        values: float64[t, 2**d, d] what each feature adds in each leaf.
    """

    width: int
    base: float
    features: IntArray
    borders: npt.NDArray[np.float32]
    owners: IntArray
    values: FloatArray

    def __post_init__(self) -> None:
        trees, depth = self.features.shape
        self._bits, self._starts = 1 << np.arange(depth), np.arange(trees) << depth
        self._leaves, self._flat = self.values.reshape(trees << depth, depth), self.owners.ravel()

    def of_row(self, row: FloatArray) -> FloatArray:
        """What each feature of float64[width] (null as NaN) adds to the margin: float64[width].

        With ``base`` they sum up to the margin, but for rows in leaves that no training row came to.
        """
        with np.errstate(over="ignore"):
            above = row.astype(np.float32)[self.features] > self.borders
        added = self._leaves[self._starts + above @ self._bits].ravel()
        sums: FloatArray = np.bincount(self._flat, weights=added, minlength=self.width + 1)  # type: ignore[assignment]
        return sums[: self.width]

    def save(self, path: Path) -> None:
        """Write to a file that ``load`` reads."""
        np.savez(
            path,
            width=np.int64(self.width),
            base=np.float64(self.base),
            features=self.features,
            borders=self.borders,
            owners=self.owners,
            values=self.values,
        )

    @classmethod
    def load(cls, path: Path) -> "Contributions":
        """Read what ``save`` wrote.

        Raises:
            OSError, ValueError, KeyError: it is no such file.
        """
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                int(arrays["width"]),
                float(arrays["base"]),
                arrays["features"],
                arrays["borders"],
                arrays["owners"],
                arrays["values"],
            )


def contributions_of(trees: dict[str, Any]) -> Contributions:
    """The contributions of a model, given as ``training.onnx_export.trees_of`` gives it.

    Raises:
        ValueError: its trees are deeper than ``MAX_DEPTH``.
    """
    grown = [tree for tree in trees["oblivious_trees"] if tree["splits"]]
    width = len(trees["features_info"]["float_features"])
    depth = max((len(tree["splits"]) for tree in grown), default=1)
    if depth > MAX_DEPTH:
        raise ValueError(
            f"contributions: the model has trees of depth {depth}; reasons are given of up to {MAX_DEPTH}: train with that"
        )
    scale, (bias,) = trees["scale_and_bias"]
    base = bias + scale * sum(t["leaf_values"][0] for t in trees["oblivious_trees"] if not t["splits"])
    features = np.zeros((len(grown), depth), dtype=np.int64)
    borders = np.full((len(grown), depth), np.inf, dtype=np.float32)
    owners = np.full((len(grown), depth), width, dtype=np.int64)
    values = np.zeros((len(grown), 1 << depth, depth))
    for players, places in _alike(grown).items():
        some = [grown[place] for place in places]
        d, k = len(players), max(players) + 1
        splits = [[split["float_feature_index"] for split in tree["splits"]] for tree in some]
        features[places, :d] = splits
        borders[places, :d] = [[split["border"] for split in tree["splits"]] for tree in some]
        owners[places, :k] = [[row[players.index(player)] for player in range(k)] for row in splits]
        game = _game(
            np.array([t["leaf_values"] for t in some]), np.array([t["leaf_weights"] for t in some]), players
        )
        values[places, : 1 << d, :k] = scale * _shapley(game)
        base += scale * float(game[0, :, 0].sum())
    return Contributions(width, base, features, borders, owners, values)


def _alike(trees: list[dict[str, Any]]) -> dict[tuple[int, ...], list[int]]:
    """Places of the trees by who plays at each split: features numbered as they first come, a feature may come again."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, tree in enumerate(trees):
        numbers: dict[int, int] = {}
        players = tuple(
            numbers.setdefault(split["float_feature_index"], len(numbers)) for split in tree["splits"]
        )
        found.setdefault(players, []).append(place)
    return found


def _game(leaves: FloatArray, weights: FloatArray, players: tuple[int, ...]) -> FloatArray:
    """What each tree is expected to say of a row in each leaf, if only some features are known: [2**k sets, t, 2**d].

    Args:
        leaves, weights: [t, 2**d] values, and how many training rows came there. players: of each split; the first is deepest.
    """
    t, n = leaves.shape
    game = np.empty((1 << max(players) + 1, t, n))
    went = [np.arange(n) >> i & 1 == 1 for i in range(len(players))]
    for known in range(len(game)):
        weight = weights.astype(np.float64)
        value = np.broadcast_to(np.where(weight > 0, leaves, 0.0)[:, :, None], (t, n, n))
        for i, player in enumerate(players):
            low, high = value[:, 0::2], value[:, 1::2]
            below, above = weight[:, 0::2, None], weight[:, 1::2, None]
            both = below + above
            if known >> player & 1:
                value = np.where(went[i], high, low)
            else:
                value = np.divide(below * low + above * high, both, out=np.zeros_like(low), where=both > 0)
            weight = both[:, :, 0]
        game[known] = value[:, 0]
    return game


def _shapley(game: FloatArray) -> FloatArray:
    """The players' shares of a game: [t, leaves, k]."""
    k = len(game).bit_length() - 1
    shares = np.zeros((*game.shape[1:], k))
    for player in range(k):
        for known in range(len(game)):
            if not known >> player & 1:
                size = known.bit_count()
                chance = factorial(size) * factorial(k - size - 1) / factorial(k)
                shares[:, :, player] += chance * (game[known | 1 << player] - game[known])
    return shares
