"""Probabilities that come true: each head's log-odds, scaled and shifted on lists held out.

A model is surer of what it has learned from than it may be of what comes next.  Two numbers a
head put that right, and change no order: the scale, which takes lists that it has not learned
from, and the shift, which is asked again of the model that serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from streamrank.features.inputs import Array
from streamrank.model.ranker import both

DOUBT = (0.5, 2.0)
"""How far scale (in logs) and shift stray from none at all before the lists have spoken."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What each head's log-odds are multiplied by, and what is added to them.

    The second head's are those of the conversion given the label, as `Ranker.adjust` takes them.

    Attributes:
        scale: Above 0, (heads,).
        shift: (heads,).
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def none(cls, heads: int) -> Calibration:
        """Return the calibration that changes nothing."""
        return cls(torch.ones(heads), torch.zeros(heads))

    def apply(self, scores: Array) -> Array:
        """Return calibrated scores, (n, heads)."""
        return np.asarray(joined(separate(scores) * self.scale + self.shift).numpy(), np.float32)


def fit(
    scores: Sequence[Array], labels: Sequence[Array], scale: Tensor | None = None
) -> Calibration:
    """Find the calibration under which these labels are the most likely.

    Args:
        scores: The scores of each list, (C, heads).
        labels: Its labels, (C, heads).
        scale: Of each head, (heads,), where it is known already; then the shift alone is found.

    References:
        Platt, 1999, "Probabilistic outputs for support vector machines".
    """
    apart, wanted = separate(np.concatenate(scores)), torch.from_numpy(np.concatenate(labels))
    heads = apart.shape[1]
    sought = 2 if scale is None else 1
    found = torch.zeros(sought, heads, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")
    doubt = torch.tensor(DOUBT[-sought:], dtype=torch.float64)[:, None]

    def closure() -> Tensor:
        optimizer.zero_grad()
        adjusted = joined(apart * (found[0].exp() if scale is None else scale) + found[-1])
        unlikely = functional.binary_cross_entropy_with_logits(
            adjusted, wanted.double(), reduction="sum"
        )
        cost = (unlikely + ((found / doubt) ** 2).sum() / 2) / len(apart)
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    solved = found.detach().float()
    return Calibration(solved[0].exp() if scale is None else scale, solved[-1])


def separate(scores: Array) -> Tensor:
    """Turn log-odds of both back into those of the conversion given the label, float64."""
    odds = torch.from_numpy(np.asarray(scores, np.float64))
    if odds.shape[1] == 1:
        return odds
    chances = functional.logsigmoid(odds)
    given = (chances[:, 1] - chances[:, 0]).clamp(max=-1e-9)  # log P(conversion | label)
    return torch.stack([odds[:, 0], given - (-torch.expm1(given)).log()], -1)


def joined(odds: Tensor) -> Tensor:
    """Turn log-odds head by head into scores: the opposite of `separate`."""
    return odds if odds.shape[1] == 1 else both(odds)
