"""What a model has learned from: how many lists, whose, of what, when, and how often liked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from streamrank.learning.examples import Example


@dataclass(frozen=True, slots=True)
class Learned:
    """What the lists are that were learned from.

    Attributes:
        lists: How many.
        labelled: How many of them got feedback.
        users: Whose lists they were.
        items: Items in them.
        span: From the first to the last of them.
        rates: Share of the candidates with each head's label, by the head's name.
    """

    lists: int
    labelled: int
    users: int
    items: int
    span: timedelta
    rates: Mapping[str, float]

    @classmethod
    def of(cls, examples: Sequence[Example], heads: Sequence[str]) -> Learned:
        """Look at lists in time order, at least one."""
        labels = np.concatenate([one.labels for one in examples]) > 0
        hashes = np.concatenate([one.inputs["candidate_items"] for one in examples])
        return cls(
            lists=len(examples),
            labelled=sum(bool(one.labels[:, 0].any()) for one in examples),
            users=len({one.user for one in examples}),
            items=len(np.unique(hashes)),
            span=timedelta(milliseconds=examples[-1].at - examples[0].at),
            rates=dict(zip(heads, labels.mean(0).tolist(), strict=True)),
        )

    def __str__(self) -> str:
        """Say it in one line.

        Examples:
            >>> str(Learned(120, 90, 31, 400, timedelta(hours=2), {"click": 0.0413}))[:51]
            '120 lists of 31 users with 400 items over 2:00:00; '
            >>> str(Learned(120, 90, 31, 400, timedelta(hours=2), {"click": 0.0413}))[51:]
            '90 with feedback; click 4.13 % of the candidates'
        """
        rates = ", ".join(f"{name} {100 * rate:.3g} %" for name, rate in self.rates.items())
        return (
            f"{self.lists:,} lists of {self.users:,} users with {self.items:,} items over "
            f"{self.span}; {self.labelled:,} with feedback; {rates} of the candidates"
        )
