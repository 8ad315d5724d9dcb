import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

from streamrank.features.schema import Schema
from streamrank.features.state import Step, UserState
from streamrank.learning.examples import Example
from streamrank.model import training
from streamrank.model.training import Progress, Recipe, Trained, train
from tests.lists import NOW, example, query

SCHEMA = Schema(interactions=("view", "click"), label="click", item={"colour": "category"})
ITEMS = [f"i{n}" for n in range(10)]
QUICK = Recipe(epochs=2)
FIGURES = ("loss", "rate", "gradient")


def sequences(count: int, seed: int = 0) -> list[Example]:
    """Everybody goes from item to item in one known order; candidates are any five."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        start = int(random.integers(10))
        path = [ITEMS[(start + k) % 10] for k in range(3)]
        at = NOW + n
        steps = tuple(
            Step("click", i, "s1", at - 9000 + k, at - 9000 + k) for k, i in enumerate(path)
        )
        wanted = ITEMS[(start + 3) % 10]
        others = [i for i in ITEMS if i != wanted and i not in path]
        shown = [wanted, *random.choice(others, 4, replace=False).tolist()]
        random.shuffle(shown)
        made.append(example(SCHEMA, query(shown, UserState(steps), at=at, name=f"r{n}"), wanted))
    return made


def noise(count: int) -> list[Example]:
    """Anybody clicks anything."""
    random = np.random.default_rng(1)
    return [
        example(
            SCHEMA,
            query(random.permutation(ITEMS)[:5].tolist(), at=NOW + n, name=f"r{n}"),
        )
        for n in range(count)
    ]


def clicked(lists: Sequence[Example], seed: int = 2) -> list[Example]:
    random = np.random.default_rng(seed)
    return [
        dataclasses.replace(one, labels=np.eye(5, dtype=np.float32)[[random.integers(5)]].T)
        for one in lists
    ]


def first(trained: Trained, lists: Sequence[Example]) -> float:
    """Return the share of lists whose clicked item is scored best."""
    scores = training.scored(trained.ranker, lists)
    hits = [
        s[:, 0].argmax() == one.labels[:, 0].argmax() for s, one in zip(scores, lists, strict=True)
    ]
    return float(np.mean(hits))


@pytest.mark.slow
def test_a_known_order_of_items_is_learned() -> None:
    trained = train(sequences(1500), SCHEMA, recipe=Recipe(epochs=12, batch=32, rate=2e-3))
    assert first(trained, sequences(200, seed=9)) > 0.95


def test_noise_is_not_learned() -> None:
    """At chance, the share of hits of 5 is .2, with a standard error of .023 over 300 lists."""
    trained = train(clicked(noise(600)), SCHEMA, recipe=QUICK)
    assert abs(first(trained, clicked(noise(300), seed=3)) - 0.2) < 0.07


def test_an_item_first_seen_now_is_ranked_by_its_content() -> None:
    random = np.random.default_rng(0)
    lists = []
    for n in range(600):
        place = int(random.integers(4))
        colours = random.choice(["blue", "green", "grey"], 4).tolist()
        colours[place] = "red"
        shown = {f"i{random.integers(10**6)}": {"colour": c} for c in colours}
        asked = query(shown, at=NOW + n, name=f"r{n}")
        lists.append(example(SCHEMA, asked, list(shown)[place]))
    trained = train(lists, SCHEMA, recipe=Recipe(epochs=6, rate=2e-3))
    fresh = query({"new1": {"colour": "blue"}, "new2": {"colour": "red"}, "new3": {}})
    [scores] = training.scored(trained.ranker, [example(SCHEMA, fresh)])
    assert scores[:, 0].argmax() == 1


ASKED = dataclasses.replace(SCHEMA, context={"taste": "category"})


def tastes(count: int, seed: int = 0) -> list[Example]:
    """Of four colours each of four tastes wants its own; no item and no user comes twice."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        colours = random.permutation(["red", "blue", "grey", "green"]).tolist()
        shown = {f"i{random.integers(10**6)}": {"colour": c} for c in colours}
        taste = int(random.integers(4))
        wanted = list(shown)[colours.index(["red", "blue", "grey", "green"][taste])]
        asked = query(shown, at=NOW + n, name=f"r{n}", context={"taste": f"t{taste}"})
        made.append(example(ASKED, asked, wanted))
    return made


def test_who_wants_what_is_learned_from_a_few_lists() -> None:
    """No taste alone and no colour alone says anything: by chance one of four is right."""
    trained = train(tastes(600), ASKED, recipe=Recipe(epochs=9))
    assert first(trained, tastes(200, seed=5)) > 0.95


CONVERTING = dataclasses.replace(SCHEMA, interactions=("click", "buy"), conversion="buy")


def shoppers(count: int, seed: int = 0) -> list[Example]:
    """Of four anybody clicks anything, or (every other list) nothing, and buys it if it is red."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        colours = random.permutation(["red", "blue", "grey", "green"])
        shown = {f"i{random.integers(10**6)}": {"colour": c} for c in colours}
        chosen = str(random.choice(list(shown))) if n % 2 else ""
        bought = chosen if chosen and shown[chosen]["colour"] == "red" else ""
        asked = query(shown, at=NOW + n, name=f"r{n}")
        made.append(example(CONVERTING, asked, chosen, bought=bought))
    return made


def test_what_makes_people_buy_is_found_among_those_who_clicked_and_those_who_did_not() -> None:
    """Anything is clicked on with probability 1/8; red is bought as often, all else never."""
    trained = train(shoppers(1200), CONVERTING, recipe=Recipe(epochs=6, rate=2e-3))
    asked = shoppers(100, seed=5)
    chances = [1 / (1 + np.exp(-scores)) for scores in training.scored(trained.ranker, asked)]
    red = [one.inputs["candidate_tokens"][:, 0] == _red() for one in asked]
    found = np.array([c[:, 1].argmax() == r.argmax() for c, r in zip(chances, red, strict=True)])
    assert found.mean() > 0.95
    bought = np.concatenate([c[r, 1] for c, r in zip(chances, red, strict=True)])
    others = np.concatenate([c[~r, 1] for c, r in zip(chances, red, strict=True)])
    assert bought.mean() == pytest.approx(0.125, abs=0.03)
    assert others.mean() < 0.02
    clicked_on = np.concatenate(chances)
    assert clicked_on[:, 0].mean() == pytest.approx(0.125, abs=0.02)
    assert (clicked_on[:, 1] <= clicked_on[:, 0] + 1e-6).all()  # nobody buys without a click


def _red() -> int:
    [[token]] = example(SCHEMA, query({"i": {"colour": "red"}})).inputs["candidate_tokens"]
    return int(token)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    lists = sequences(80)
    one, two, other = (train(lists, SCHEMA, recipe=QUICK, seed=s) for s in (7, 7, 8))
    pairs = zip(one.ranker.state_dict().values(), two.ranker.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.metrics == two.metrics
    assert not torch.equal(one.ranker.dense.weight, other.ranker.dense.weight)


def test_training_leaves_the_random_state_and_the_threads_of_the_process_alone() -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(sequences(40), SCHEMA, recipe=Recipe(epochs=1))
    assert torch.equal(before, torch.get_rng_state())
    assert threads == torch.get_num_threads()


def test_training_ends_where_the_newest_lists_stop_to_gain() -> None:
    """Every list loses .1 after the second epoch, beyond any error: two are enough."""
    random = np.random.default_rng(0)
    lists = random.uniform(0.3, 0.9, 100)
    curve = [lists - lost + random.normal(0, 0.01, 100) for lost in (0.2, 0.0, 0.1, 0.2)]
    assert training.enough(curve) == 2


def test_where_the_newest_lists_cannot_tell_training_goes_on_to_the_end() -> None:
    random = np.random.default_rng(0)
    lists = random.uniform(0.3, 0.9, 100)
    assert training.enough([lists + random.normal(0, 0.1, 100) - lost for lost in (0, 0)]) == 2
    assert training.enough([lists, lists, lists]) == 3


def test_half_of_the_lists_alone_does_not_end_training() -> None:
    """The first half loses .01, over two standard errors of its own; the other gains as much."""
    lists, lost = np.full(100, 0.5), np.repeat([0.01, -0.01], 50)
    spread = np.tile([0.03, -0.03], 50)
    assert training.enough([lists + 1e-6, lists - lost + spread]) == 2


def test_what_is_held_out_is_measured_before_it_is_learned() -> None:
    trained = train(clicked(noise(400)), SCHEMA, recipe=QUICK)
    assert trained.metrics["mrr"] < 0.6  # 137 / 300 by chance, 60 lists


def test_progress_is_told_with_rate_and_time_left(tmp_path: Path) -> None:
    told: list[Progress] = []
    train(sequences(100), SCHEMA, recipe=QUICK, on_progress=told.append, logs=tmp_path)
    assert {one.stage for one in told} == {"choosing", "fine-tuning"}
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[-1].done == told[-1].total
    assert told[-1].left == 0
    assert all(one.rate > 0 for one in told)
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_the_encoder_may_start_from_what_people_did() -> None:
    lists, how = sequences(80), Recipe(epochs=1)
    alone = train(lists, SCHEMA, recipe=how)
    told: list[Progress] = []
    after = train(
        lists, SCHEMA, recipe=dataclasses.replace(how, pretrain=True), on_progress=told.append
    )
    assert {one.stage for one in told} == {"pre-training", "choosing", "fine-tuning"}
    weights = [one.ranker.encoder.now for one in (alone, after)]
    assert not torch.equal(*weights)


def test_the_logs_hold_losses_rates_quality_by_epoch_and_scores(tmp_path: Path) -> None:
    train(sequences(60), SCHEMA, recipe=QUICK, logs=tmp_path)
    held = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    scalars = set(held.Tags()["scalars"])
    steps = {f"{stage}/{name}" for stage in ("choosing", "fine-tuning") for name in FIGURES}
    assert steps | {"validation/ndcg@10", "validation/log_loss"} <= scalars
    assert len(held.Scalars("validation/ndcg@10")) == QUICK.epochs
    assert held.Tags()["histograms"] == ["validation/scores/click", "fine-tuning/scores/click"]


def test_the_logs_hold_pretraining_and_the_loss_of_each_head_in_one_file(tmp_path: Path) -> None:
    """TensorBoard, while it runs, reads on in the newest file of a folder alone."""
    bought = dataclasses.replace(SCHEMA, conversion="view")
    lists = [
        dataclasses.replace(one, labels=np.repeat(one.labels, 2, axis=1) * [1, n % 2])
        for n, one in enumerate(sequences(60))
    ]
    train(lists, bought, recipe=dataclasses.replace(QUICK, pretrain=True), logs=tmp_path)
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    held = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    read = {tag: [one.value for one in held.Scalars(tag)] for tag in held.Tags()["scalars"]}
    assert len(read["pretraining/loss"]) >= len(read["pretraining/validation"]) > 0
    for stage in ("choosing", "fine-tuning"):
        heads = zip(read[f"{stage}/loss/click"], read[f"{stage}/loss/view"], strict=True)
        assert read[f"{stage}/loss"] == pytest.approx([sum(both) for both in heads])
    assert {"validation/log_loss", "validation/view.log_loss"} <= read.keys()
    assert "fine-tuning/scores/view" in held.Tags()["histograms"]


def test_a_list_without_feedback_is_learned_from_and_one_without_candidates_is_not() -> None:
    lists = sequences(40)
    silent = dataclasses.replace(lists[3], labels=np.zeros_like(lists[3].labels))
    none = dataclasses.replace(lists[4], labels=lists[4].labels[:0])
    kept = [*lists[:3], silent, *lists[5:]]
    assert training.checked([*lists[:3], silent, none, *lists[5:]]) == kept


def test_the_lists_held_out_are_the_last_ones_by_those_with_feedback() -> None:
    """Of 20 lists with feedback, three are held out, with what was shown after the first."""
    lists = sequences(40)
    silent = [
        one if n % 2 else dataclasses.replace(one, labels=np.zeros_like(one.labels))
        for n, one in enumerate(lists)
    ]
    older, newer = training.split(silent)
    assert [*older, *newer] == silent
    assert newer[0] is silent[35]
    assert training.split(silent[:4]) == (silent[:4], ())


@pytest.mark.parametrize(
    ("label", "reason"),
    [(0.0, "examples must have labels, got none in 3 lists"), (1.0, "with and without the label")],
)
def test_nothing_to_learn_is_refused(label: float, reason: str) -> None:
    lists = [
        dataclasses.replace(one, labels=np.full_like(one.labels, label)) for one in sequences(3)
    ]
    with pytest.raises(ValueError, match=reason):
        train(lists, SCHEMA)


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="got none in 0 lists"):
        train([], SCHEMA)


def test_time_that_goes_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match=f"got 'r0' of {NOW} after 'r1' of {NOW + 1}"):
        train(sequences(2)[::-1], SCHEMA)
