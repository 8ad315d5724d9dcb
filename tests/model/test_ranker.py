import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamrank.features import inputs
from streamrank.features.inputs import Inputs
from streamrank.features.schema import Schema
from streamrank.model.export import random_inputs, run
from streamrank.model.ranker import Buckets, Ranker, configure, edges, fit_bins

SCHEMA = Schema(interactions=("view", "click", "buy"), label="click", conversion="buy")
CONFIG = configure(SCHEMA)


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    made = Ranker(
        CONFIG,
        fit_bins(random.normal(size=(200, CONFIG.numbers)), CONFIG.bins),
        fit_bins(random.normal(size=(200, CONFIG.context)), CONFIG.bins),
    )
    for weight in made.parameters():  # so that nothing is hidden behind a zero
        torch.nn.init.normal_(weight, std=0.2)
    made.steps.items.trust.fill_(1.0)
    made.steps.words.trust.fill_(1.0)
    return made.eval()


def one_by_one(batch: Inputs) -> list[Inputs]:
    return [
        {n: a[place : place + 1] for n, a in batch.items()}
        for place in range(len(batch["context_numbers"]))
    ]


def unstacked(batch: Inputs) -> list[Inputs]:
    return [{n: a[0] for n, a in one.items()} for one in one_by_one(batch)]


def test_a_candidates_score_does_not_depend_on_the_others(ranker: Ranker) -> None:
    batch = random_inputs(CONFIG, 1, 6, 9)
    whole = run(ranker, batch)
    candidate = [name for name in batch if name.startswith("candidate")]
    batch["history_places"] = np.zeros_like(batch["history_places"])
    apart = run(ranker, batch)
    some = batch | {name: batch[name][:, [0, 3, 5]] for name in candidate}
    assert run(ranker, some)[0, 0] == pytest.approx(apart[0, 0], abs=1e-5)
    others = {name: batch[name].copy() for name in candidate}
    for array in others.values():
        array[:, 4:] = array[:, :5]
    assert run(ranker, batch | others)[0, :4] == pytest.approx(apart[0, :4], abs=1e-5)
    assert np.abs(whole - apart).max() > 1e-3  # places are seen at all


def test_padding_changes_nothing(ranker: Ranker) -> None:
    shapes = [(0, 3), (5, 1), (50, 8), (1, 30)]
    lists = [one for s, c in shapes for one in unstacked(random_inputs(CONFIG, 1, s, c))]
    lists[0] = {n: a[:0] if n.startswith("history") else a for n, a in lists[0].items()}
    together = run(ranker, inputs.stack(lists))
    for one, scores in zip(lists, together, strict=True):
        alone = run(ranker, inputs.stack([one]))[0]
        assert scores[: len(alone)] == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_a_batch_equals_one_by_one(ranker: Ranker) -> None:
    batch = random_inputs(CONFIG, 4, 7, 5)
    apart = [run(ranker, one)[0] for one in one_by_one(batch)]
    assert run(ranker, batch) == pytest.approx(np.stack(apart), rel=1e-5, abs=1e-5)


def test_there_is_a_head_for_each_label(ranker: Ranker) -> None:
    assert CONFIG.heads == ("click", "buy")
    assert run(ranker, random_inputs(CONFIG, 2, 3, 4)).shape == (2, 4, 2)


def test_the_newest_step_matters_and_so_does_its_order(ranker: Ranker) -> None:
    batch = random_inputs(CONFIG, 1, 3, 4)
    turned = {n: a[:, ::-1].copy() if n.startswith("history") else a for n, a in batch.items()}
    assert np.abs(run(ranker, batch) - run(ranker, turned)).max() > 1e-3


def test_numbers_are_encoded_bin_by_bin() -> None:
    """Worked by hand: edges 0, 1, 3 for the first feature, 5, 6 for the second.

    2 fills the first bin, and the second by (2 - 1) / (3 - 1); 5.25 a quarter of its only one.
    """
    bins = fit_bins(np.array([[0.0, 5.0], [1.0, 6.0], [3.0, 5.0]]), 2)
    found = bins(torch.tensor([[[2.0, -9.0], [5.25, 99.0]]]))
    assert found.tolist() == [[[1.0, 0.0], [0.5, 0.0], [0.25, 1.0]]]


def test_a_number_that_never_changed_has_no_bin() -> None:
    assert len(fit_bins(np.full((9, 1), 7.0), 4).low) == 0


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.integers(1, 6))
def test_edges_rise_and_are_values_that_occurred(values: list[float], bins: int) -> None:
    found = edges(np.array(values), bins).tolist()
    assert set(found) <= set(np.array(values, np.float32).tolist())
    assert found == sorted(set(found))
    assert len(found) <= bins + 1


def test_a_vector_counts_for_as_much_as_its_word_was_seen() -> None:
    """By hand: 100 lists make a half; what was never seen, and nothing, are the zero vector."""
    table = Buckets(8, 3)
    table.fit(np.array([0] * 9 + [3] * 100))
    found = table(torch.tensor([0, 3, 4, 3 + 7]))
    assert found[0].tolist() == found[2].tolist() == [0, 0, 0]
    assert found[1].tolist() == pytest.approx((table.table.weight[4] / 2).tolist())
    assert found[3].tolist() == found[1].tolist()  # shares the row: hashed into 7


def test_sizes_grow() -> None:
    small, base, large = (configure(SCHEMA, size) for size in ("small", "base", "large"))
    assert small.width < base.width < large.width
