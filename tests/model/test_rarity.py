from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from streamrank.model.rarity import Rarity, effective
from tests.lists import example, query
from tests.model.test_training import CONVERTING, SCHEMA


def test_without_overlap_all_counts_are_one_and_with_it_they_have_an_end() -> None:
    assert effective(np.array([1, 5, 50]), 0.0).tolist() == [1, 1, 1]
    assert effective(np.array([10**6]), 0.99).item() == pytest.approx(100)


def test_items_liked_seldom_count_for_more_and_the_mean_over_all_likes_is_one() -> None:
    """With .5, three likes amount to 1.75 and one to 1; (3 / 1.75 + 1) / 4 is the usual."""
    lists = [example(SCHEMA, query(["a", "b", "c"]), liked) for liked in "aaab"]
    rarity = Rarity.of(lists, rare=0.0, tail=0.5)
    assert rarity is not None
    weights = rarity.weights(lists[:1], 4)[0, :, 0].tolist()
    usual = (3 / 1.75 + 1) / 4
    assert weights == pytest.approx([1 / 1.75 / usual, 1 / usual, 1 / usual, 1])
    assert np.mean([weights[0]] * 3 + [weights[1]]) == pytest.approx(1)


def test_a_head_with_few_labels_counts_for_more() -> None:
    """Of four candidates two were clicked on, one was bought; with .5: 1.5 / 1.5, 1.75 / 1."""
    lists = [
        example(CONVERTING, query(["a", "b"]), "a", bought="a"),
        example(CONVERTING, query(["a", "b"]), "b"),
    ]
    rarity = Rarity.of(lists, rare=0.5, tail=0.0)
    assert rarity is not None
    assert rarity.heads == pytest.approx((1.0, 1.75))
    assert rarity.weights(lists, 2)[0].tolist() == [pytest.approx((1.0, 1.75))] * 2


def test_nothing_is_weighted_unless_asked_for_or_where_nothing_is_liked() -> None:
    lists = [example(SCHEMA, query(["a", "b"]), "a")]
    assert Rarity.of(lists, 0.0, 0.0) is None
    silent = [dataclasses.replace(lists[0], labels=np.zeros_like(lists[0].labels))]
    rarity = Rarity.of(silent, 0.9, 0.9)
    assert rarity is not None
    assert np.isfinite(rarity.weights(silent, 2).numpy()).all()
