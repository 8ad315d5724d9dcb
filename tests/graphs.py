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
