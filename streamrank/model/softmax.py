"""Softmax over a catalogue, or over a sample of it that gives the same on average.

The loss of a position is -log of its item's share among itself and the negatives.  Each negative
counts as often as it stands for others: exp(score) is divided by how often the item was to be
expected in the sample (log-Q correction), so that the sum estimates the whole catalogue's
without bias.  With the catalogue as negatives the loss is the full softmax.

Loss and gradients are found together in parts that fit the processor's cache: the scores of all
positions are never in memory at once.

References:
    Bengio, Senecal, IEEE TNN 2008, "Adaptive importance sampling to accelerate training of a
    neural probabilistic language model".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamrank.features.inputs import Array

PART = 256
"""Positions whose scores are in memory at once."""


@dataclass(frozen=True, slots=True)
class Negatives:
    """Items that all positions of a batch are told from.

    Attributes:
        items: Distinct, (M,).
        offsets: Log of how often each was to be expected, less log of how often it came, (M,).
        places: Where in `items` each item of the catalogue is, -1 for nowhere, (N + 1,).
    """

    items: Tensor
    offsets: Tensor
    places: Tensor


class Sampler:
    """Draws negatives, popular items more often.

    Args:
        counts: How often each item was seen, (N + 1,); the first is padding's and never drawn.
        size: How many to draw, with replacement; the whole catalogue if it is not larger.
        power: 0 draws all items alike, 1 as often as they were seen.
    """

    def __init__(self, counts: Array, size: int, power: float = 0.5) -> None:
        weights = (np.maximum(counts[1:], 1) / max(1, counts[1:].sum())) ** power
        self.shares = weights / weights.sum()
        self.rising = self.shares.cumsum()
        self.size = size
        self.full = _all(len(weights)) if size >= len(weights) else None

    def draw(self, random: np.random.Generator) -> Negatives:
        """Return negatives for one batch."""
        if self.full is not None:
            return self.full
        drawn = np.searchsorted(self.rising, random.random(self.size) * self.rising[-1], "right")
        items, times = np.unique(drawn, return_counts=True)
        offsets = np.log(self.size * self.shares[items]) - np.log(times)
        places = np.full(len(self.shares) + 1, -1)
        places[items + 1] = np.arange(len(items))
        return Negatives(
            torch.from_numpy(items + 1), torch.from_numpy(offsets).float(), torch.from_numpy(places)
        )


def _all(size: int) -> Negatives:
    places = torch.arange(-1, size)
    return Negatives(places[1:] + 1, torch.zeros(size), places)


def loss_of(
    states: Tensor, targets: Tensor, vectors: Callable[[Tensor], Tensor], negatives: Negatives
) -> Tensor:
    """Return the mean loss of positions.

    Args:
        states: (P, D).
        targets: The item that each one is followed by, (P,).
        vectors: Looks items up, (M,) as (M, D).
        negatives: What they are told from.

    Examples:
        >>> everything = Sampler(np.ones(5), size=4).draw(np.random.default_rng(0))
        >>> alike = lambda items: torch.zeros(len(items), 1)
        >>> loss = loss_of(torch.ones(2, 1), torch.tensor([1, 4]), alike, everything)
        >>> round(loss.exp().item(), 4)
        4.0
    """
    loss: Tensor = _Softmax.apply(
        states,
        vectors(targets),
        vectors(negatives.items),
        negatives.offsets.to(states.dtype),
        negatives.places[targets],
    )
    return loss


class _Softmax(torch.autograd.Function):
    """Mean of -log(exp(positive) / (exp(positive) + sum of exp(negative - offset)))."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,  # (P, D)
        positives: Tensor,  # (P, D)
        negatives: Tensor,  # (M, D)
        offsets: Tensor,  # (M,)
        places: Tensor,  # (P,), where the positive is among the negatives, or -1
    ) -> Tensor:
        pulls, own = torch.empty_like(states), torch.empty_like(positives)
        pushes, loss = torch.zeros_like(negatives), states.new_zeros(())
        for start in range(0, len(states), PART):
            part = slice(start, start + PART)
            state, positive, place = states[part], positives[part], places[part]
            scores = torch.addmm(-offsets, state, negatives.T)  # (PART, M)
            hit = (place >= 0).nonzero()[:, 0]
            scores[hit, place[hit]] = -torch.inf
            score = (state * positive).sum(1)
            top = torch.maximum(scores.amax(1), score)
            shares = scores.sub_(top[:, None]).exp_()
            alone = (score - top).exp()
            total = shares.sum(1) + alone
            loss += (total.log() - score + top).sum()
            shares /= total[:, None]
            lack = (alone / total - 1)[:, None]
            torch.addmm(lack * positive, shares, negatives, out=pulls[part])
            own[part] = lack * state
            pushes.addmm_(shares.T, state)
        ctx.save_for_backward(pulls, own, pushes)
        return loss / max(1, len(states))

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        scale = above[0] / max(1, len(ctx.saved_tensors[0]))
        return *(scale * gradient for gradient in ctx.saved_tensors), None, None
