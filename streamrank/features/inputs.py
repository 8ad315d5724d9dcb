"""State and rows in, model inputs out: the one function of serving, training and bootstrap.

The dense features are defined in `features.dense`; here they join the history, the hashed ids
and the hashed words.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from streamrank.features.columns import Feature
from streamrank.features.compiled import IntegerTable, Numbers, compiled
from streamrank.features.dense import (
    candidate_numbers,
    context_features,
    context_numbers,
    features,
)
from streamrank.features.items import TOKENS, padded, worded, words
from streamrank.features.schema import Schema
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
    return _history(view) | {
        "candidate_items": view.items.hashes,
        "candidate_tokens": _candidate_tokens(view),
        "candidate_numbers": candidate_numbers(view),
        "context_tokens": _context_tokens(view),
        "context_numbers": context_numbers(view),
    }


def _candidate_tokens(view: View) -> Array:
    names = worded(view.schema)
    if not names or not view.size:
        return np.zeros((view.size, 0), np.int64)
    known, listed = view.items, view.listed
    if any(name in own for own in listed for name in names):  # the list's override the catalogue's
        pairs = zip(known.fields, listed, strict=True)
        return padded([words(view.schema.item, {**old, **own}) for old, own in pairs])
    return known.tokens[:, : known.counts.max()]


def _context_tokens(view: View) -> Array:
    schema = view.schema
    of_list, of_user = view.query.context, view.rows.user_fields
    tokens = words(schema.context, of_list) + words(schema.user, of_user)
    return np.array(tokens[:TOKENS], np.int64)


def _history(view: View) -> Inputs:
    table = view.history.table
    places = np.zeros(table.shape[1], np.int64)
    agos, seen = view.history.agos, len(places)
    for item in view.met:
        for ago in agos[item]:
            if ago < seen:
                places[seen - 1 - ago] = 1 + view.places[item]
    return {
        "history_items": table[0],
        "history_types": table[1],
        "history_places": places,
        "history_values": table[2],
        "history_numbers": _history_numbers(table, view.query.at),
    }


@compiled
def _history_numbers(table: IntegerTable, at: int) -> Numbers:
    """Return what is told of each step, of `History.table`."""
    first, last, count, here = table[3], table[4], table[5], table[6]
    found = np.empty((len(first), STEP_NUMBERS), np.float32)
    following = at
    for n in range(len(first) - 1, -1, -1):
        found[n, 0] = math.log1p(max(0, at - last[n]) / 1000)
        found[n, 1] = math.log1p(max(0, following - last[n]) / 1000)
        found[n, 2] = math.log1p(count[n])
        found[n, 3] = here[n]
        following = first[n]
    return found


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
