import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from streamrank.model.softmax import Negatives, Sampler, loss_of

SIZE, WIDTH = 7, 3


def table(seed: int = 0) -> nn.Embedding:
    """Vectors of seven items in double precision."""
    torch.manual_seed(seed)
    return nn.Embedding(SIZE + 1, WIDTH, padding_idx=0).double()


def everything() -> Negatives:
    return Sampler(np.ones(SIZE + 1), size=SIZE).draw(np.random.default_rng(0))


def test_with_the_catalogue_as_negatives_it_is_the_full_softmax() -> None:
    """Loss and gradients are those of `cross_entropy`, over more positions than one part has."""
    items, same = table(), table()
    states = torch.randn(600, WIDTH, dtype=torch.double, requires_grad=True)
    again = states.detach().clone().requires_grad_()
    targets = torch.randint(1, SIZE + 1, (600,))
    ours = loss_of(states, targets, items, everything())
    theirs = functional.cross_entropy(again @ same.weight[1:].T, targets - 1)
    (2 * ours).backward()  # type: ignore[no-untyped-call]
    (2 * theirs).backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert states.grad is not None
    assert again.grad is not None
    assert torch.allclose(states.grad, again.grad, atol=1e-12)
    assert items.weight.grad is not None
    assert same.weight.grad is not None
    assert torch.allclose(items.weight.grad, same.weight.grad, atol=1e-12)


def test_log_q_correction_by_hand() -> None:
    """Two draws of items with shares .75 and .25, wanted item 2 with score ln 3, 1 with ln 6.

    Drawn are 1 and 2: 1 was to be expected 1.5 times and came once, so it counts 6 / 1.5 = 4
    times over; 2 is wanted and counts once, as 3.  The loss is -log(3 / (3 + 4)).
    """
    negatives = Negatives(
        torch.tensor([1, 2]), torch.log(torch.tensor([1.5, 0.5])), torch.tensor([-1, 0, 1])
    )
    scores = torch.log(torch.tensor([[1.0], [6.0], [3.0]]))

    def vectors(items: Tensor) -> Tensor:
        return scores[items]

    loss = loss_of(torch.ones(1, 1), torch.tensor([2]), vectors, negatives)
    assert loss.item() == pytest.approx(np.log(7 / 3), rel=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_on_average_a_sample_stands_for_the_catalogue(power: float) -> None:
    """The mean of a sample's sum of exp(score - offset) is the sum over all, items alike."""
    sampler = Sampler(np.array([0, 50, 20, 10, 5, 1, 1, 0]), size=4, power=power)
    random = np.random.default_rng(0)
    weights = np.exp(np.random.default_rng(1).normal(size=SIZE + 1))
    sums = []
    for _ in range(5000):
        drawn = sampler.draw(random)
        sums.append((weights[drawn.items] * np.exp(-drawn.offsets.numpy())).sum())
    error = np.std(sums) / len(sums) ** 0.5
    assert abs(np.mean(sums) - weights[1:].sum()) < 4 * error


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_negatives_are_distinct_items_and_know_their_places(size: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 9, SIZE + 1)
    drawn = Sampler(counts, size).draw(np.random.default_rng(seed))
    items = drawn.items.tolist()
    assert len(items) == len(set(items)) <= size
    assert 0 not in items
    assert [drawn.places[item].item() for item in items] == list(range(len(items)))
    assert (drawn.places >= 0).sum() == len(items)


def test_popular_items_are_drawn_as_often_as_they_were_seen() -> None:
    sampler = Sampler(np.array([0, 3, 1, 0, 0, 0, 0, 0]), size=1, power=1.0)
    random = np.random.default_rng(0)
    drawn = np.array([sampler.draw(random).items.item() for _ in range(4000)])
    # Those never seen count as seen once: shares are 3/9, 1/9, ... 1/9.
    assert np.mean(drawn == 1) == pytest.approx(3 / 9, abs=0.03)


def test_gradients_of_a_sample_are_those_of_its_loss() -> None:
    """By finite differences, with a wanted item among the negatives and one that is not."""
    items = table()
    negatives = Negatives(
        torch.tensor([2, 5]), torch.tensor([0.3, -0.2]).double(), torch.tensor([-1] * 8)
    )
    negatives.places[2], negatives.places[5] = 0, 1
    states = torch.randn(3, WIDTH, dtype=torch.double, requires_grad=True)
    targets = torch.tensor([2, 1, 5])

    def loss(states: Tensor, weight: Tensor) -> Tensor:
        return loss_of(states, targets, lambda n: functional.embedding(n, weight), negatives)

    assert torch.autograd.gradcheck(loss, (states, items.weight))
