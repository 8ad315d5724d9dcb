import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from streamrank.model.leave_one_out import figures, padded, rank_of, ranks
from streamrank.model.sequences import SequenceModel, Shape


def test_figures_by_hand() -> None:
    """Ranks 1, 2, 10 and 11: gains 1, 1 / log2(3), 1 / log2(11) and 0."""
    found = figures(np.array([1, 2, 10, 11]))
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(11)) / 4)
    assert found["hr@10"] == 0.75


def test_ndcg_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    scores, wanted = random.normal(size=(200, 31)), random.integers(1, 31, 200)
    places = np.array(
        [rank_of(*one, np.array([], int)) for one in zip(scores, wanted, strict=True)]
    )
    relevant = np.eye(31)[wanted][:, 1:]
    theirs = ndcg_score(relevant, scores[:, 1:], k=10)
    assert figures(places)["ndcg@10"] == pytest.approx(theirs, abs=1e-9)


def test_seen_items_are_out_of_the_running_and_the_wanted_one_never_is() -> None:
    scores = np.array([99.0, 5.0, 4.0, 3.0, 2.0])
    assert rank_of(scores, 4, np.array([1, 2])) == 2
    assert rank_of(scores, 2, np.array([1, 2])) == 1


def test_in_batches_ranks_are_as_one_by_one() -> None:
    torch.manual_seed(0)
    model = SequenceModel(Shape(items=30, width=8, heads=2, length=6)).eval()
    torch.nn.init.normal_(model.items.weight)
    random = np.random.default_rng(0)
    rows = [{"items": random.integers(1, 31, n)} for n in (1, 9, 3, 6, 2)]
    wanted = random.integers(1, 31, 5)
    single = [ranks(model, [row], wanted[[n]])[0] for n, row in enumerate(rows)]
    assert ranks(model, rows, wanted, batch=2).tolist() == single


def test_the_newest_steps_are_taken_and_padded_at_the_front() -> None:
    fed = padded([{"items": np.array([1, 2, 3, 4])}, {"items": np.array([5])}], 3)
    assert fed["items"].tolist() == [[2, 3, 4], [0, 0, 5]]
