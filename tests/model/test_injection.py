"""Injected weights give the graph that a fresh export gives, or are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from streamrank.features import inputs
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.model import export
from streamrank.model.injection import Graph, NotInjectable
from streamrank.model.ranker import Ranker, configure, fit_bins

pytestmark = pytest.mark.slow  # each export takes seconds
SCHEMA = Schema(
    interactions=("click", "buy"), label="click", conversion="buy", item={"price": "number"}
)


def a_ranker(seed: int) -> Ranker:
    """A Ranker of any weights; the bins are always the same."""
    random = np.random.default_rng(0)
    config = configure(SCHEMA)
    bins = [
        fit_bins(random.normal(size=(200, count)).astype(np.float32), 4)
        for count in (len(inputs.features(SCHEMA)), len(inputs.context_features(SCHEMA)))
    ]
    torch.manual_seed(seed)
    ranker = Ranker(config, *bins).eval()
    for weight in ranker.parameters():
        weight.data = 0.2 * torch.randn_like(weight)
    for table in (ranker.steps.items, ranker.steps.words):
        table.trust.copy_(torch.rand_like(table.trust))
    return ranker


def weights_of(ranker: Ranker) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in ranker.state_dict().items()}


@pytest.fixture(scope="module")
def fresh() -> Callable[[Ranker], bytes]:
    """An exporter that exports the structure once and hands copies of it to several tests."""
    made: dict[int, bytes] = {}

    def exported(ranker: Ranker) -> bytes:
        key = hash(b"".join(array.tobytes() for array in weights_of(ranker).values()))
        if key not in made:
            made[key] = export.to_onnx(ranker)
        return made[key]

    return exported


@pytest.fixture(scope="module")
def graph(fresh: Callable[[Ranker], bytes]) -> Graph:
    return Graph.of(a_ranker(1), fresh)


def test_injected_weights_score_as_a_fresh_export_of_them_does(
    graph: Graph, fresh: Callable[[Ranker], bytes]
) -> None:
    ranker = a_ranker(2)
    sessions = [
        export.session_of(one) for one in (graph.with_weights(weights_of(ranker)), fresh(ranker))
    ]
    for shape in export.SHAPES:
        batch = export.random_inputs(ranker.config, *shape)
        injected, exported = (one.run(["scores"], batch)[0] for one in sessions)
        assert injected == pytest.approx(exported, abs=1e-5)


def test_weights_that_are_equal_to_one_another_are_still_told_apart(graph: Graph) -> None:
    """Fresh layer norms are all ones, which an exporter stores once: no place to put them back."""
    torch.manual_seed(3)
    config = a_ranker(0).config
    plain = Ranker(config, a_ranker(0).candidate_bins, a_ranker(0).context_bins).eval()
    export.check(
        graph.with_weights(weights_of(plain)), plain, [export.random_inputs(config, 2, 3, 7)]
    )


def test_one_graph_takes_many_weights_one_after_the_other(graph: Graph) -> None:
    first, second = (weights_of(a_ranker(seed)) for seed in (4, 5))
    once = graph.with_weights(first)
    assert graph.with_weights(second) != once
    assert graph.with_weights(first) == once


def test_other_bins_are_another_structure(graph: Graph) -> None:
    weights = weights_of(a_ranker(1))
    weights["candidate_bins.low"] = weights["candidate_bins.low"] + 1
    with pytest.raises(NotInjectable, match=r"candidate_bins\.low must be as in the graph"):
        graph.with_weights(weights)


def changed(
    fresh: Callable[[Ranker], bytes], change: Callable[[onnx.GraphProto], object]
) -> Callable[[Ranker], bytes]:
    """An exporter whose graphs are changed afterwards."""

    def exported(ranker: Ranker) -> bytes:
        model = onnx.load_from_string(fresh(ranker))
        change(model.graph)
        made: bytes = model.SerializeToString()
        return made

    return exported


def renamed(graph: onnx.GraphProto) -> None:
    for one in graph.initializer:
        one.name = one.name.replace("dense.bias", "b")
    for node in graph.node:
        node.input[:] = [one.replace("dense.bias", "b") for one in node.input]


def doubled(graph: onnx.GraphProto) -> None:
    """The same name for a tensor that is twice the weight."""
    for node in graph.node:
        node.input[:] = ["twice" if one == "dense.bias" else one for one in node.input]
    graph.node.insert(0, onnx.helper.make_node("Add", ["dense.bias", "dense.bias"], ["twice"]))


@pytest.mark.parametrize("change", [renamed, doubled])
def test_a_graph_that_is_more_than_its_weights_by_name_is_found_out(
    fresh: Callable[[Ranker], bytes], change: Callable[[onnx.GraphProto], object]
) -> None:
    with pytest.raises(NotInjectable, match="graph must take the weights as they are"):
        Graph.of(a_ranker(1), changed(fresh, change))


def test_a_weight_of_another_shape_is_refused(graph: Graph) -> None:
    weights = weights_of(a_ranker(1))
    weights["dense.bias"] = weights["dense.bias"][1:]
    with pytest.raises(NotInjectable, match=r"dense\.bias must have the graph's shape \(66,\)"):
        graph.with_weights(weights)


def test_a_structure_holds_no_weights_and_takes_any(graph: Graph) -> None:
    weights = weights_of(a_ranker(7))
    again = Graph.decode(graph.encode(), a_ranker(8))
    assert again.with_weights(weights) == graph.with_weights(weights)
    assert len(graph.encode()) < 100_000 < weights["steps.items.table.weight"].nbytes


def test_a_structure_of_other_bins_is_refused(graph: Graph) -> None:
    other = a_ranker(1)
    other.candidate_bins.low += 1
    with pytest.raises(NotInjectable, match=r"candidate_bins\.low must be as in the graph"):
        Graph.decode(graph.encode(), other)


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_half_a_structure_is_refused(graph: Graph, cut: int) -> None:
    with pytest.raises(NotInjectable, match=r"structure must be|graph must take"):
        Graph.decode(graph.encode()[:cut], a_ranker(1))


def test_a_ranker_is_left_as_it_was(fresh: Callable[[Ranker], bytes]) -> None:
    ranker = a_ranker(1)
    before = copy.deepcopy(ranker.state_dict())
    Graph.of(ranker, fresh)
    assert all(torch.equal(before[name], now) for name, now in ranker.state_dict().items())
