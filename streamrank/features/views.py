"""Lists of one length side by side, as arrays over lists and candidates, (B, C).

A call of numpy costs more than it works on one list of usual length; so all lists of a batch
share it.  No number of a list depends on which others stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np

from streamrank.features import windows
from streamrank.features.schema import Schema
from streamrank.features.view import Array, Touch, View

_DTYPE = attrgetter("dtype")


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
        """Where each candidate is in its incoming list, (B, C)."""
        return np.broadcast_to(np.arange(self.size, dtype=np.float64), self.shape)

    @cached_property
    def touched(self) -> list[tuple[int, Touch]]:
        """The candidates that were touched, list by list, the last first in each."""
        return [(n, touch) for n, view in enumerate(self.views) for touch in view.past.touched]

    @cached_property
    def cells(self) -> tuple[Array, Array]:
        """List and place of each of `touched`."""
        lists = [n for n, _ in self.touched]
        return np.array(lists, np.int64), np.array([t.place for _, t in self.touched], np.int64)

    @cached_property
    def untouched(self) -> Array:
        """Which candidates were never touched, (B, C)."""
        never = np.ones(self.shape, bool)
        never[self.cells] = False
        return never

    @cached_property
    def last(self) -> Array:
        """Where the candidate touched last is, NaN for none, (B,)."""
        return self._places([[touch.place for touch in v.past.touched[:1]] for v in self.views])

    @cached_property
    def labelled(self) -> Array:
        """Where the candidate that had the label last is, NaN for none, (B,)."""
        return self._places([view.labelled[:1] for view in self.views])

    def highest(self) -> Array:
        """Where the highest candidate that was touched is, NaN for none, (B,)."""
        found = [[touch.place for touch in view.past.touched] for view in self.views]
        return self._places([[min(places)] if places else [] for places in found])

    def lowest(self) -> Array:
        """Where the lowest candidate that was touched is, NaN for none, (B,)."""
        found = [[touch.place for touch in view.past.touched] for view in self.views]
        return self._places([[max(places)] if places else [] for places in found])

    def _places(self, found: Sequence[Sequence[int]]) -> Array:
        return np.array([one[0] if one else np.nan for one in found], np.float64)

    def column(self, cells: tuple[Array, Array], values: Array | float) -> Array:
        """Return values at some cells (list, place), 0 at all others, (B, C)."""
        column = np.zeros(self.shape)
        column[cells] = values
        return column

    def chosen(self, values: Array, places: Array) -> Array:
        """Return the value at one place of each list, NaN where that is NaN, (B,)."""
        found = np.full(self.shape[0], np.nan)
        [known] = np.nonzero(~np.isnan(places))
        found[known] = values[known, places[known].astype(np.int64)]
        return found

    def mean(self, lists: Array, values: Array) -> Array:
        """Return the mean of the values of each list, NaN for none, (B,)."""
        count = np.bincount(lists, minlength=self.shape[0])
        total = np.bincount(lists, values, self.shape[0])
        none = np.full(self.shape[0], np.nan)
        return np.asarray(np.divide(total, count, out=none, where=count > 0))

    def earlier(self) -> Array:
        """How many earlier lists of the user held each candidate, (B, C)."""
        cells = [
            n * self.size + view.places[item]
            for n, view in enumerate(self.views)
            for items in view.earlier
            for item in items
            if item in view.places
        ]
        found = np.bincount(np.array(cells, np.int64), minlength=self.shape[0] * self.size)
        return found.astype(np.float64).reshape(self.shape)

    def held(self) -> tuple[tuple[Array, Array], Array]:
        """Cells of the candidates that the user's last list held, and how far each has risen."""
        found = [
            (n, view.places[item], before - view.places[item])
            for n, view in enumerate(self.views)
            for before, item in enumerate(view.earlier[-1] if view.earlier else ())
            if item in view.places
        ]
        table = np.array(found, np.int64).reshape(len(found), 3)
        return (table[:, 0], table[:, 1]), table[:, 2].astype(np.float64)

    @cached_property
    def windows(self) -> tuple[Array, Array]:
        """When each channel of each candidate was last counted (B, C, channels), and the counts.

        The counts are brought up to the query's time, (horizons, B, C, channels).  A candidate
        without a window has 0.
        """
        horizons, channels = np.asarray(self.schema.horizons), len(self.schema.channels)
        width = windows.width(len(horizons), channels)
        found = [vector for view in self.views for vector in _windows(view)]
        packed = _packed(found, width).reshape(*self.shape, width)
        age = np.maximum(0.0, self.at[:, None] - packed[..., 0])
        decayed = packed[..., 1 + 2 * channels :].reshape(*self.shape, len(horizons), channels)
        counts = decayed * windows.decay(age[..., None], horizons)[..., None]
        return packed[..., 1 + channels : 1 + 2 * channels], counts.transpose(2, 0, 1, 3)

    @cached_property
    def unknown(self) -> Array:
        """Which candidates have no window, (B, C)."""
        known = [[vector is None for vector in _windows(view)] for view in self.views]
        return np.array(known, bool).reshape(self.shape)

    @cached_property
    def user_counts(self) -> Array:
        """The users' counts over the longest horizon, at the query's time, (B, channels)."""
        channels, horizons = len(self.schema.channels), np.asarray(self.schema.horizons)
        vectors = [view.rows.user_window for view in self.views]
        packed = _packed(vectors, windows.width(len(horizons), channels))
        age = np.maximum(0, self.at - packed[:, 0].astype(np.int64))
        return packed[:, -channels:] * windows.decay(age[:, None], horizons)[:, -1:]

    def number(self, name: str) -> Array:
        """A quantity of each candidate, NaN where unknown, (B, C)."""
        return np.array([view.number(name) for view in self.views], np.float64)

    def before(self, name: str) -> Array:
        """The quantity that the user's last list gave for each candidate, NaN for none, (B, C)."""
        found = np.full(self.shape, np.nan)
        for row, view in zip(found, self.views, strict=True):
            for place, value in view.before(name):
                row[place] = value
        return found

    def taste(self, name: str) -> Array:
        """What the users touched, as listed: list, quantity, rank, is it the label, (n, 4)."""
        found = [(n, *one) for n, view in enumerate(self.views) for one in view.taste(name)]
        return np.array(found, np.float64).reshape(len(found), 4)


def _windows(view: View) -> Sequence[Array | None]:
    """Return the windows of a list's candidates, as many as there are candidates."""
    known = view.rows.item_windows
    if len(known) == view.size:
        return known
    return [*known, *[None] * (view.size - len(known))][: view.size]


def _packed(vectors: Sequence[Array | None], width: int) -> Array:
    """Return vectors as one array (n, width), 0 for those that are not there.

    Raises:
        ValueError: One has another width.
    """
    known = [vector for vector in vectors if vector is not None]
    if wrong := set(map(len, known)) - {width}:
        raise ValueError(f"window must hold {width} values, got {wrong.pop()}")
    if set(map(_DTYPE, known)) <= {np.dtype(np.float64)}:
        none = bytes(8 * width)
        # Six times as fast as `np.array`, which asks each of them what it is.
        parts: list[Any] = [none if vector is None else vector for vector in vectors]
        return np.frombuffer(b"".join(parts)).reshape(len(vectors), width)
    packed = np.zeros((len(vectors), width))
    packed[[vector is not None for vector in vectors]] = known
    return packed
