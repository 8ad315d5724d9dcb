"""Lists of one length side by side, as arrays over lists and candidates, (B, C).

A call of numpy costs more than it works on one list of usual length; so all lists of a batch
share it.  No number of a list depends on which others stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import itemgetter

import numpy as np

from streamrank.events import Value
from streamrank.features import items, windows
from streamrank.features.items import Items
from streamrank.features.schema import Schema
from streamrank.features.view import Array, Touch, View

Cells = tuple[Array, Array]
"""List and place of some candidates."""


@dataclass
class Views:
    """Lists of one length, at least one."""

    schema: Schema
    views: Sequence[View]

    @cached_property
    def shape(self) -> tuple[int, int]:
        """How many lists there are, B, and how many candidates each has, C."""
        return len(self.views), self.views[0].size

    @cached_property
    def size(self) -> int:
        """How many candidates each has, C."""
        return self.shape[1]

    @cached_property
    def at(self) -> Array:
        """When each list is scored, (B,)."""
        return np.array([view.query.at for view in self.views], np.int64)

    @cached_property
    def place(self) -> Array:
        """Where each candidate is in its incoming list, (C,)."""
        return np.arange(self.size, dtype=np.float64)

    @cached_property
    def items(self) -> Sequence[Items]:
        """What the store knows of the candidates, by list."""
        return [view.items for view in self.views]

    @cached_property
    def hashes(self) -> Array:
        """Hashes of the candidates' ids, (B, C)."""
        return np.concatenate([some.hashes for some in self.items]).reshape(self.shape)

    # --- what was touched ---------------------------------------------------------------------

    @cached_property
    def touched(self) -> list[tuple[int, Touch]]:
        """The candidates that were touched, list by list, the last first in each."""
        return [(n, touch) for n, view in enumerate(self.views) for touch in view.past.touched]

    @cached_property
    def cells(self) -> Cells:
        """List and place of each of `touched`."""
        lists = [n for n, _ in self.touched]
        return np.array(lists, np.int64), np.array([t.place for _, t in self.touched], np.int64)

    @cached_property
    def is_touched(self) -> Array:
        """Which candidates were ever touched, (B, C)."""
        found = np.zeros(self.shape, bool)
        found[self.cells] = True
        return found

    @cached_property
    def last(self) -> list[int | None]:
        """Where the candidate touched last is, by list."""
        return [v.past.touched[0].place if v.past.touched else None for v in self.views]

    @cached_property
    def labelled(self) -> list[int | None]:
        """Where the candidate that had the label last is, by list."""
        return [view.labelled[0] if view.labelled else None for view in self.views]

    def ends(self) -> tuple[list[int | None], list[int | None]]:
        """Where the highest and the lowest candidates touched are, by list."""
        found = [[touch.place for touch in view.past.touched] for view in self.views]
        highest = [min(places, default=None) for places in found]
        return highest, [max(places, default=None) for places in found]

    @cached_property
    def habit(self) -> Array:
        """The mean place of what had the label in the lists of its time, NaN for none, (B,)."""
        return np.array([view.history.habit for view in self.views], np.float64)

    def tastes(self, name: str) -> Array:
        """What each user touched, by `history.Taste`, (4, B)."""
        found = [view.history.taste(name) for view in self.views]
        return np.array(found, np.float64).T

    # --- sums over lists ----------------------------------------------------------------------

    def chosen(self, values: Array, places: Sequence[int | None]) -> Array:
        """Return the value at one place of each list, NaN for none, (B,)."""
        pairs = zip(values, places, strict=True)
        return np.array([math.nan if place is None else row[place] for row, place in pairs])

    def mean(self, cells: Cells, values: Array) -> Array:
        """Return the mean of some cells' values by list, NaN for none, (B,)."""
        total, count = [0.0] * self.shape[0], [0] * self.shape[0]
        for n, value in zip(cells[0].tolist(), values[cells].tolist(), strict=True):
            total[n] += value
            count[n] += 1
        return np.array([t / n if n else math.nan for t, n in zip(total, count, strict=True)])

    # --- earlier lists ------------------------------------------------------------------------

    def earlier(self) -> Array:
        """Cells of candidates in one row, one for each earlier list that held it."""
        cells: list[int] = []
        for n, view in enumerate(self.views):
            first, places = n * self.size, view.places
            held = chain.from_iterable(map(view.held.intersection, view.earlier[:-1]))
            cells += [first + places[item] for item in held]
            cells += [first + here for _, here in view.again]
        return np.array(cells, np.int64)

    def again(self) -> tuple[Cells, Array]:
        """Cells of the candidates that the user's last list held, and how far each has risen."""
        found = [
            (n, here, there - here)
            for n, view in enumerate(self.views)
            for there, here in view.again
        ]
        table = np.array(found, np.int64).reshape(len(found), 3)
        return (table[:, 0], table[:, 1]), table[:, 2].astype(np.float64)

    # --- what the store knows -----------------------------------------------------------------

    @cached_property
    def windows(self) -> tuple[Array, Array]:
        """When each channel of each candidate was last counted (B, C, channels), and the counts.

        The counts are brought up to the query's time, (B, C, horizons, channels).  A candidate
        without a window has 0.
        """
        horizons, channels = np.asarray(self.schema.horizons), len(self.schema.channels)
        found = np.concatenate([some.windows for some in self.items])
        packed = found.reshape(*self.shape, found.shape[1])
        age = np.maximum(0.0, self.at[:, None] - packed[..., 0])
        decayed = packed[..., 1 + 2 * channels :].reshape(*self.shape, len(horizons), channels)
        counts = decayed * windows.decay(age[..., None], horizons)[..., None]
        return packed[..., 1 + channels : 1 + 2 * channels], counts

    @cached_property
    def unknown(self) -> Array:
        """Which candidates have no window, (B, C)."""
        return np.concatenate([some.unknown for some in self.items]).reshape(self.shape)

    @cached_property
    def user_counts(self) -> Array:
        """The users' counts over the longest horizon, at the query's time, (B, channels)."""
        channels, horizons = len(self.schema.channels), np.asarray(self.schema.horizons)
        vectors = [view.rows.user_window for view in self.views]
        packed = items.packed(vectors, windows.width(len(horizons), channels))
        age = np.maximum(0, self.at - packed[:, 0].astype(np.int64))
        return packed[:, -channels:] * windows.decay(age[:, None], horizons)[:, -1:]

    # --- quantities ---------------------------------------------------------------------------

    @cached_property
    def _listed(self) -> list[Mapping[str, Value]]:
        return [fields for view in self.views for fields in view.listed]

    def number(self, name: str) -> Array:
        """A quantity of each candidate, NaN where unknown, (B, C)."""
        try:
            values = list(map(itemgetter(name), self._listed))
        except KeyError:  # not all of the candidates
            return self._overridden(name)
        if set(map(type, values)) == {float}:
            found = np.fromiter(values, np.float64, len(values))
        else:
            found = np.array([items.number(value) for value in values], np.float64)
        return found.reshape(self.shape)

    def _overridden(self, name: str) -> Array:
        """Return the catalogue's quantity where the list gives none."""
        column = self.schema.numbers.index(name)
        found = np.concatenate([some.numbers[:, column] for some in self.items])
        given = [(n, own[name]) for n, own in enumerate(self._listed) if name in own]
        found[[n for n, _ in given]] = [items.number(value) for _, value in given]
        return found.reshape(self.shape)

    def before(self, name: str) -> tuple[Cells, Array]:
        """Cells of the candidates that the user's last list held, and the quantity it gave."""
        found = [
            (n, place, value)
            for n, view in enumerate(self.views)
            for place, value in view.before(name)
        ]
        table = np.array(found, np.float64).reshape(len(found), 3)
        cells = table[:, :2].astype(np.int64)
        return (cells[:, 0], cells[:, 1]), table[:, 2]
