"""A long list made short teaches on average what the whole list would."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.features.state import UserState
from streamrank.learning.examples import Example
from streamrank.learning.negatives import RUN, shortened
from tests.lists import example, query, step

SCHEMA = Schema(interactions=("click",), label="click", item={"price": "number"})


def a_list(size: int, *clicked: str, touched: str = "i0") -> Example:
    shown = {f"i{n}": {"price": float(n + 1)} for n in range(size)}
    return example(SCHEMA, query(shown, UserState((step("click", touched, 9),))), *clicked)


def some(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_list_within_the_limit_stays_as_it_is() -> None:
    whole = a_list(100, "i3")
    short, added = shortened(whole, 100, some())
    assert short is whole
    assert added.tolist() == [0.0] * 100


@given(size=st.integers(101, 400), place=st.integers(0, 100), seed=st.integers(0, 9))
def test_what_was_chosen_is_kept_and_the_length_bounded(size: int, place: int, seed: int) -> None:
    whole = a_list(size, f"i{place}")
    short, added = shortened(whole, 100, some(seed))
    assert short.labels.sum() == 1
    assert len(short.labels) == len(added) <= 100
    kept = short.inputs["candidate_items"]
    [chosen] = np.flatnonzero(short.labels[:, 0])
    assert kept[chosen] == whole.inputs["candidate_items"][place]
    assert added[chosen] == 0


def test_the_order_stays_and_the_distance_within_a_run() -> None:
    whole = a_list(300, "i40")
    short, _ = shortened(whole, 100, some())
    ids = {item: n for n, item in enumerate(whole.inputs["candidate_items"].tolist())}
    places = [ids[item] for item in short.inputs["candidate_items"].tolist()]
    assert places == sorted(places)
    assert len(places) % RUN == 0
    assert all(p // RUN * RUN == places[n // RUN * RUN] for n, p in enumerate(places))


@pytest.mark.parametrize("touched", ["i40", "i290"])
def test_a_step_finds_its_item_in_the_short_list_or_nowhere(touched: str) -> None:
    whole = a_list(300, "i40", touched=touched)
    for seed in range(5):
        short, _ = shortened(whole, 100, some(seed))
        [item], [place] = short.inputs["history_items"], short.inputs["history_places"]
        items = short.inputs["candidate_items"].tolist()
        assert (items[place - 1] == item) if place else (item not in items)


def test_the_softmax_denominator_is_the_whole_lists_on_average() -> None:
    whole, scores = a_list(300, "i40"), np.sin(np.arange(300))
    ids = {item: n for n, item in enumerate(whole.inputs["candidate_items"].tolist())}

    def denominator(seed: int) -> float:
        short, added = shortened(whole, 100, some(seed))
        own: Array = scores[[ids[item] for item in short.inputs["candidate_items"].tolist()]]
        return float(np.exp(own + added).sum())

    found = np.array([denominator(seed) for seed in range(400)])
    error = found.std() / 20
    assert abs(found.mean() - np.exp(scores).sum()) < 4 * error


def test_labels_all_over_a_list_do_not_make_it_longer() -> None:
    whole = a_list(400, *(f"i{n}" for n in range(0, 400, 10)))
    short, _ = shortened(whole, 100, some())
    assert len(short.labels) <= 100
    assert 0 < short.labels.sum() < len(short.labels)


def test_what_was_shown_goes_along() -> None:
    whole = dataclasses.replace(a_list(300, "i40"), shown=np.arange(300))
    short, _ = shortened(whole, 100, some())
    ids = {item: n for n, item in enumerate(whole.inputs["candidate_items"].tolist())}
    assert short.shown is not None
    assert short.shown.tolist() == [ids[i] for i in short.inputs["candidate_items"].tolist()]
