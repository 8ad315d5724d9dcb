"""Finding candidates for batches of users, against a graph whose answers can be read off."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from streamrank.edges.onnxruntime import ModelRefused
from streamrank.edges.onnxruntime_retrieval import OnnxRetrieval, RetrievalFailed
from streamrank.features.trails import Trail
from streamrank.model import retrieval
from tests.graphs import ITEMS, linear, what_comes_after
from tests.model.test_retrieval import SHAPE, exported, model_of


def trail(items: str) -> Trail:
    return Trail(tuple(items), (1,) * len(items))


@pytest.fixture(scope="module")
def finder() -> OnnxRetrieval:
    return OnnxRetrieval(what_comes_after(), ITEMS)


def test_each_user_gets_the_best_items_by_their_ids(finder: OnnxRetrieval) -> None:
    """The row of `b` is 1 0 9 5: c, d, a, b."""
    assert finder.find([trail("ab"), trail("d")], 3) == [["c", "d", "a"], ["a", "b", "c"]]


def test_a_batch_is_as_one_by_one_however_many_they_are(finder: OnnxRetrieval) -> None:
    random = np.random.default_rng(0)
    trails = [trail("".join(random.choice(list("abcdx"), n % 7))) for n in range(150)]
    assert finder.find(trails, 2) == [finder.find([one], 2)[0] for one in trails]


def test_items_that_came_later_are_passed_over(finder: OnnxRetrieval) -> None:
    assert finder.find([trail("abnew")], 2) == finder.find([trail("ab")], 2)


def test_who_touched_nothing_that_is_known_gets_nothing(finder: OnnxRetrieval) -> None:
    assert finder.find([trail(""), trail("new"), trail("a")], 1) == [[], [], ["b"]]
    assert finder.find([], 1) == []


def test_more_than_there_are_is_all_of_them(finder: OnnxRetrieval) -> None:
    assert finder.find([trail("a")], 100) == [["b", "c", "d", "a"]]


def test_what_was_touched_is_not_found_again() -> None:
    """By a real graph, whose catalogue is of fifty items."""
    ids = [f"i{number}" for number in range(1, 51)]
    finder = OnnxRetrieval(exported().onnx, ids)
    touched = Trail(("i3", "i9"), (1, 1))
    [found] = finder.find([touched], 48)
    assert sorted(found) == sorted(set(ids) - set(touched.items))
    fed = {"items": np.array([[3, 9]])}
    wanted = retrieval.reference(
        model_of(), model_of().items.weight.detach().numpy()[1:], fed, fed["items"]
    )
    assert found[:5] == [ids[place] for place in np.argsort(-wanted[0])[:5]]
    assert SHAPE.items == len(ids)


@pytest.mark.parametrize("graph", [b"junk", b"", linear()])
def test_what_is_no_such_graph_is_refused(graph: bytes) -> None:
    with pytest.raises(ModelRefused, match="retrieval must "):
        OnnxRetrieval(graph, ITEMS)


def test_what_cannot_be_run_says_of_which_shapes() -> None:
    """The table has fewer rows than there are items."""
    graph = onnx.load_from_string(what_comes_after())
    [table] = [one for one in graph.graph.initializer if one.name == "table"]
    table.CopyFrom(onnx.numpy_helper.from_array(np.zeros((2, 4), np.float32), "table"))
    finder = OnnxRetrieval(graph.SerializeToString(), ITEMS)
    with pytest.raises(RetrievalFailed, match=r"retrieval: .*'items': \(1, 1\)"):
        finder.find([trail("d")], 1)
