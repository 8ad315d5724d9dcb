"""Tiny ONNX graphs with the ranker's input names, whose scores can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from streamrank.features import inputs
from streamrank.features.inputs import Array, Inputs

FEATURES = 3
WEIGHTS = np.array([[1.0, 0.5], [2.0, -1.0], [-1.0, 0.25]], np.float32)  # (F, heads)


def linear(
    weights: Array = WEIGHTS, output: str = "scores", kind: int = TensorProto.FLOAT
) -> bytes:
    """Score = candidate_numbers @ weights + sum of history_numbers, for each head."""
    size, heads = weights.shape
    nodes = [
        helper.make_node("MatMul", ["candidate_numbers", "weights"], ["own"]),
        helper.make_node("ReduceSum", ["history_numbers", "axes"], ["past"], keepdims=1),
        helper.make_node("Add", ["own", "past"], ["sum"]),
        helper.make_node("Cast", ["sum"], [output], to=kind),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info("candidate_numbers", TensorProto.FLOAT, ["B", "C", size]),
            helper.make_tensor_value_info("history_numbers", TensorProto.FLOAT, ["B", "H", 4]),
        ],
        [helper.make_tensor_value_info(output, kind, ["B", "C", heads])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())


def a_list(candidates: int, steps: int = 2, seed: int = 0) -> Inputs:
    """Inputs of one list, as `features.inputs.build` shapes them."""
    rng = np.random.default_rng([candidates, steps, seed])
    return {
        "history_types": np.ones(steps, np.int64),
        "history_numbers": rng.random((steps, 4), np.float32),
        "candidate_items": 1 + np.arange(candidates, dtype=np.int64),
        "candidate_numbers": rng.random((candidates, FEATURES), np.float32),
        "context_tokens": np.zeros(16, np.int64),
    }


def by_hand(one: Inputs, weights: Array = WEIGHTS) -> Array:
    """What `linear` must give for one list."""
    past = one["history_numbers"].astype(np.float64).sum()
    return np.asarray(one["candidate_numbers"].astype(np.float64) @ weights + past)


@dataclass(frozen=True)
class Model:
    """A model as the registry takes it."""

    onnx: bytes
    weights: Mapping[str, Array]
    heads: tuple[str, ...]
    probe: Inputs
    expected: Array
    structure: bytes | None = None

    def but(self, **changes: Any) -> Model:
        return replace(self, **changes)


def a_model(weights: Array = WEIGHTS) -> Model:
    """A model whose probe is two lists of three candidates."""
    lists = [a_list(3, steps, seed=steps) for steps in (0, 2)]
    return Model(
        onnx=linear(weights),
        weights={"head.weight": weights},
        heads=("click", "buy")[: weights.shape[1]],
        probe=inputs.stack(lists),
        expected=np.stack([by_hand(one, weights) for one in lists]).astype(np.float32),
    )


# --- retrieval --------------------------------------------------------------------------------

ITEMS = ("a", "b", "c", "d")
AFTER = np.array(  # a row for each item that was touched last, padding first; a score for each item
    [[0, 0, 0, 0], [0, 9, 5, 1], [1, 0, 9, 5], [5, 1, 0, 9], [9, 5, 1, 0]], np.float32
)


def what_comes_after(table: Array = AFTER) -> bytes:
    """The scores of an item are those in the row of the one touched last; types are not looked at.

    Like `model.retrieval.export`'s in what it takes and gives, but it excludes nothing.
    """
    count = len(table[0])
    nodes = [
        helper.make_node("Gather", ["items", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["table", "newest"], ["all"], axis=0),
        helper.make_node("Min", ["k", "count"], ["wanted"]),
        helper.make_node("TopK", ["all", "wanted"], ["scores", "places"]),
        helper.make_node("Add", ["places", "one"], ["found"]),
    ]
    whole = TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "after",
        [
            helper.make_tensor_value_info("items", whole, ["B", "H"]),
            helper.make_tensor_value_info("types", whole, ["B", "T"]),
            helper.make_tensor_value_info("excluded", whole, ["B", "E"]),
            helper.make_tensor_value_info("k", whole, [1]),
        ],
        [
            helper.make_tensor_value_info("found", whole, ["B", "K"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "K"]),
        ],
        [
            helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.ravel()),
            helper.make_tensor("last", whole, [], [-1]),
            helper.make_tensor("count", whole, [1], [count]),
            helper.make_tensor("one", whole, [1], [1]),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Finding:
    """What finds candidates, as the registry takes it."""

    onnx: bytes
    items: tuple[str, ...]
    probe: Mapping[str, Array]
    expected: Array

    def but(self, **changes: Any) -> Finding:
        return replace(self, **changes)


def a_finding(table: Array = AFTER) -> Finding:
    """Its probe is two users, who touched the second and the fourth item last."""
    items = np.array([[0, 2], [1, 4]])
    return Finding(
        onnx=what_comes_after(table),
        items=ITEMS,
        probe={"items": items, "types": items, "excluded": items, "k": np.array([3])},
        expected=-np.sort(-table[[2, 4]], axis=1)[:, :3],
    )
