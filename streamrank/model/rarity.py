"""How much a label counts that is rare: the second, third … of a kind says less than the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from streamrank.features.inputs import Array
from streamrank.learning.examples import Example


def effective(counts: Array, overlap: float) -> Array:
    """Return how many samples n overlapping ones amount to, (1 - b^n) / (1 - b).

    Args:
        counts: How many there are, n.
        overlap: How much each one repeats those before it, b; 0 makes all counts one.

    References:
        Cui et al., CVPR 2019, "Class-balanced loss based on effective number of samples".

    Examples:
        >>> effective(np.array([1, 2, 1000]), 0.9).round(6).tolist()
        [1.0, 1.9, 10.0]
    """
    return np.asarray((1 - overlap ** np.asarray(counts, np.float64)) / (1 - overlap))


@dataclass(frozen=True, slots=True)
class Rarity:
    """The weights of labels: more for a head, and for an item, that has few of them.

    Attributes:
        heads: Of a label of each head, against a candidate without it, (heads,).
        items: Of a label on an item, by its hash; on average over all labels 1.
        rarest: Of a label on an item that none was on before.
    """

    heads: tuple[float, ...] = ()
    items: Mapping[int, float] = field(default_factory=dict)
    rarest: float = 1.0

    @classmethod
    def of(cls, examples: Sequence[Example], rare: float, tail: float) -> Rarity | None:
        """Return the weights for these lists; `None` where all are to be 1.

        Args:
            examples: What is learned from.
            rare: How much each label of a head repeats those before it: at .999, what comes
                several thousand times is common, and what comes a hundred times counts tenfold.
            tail: The same of the labels on one item: .9 means ten of them.
        """
        if not rare and not tail:
            return None
        labels = np.concatenate([one.labels for one in examples]) > 0
        got = effective(np.maximum(1, labels.sum(0)), rare)
        heads = effective(np.maximum(1, (~labels).sum(0)), rare) / got
        counts = Counter[int]()
        for one in examples:
            counts.update(one.inputs["candidate_items"][one.labels[:, 0] > 0].tolist())
        each = np.array(list(counts.values()), np.float64)
        raw = 1 / effective(each, tail)
        usual = float((raw * each).sum() / max(1.0, each.sum())) or 1.0
        items = dict(zip(counts, (raw / usual).tolist(), strict=True))
        return cls(tuple(heads.tolist()), items, 1 / usual)

    def weights(self, batch: Sequence[Example], size: int) -> Tensor:
        """Return how much a label on each candidate counts, (B, C, heads)."""
        found = torch.ones(len(batch), size, len(self.heads))
        for row, one in zip(found, batch, strict=True):
            items = one.inputs["candidate_items"].tolist()
            row[: len(items)] = torch.tensor([[self.items.get(i, self.rarest)] for i in items])
        return found * torch.tensor(self.heads)
