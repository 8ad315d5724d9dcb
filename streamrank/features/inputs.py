"""State and rows in, model inputs out: the one function of serving, training and bootstrap.

The dense features are defined in `features.dense`; here they join the history, the hashed ids
and the hashed words.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from streamrank.events import Value
from streamrank.features.dense import (
    Feature,
    candidate_numbers,
    context_features,
    context_numbers,
    features,
)
from streamrank.features.schema import Schema, hashed
from streamrank.features.view import Array, Query, Rows, View
from streamrank.features.views import Views

__all__ = [
    "STEP_NUMBERS",
    "TOKENS",
    "Array",
    "Feature",
    "Inputs",
    "Query",
    "Rows",
    "build",
    "build_all",
    "context_features",
    "digest",
    "features",
    "stack",
]

Inputs = dict[str, Array]
TOKENS = 16
"""Content tokens of an item, and of a list's context, that the model sees at most."""
STEP_NUMBERS = 4
"""Numbers of a step of history."""
_MOST_CELLS = 4_096
"""Candidates of lists that are built together: their columns stay in the processor's cache."""


def digest(schema: Schema) -> str:
    """Return the hash that says which features a model was made for."""
    known = features(schema) + context_features(schema)
    table = "\n".join(f"{f.name}: {f.meaning}" for f in known)
    return hashlib.sha256(f"{schema.encode()}\n{table}".encode()).hexdigest()[:16]


# --- the whole --------------------------------------------------------------------------------


def build(schema: Schema, query: Query, rows: Rows) -> Inputs:
    """Turn state and rows into what the model reads.

    Args:
        schema: Which fields, interaction types and horizons exist.
        query: The list to score, with the user's state before it.
        rows: What the store knows of the user and the candidates.

    Returns:
        Arrays of one list, with H steps of history, oldest first, C candidates in incoming
        order and F = `len(features(schema))`:

        - `history_items`, `history_types`, `history_places`, `history_values`: int64 (H,).
          Hash of the item; 1 + index of the type; 1 + the item's place in this list, 0 where
          it is not in it; hash of the deed's own fields.
        - `history_numbers`: float32 (H, STEP_NUMBERS): log seconds since, log seconds to the
          next step, log count, whether in this session.
        - `candidate_items`: int64 (C,); `candidate_tokens`: int64 (C, T), hashed words of
          the fields, T at most TOKENS; `candidate_numbers`: float32 (C, F).
        - `context_tokens`: int64 (T,), hashed words of the list and the user;
          `context_numbers`: float32 (G,), G = `len(context_features(schema))`.

    Raises:
        ValueError: A row has another shape than the schema says.
    """
    return build_all(schema, [(query, rows)])[0]


def build_all(schema: Schema, lists: Sequence[tuple[Query, Rows]]) -> list[Inputs]:
    """Do what `build` does for many lists: those of one length share the work.

    Raises:
        ValueError: A row has another shape than the schema says.
    """
    by_size = defaultdict[int, list[int]](list)
    for place, (query, _) in enumerate(lists):
        by_size[len(query.candidates)].append(place)
    found: list[Inputs] = [{}] * len(lists)
    for size, places in by_size.items():
        step = max(1, _MOST_CELLS // max(1, size))
        for start in range(0, len(places), step):
            some = places[start : start + step]
            built = _built(schema, [View(schema, *lists[place]) for place in some])
            for place, one in zip(some, built, strict=True):
                found[place] = one
    return found


def _built(schema: Schema, views: Sequence[View]) -> list[Inputs]:
    """Build the inputs of lists of one length."""
    side = Views(schema, views)
    numbers, context = candidate_numbers(side), context_numbers(side)
    ids = np.array([[hashed(item) for item in view.ids] for view in views], np.int64)
    return [
        history
        | {
            "candidate_items": items,
            "candidate_tokens": _candidate_tokens(view),
            "candidate_numbers": own,
            "context_tokens": _context_tokens(view),
            "context_numbers": shared,
        }
        for view, history, items, own, shared in zip(
            views, _histories(schema, views), ids, numbers, context, strict=True
        )
    ]


def _candidate_tokens(view: View) -> Array:
    worded = {name: kind for name, kind in view.schema.item.items() if kind != "number"}
    if not worded:
        return np.zeros((view.size, 0), np.int64)
    return padded([words(worded, fields) for fields in view.fields])


def _context_tokens(view: View) -> Array:
    schema = view.schema
    of_list, of_user = view.query.context, view.rows.user_fields
    [tokens] = padded([words(schema.context, of_list) + words(schema.user, of_user)])
    return np.asarray(tokens)


def _histories(schema: Schema, views: Sequence[View]) -> list[Inputs]:
    """Return the steps of each list, as arrays: one after the other in one table, then cut."""
    channels = {name: place for place, name in enumerate(schema.interactions, 1)}
    other = len(channels) + 1
    # item, type, place, value; first, last, count, in this session
    rows: list[tuple[int, ...]] = []
    ends: list[int] = []
    for view in views:
        session, places = view.query.session, view.places
        rows += [
            (
                hashed(step.item) if step.item else 0,
                channels.get(step.type, other),
                1 + places.get(step.item or "", -1),
                hashed(step.value) if step.value else 0,
                step.first,
                step.last,
                step.count,
                step.session == session,
            )
            for step in view.query.state.steps[-schema.history :]
        ]
        ends.append(len(rows))
    table = np.array(rows, np.int64).reshape(len(rows), 8)
    sizes = np.diff(ends, prepend=0)
    at = np.repeat([view.query.at for view in views], sizes)
    following = np.append(table[1:, 4], 0)[: len(rows)]
    newest = np.array(ends)[sizes > 0] - 1
    following[newest] = at[newest]
    seconds = np.maximum(0, np.stack([at - table[:, 5], following - table[:, 5]])) / 1000
    numbers = np.stack([*np.log1p(seconds), np.log1p(table[:, 6]), table[:, 7]], axis=1)
    names = ("history_items", "history_types", "history_places", "history_values")
    columns = np.ascontiguousarray(table[:, :4].T)
    tables = dict(zip(names, columns, strict=True)) | {
        "history_numbers": numbers.astype(np.float32)
    }
    return [
        {name: whole[end - size : end] for name, whole in tables.items()}
        for end, size in zip(ends, sizes.tolist(), strict=True)
    ]


_WORD = re.compile(r"\w+")


def words(kinds: Mapping[str, str], fields: Mapping[str, Value]) -> list[int]:
    """Hash the words of the known, non-numeric fields: `name=value`, or each word of a text."""
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


def padded(lists: Sequence[Sequence[int]]) -> Array:
    """Return hashed words as one array, filled with 0 to the longest, at most TOKENS."""
    longest = min(TOKENS, max(map(len, lists), default=0))
    array = np.zeros((len(lists), longest), np.int64)
    for row, tokens in zip(array, lists, strict=True):
        row[: len(tokens)] = tokens[:longest]
    return array


def stack(batch: Sequence[Inputs]) -> Inputs:
    """Pad lists of different length into one batch.

    Args:
        batch: The inputs of B lists, at least one.

    Returns:
        The same names with a leading batch axis: histories are padded at the front, so that
        the newest step is always last, candidates at the end, both with 0.
    """
    return {name: _padded(name, [inputs[name] for inputs in batch]) for name in batch[0]}


def _padded(name: str, arrays: Sequence[Array]) -> Array:
    """Put arrays of different length into one, with no axis of length 0 but the features'."""
    shapes = [array.shape for array in arrays]
    if all(shapes[0]) and shapes.count(shapes[0]) == len(shapes):  # nothing to pad
        return np.stack(arrays)
    longest = [max(1, max(sizes)) for sizes in zip(*shapes, strict=True)]
    filled = np.zeros((len(arrays), *longest), arrays[0].dtype)
    front = name.startswith("history")
    for row, array in zip(filled, arrays, strict=True):
        first = slice(len(row) - len(array), None) if front else slice(len(array))
        row[(first, *map(slice, array.shape[1:]))] = array
    return filled
