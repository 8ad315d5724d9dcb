"""Compressed graphs take and give the same, and are near in what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from streamrank.features.inputs import Array, Inputs
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.model import compression, export
from streamrank.model.compression import NotCompressible
from streamrank.model.ranker import Ranker, configure, fit_bins

pytestmark = pytest.mark.slow  # an export takes seconds
SCHEMA = Schema(interactions=("click", "buy"), item={"price": "number", "title": "text"})
CONFIG = configure(SCHEMA)


@pytest.fixture(scope="module")
def graph() -> bytes:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    ranker = Ranker(
        CONFIG,
        fit_bins(random.normal(size=(300, CONFIG.numbers)), CONFIG.bins),
        fit_bins(random.normal(size=(300, CONFIG.context)), CONFIG.bins),
    )
    for table in (ranker.steps.items, ranker.steps.words):
        table.trust.fill_(1.0)
    return export.to_onnx(ranker.eval())


def batches() -> list[Inputs]:
    return [export.random_inputs(CONFIG, *shape) for shape in ((2, 9, 7), (1, 0, 1), (1, 50, 100))]


def scores(graph: bytes, batch: Inputs) -> Array:
    return np.asarray(export.session_of(graph).run(["scores"], batch)[0])


@pytest.mark.parametrize("name", ["int8_bins", "int8_dynamic", "int8_static", "fp16"])
def test_a_compressed_graph_scores_nearly_alike(graph: bytes, name: str) -> None:
    """Scores here are spread by about .5; a hundredth of that would change no ranking."""
    if name == "int8_static":
        compressed = compression.int8_static(graph, batches())
    else:
        compressed = getattr(compression, name)(graph)
    assert len(compressed) < len(graph)
    for batch in batches():
        found, wanted = scores(compressed, batch), scores(graph, batch)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 0.05


def test_the_bins_in_eight_bits_are_the_nearest(graph: bytes) -> None:
    found = compression.int8_bins(graph)
    assert all(np.abs(scores(found, b) - scores(graph, b)).max() < 0.01 for b in batches())


def test_quality_is_compared_list_by_list(graph: bytes) -> None:
    batch = export.random_inputs(CONFIG, 6, 4, 5)
    labels = np.zeros((5, 1), np.float32)
    labels[2] = 1
    lists = [
        Example(f"r{n}", "u1", n, {name: array[n] for name, array in batch.items()}, labels)
        for n in range(6)
    ]
    same = compression.compared(graph, graph, lists)
    assert (same.apart, same.ndcg.mean, same.mrr.mean) == (0, 0, 0)
    assert compression.compared(graph, compression.int8_bins(graph), lists).apart > 0


def test_a_graph_without_bins_is_refused() -> None:
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "y"))
    same = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", [given], [made])
    opset = helper.make_opsetid("", export.OPSET)
    model = helper.make_model(same, opset_imports=[opset], ir_version=10)
    with pytest.raises(NotCompressible, match=r"one product with dense\.weight, got 0"):
        compression.int8_bins(model.SerializeToString())
