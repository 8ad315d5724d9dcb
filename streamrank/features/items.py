"""What the store knows of items, as arrays: what the features of a candidate begin with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np

from streamrank.events import Value
from streamrank.features import windows
from streamrank.features.schema import Schema, hashed

Array = np.ndarray[Any, Any]
TOKENS = 16
"""Content tokens of an item, and of a list's context, that the model sees at most."""
_DTYPE = attrgetter("dtype")
_NOTHING: Mapping[str, Value] = {}


@dataclass(frozen=True, slots=True)
class Items:
    """N items, one after the other; slices of it are lists.

    Attributes:
        hashes: Hash of the id, int64 (N,).
        windows: As `windows.pack` lays them out, 0 for unknown, (N, width).
        unknown: Which have no window, (N,).
        numbers: The quantities of the schema, NaN for unknown, (N, quantities).
        tokens: Hashed words of the other fields, filled with 0, int64 (N, TOKENS); (N, 0) where
            the schema has none.
        counts: How many these are, int64 (N,).
        fields: The catalogue's fields where some hold words, else nothing.
    """

    hashes: Array
    windows: Array
    unknown: Array
    numbers: Array
    tokens: Array
    counts: Array
    fields: Sequence[Mapping[str, Value]]

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.hashes)

    def take(self, places: Array) -> Items:
        """Return the items at these places."""
        return Items(
            self.hashes[places],
            self.windows[places],
            self.unknown[places],
            self.numbers[places],
            self.tokens[places],
            self.counts[places],
            [self.fields[place] for place in places.tolist()] if len(self.fields) else (),
        )

    def part(self, start: int, end: int) -> Items:
        """Return some that stand together."""
        own = slice(start, end)
        return Items(
            self.hashes[own],
            self.windows[own],
            self.unknown[own],
            self.numbers[own],
            self.tokens[own],
            self.counts[own],
            self.fields[own],
        )


def encode(
    schema: Schema,
    ids: Sequence[str],
    vectors: Sequence[Array | None],
    fields: Sequence[Mapping[str, Value] | None],
) -> Items:
    """Return items as arrays.

    Args:
        schema: Which fields, interaction types and horizons exist.
        ids: The items' ids.
        vectors: Their windows, `None` for unknown.
        fields: Their fields in the catalogue, `None` for unknown.

    Raises:
        ValueError: A window has another width than the schema says.
    """
    known, names = [one or _NOTHING for one in fields], schema.numbers
    found = [words(schema.item, one)[:TOKENS] for one in known] if worded(schema) else []
    numbers = [[number(one.get(name)) for one in known] for name in names]
    return Items(
        np.array([hashed(item) for item in ids], np.int64),
        packed(vectors, windows.width(len(schema.horizons), len(schema.channels))),
        np.array([vector is None for vector in vectors], bool),
        np.array(numbers, np.float64).reshape(len(names), len(ids)).T,
        padded(found, TOKENS) if found else np.zeros((len(ids), 0), np.int64),
        np.array([len(one) for one in found] or [0] * len(ids), np.int64),
        known if worded(schema) else (),
    )


def writable(some: Items) -> Items:
    """Return items that `write` may change."""
    return replace(some, windows=some.windows.copy(), fields=list(some.fields))


def write(table: Items, places: Array, some: Items) -> None:
    """Put items at these places of a table that `writable` made."""
    table.hashes[places], table.unknown[places] = some.hashes, some.unknown
    table.windows[places], table.numbers[places] = some.windows, some.numbers
    table.tokens[places], table.counts[places] = some.tokens, some.counts
    if isinstance(table.fields, list):
        for place, fields in zip(places.tolist(), some.fields, strict=False):
            table.fields[place] = fields


def without_windows(some: Items, which: Array) -> Items:
    """Return items of which some have no window."""
    vectors = np.where(which[:, None], 0.0, some.windows)
    return replace(some, windows=vectors, unknown=some.unknown | which)


def without_fields(some: Items, which: Array) -> Items:
    """Return items of which some have no fields."""
    fields = [_NOTHING if no else one for no, one in zip(which.tolist(), some.fields, strict=False)]
    return replace(
        some,
        numbers=np.where(which[:, None], np.nan, some.numbers),
        tokens=np.where(which[:, None], 0, some.tokens),
        counts=np.where(which, 0, some.counts),
        fields=fields,
    )


def packed(vectors: Sequence[Array | None], width: int) -> Array:
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
    found = np.zeros((len(vectors), width))
    found[[vector is not None for vector in vectors]] = known
    return found


def number(value: Value) -> float:
    """Return a quantity, NaN where the value is none."""
    return float(value) if isinstance(value, (int, float)) else math.nan


# --- words ------------------------------------------------------------------------------------

_WORD = re.compile(r"\w+")


def worded(schema: Schema) -> list[str]:
    """Return the item fields that hold words."""
    return [name for name, kind in schema.item.items() if kind != "number"]


def words(kinds: Mapping[str, str], fields: Mapping[str, Value]) -> list[int]:
    """Hash the words of the known, non-numeric fields: `name=value`, or each word of a text."""
    if not fields:
        return []
    return [
        token
        for name, kind in kinds.items()
        if kind != "number" and fields.get(name) is not None
        for token in _tokens(name, kind, fields[name])
    ]


@lru_cache(maxsize=100_000, typed=True)  # or True would be 1.0
def _tokens(name: str, kind: str, value: Value) -> tuple[int, ...]:
    if kind == "text":
        parts = _WORD.findall(str(value).lower())
    else:
        parts = [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
    return tuple(hashed(f"{name}={part}") for part in parts)


def padded(lists: Sequence[Sequence[int]], longest: int | None = None) -> Array:
    """Return hashed words as one array, filled with 0 to the longest, at most TOKENS."""
    if longest is None:
        longest = min(TOKENS, max(map(len, lists), default=0))
    array = np.zeros((len(lists), longest), np.int64)
    for row, tokens in zip(array, lists, strict=True):
        row[: len(tokens)] = tokens[:longest]
    return array
