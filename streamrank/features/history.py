"""What a user's steps say whichever list is scored: worked out once, until the next step."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from streamrank.features.same import Same
from streamrank.features.schema import Schema, hashed
from streamrank.features.state import Step

Array = np.ndarray[Any, Any]
RECENT = 5
"""Items touched last whose followers are looked at."""
_KEPT = 2_000
"""Users whose history is kept, those seen last: some 10 KB each."""


class Taste(NamedTuple):
    """Means over what was touched, as it was listed; NaN for none."""

    log: float  # of the quantity, log scale
    label_log: float  # the same of what had the label
    rank: float
    label_rank: float


@dataclass
class History:
    """What a user did.

    Attributes:
        agos: How many steps ago each item was touched, by item, the last first.
        labelled: Rank of each item among those with the label, the last 0.
        deeds: Interactions since each step, the last step first.
        here: Touches in this session.
    """

    schema: Schema
    steps: tuple[Step, ...]
    session: str | None
    agos: dict[str, list[int]] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    deeds: list[int] = field(default_factory=list)
    here: int = 0

    def __post_init__(self) -> None:
        label, session, since = self.schema.label, self.session, 0
        for ago, step in enumerate(reversed(self.steps)):
            self.deeds.append(since)
            since += step.count
            item = step.item
            if item is None:
                continue
            if step.session == session:
                self.here += step.count
            own = self.agos.get(item)
            if own is None:
                self.agos[item] = [ago]
            else:
                own.append(ago)
            if step.type == label and item not in self.labelled:
                self.labelled[item] = len(self.labelled)

    @cached_property
    def ranks(self) -> dict[str, int]:
        """How many items were touched since each."""
        return dict(zip(self.agos, range(len(self.agos)), strict=True))

    @cached_property
    def items(self) -> frozenset[str]:
        """The items that were touched."""
        return frozenset(self.agos)

    @cached_property
    def recent(self) -> list[str]:
        """The different items that were touched last, the last first."""
        return [item for item in self.agos if item][:RECENT]

    @cached_property
    def table(self) -> Array:
        """The steps that the model sees, int64 (7, H).

        Hash of the item, type, hash of the value; first, last, count, in this session.
        """
        channels = {name: place for place, name in enumerate(self.schema.interactions, 1)}
        other, session = len(channels) + 1, self.session
        rows = [
            (
                hashed(step.item) if step.item else 0,
                channels.get(step.type, other),
                hashed(step.value) if step.value else 0,
                step.first,
                step.last,
                step.count,
                step.session == session,
            )
            for step in self.steps[-self.schema.history :]
        ]
        return np.ascontiguousarray(np.array(rows, np.int64).reshape(len(rows), 7).T)

    @cached_property
    def habit(self) -> float:
        """The mean place of what had the label in the lists of its time, NaN for none."""
        label = self.schema.label
        places = [step.place for step in self.steps if step.place >= 0 and step.type == label]
        return sum(places) / len(places) if places else float("nan")

    @cached_property
    def _tastes(self) -> dict[str, Taste]:
        label = self.schema.label
        found: dict[str, list[tuple[float, float, bool]]] = {}
        for step in self.steps:
            for number in step.numbers:
                one = (number.value, number.rank, step.type == label)
                found.setdefault(number.name, []).append(one)
        return {name: _taste(np.array(rows, np.float64).T) for name, rows in found.items()}

    def taste(self, name: str) -> Taste:
        """Return what was touched, as its lists gave it for a quantity."""
        return self._tastes.get(name, _NO_TASTE)


_NO_TASTE = Taste(*[float("nan")] * 4)


def _taste(table: Array) -> Taste:
    values, rank, chosen = table
    logs, label = np.sign(values) * np.log1p(np.abs(values)), chosen > 0
    return Taste(_mean(logs), _mean(logs[label]), _mean(rank), _mean(rank[label]))


def _mean(values: Array) -> float:
    """Return the mean, added up one after the other."""
    return float(np.add.accumulate(values)[-1] / len(values)) if len(values) else float("nan")


def told(schema: Schema, steps: tuple[Step, ...], session: str | None) -> History:
    """Return what these steps say; of the same ones it is kept."""
    return _told(Same(schema), Same(steps), session)


def forget() -> None:
    """Keep nothing of what was told before."""
    _told.cache_clear()


@lru_cache(maxsize=_KEPT)
def _told(schema: Same[Schema], steps: Same[tuple[Step, ...]], session: str | None) -> History:
    return History(schema.it, steps.it, session)
