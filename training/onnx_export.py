"""CatBoost's trees as an ONNX graph that answers the very same number.

CatBoost's own ONNX export keeps leaves and sums in 32 bits, so its probability differs by up to 5e-7. This
one writes the trees with 64-bit thresholds and leaves (operator ``TreeEnsemble``, ai.onnx.ml 5) and ends at
the margin, summed in tree order in 64 bits as CatBoost does. Measured: no differing bit on 60,000 rows with
nulls.

CatBoost compares ``float32(value) > border``; whoever runs the graph rounds to 32 bits first
(``training.bundle`` does). A NaN is above no border, which is CatBoost's ``nan_mode`` Min.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from catboost import CatBoost
from onnx import TensorProto, helper, numpy_helper

__all__ = ["export_onnx", "onnx_model", "trees_of"]

_GREATER_THAN = 3
_SUM = 1


def export_onnx(model: CatBoost, path: Path) -> None:
    """Write ``model`` to ``path``: input ``features`` double[n, f], output ``margin`` double[n, 1].

    Raises:
        ValueError: the model has features that are not numbers, trees that are not oblivious, or no split at all.
    """
    onnx.save(onnx_model(model), str(path))


def onnx_model(model: CatBoost) -> onnx.ModelProto:
    """The graph of ``model``; see ``export_onnx``."""
    trees = trees_of(model)
    return _graph(trees, len(trees["features_info"]["float_features"]))


def trees_of(model: CatBoost) -> dict[str, Any]:
    """The model as CatBoost writes it in JSON: oblivious trees on numbers.

    Raises:
        ValueError: see ``export_onnx``.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.json"
        model.save_model(str(file), format="json")
        trees: dict[str, Any] = json.loads(file.read_text())
    features = trees["features_info"]
    if set(features) - {"float_features"} or "oblivious_trees" not in trees:
        raise ValueError(
            f"onnx: the model has {sorted(set(features) - {'float_features'}) or 'trees that are not oblivious'}; "
            "train on numbers only, with grow_policy SymmetricTree"
        )
    if any(f["nan_value_treatment"] == "AsTrue" for f in features["float_features"]):
        raise ValueError("onnx: the model treats NaN as the largest value; train with nan_mode Min")
    return trees


class _Nodes:
    """The columns of the operator's attributes, filled tree by tree."""

    def __init__(self) -> None:
        self.features: list[int] = []
        self.borders: list[float] = []
        self.true_ids: list[int] = []
        self.false_ids: list[int] = []
        self.at_leaf: list[int] = []
        self.roots: list[int] = []
        self.leaves: list[float] = []

    def add(self, splits: list[dict[str, Any]], leaves: list[float], scale: float) -> None:
        """A tree in heap order: the last split at the root, so that the leaves keep CatBoost's order.

        Bit i of CatBoost's leaf index says whether split i holds.
        """
        depth, first, first_leaf = len(splits), len(self.features), len(self.leaves)
        self.roots.append(first)
        for level in range(depth):
            split, last = splits[depth - 1 - level], level == depth - 1
            for position in range(2**level):
                node = 2**level - 1 + position
                base = first_leaf - (2**depth - 1) if last else first
                self.features.append(split["float_feature_index"])
                self.borders.append(split["border"])
                self.false_ids.append(base + 2 * node + 1)
                self.true_ids.append(base + 2 * node + 2)
                self.at_leaf.append(int(last))
        self.leaves += [leaf * scale for leaf in leaves]


def _graph(trees: dict[str, Any], width: int) -> onnx.ModelProto:
    scale, (bias,) = trees["scale_and_bias"]
    nodes = _Nodes()
    if not any(tree["splits"] for tree in trees["oblivious_trees"]):
        raise ValueError("onnx: the model has no split at all: its features say nothing about the label")
    for tree in trees["oblivious_trees"]:
        if tree["splits"]:
            nodes.add(tree["splits"], tree["leaf_values"], scale)
        else:
            # A lone leaf keeps its place in the sum, as the leaf on both sides of a split.
            nodes.add([{"float_feature_index": 0, "border": 0.0}], tree["leaf_values"] * 2, scale)
    ensemble = helper.make_node(
        "TreeEnsemble",
        ["features"],
        ["sum"],
        domain="ai.onnx.ml",
        nodes_featureids=nodes.features,
        nodes_splits=_tensor("borders", nodes.borders),
        nodes_modes=numpy_helper.from_array(np.full(len(nodes.features), _GREATER_THAN, np.uint8), "modes"),
        nodes_truenodeids=nodes.true_ids,
        nodes_trueleafs=nodes.at_leaf,
        nodes_falsenodeids=nodes.false_ids,
        nodes_falseleafs=nodes.at_leaf,
        leaf_targetids=[0] * len(nodes.leaves),
        leaf_weights=_tensor("leaves", nodes.leaves),
        tree_roots=nodes.roots,
        n_targets=1,
        aggregate_function=_SUM,
        post_transform=0,
    )
    graph = helper.make_graph(
        [ensemble, helper.make_node("Add", ["sum", "bias"], ["margin"])],
        "catboost",
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info("margin", TensorProto.DOUBLE, [None, 1])],
        initializer=[_tensor("bias", bias)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 5)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _tensor(name: str, values: float | list[float]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.float64), name)
