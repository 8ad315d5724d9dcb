"""The door to the feature store: rows in, rows out, in batches.

`MemoryStore` is the twin of `edges.feast.FeastStore`; both pass the same contract test.

    StoreError               anything below
    ├── StoreUnreachable     the store does not answer
    └── StoreRefused         it answers, and says no
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Literal, Protocol, get_args

import numpy as np

from streamrank.errors import StreamRankError
from streamrank.events import Value
from streamrank.features.inputs import Array
from streamrank.features.schema import FieldKind, Schema

log = logging.getLogger(__name__)

View = Literal["item_windows", "user_windows", "item_next", "item_fields", "user_fields", "popular"]
VIEWS: tuple[View, ...] = get_args(View)
VECTORS: tuple[View, ...] = ("item_windows", "user_windows", "item_next")
"""Views whose values are one vector; those of all others are fields by name."""
Values = Array | Mapping[str, Value]
"""A packed window (`features.windows.pack`) for `*_windows`, packed transitions
(`features.transitions.pack`) for `item_next`, else fields by name."""


class StoreError(StreamRankError):
    """Something is wrong with the feature store; the text says what, and what to do."""


class StoreUnreachable(StoreError):
    """The store does not answer."""


class StoreRefused(StoreError):
    """The store answers, and says no: a wrong password, a full disk, a broken file."""


@dataclass(frozen=True, slots=True)
class Row:
    """The newest values of one entity in one view.

    Attributes:
        view: Which feature view.
        key: Item id, user key, or `"all"` for `popular`.
        at: Event time of the newest event in it, epoch milliseconds.
        revision: Microseconds to add, so that each row of a key is newer than the one before.
        values: What is known.
    """

    view: View
    key: str
    at: int
    revision: int
    values: Values

    @property
    def stamp(self) -> int:
        """The event timestamp that orders the rows of a key, epoch microseconds."""
        return self.at * 1000 + self.revision


class FeatureStore(Protocol):
    """Where the features flow writes and the rank flow reads."""

    def write(self, rows: Sequence[Row]) -> None:
        """Keep these rows, each one replacing an older one of its view and key."""

    def read(self, view: View, keys: Sequence[str], at: int) -> list[Values | None]:
        """Return the values by key, `None` where missing or, at `at` (ms), past their TTL."""

    def flush(self) -> None:
        """Put what still waits in memory to where it lasts."""

    @property
    def degraded(self) -> bool:
        """Whether what was read last may be old or missing, as nobody answered."""


class RowStore(FeatureStore, Protocol):
    """A store that also gives out whole rows, for `edges.cache.CachedStore`."""

    @property
    def ttl(self) -> timedelta:
        """How old values may be."""

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        """Return the newest rows by key, however old, `None` where there is none."""


class MemoryStore:
    """A feature store in this process, for `replay`, the demo and tests.

    Args:
        schema: Which fields of items and users there are; no other is kept.
        ttl: How old values may be.
    """

    def __init__(self, schema: Schema, ttl: timedelta) -> None:
        self.ttl = ttl
        self.degraded = False
        self._kinds = kinds_of(schema)
        self._rows: dict[tuple[View, str], Row] = {}

    def write(self, rows: Sequence[Row]) -> None:
        """Keep these rows, each one replacing an older one of its view and key."""
        for row in newest(rows):
            known = self._rows.get((row.view, row.key))
            if known is None or known.stamp < row.stamp:
                self._rows[row.view, row.key] = conform(row, self._kinds)

    def read(self, view: View, keys: Sequence[str], at: int) -> list[Values | None]:
        """Return the values by key, `None` where missing or, at `at` (ms), past their TTL."""
        return fresh(self.rows(view, keys), at, self.ttl)

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        """Return the newest rows by key, however old, `None` where there is none."""
        return [self._rows.get((view, key)) for key in keys]

    def flush(self) -> None:
        """Nothing waits here."""


Kinds = Mapping[View, Mapping[str, FieldKind]]


def kinds_of(schema: Schema) -> Kinds:
    """Return the kind of each field that is kept, by view."""
    return {
        "item_fields": schema.item,
        "user_fields": schema.user,
        "popular": {"items": "text_list"},
    }


def newest(rows: Iterable[Row]) -> list[Row]:
    """Return the newest row of each view and key; of two with one stamp, the first."""
    found: dict[tuple[View, str], Row] = {}
    for row in rows:
        known = found.setdefault((row.view, row.key), row)
        if known.stamp < row.stamp:
            found[row.view, row.key] = row
    return list(found.values())


def fresh(rows: Iterable[Row | None], at: int, ttl: timedelta) -> list[Values | None]:
    """Return the values of rows, `None` where missing or, at `at` (ms), past their TTL.

    No online store that we know enforces a TTL; every reader goes through here instead.
    """
    oldest = at * 1000 - ttl // timedelta(microseconds=1)
    # `row.stamp`, written out: this runs for every candidate.
    return [
        None if row is None or row.at * 1000 + row.revision < oldest else row.values for row in rows
    ]


def conform(row: Row, kinds: Kinds) -> Row:
    """Return a row as it is kept: the configured fields alone, each one of its kind.

    Raises:
        ValueError: A row of such a view does not hold a vector.

    Examples:
        >>> row = Row("item_fields", "i1", 10**12, 0, {"price": True, "tags": "beach", "x": 1.0})
        >>> kinds: Kinds = {"item_fields": {"price": "number", "tags": "text_list"}}
        >>> conform(row, kinds).values
        {'price': 1.0, 'tags': ('beach',)}
    """
    if row.view in VECTORS:
        if not isinstance(row.values, np.ndarray):
            raise ValueError(f"{row.view} of {row.key!r} must be a vector, got {row.values!r}")
        return row
    if isinstance(row.values, np.ndarray):
        raise ValueError(f"{row.view} of {row.key!r} must be fields by name, got a vector")
    configured = kinds[row.view]
    for name in row.values.keys() - configured.keys():
        _report(row.view, name)
    values = {name: as_kind(row.values.get(name), kind) for name, kind in configured.items()}
    return replace(row, values={name: value for name, value in values.items() if value is not None})


@lru_cache(maxsize=1_000)
def _report(view: View, name: str) -> None:
    """Say once that a field is not kept: state from before a change of settings may hold it."""
    log.warning("%s: field %r is not configured, and not stored", view, name)


def as_kind(value: Value, kind: FieldKind) -> Value:
    """Return a value as its kind keeps it; `None` where a number was wanted and is not there.

    Examples:
        >>> as_kind(True, "number"), as_kind("71", "number"), as_kind(5.0, "category")
        (1.0, None, '5.0')
        >>> as_kind("sea", "text_list"), as_kind(("a", "b"), "text")
        (('sea',), 'a b')
    """
    if value is None:
        return None
    if kind == "number":
        return float(value) if isinstance(value, (bool, int, float)) else None
    words = tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
    return words if kind == "text_list" else " ".join(words)
