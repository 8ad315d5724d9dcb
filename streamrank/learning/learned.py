"""Which lists were learned from: what comes again after a crash is not learned twice.

A version can be published and serve before the learner's own state is written down.  After a
crash the older state goes on from that version, and the lists between the two come again.  Their
time does not tell which of them the version knows: a list with a click is learned when it is
clicked, one without when its window has passed.  So each version says which lists it knows, and
with how many labels: the newest that it learned, since what comes again was learned after the last
snapshot, seconds before.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from streamrank.features.inputs import Array
from streamrank.learning.examples import Example

MOST = 65_536
"""Lists that are known: far more than are learned between two snapshots."""


@dataclass
class Learned:
    """The lists that were learned from.

    Attributes:
        base: Lists scored before this, epoch milliseconds, were learned with all of their
            feedback, as a log that was trained on holds it.
        lists: Those that a learner learned from last, by hash: with how many labels each.
        most: How many these are at most.

    Examples:
        >>> one = Example("r1", "u", 7, {}, np.array([[0.0], [1.0]]))
        >>> known = Learned(base=5)
        >>> known.new_in(one) is one
        True
        >>> known.take([one])
        >>> known.new_in(one), Learned.of(known.arrays()) == known
        (None, True)
    """

    base: int = 0
    lists: dict[int, int] = field(default_factory=dict)
    most: int = MOST

    def new_in(self, example: Example) -> Example | None:
        """Return what is to be learned of a list: all of it, a correction of it, or nothing."""
        if example.at < self.base:
            return None
        known = self.lists.get(_name(example))
        if known is None:
            return example
        if _labels(example) <= known:
            return None
        return dataclasses.replace(example, revision=max(1, example.revision))

    def take(self, examples: Iterable[Example]) -> None:
        """Take in what is learned now; what was learned first is forgotten."""
        self.lists |= {_name(one): _labels(one) for one in examples}
        for name in list(islice(self.lists, max(0, len(self.lists) - self.most))):
            del self.lists[name]

    def arrays(self) -> dict[str, Array]:
        """Return all of it as int64 arrays, for a file."""
        count = len(self.lists)
        return {
            "lists": np.fromiter(self.lists, np.int64, count),
            "labels": np.fromiter(self.lists.values(), np.int64, count),
            "base": np.array([self.base], np.int64),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Learned:
        """Return what `arrays` gave."""
        pairs = zip(arrays["lists"].tolist(), arrays["labels"].tolist(), strict=True)
        return cls(int(arrays["base"][0]), dict(pairs))


def _name(example: Example) -> int:
    digest = hashlib.blake2b(example.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # a positive int64


def _labels(example: Example) -> int:
    return int(example.labels.sum())
