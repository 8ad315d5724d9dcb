from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor

from streamrank.model import losses

HERE = torch.tensor([[True, True, True]])


def labels_of(*places: int, size: int = 3) -> Tensor:
    found = torch.zeros(1, size, 1)
    found[0, list(places)] = 1
    return found


def test_the_order_costs_what_a_choice_among_the_candidates_does() -> None:
    """By hand: two equal scores and padding are 1/2 each: log 2; the silent list has no part."""
    scores, labels = torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)
    labels[0, 1] = 1
    there = torch.tensor([[True, True, False], [True, True, True]])
    assert losses.listwise(scores, labels, there).item() == pytest.approx(np.log(2))


def test_a_candidates_share_is_that_of_the_probabilities() -> None:
    """Probabilities .8, .1, .1: the choice of the first has a share of .8."""
    scores = torch.logit(torch.tensor([0.8, 0.1, 0.1]))[None, :, None]
    found = losses.listwise(scores, labels_of(0), HERE)
    assert found.item() == pytest.approx(-np.log(0.8))


def test_lists_that_nobody_or_everything_was_clicked_on_have_no_order() -> None:
    scores, labels = torch.randn(3, 3, 1), torch.zeros(3, 3, 1)
    labels[1], labels[2, 0] = 1, 1
    there = HERE.expand(3, -1)
    whole = losses.listwise(scores, labels, there)
    assert whole.item() == pytest.approx(losses.listwise(scores[2:], labels[2:], there[2:]).item())
    assert losses.listwise(scores[:2], labels[:2], there[:2]).item() == 0.0


def test_the_probability_costs_its_log_loss_a_list() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(5, 4)), random.random((5, 4)) < 0.3
    there = np.arange(4) < random.integers(1, 5, 5)[:, None]
    expected = log_loss(labels[there], 1 / (1 + np.exp(-scores[there])), normalize=False) / 5
    found = losses.pointwise(
        torch.from_numpy(scores)[..., None],
        torch.from_numpy(labels.astype(np.float64))[..., None],
        torch.from_numpy(there),
    )
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_the_heads_share_the_loss() -> None:
    """Each head costs what it would alone."""
    scores, there = torch.randn(4, 3, 2), HERE.expand(4, -1)
    labels = (torch.rand(4, 3, 2) < 0.4).float()
    alone = [losses.loss_of(scores[..., [n]], labels[..., [n]], there).item() for n in (0, 1)]
    assert losses.by_head(scores, labels, there).tolist() == pytest.approx(alone)
    assert losses.loss_of(scores, labels, there).item() == pytest.approx(sum(alone))


def least(labels: Tensor, **changes: Tensor) -> Tensor:
    """Return the scores, one a candidate and the same in all lists, that cost the least."""
    scores = torch.zeros(1, labels.shape[1], 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200, line_search_fn="strong_wolfe")
    there = torch.ones(labels.shape[:2], dtype=torch.bool)

    def closure() -> Tensor:
        optimizer.zero_grad()
        cost = losses.loss_of(scores.expand(labels.shape), labels, there, **changes)
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return scores.detach()[0, :, 0].sigmoid()


def test_order_and_probability_are_least_at_the_same_scores() -> None:
    """A hundred lists of which the candidates get 40, 10, 5 and 0 clicks, at most one a list."""
    labels = torch.zeros(100, 3, 1, dtype=torch.float64)
    labels[:40, 0], labels[40:50, 1], labels[50:55, 2] = 1, 1, 1
    assert least(labels).tolist() == pytest.approx([0.4, 0.1, 0.05], abs=1e-4)


def test_labels_that_count_for_more_leave_the_probability_as_it_is() -> None:
    labels = torch.zeros(100, 3, 1, dtype=torch.float64)
    labels[:40, 0], labels[40:50, 1], labels[50:55, 2] = 1, 1, 1
    weights = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)[None, :, None].expand(100, -1, -1)
    found = least(labels, weights=weights).tolist()
    assert found == pytest.approx([0.4, 0.1, 0.05], abs=1e-4)


def test_a_weight_makes_a_list_count_for_more() -> None:
    """Two lists, scores all equal: the mean of two equal costs, whatever the weights."""
    scores = torch.zeros(2, 2, 1)
    scores[0, 0] = 2.0
    labels = torch.zeros(2, 2, 1)
    labels[:, 0] = 1
    there = torch.ones(2, 2, dtype=torch.bool)
    one, two = (losses.listwise(scores[n : n + 1], labels[:1], there[:1]) for n in (0, 1))
    weights = torch.tensor([3.0, 1.0])[:, None, None].expand(2, 2, 1)
    found = losses.listwise(scores, labels, there, weights)
    assert found.item() == pytest.approx(((3 * one + two) / 4).item())


def test_candidates_drawn_from_many_stand_for_those_left_out() -> None:
    """Of 40,000 candidates 1 in 8 is liked; without a like 1 in 4 is kept: odds 4 times as high."""
    random = np.random.default_rng(0)
    liked = random.random((4000, 10)) < 0.125
    kept = liked | (random.random(liked.shape) < 0.25)
    labels = torch.from_numpy(liked.astype(np.float64))[..., None]
    score = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([score], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        cost = losses.pointwise(
            score.expand(labels.shape),
            labels,
            torch.from_numpy(kept),
            rates=torch.full(liked.shape, 0.25, dtype=torch.float64),
        )
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert score.detach().sigmoid().item() == pytest.approx(0.125, abs=0.006)


def test_in_the_order_a_drawn_candidate_counts_for_all_it_stands_for() -> None:
    """One liked and one drawn at a rate of 1/4, equally likely: the share is 1 / (1 + 4)."""
    labels, there = labels_of(0, size=2), torch.ones(1, 2, dtype=torch.bool)
    rates = torch.full((1, 2), 0.25)
    found = losses.listwise(torch.zeros(1, 2, 1), labels, there, rates=rates)
    assert found.item() == pytest.approx(np.log(5))
