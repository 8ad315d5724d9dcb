"""Which lists were learned from: what comes again after a crash is not learned twice.

A version can be published and serve before the learner's own state is written down.  After a
crash the older state goes on from that version, and the lists between the two come again.  Their
time does not tell which of them the version knows: a list with a click is learned when it is
clicked, one without when its window has passed.  So each version says which lists it knows, and
with how many labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from streamrank.features.inputs import Array
from streamrank.learning.examples import Example

MOST = 65_536
"""Lists that are known one by one: far more than come again after a crash."""


@dataclass
class Learned:
    """The lists that were learned from: the newest each by itself, those before by their time.

    Attributes:
        base: Lists scored before this, epoch milliseconds, were learned with all of their
            feedback, as a log that was trained on holds it.
        until: Lists scored before this were learned; corrections of them may still come.
        lists: Those that are known one by one, by hash: when each was scored, and how many
            labels of it were learned.
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
    until: int = 0
    lists: dict[int, tuple[int, int]] = field(default_factory=dict)
    most: int = MOST

    def new_in(self, example: Example) -> Example | None:
        """Return what is to be learned of a list: all of it, a correction of it, or nothing."""
        if example.at < self.base:
            return None
        known = self.lists.get(_name(example))
        if known is None:
            return None if example.at < self.until and not example.revision else example
        if _labels(example) <= known[1]:
            return None
        return dataclasses.replace(example, revision=max(1, example.revision))

    def take(self, examples: Iterable[Example]) -> None:
        """Take in what is learned now; of the oldest only the time stays."""
        self.lists |= {_name(one): (one.at, _labels(one)) for one in examples}
        for name in list(self.lists)[: max(0, len(self.lists) - self.most)]:
            self.until = max(self.until, self.lists.pop(name)[0])

    def arrays(self) -> dict[str, Array]:
        """Return all of it as int64 arrays, for a file."""
        rows = [(name, *known) for name, known in self.lists.items()]
        return {
            "lists": np.array(rows, np.int64).reshape(len(rows), 3),
            "before": np.array([self.base, self.until], np.int64),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Learned:
        """Return what `arrays` gave."""
        base, until = arrays["before"].tolist()
        return cls(
            base, until, {name: (at, labels) for name, at, labels in arrays["lists"].tolist()}
        )


def _name(example: Example) -> int:
    digest = hashlib.blake2b(example.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # a positive int64


def _labels(example: Example) -> int:
    return int(example.labels.sum())
