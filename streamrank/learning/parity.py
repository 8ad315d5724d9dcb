"""Does the model see in serving what the learner thinks it saw?

Of a sample of users the learn flow follows the behaviour itself, from the same events, and
builds the inputs of their lists once more; and it scores what was logged with the version that
served.  What can be built from events alone is compared: the history, the candidates, and the
features of the list, the quantities and the touches.  Windows and catalogue rows are read from the
online store, which has moved on since, so what they enter is left out, by name.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from streamrank.features.inputs import Array, Inputs, context_features, features
from streamrank.features.schema import Schema

TOLERANCE = 1e-4
"""How far a number may be from what was served."""
SCORES = 1e-3
"""How far a score may be."""
ENOUGH = 100
"""Lists before the share that differs is worth looking at."""
RECENT = 1000
"""The newest lists that it is a share of."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of comparing one list.

    Attributes:
        list_id: Which one.
        differing: Names of what differs: features, arrays, `scores`.
        compared: How many names were compared.
    """

    list_id: str
    differing: tuple[str, ...]
    compared: int


@dataclass
class Parity:
    """The share of the compared lists that differed, and whether that is too many.

    Attributes:
        limit: The largest share that may differ.
        lists: Lists compared so far.
        mismatched: How many of them differed.
        by_name: In how many lists each name differed.
        recent: Of the newest lists, whether each differed.
    """

    limit: float = 0.05
    lists: int = 0
    mismatched: int = 0
    by_name: Counter[str] = field(default_factory=Counter)
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))

    def take(self, one: Compared) -> None:
        """Count a list that was compared."""
        self.lists += 1
        self.mismatched += bool(one.differing)
        self.by_name.update(one.differing)
        self.recent.append(bool(one.differing))

    @property
    def rate(self) -> float:
        """Return the share of the newest lists that differed."""
        return sum(self.recent) / max(1, len(self.recent))

    @property
    def stopped(self) -> str | None:
        """Return why nothing may be published, `None` where it may.

        Examples:
            >>> parity = Parity(limit=0.1)
            >>> for number in range(100):
            ...     parity.take(Compared(f"r{number}", ("touch.recency",) * (number < 13), 40))
            >>> parity.stopped
            '13 of the newest 100 lists differ from what was served (most often touch.recency), \
more than 0.1'
        """
        if len(self.recent) < ENOUGH or self.rate <= self.limit:
            return None
        [(name, _), *_] = self.by_name.most_common(1)
        return (
            f"{sum(self.recent)} of the newest {len(self.recent)} lists differ from what was "
            f"served (most often {name}), more than {self.limit:g}"
        )

    def copy(self) -> Parity:
        """Return one that does not change when this one does."""
        return Parity(
            self.limit, self.lists, self.mismatched, self.by_name.copy(), self.recent.copy()
        )

    def figures(self) -> Mapping[str, object]:
        """Return what a report and the metrics say of it."""
        return {
            "lists": self.lists,
            "mismatched": self.mismatched,
            "rate": self.rate,
            "by_name": dict(self.by_name.most_common()),
            "stopped": self.stopped,
        }


# --- one list ---------------------------------------------------------------------------------

ARRAYS = ("history_items", "history_types", "history_values", "history_numbers", "candidate_items")
"""What events alone decide, but for the features."""
GROUPS = ("list.", "touch.", "offset.", "seen.", "session.", "step.")
"""How the features begin that events alone decide; the others enter windows or the catalogue."""


def comparable(schema: Schema) -> list[str]:
    """Return the names of what can be compared."""
    known = features(schema) + context_features(schema)
    return [*ARRAYS, *(f.name for f in known if f.name.startswith(GROUPS))]


def differences(schema: Schema, served: Inputs, rebuilt: Inputs) -> tuple[str, ...]:
    """Return the names of what differs between what was served and what was built again.

    Args:
        schema: What the inputs are made of.
        served: The inputs as they were logged.
        rebuilt: The inputs as the events give them.
    """
    found = [name for name in ARRAYS if not _same(served.get(name), rebuilt[name])]
    for name, known in (
        ("candidate_numbers", features(schema)),
        ("context_numbers", context_features(schema)),
    ):
        if served.get(name) is None or served[name].shape != rebuilt[name].shape:
            found.append(name)
            continue
        apart = np.abs(served[name] - rebuilt[name]).reshape(-1, len(known))
        columns = ~(apart <= TOLERANCE).all(0)
        found += [
            feature.name
            for feature, differs in zip(known, columns, strict=True)
            if differs and feature.name.startswith(GROUPS)
        ]
    return tuple(found)


def scores_differ(served: Array, scored: Array) -> bool:
    """Say whether scores are others than those that were served."""
    return served.shape != scored.shape or not bool(np.all(np.abs(served - scored) <= SCORES))


def _same(one: Array | None, other: Array) -> bool:
    if one is None or one.shape != other.shape:
        return False
    return bool(np.all(np.abs(one - other) <= TOLERANCE))
