"""The Ranker's history encoder, learned without labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from streamrank.features.inputs import Array
from streamrank.features.schema import Schema, hashed
from streamrank.features.state import Step, UserState
from streamrank.learning.examples import Example
from streamrank.model import board
from streamrank.model.pretraining import (
    Progress,
    Recipe,
    before,
    histories,
    lesson,
    pretrain,
)
from streamrank.model.ranker import Ranker, configure, fit_bins
from tests.lists import NOW, example, query

SCHEMA = Schema(interactions=("view", "click"), label="click")
CONFIG = configure(SCHEMA)
ITEMS = [f"i{n}" for n in range(10)]


def visits(count: int, *, ordered: bool = True, steps: int = 8) -> list[Example]:
    """Each user goes round the ten items in one order, or anywhere, a step every ten seconds."""
    random = np.random.default_rng(0)
    made = []
    for n in range(count):
        path = (random.integers(10) + np.arange(steps)) % 10
        path = path if ordered else random.integers(10, size=steps)
        at = NOW + 1000 * n
        past = tuple(
            Step("view", ITEMS[item], "s1", at - 10_000 * (steps - k), at - 10_000 * (steps - k))
            for k, item in enumerate(path)
        )
        asked = query(ITEMS[:3], UserState(past), at=at, name=f"r{n}")
        made.append(Example(f"r{n}", f"u{n}", at, example(SCHEMA, asked).inputs, np.zeros((3, 1))))
    return made


@pytest.mark.parametrize("masked", [0.0, 1.0])
def test_the_order_of_items_is_learned_by_either_task(masked: float, tmp_path: Path) -> None:
    """With ten items the loss at chance is log 10 = 2.3; it is less than log 4 once the
    order is known well enough for fewer than four of the ten to be left.
    """
    losses, sure = {}, dataclasses.replace(CONFIG, dropout=0.0)
    recipe = Recipe(
        epochs=15, batch=16, rate=1e-2, masked=masked, hidden=0.1, average=0.9, patience=25
    )
    for ordered in (True, False):
        logs = tmp_path / str(ordered)
        with board.writer(logs) as writer:
            pretrain(visits(400, ordered=ordered), sure, recipe=recipe, writer=writer)
        events = EventAccumulator(str(logs)).Reload().Scalars("pretraining/validation")
        losses[ordered] = [event.value for event in events]
    assert min(losses[True]) < np.log(4)
    assert min(losses[False]) > 2.15


def test_the_weights_are_the_rankers_own() -> None:
    lists = visits(60)
    weights = pretrain(lists, CONFIG, recipe=Recipe(epochs=1))
    shared = np.stack([one.inputs["context_numbers"] for one in lists])
    numbers = np.concatenate([one.inputs["candidate_numbers"] for one in lists])
    ranker = Ranker(CONFIG, fit_bins(numbers, 4), fit_bins(shared, 4))
    missing, unexpected = ranker.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {"steps.items.trust", "steps.words.trust"} >= {
        name for name in missing if name.startswith(("steps.", "encoder."))
    }
    for name, value in weights.items():
        assert torch.equal(ranker.state_dict()[name], value)


def test_twice_the_same() -> None:
    one, two = (pretrain(visits(60), CONFIG, recipe=Recipe(epochs=2), seed=3) for _ in range(2))
    other = pretrain(visits(60), CONFIG, recipe=Recipe(epochs=2), seed=4)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["steps.items.table.weight"], other["steps.items.table.weight"])


def test_nothing_is_learned_from_nothing() -> None:
    assert pretrain([], CONFIG) == {}
    assert pretrain(visits(5, steps=1), CONFIG) == {}


def test_of_a_users_lists_each_step_is_read_once() -> None:
    """A list a second, each with the steps of the last eight seconds: every eighth is enough."""

    def at(second: int) -> Example:
        past = tuple(
            Step("view", ITEMS[s % 10], "s1", NOW + 1000 * s, NOW + 1000 * s)
            for s in range(max(0, second - 8), second)
        )
        asked = query(ITEMS[:3], UserState(past), at=NOW + 1000 * second - 500)
        return example(SCHEMA, asked)

    taken = histories([at(second) for second in range(1, 25)])
    read = [items.tolist() for items in (row["items"] for row in taken)]
    wanted = [[hashed(ITEMS[s % 10]) for s in range(start, start + 8)] for start in (0, 8, 16)]
    assert read == wanted


def row() -> dict[str, Array]:
    [one] = histories(visits(1))
    return one


def test_before_a_step_it_is_as_it_was_then() -> None:
    """Steps lie ten seconds apart: before the fourth, the three others are 30, 20, 10 s ago."""
    cut = before(row(), 3)
    assert cut["items"].tolist() == row()["items"][:3].tolist()
    assert np.expm1(cut["numbers"][:, 0]) == pytest.approx([30, 20, 10], rel=1e-4)
    assert not cut["places"].any()


def test_the_wanted_item_is_not_in_what_is_read() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        for masked in (0.0, 1.0):
            read, wanted = lesson(row(), Recipe(masked=masked), random)
            assert len(wanted) == len(read["items"]) + 1
            assert wanted.any()
            assert not set(wanted[wanted != 0]) & set(read["items"].tolist())
            assert not read["places"][wanted[:-1] != 0].any()


def test_progress_is_told() -> None:
    told = list[Progress]()
    pretrain(visits(100), CONFIG, recipe=Recipe(epochs=2, batch=20), on_progress=told.append)
    assert told[-1].done == told[-1].total == 2 * 85
    assert told[-1].left == 0
