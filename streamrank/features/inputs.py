"""State and rows in, model inputs out: the one function of serving, training and bootstrap.

The dense features are defined in `features.dense`; here they join the history, the hashed ids
and the hashed words.
"""

from __future__ import annotations

import hashlib
import re
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

__all__ = [
    "STEP_NUMBERS",
    "TOKENS",
    "Array",
    "Feature",
    "Inputs",
    "Query",
    "Rows",
    "build",
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
    view = View(schema, query, rows)
    worded = {name: kind for name, kind in schema.item.items() if kind != "number"}
    tokens = [words(worded, fields) for fields in view.fields] if worded else [()] * view.size
    context = words(schema.context, query.context) + words(schema.user, rows.user_fields)
    return _history(view) | {
        "candidate_items": np.array([hashed(item) for item in view.ids], np.int64),
        "candidate_tokens": padded(tokens),
        "candidate_numbers": candidate_numbers(view),
        "context_tokens": padded([context])[0],
        "context_numbers": context_numbers(view),
    }


def _history(view: View) -> Inputs:
    steps = view.query.state.steps[-view.schema.history :]
    at, session, places = view.query.at, view.query.session, view.places
    channels = {name: place for place, name in enumerate(view.schema.interactions, 1)}
    other = len(channels) + 1
    # item, type, place, value; first, last, count, in this session
    rows = [
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
        for step in steps
    ]
    table = np.array(rows, np.int64).reshape(len(rows), 8)
    first, last = table[:, 4], table[:, 5]
    following = np.append(first[1:], at)[: len(rows)]
    seconds = np.maximum(0, np.stack([at - last, following - last])) / 1000
    numbers = np.stack([*np.log1p(seconds), np.log1p(table[:, 6]), table[:, 7]], axis=1)
    names = ("history_items", "history_types", "history_places", "history_values")
    columns = np.ascontiguousarray(table[:, :4].T)
    return dict(zip(names, columns, strict=True)) | {"history_numbers": numbers.astype(np.float32)}


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
