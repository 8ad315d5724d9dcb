"""What people did with items, one after another: what retrieval learns from, and is asked with."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from streamrank.features.schema import Schema
from streamrank.features.state import Step
from streamrank.features.view import Array


@dataclass(frozen=True, slots=True)
class Trail:
    """The items that a user touched, oldest first, and by what deed.

    Attributes:
        items: Ids, H of them.
        types: 1 + `Schema.channel` of each deed, as many.
    """

    items: tuple[str, ...]
    types: tuple[int, ...]


@runtime_checkable
class Finder(Protocol):
    """Finds candidates out of a whole catalogue: what is asked with trails, a batch at a time."""

    def find(self, trails: Sequence[Trail], count: int) -> list[list[str]]:
        """Return at most `count` items for each user, best first, and none that were touched."""


def trail_of(schema: Schema, steps: Iterable[Step]) -> Trail:
    """Return the trail that a user's steps leave; those on no item leave none.

    Examples:
        >>> steps = [Step("click", "a", None, 0, 0), Step("search", None, None, 1, 1)]
        >>> trail_of(Schema(("click",)), steps)
        Trail(items=('a',), types=(1,))
    """
    touched = [(step.item, 1 + schema.channel(step.type)) for step in steps if step.item]
    return Trail(tuple([item for item, _ in touched]), tuple([kind for _, kind in touched]))


def history(items: Array, types: Array) -> dict[str, Array]:
    """Return a trail as a sequence model takes it, in training and in serving.

    A run of deeds on one item is one step, of its last type: what comes next is another item.

    Args:
        items: Places in a catalogue from 1, (n,); 0 for what is not in it, which is left out.
        types: Of the deeds, from 1, (n,).

    Returns:
        `items` and `types`, int64 (H,), H at most n.

    Examples:
        >>> found = history(np.array([4, 4, 0, 4, 7, 4]), np.array([1, 2, 1, 3, 1, 2]))
        >>> found["items"].tolist(), found["types"].tolist()
        ([4, 7, 4], [3, 1, 2])
    """
    known = items > 0
    items, types = items[known], types[known]
    ends = np.append(items[1:] != items[:-1], True)[: len(items)]
    return {"items": items[ends], "types": types[ends]}


@dataclass
class Trails:
    """The trails of all people in a log, kept small: 24 bytes a deed."""

    _numbers: dict[str, int] = field(default_factory=dict, init=False)
    """Of each item, in the order in which they came."""
    _deeds: dict[str, array[int]] = field(default_factory=dict, init=False)
    """Of each user: time, number of the item and type, again and again."""

    def __len__(self) -> int:
        """Return how many people left one."""
        return len(self._deeds)

    def take(self, user: str, at: int, item: str, kind: int) -> None:
        """Take a deed in.

        Args:
            user: Whose it is.
            at: When, ms; a late one is put where it belongs.
            item: On what.
            kind: 1 + `Schema.channel` of it.
        """
        number = self._numbers.setdefault(item, len(self._numbers))
        self._deeds.setdefault(user, array("q")).extend((at, number, kind))

    def catalogue(self, most: int) -> tuple[str, ...]:
        """Return the items that were touched most often, at most so many, the first one first."""
        names = list(self._numbers)
        touched = [numbers for numbers, _ in self._in_time()]
        counts = np.bincount(np.concatenate(touched) if touched else [])
        return tuple([names[place] for place in np.argsort(-counts, kind="stable")[:most]])

    def histories(self, catalogue: Iterable[str]) -> list[dict[str, Array]]:
        """Return the trails as a sequence model takes them, items from 1 as in the catalogue."""
        places = np.zeros(len(self._numbers), np.int64)
        for place, item in enumerate(catalogue, 1):
            places[self._numbers[item]] = place
        return [history(places[numbers], types) for numbers, types in self._in_time()]

    def _in_time(self) -> Iterator[tuple[Array, Array]]:
        """Give each user's items and types, the oldest first."""
        for deeds in self._deeds.values():
            at, numbers, types = np.array(deeds, np.int64).reshape(-1, 3).T
            order = np.argsort(at, kind="stable")
            yield numbers[order], types[order]
