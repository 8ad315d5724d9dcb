"""From trails to a graph that finds what comes next: the same twice, and as large as it may be."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from streamrank.edges.onnxruntime_retrieval import OnnxRetrieval
from streamrank.features.trails import Trail, Trails
from streamrank.model.candidates import Candidates, Size, train
from streamrank.model.sequence_training import Progress

SIZE = Size(items=1000, width=16, length=10, types=2, epochs=60)


def rounds(people: int, items: int = 20, length: int = 7) -> Trails:
    """Everybody goes round the items in one order, by one deed, from anywhere; once by another."""
    random, found = np.random.default_rng(0), Trails()
    for person in range(people):
        start = int(random.integers(items))
        for step in range(length):
            found.take(f"u{person}", step, f"i{(start + 3 * step) % items}", 1 + (step == 2))
    return found


@cache
def made() -> Candidates:
    return train(rounds(200), SIZE)


def test_a_known_order_is_found_first() -> None:
    finder, found = OnnxRetrieval(made().onnx, made().items), made()
    rows = [tuple(f"i{(n + 3 * step) % 20}" for step in range(6)) for n in range(20)]
    firsts = finder.find([Trail(row, (1,) * 6) for row in rows], 1)
    assert firsts == [[f"i{(n + 18) % 20}"] for n in range(20)]
    assert found.metrics["ndcg@10"] > 0.95
    assert (len(found.items), found.sequences) == (20, 200)


def test_its_probe_is_answered_as_it_says() -> None:
    finder = OnnxRetrieval(made().onnx, made().items)
    found, scores = finder.run(made().probe)
    np.testing.assert_allclose(scores, made().expected, rtol=1e-5)
    assert found.shape == (3, 10)


def test_a_small_log_gives_the_same_twice_however_many_threads_there_are() -> None:
    threads = torch.get_num_threads()
    quick = replace(SIZE, epochs=2)
    torch.set_num_threads(2)
    try:
        one = train(rounds(50), quick, seed=3)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        two, other = train(rounds(50), quick, seed=3), train(rounds(50), quick, seed=4)
    finally:
        torch.set_num_threads(threads)
    assert one.expected.tolist() == two.expected.tolist() != other.expected.tolist()


def test_only_the_most_often_touched_are_in_a_catalogue_that_may_not_hold_all() -> None:
    """Beside the round of twenty there is one item that everybody ends with."""
    trails = rounds(50)
    for person in range(50):
        trails.take(f"u{person}", 99, "often", 1)
    assert train(trails, replace(SIZE, items=5, epochs=1)).items[0] == "often"


def test_when_its_time_is_over_no_further_pass_begins() -> None:
    passes: set[int] = set()

    def tell(now: Progress) -> None:
        passes.add(now.epoch)

    train(rounds(50), replace(SIZE, seconds=1e-9), on_progress=tell)
    assert passes == {1, 2}  # the first validation is after the second


def test_who_touched_too_little_is_said_to() -> None:
    with pytest.raises(ValueError, match="must have touched three items, one after the other"):
        train(rounds(5, length=2), SIZE)
