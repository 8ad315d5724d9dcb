"""A learner learns on, exactly, within bounds, and says only what it learned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.model import course
from streamrank.model.learner import Learner, Online, seen
from streamrank.model.ranker import Ranker, configure
from tests.lists import NOW, example, query

SCHEMA = Schema(interactions=("view", "click"), label="click", item={"colour": "category"})
TWO = dataclasses.replace(SCHEMA, interactions=("click", "buy"), conversion="buy")
COLOURS = ("red", "green", "blue", "grey")
QUICK = Online(rate=3e-3, memory=100)


def lists(count: int, wanted: str = "red", *, seed: int = 0, size: int = 4) -> list[Example]:
    """Everybody clicks on the one item of the wanted colour; the items are new every time."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        colours = [c for c in COLOURS if c != wanted]
        shown = {f"i{random.integers(10**6)}": {"colour": colours[k % 3]} for k in range(size)}
        place = int(random.integers(size))
        clicked = list(shown)[place]
        shown[clicked] = {"colour": wanted}
        asked = query(shown, at=NOW + 1000 * n, name=f"r{seed}-{n}")
        made.append(example(SCHEMA, asked, clicked))
    return made


def start(schema: Schema = SCHEMA, seed: int = 0) -> dict[str, Array]:
    """The weights of a Ranker that knows nothing yet."""
    torch.manual_seed(seed)
    ranker = course.fresh(configure(schema), lists(20, seed=99))
    return {name: tensor.numpy() for name, tensor in ranker.state_dict().items()}


def a_learner(recipe: Online = QUICK, schema: Schema = SCHEMA, seed: int = 0) -> Learner:
    return Learner.begin(start(schema), schema, seed=seed, recipe=recipe)


def first(learner: Learner, of: list[Example]) -> float:
    """Return the share of lists whose clicked item is scored best."""
    hits = [
        scores[:, 0].argmax() == one.labels[:, 0].argmax()
        for scores, one in zip(learner.scored(of), of, strict=True)
    ]
    return float(np.mean(hits))


def same(one: Learner, other: Learner) -> bool:
    state, others = one.state(), other.state()
    return state.keys() == others.keys() and all(
        np.array_equal(array, others[name]) for name, array in state.items()
    )


def test_what_people_turn_to_is_learned_update_by_update() -> None:
    learner, later = a_learner(), lists(100, "blue", seed=7)
    for turn in range(10):
        learner.update(lists(30, "blue", seed=turn))
    assert first(learner, later) > 0.9


def test_a_learner_that_was_stopped_and_resumed_has_the_same_weights() -> None:
    whole, half = a_learner(), a_learner()
    parts = [lists(20, seed=turn) for turn in range(4)]
    for part in parts[:2]:
        whole.update(part)
        half.update(part)
    resumed = Learner.resume(half.state(), SCHEMA, recipe=QUICK)
    assert same(resumed, half)
    for part in parts[2:]:
        whole.update(part)
        resumed.update(part)
    assert same(resumed, whole)


def test_a_state_from_before_thoughts_were_kept_is_resumed_and_thought_of_anew() -> None:
    learner = a_learner()
    learner.update(lists(20))
    state = {n: array for n, array in learner.state().items() if not n.startswith("thought")}
    resumed = Learner.resume(state, SCHEMA, recipe=QUICK)
    resumed.update([])
    assert np.array_equal(resumed.state()["thoughts"], learner.state()["thoughts"])


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    one, two, other = (a_learner(seed=seed) for seed in (1, 1, 2))
    for learner in (one, two, other):
        learner.update(lists(20))
    assert same(one, two)
    assert not same(one, other)


def test_the_random_state_of_the_process_is_left_alone() -> None:
    learner = a_learner()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    learner.update(lists(20))
    assert torch.equal(before, torch.get_rng_state())


def test_old_lists_are_learned_from_again_and_bounded() -> None:
    learner = a_learner(Online(memory=50, replay=2.0))
    assert learner.update(lists(30)).replayed == 0
    second = learner.update(lists(30, seed=1))
    assert (second.lists, second.replayed, len(second.losses)) == (30, 30, 1)
    for turn in range(3):
        last = learner.update(lists(30, seed=2 + turn))
    assert (last.replayed, len(last.losses)) == (50, 2)  # 80 lists, 64 a step
    assert len(learner.memory.kept) == 50
    assert (learner.lists, learner.updates, learner.steps) == (150, 5, 8)  # 1 + 1 + 3 * 2 steps


@pytest.mark.parametrize("recall", [0.0, 1.0])
def test_what_is_recalled_of_old_lists_is_what_was_thought_of_them(recall: float) -> None:
    """Two pasts differ in nothing but their labels: who recalls thoughts learns the same."""
    weights = []
    for beside in (0, 1):  # the click, and the candidate next to it
        learner = a_learner(dataclasses.replace(QUICK, recall=recall))
        for one in lists(40):
            learner.remember(dataclasses.replace(one, labels=np.roll(one.labels, beside, axis=0)))
        learner.update(lists(20, "green", seed=1))
        weights.append(learner.weights())
    equal = [np.array_equal(weights[0][name], weights[1][name]) for name in weights[0]]
    assert all(equal) == (recall == 1.0)


def test_a_list_is_thought_of_once_it_is_learned_and_anew_from_other_weights() -> None:
    learner = a_learner()
    new = lists(20)
    learner.update(new)
    kept = learner.memory.kept
    then = np.concatenate([scores.ravel() for scores in learner.scored(kept)])
    assert np.array_equal(learner.state()["thoughts"], then)
    learner.update(lists(20, seed=1))
    assert np.array_equal(learner.state()["thoughts"][: len(then)], then)
    learner.go_back(start())
    assert not learner.state()["thought"].any()


def test_an_update_of_nothing_changes_no_weight() -> None:
    learner = a_learner()
    before = learner.weights()
    assert learner.update([]).losses == ()
    assert all(np.array_equal(before[name], now) for name, now in learner.weights().items())


def test_a_list_with_a_number_that_is_none_spoils_nothing() -> None:
    learner = a_learner(Online(rate=3e-3, memory=100, replay=0.0, batch=30))
    [bad] = lists(1, "blue", seed=50)
    numbers = np.full_like(bad.inputs["candidate_numbers"], np.nan)
    learner.update([dataclasses.replace(bad, inputs=bad.inputs | {"candidate_numbers": numbers})])
    for turn in range(10):
        learner.update(lists(30, "blue", seed=turn))
    assert all(np.isfinite(weight).all() for weight in learner.weights().values())
    assert first(learner, lists(100, "blue", seed=7)) > 0.9


def test_ids_are_trusted_as_far_as_they_were_seen() -> None:
    """After 100 lists with an item its vector counts by half, as training has it."""
    learner = a_learner(Online(memory=10, replay=0.0))
    shown = query({"new": {"colour": "red"}, "other": {"colour": "blue"}})
    one = example(SCHEMA, shown, "new")
    items = learner.mean.steps.items
    place = items.place(torch.from_numpy(one.inputs["candidate_items"][:1]))
    assert items.trust[place].item() == 0
    for _ in range(4):
        learner.update([one] * 25)
    assert items.trust[place].item() == pytest.approx(0.5, abs=1e-5)


def test_another_version_can_be_gone_on_from_with_all_that_is_remembered() -> None:
    learner = a_learner()
    learner.update(lists(20))
    learner.go_back(start())
    fresh = start()
    assert all(np.array_equal(fresh[name], now) for name, now in learner.weights().items())
    assert len(learner.memory.kept) == 20
    assert learner.update(lists(20, seed=1)).replayed == 20


def test_weights_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be those of a base ranker"):
        Learner.begin(start(), SCHEMA, "base")


# --- long lists -----------------------------------------------------------------------------------


def test_a_long_list_is_learned_from_at_a_bounded_cost() -> None:
    learner = a_learner(Online(negatives=50, replay=0.0, rate=3e-3, memory=10))
    long = lists(64, "blue", size=600)
    learner.update(long)
    assert learner.update(long).seconds < 30
    for turn in range(15):
        learner.update(lists(30, "blue", seed=turn, size=300))
    assert first(learner, lists(50, "blue", seed=99, size=300)) > 0.8


# --- what was not seen, and what comes late -------------------------------------------------------


def test_candidates_that_were_cut_off_were_not_turned_down() -> None:
    [one] = lists(1)
    shown = np.array([0, 2, -1, 1])
    [other] = lists(1, seed=1, size=2)
    both = [dataclasses.replace(one, shown=shown), other]
    counted = seen(both, course.tensors(both))
    assert counted.tolist() == [[True, True, False, True], [True, True, False, False]]


def bought(labels: list[list[float]], revision: int = 0) -> Example:
    asked = query({f"i{n}": {"colour": COLOURS[n]} for n in range(4)}, name="r1")
    made = example(TWO, asked)
    return dataclasses.replace(made, labels=np.array(labels, np.float32), revision=revision)


CLICKED = [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
BOUGHT = [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_late_conversion_teaches_the_conversion_alone() -> None:
    learner = a_learner(Online(replay=0.0), TWO)
    random = np.random.default_rng(0)
    for remembered in (False, True):
        lesson = learner._correction(bought(BOUGHT, revision=1), random)
        assert lesson.heads.tolist() == [False, True], remembered
        assert lesson.example.labels.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]
        learner.update([bought(CLICKED)])
    nothing = learner._correction(bought(CLICKED, revision=1), random)
    assert nothing.heads.tolist() == [False, False]


def test_what_was_corrected_is_remembered_as_it_is_known_now() -> None:
    learner = a_learner(QUICK, TWO)
    learner.update([bought(CLICKED)])
    updated = learner.update([bought(BOUGHT, revision=1)])
    assert (updated.lists, updated.corrections) == (0, 1)
    [kept] = learner.memory.kept
    assert kept.labels.tolist() == BOUGHT
    assert learner.lists == 1


def test_corrections_move_the_conversion() -> None:
    learner = a_learner(Online(rate=3e-3, replay=0.0), TWO)
    learner.update([bought(CLICKED)])
    [before] = learner.scored([bought(CLICKED)])
    for revision in range(1, 15):
        learner.memory.kept = [bought(CLICKED)]
        learner.update([bought(BOUGHT, revision)])
    [after] = learner.scored([bought(CLICKED)])
    gained = after[1, 1] - after[[0, 2, 3], 1].mean() - (before[1, 1] - before[[0, 2, 3], 1].mean())
    assert gained > 0.1


# --- what is handed out ---------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_handed_out_scores_as_the_learner_does_update_after_update() -> None:
    learner = a_learner()
    for turn in range(2):
        learner.update(lists(20, seed=turn))
        exported = learner.exported()
        assert exported.heads == ("click",)
        [one] = learner.scored(learner._newest[:1])
        assert exported.expected[0, : len(one)] == pytest.approx(one, abs=1e-5)
        assert all(np.isfinite(array).all() for array in exported.weights.values())


def test_what_was_handed_out_stays_as_it_is_while_the_learner_learns_on() -> None:
    learner = a_learner()
    handed_out = learner.weights()
    before = {name: array.copy() for name, array in handed_out.items()}
    learner.update(lists(20, seed=1))
    assert all(np.array_equal(before[name], array) for name, array in handed_out.items())
    assert any(not np.array_equal(before[n], now) for n, now in learner.weights().items())


def test_a_ranker_is_rebuilt_from_its_weights_bins_and_all() -> None:
    weights = start()
    learner = a_learner()
    assert isinstance(learner.mean, Ranker)
    assert learner.weights().keys() == weights.keys()
    assert all(np.array_equal(weights[name], now) for name, now in learner.weights().items())
