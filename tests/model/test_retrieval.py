"""The graph that finds candidates, against PyTorch and numpy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from streamrank.features.inputs import Array
from streamrank.model import retrieval
from streamrank.model.export import ExportFailed
from streamrank.model.retrieval import Retrieval, export, session_of, vectors_by_content
from streamrank.model.sequence_training import Recipe, learn
from streamrank.model.sequences import SequenceModel, Shape

SHAPE = Shape(items=50, width=8, layers=1, heads=2, length=6)
NOBODY = np.zeros((1, 0), np.int64)


def model_of(shape: Shape = SHAPE) -> SequenceModel:
    """A model of random weights."""
    torch.manual_seed(0)
    model = SequenceModel(shape).eval()
    torch.nn.init.normal_(model.items.weight)
    with torch.no_grad():
        model.items.weight[0] = 0
    return model


@functools.cache
def exported(part: int = 16) -> Retrieval:
    return export(model_of(), part=part)


def asked(graph: Retrieval, items: object, k: int, excluded: Array = NOBODY) -> tuple[Array, Array]:
    history = np.array(items, np.int64)
    fed = {"items": history, "k": np.array([k])}
    fed["excluded"] = np.repeat(excluded, len(history), 0) if len(excluded) == 1 else excluded
    found, scores = session_of(graph.onnx).run(None, fed)
    return found, scores


def scores_of(model: SequenceModel, items: object) -> Array:
    with torch.no_grad():
        states = model(torch.tensor(items))[:, -1]
        scores: Array = (states @ model.items.weight.T).numpy()[:, 1:]
    return scores


@pytest.mark.parametrize("part", [1000, 16, 7])
@pytest.mark.parametrize("k", [1, 10, 50, 80])
def test_the_best_items_are_those_of_a_sort(part: int, k: int) -> None:
    histories = [[0, 0, 3, 9], [1, 2, 3, 4], [0, 0, 0, 50]]
    scores = scores_of(model_of(), histories)
    found, given = asked(exported(part), histories, k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert found.tolist() == (order + 1).tolist()
    assert np.allclose(given, np.take_along_axis(scores, order, 1), atol=1e-5)


def test_level_scores_go_to_the_lower_item() -> None:
    """All vectors are zero, and so are all scores."""
    model = model_of()
    with torch.no_grad():
        model.items.weight.zero_()
    found, _ = asked(export(model, part=16), [[4, 5]], 50)
    assert found.tolist() == [list(range(1, 51))]


def test_excluded_items_are_not_found_and_the_next_best_are() -> None:
    histories = [[0, 3, 9], [7, 2, 4]]
    scores = scores_of(model_of(), histories)
    whole, _ = asked(exported(), histories, 50)
    out = np.concatenate([np.array(histories), whole[:, :5]], 1)
    found, _ = asked(exported(), histories, 12, out)
    for row, wanted, gone in zip(found, scores, out, strict=True):
        order = [item for item in np.argsort(-wanted) + 1 if item not in gone]
        assert row.tolist() == order[:12]


def test_where_nothing_is_left_nothing_is_found() -> None:
    found, scores = asked(exported(), [[1, 2]], 50, np.arange(1, 49)[None])
    assert set(found[0, :2].tolist()) == {49, 50}
    assert not found[0, 2:].any()
    assert np.isneginf(scores[0, 2:]).all()


def test_a_batch_is_as_one_by_one_and_padding_changes_nothing() -> None:
    histories = [[0, 0, 3, 9], [1, 2, 3, 4], [0, 0, 0, 50]]
    together, _ = asked(exported(), histories, 10)
    bare = [[3, 9], [1, 2, 3, 4], [50]]
    assert together.tolist() == [asked(exported(), [one], 10)[0][0].tolist() for one in bare]


def test_a_history_longer_than_the_model_looks_is_read() -> None:
    found, _ = asked(exported(), [list(range(1, 31))], 10)
    order = np.argsort(-scores_of(model_of(), [list(range(1, 31))])[0], kind="stable")[:10]
    assert found[0].tolist() == (order + 1).tolist()


def test_nothing_tells_where_it_was_made() -> None:
    assert b"retrieval.py" not in exported().onnx


def test_an_empty_history_finds_something() -> None:
    found, scores = asked(exported(), [[0]], 10)
    assert (found > 0).all()
    assert np.isfinite(scores).all()


def test_types_and_gaps_are_inputs_where_the_model_has_them() -> None:
    shape = Shape(items=50, types=3, times=True, width=8, layers=1, heads=2, length=6)
    model = model_of(shape)
    graph = export(model, part=16)
    items, types = torch.tensor([[3, 9]]), torch.tensor([[1, 3]])
    gaps = torch.tensor([[0.5, 4.0]])
    with torch.no_grad():
        scores = (model(items, types, gaps)[:, -1] @ model.items.weight[1:].T).numpy()
    fed = {"items": items.numpy(), "types": types.numpy(), "gaps": gaps.numpy()}
    found, _ = session_of(graph.onnx).run(None, fed | {"excluded": NOBODY, "k": np.array([9])})
    assert found[0].tolist() == (np.argsort(-scores[0])[:9] + 1).tolist()


def test_what_was_learned_is_found() -> None:
    """Everybody goes from item to item in one order: the next one is found first."""
    starts = np.random.default_rng(0).integers(20, size=300)
    rows: list[dict[str, Array]] = [{"items": 1 + (start + np.arange(8)) % 20} for start in starts]
    shape = Shape(items=20, width=16, layers=1, length=8, dropout=0.0)
    recipe = Recipe(epochs=15, positions=400, rate=1e-2, average=0.9, again=True)
    graph = export(learn(rows, shape, recipe=recipe).model)
    found, _ = asked(graph, [[1, 2, 3], [18, 19, 20]], 1)
    assert found.tolist() == [[4], [1]]


def test_a_new_item_is_found_by_its_content() -> None:
    """Vectors follow two properties; a new item that has the best of both is found first."""
    model, random = model_of(), np.random.default_rng(0)
    content, slope = random.normal(size=(50, 2)), random.normal(size=(2, 8))
    with torch.no_grad():
        model.items.weight[1:] = torch.from_numpy(content @ slope).float()
    with torch.no_grad():
        looked_for = model(torch.tensor([[3, 9]]))[0, -1].numpy()
    best = 10 * (slope @ looked_for)[None] / np.linalg.norm(slope @ looked_for)
    newer = vectors_by_content(content, content @ slope, best, ridge=1e-9)
    assert np.allclose(newer, best @ slope, atol=1e-6)
    graph = export(model, newer=newer, part=16)
    assert graph.items == 51
    assert asked(graph, [[3, 9]], 1)[0].tolist() == [[51]]
    assert asked(graph, [[3, 51]], 3)[0].all()


def test_a_graph_that_leaves_out_a_better_item_is_refused() -> None:
    wanted = np.array([[0.3, 0.9, 0.5]])
    retrieval.compare(np.array([[2, 3]]), np.array([[0.9, 0.5]]), wanted)
    with pytest.raises(ExportFailed, match="items must be the best"):
        retrieval.compare(np.array([[2, 1]]), np.array([[0.9, 0.5]]), wanted)
    with pytest.raises(ExportFailed, match="scores must be the best"):
        retrieval.compare(np.array([[2, 3]]), np.array([[0.9, 0.4]]), wanted)


def test_a_graph_of_other_weights_is_refused() -> None:
    model = model_of()
    vectors = model.items.weight.detach().numpy()[1:].copy()
    with torch.no_grad():
        model.transformer.ln_f.weight[0] += 0.5
    with pytest.raises(ExportFailed, match="must be the best"):
        retrieval.check(exported().onnx, model, vectors)


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"newer vectors must be 8 wide, got \(2, 9\)"):
        export(model_of(), newer=np.zeros((2, 9)))
