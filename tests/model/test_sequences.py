"""The sequence model, and how it learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from streamrank.features.inputs import Array
from streamrank.model import sequence_training as training
from streamrank.model.leave_one_out import ranks
from streamrank.model.sequence_training import Progress, Recipe, batches, learn, lesson
from streamrank.model.sequences import SequenceModel, Shape

SMALL = Shape(items=20, width=16, layers=1, heads=2, length=12, dropout=0.0)
QUICK = Recipe(epochs=12, positions=400, rate=1e-2, negatives=20, average=0.9, again=True)


def rounds(count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Everybody goes round the twenty items in one order, from anywhere, for 4 to 30 steps."""
    random = np.random.default_rng(seed)
    starts, sizes = random.integers(20, size=count), random.integers(4, 30, count)
    return [
        {"items": 1 + (start + 7 * np.arange(size)) % 20}
        for start, size in zip(starts, sizes, strict=True)
    ]


def noise(count: int) -> list[dict[str, Array]]:
    random = np.random.default_rng(3)
    return [{"items": random.integers(1, 21, random.integers(4, 30))} for _ in range(count)]


def found_first(model: SequenceModel, rows: list[dict[str, Array]]) -> float:
    """Return the share of sequences whose last item is scored best of all."""
    past = [{"items": row["items"][:-1]} for row in rows]
    model.eval()
    hits = []
    for row, whole in zip(past, rows, strict=True):
        with torch.no_grad():
            states = model(torch.from_numpy(row["items"][None, -12:]))
        hits.append((states[0, -1] @ model.items.weight.T)[1:].argmax() + 1 == whole["items"][-1])
    return float(np.mean(hits))


@pytest.mark.parametrize("masked", [0.0, 0.4])
@pytest.mark.parametrize("negatives", [20, 8])
def test_a_known_order_is_learned(masked: float, negatives: int) -> None:
    recipe = Recipe(
        epochs=25,
        positions=400,
        rate=1e-2,
        negatives=negatives,
        average=0.9,
        masked=masked,
        again=True,
    )
    learned = learn(rounds(300), SMALL, recipe=recipe)
    assert found_first(learned.model, rounds(200, seed=9)) > 0.95


def test_noise_is_not_learned() -> None:
    """At chance the wanted item's rank is even over 20: within the first ten in half the cases.

    Seen items are not removed here, so that chance is exactly that: the standard error over
    1,000 sequences is .016.
    """
    learned = learn(noise(400), SMALL, recipe=QUICK)
    random = np.random.default_rng(4)
    rows = [{"items": random.integers(1, 21, 8)} for _ in range(1000)]
    with torch.no_grad():
        states = learned.model(torch.from_numpy(np.stack([row["items"] for row in rows])))
    scores = (states[:, -1] @ learned.model.items.weight.T)[:, 1:].numpy()
    wanted = scores[np.arange(1000), random.integers(20, size=1000)]
    ranks_of_wanted = 1 + (scores > wanted[:, None]).sum(1)
    assert abs(np.mean(ranks_of_wanted <= 10) - 0.5) < 0.064


def test_twice_the_same() -> None:
    recipe = Recipe(epochs=2, positions=400, negatives=8, masked=0.5)
    shape = Shape(items=20, width=16, layers=1, heads=2, length=12, dropout=0.3)
    one, two = (learn(rounds(80), shape, recipe=recipe, seed=5) for _ in range(2))
    other = learn(rounds(80), shape, recipe=recipe, seed=6)
    for name, weights in one.model.state_dict().items():
        assert torch.equal(weights, two.model.state_dict()[name]), name
    assert not torch.equal(one.model.items.weight, other.model.items.weight)
    assert one.curve == two.curve


def test_learning_leaves_the_random_state_of_the_process_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    learn(rounds(20), SMALL, recipe=Recipe(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_ends_when_held_out_items_are_found_no_better() -> None:
    recipe = Recipe(
        epochs=60, positions=400, rate=1e-2, negatives=20, average=0.9, again=True, patience=3
    )
    learned = learn(noise(100), SMALL, recipe=recipe)
    best = max(one["ndcg@10"] for one in learned.curve)
    assert learned.metrics["ndcg@10"] == best
    assert len(learned.curve) == min(60, learned.epochs + 3)


def test_the_rate_falls_to_nothing_where_it_is_to_settle() -> None:
    """Over the last half of four epochs it goes down to the last batch's share; else it stays."""
    for settle, lowest in ((0.5, 0.5), (0.0, 1.0)):
        recipe = Recipe(epochs=4, positions=10, settle=settle)
        course = training._Course(rounds(60), SMALL, recipe, 0, None, None)
        rates = []
        for epoch in range(1, 5):
            course._epoch(epoch, 0.0)
            rates.append(course.optimizer.param_groups[0]["lr"] / recipe.rate)
        assert rates[1] == 1.0
        assert rates[2] == pytest.approx(lowest, abs=0.05)
        assert rates[3] == pytest.approx(0.0 if settle else 1.0, abs=0.05)


def test_learning_ends_when_its_time_is_over() -> None:
    learned = learn(rounds(40), SMALL, recipe=Recipe(epochs=50, seconds=0.0))
    assert len(learned.curve) == 1


def test_the_weights_are_those_of_the_best_epoch() -> None:
    rows = rounds(100)
    learned = learn(rows, SMALL, recipe=QUICK)
    past = [{"items": row["items"][:-1]} for row in rows]
    held = np.array([row["items"][-1] for row in rows])
    found = ranks(learned.model, past, held, again=True)
    assert np.mean((found <= 10) / np.log2(1 + found)) == learned.metrics["ndcg@10"]


def test_the_held_out_item_is_not_learned_from() -> None:
    """Every sequence ends in item 20, which stands nowhere else: nothing says that it comes."""
    random = np.random.default_rng(0)
    rows = [{"items": np.append(random.integers(1, 20, 12), 20)} for _ in range(200)]
    learned = learn(rows, SMALL, recipe=QUICK)
    assert learned.metrics["hr@10"] < 0.1


def test_padding_at_the_front_changes_nothing() -> None:
    torch.manual_seed(0)
    model = SequenceModel(SMALL).eval()
    with torch.no_grad():
        bare = model(torch.tensor([[3, 5, 7]]))
        padded = model(torch.tensor([[0, 0, 0, 3, 5, 7], [1, 2, 3, 4, 5, 6]]))
    assert torch.allclose(bare[0], padded[0, 3:], atol=1e-6)


def test_a_step_looks_back_only_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    model = SequenceModel(SMALL).eval()
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 9]])
    ahead = torch.tensor([True])
    with torch.no_grad():
        assert torch.equal(model(one)[0, :3], model(other)[0, :3])
        apart = model(one, both_ways=ahead)[0, :3] - model(other, both_ways=ahead)[0, :3]
    assert (apart.abs().amax(1) > 1e-4).all()


def test_a_hidden_item_is_not_seen() -> None:
    torch.manual_seed(0)
    model = SequenceModel(SMALL).eval()
    hidden, ahead = torch.tensor([[False, True, False]]), torch.tensor([True])
    with torch.no_grad():
        one = model(torch.tensor([[1, 2, 3]]), hidden=hidden, both_ways=ahead)
        other = model(torch.tensor([[1, 9, 3]]), hidden=hidden, both_ways=ahead)
    assert torch.equal(one, other)


def test_types_and_gaps_tell_what_comes_next() -> None:
    """The next item is 1 after a long gap, 2 after a short one, 3 after type 2, whichever."""
    random = np.random.default_rng(0)
    rows = list[dict[str, Array]]()
    for _ in range(300):
        types, gaps = random.integers(1, 3, 10), random.choice([1.0, 6.0], 10)
        items = np.ones(10, np.int64)
        items[1:] = np.where(types[:-1] == 2, 3, np.where(gaps[:-1] > 3, 1, 2))
        rows.append({"items": items, "types": types, "gaps": gaps.astype(np.float32)})
    shape = Shape(items=20, types=2, times=True, width=16, layers=1, length=12, dropout=0.0)
    recipe = Recipe(epochs=15, positions=400, rate=1e-2, negatives=20, average=0.9, again=True)
    model = learn(rows, shape, recipe=recipe).model
    fed = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    with torch.no_grad():
        best = (model(**fed) @ model.items.weight.T).argmax(-1)[:, :-1]
    assert (best == fed["items"][:, 1:]).float().mean() > 0.95


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 300))
def test_every_sequence_is_in_one_batch_and_none_is_too_large(
    sizes: list[int], positions: int
) -> None:
    found = list(batches(np.array(sizes), positions, np.random.default_rng(0)))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(sizes)))
    for rows in found:
        longest = max(sizes[row] for row in rows)
        assert longest * len(rows) <= positions or len(rows) == 1


def test_what_is_wanted_is_the_next_item_or_the_hidden_one() -> None:
    rows = [{"items": np.arange(1, 9)}, {"items": np.arange(4, 7)}]
    random = np.random.default_rng(0)
    fed, targets = lesson(rows, 12, Recipe(masked=0.0), random)
    assert fed["items"].tolist() == [[1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 4, 5]]
    assert targets.tolist() == [[2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 5, 6]]
    fed, targets = lesson(rows, 12, Recipe(masked=1.0), random)
    assert fed["items"].tolist() == [[2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 5, 6]]
    assert torch.equal(targets, fed["items"] * fed["hidden"])
    assert fed["hidden"].any(1).all()


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([np.array([1, 2])], "sequences must have three steps, got none in 1"),
        ([np.array([1, 2, 21])], r"items must be within 1..20, got 1..21"),
        ([np.array([0, 2, 3])], r"items must be within 1..20, got 0..3"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(rows: list[Array], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        learn([{"items": row} for row in rows], SMALL)


def test_progress_and_curves_are_told(tmp_path: Path) -> None:
    told = list[Progress]()
    learn(rounds(40), SMALL, recipe=Recipe(epochs=2), logs=tmp_path, on_progress=told.append)
    assert [one.epoch for one in told if one.share == 1] == [1, 2]
    assert all(one.rate > 0 and np.isfinite(one.loss) for one in told)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"loss", "validation/ndcg@10"} <= set(events.Tags()["scalars"])


def test_of_many_sequences_some_choose_the_epoch() -> None:
    """Of 7 that are judged the share found is so many sevenths; all 100 are learned from."""
    learned = learn(rounds(100), SMALL, recipe=replace(QUICK, epochs=3, judged=7))
    for figures in learned.curve:
        assert (7 * figures["hr@10"]) == pytest.approx(round(7 * figures["hr@10"]))


@pytest.mark.parametrize(("judged", "first"), [(5, True), (50, False)])
def test_what_comes_last_is_learned_from_whoever_is_not_judged(judged: int, first: bool) -> None:
    """An item that only ever comes last follows, unless all who had it are held out."""
    same = [{"items": np.array([1, 2, 3, 4])} for _ in range(50)]
    recipe = replace(QUICK, positions=50, judged=judged)
    learned = learn(same, SMALL, recipe=recipe)
    rank = ranks(learned.model, [{"items": np.array([1, 2, 3])}], np.array([4]), again=True)
    assert (rank.item() == 1) == first
