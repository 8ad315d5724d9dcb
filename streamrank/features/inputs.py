"""State and rows in, model inputs out: the one function of serving, training and bootstrap.

The dense features are defined in `features.dense`; here they join the history, the hashed ids
and the hashed words.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from streamrank.features.columns import Feature
from streamrank.features.dense import (
    candidate_numbers,
    context_features,
    context_numbers,
    features,
)
from streamrank.features.items import TOKENS, padded, worded, words
from streamrank.features.schema import Schema
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
    names = worded(schema)
    return [
        history
        | {
            "candidate_items": items,
            "candidate_tokens": _candidate_tokens(view, names),
            "candidate_numbers": own,
            "context_tokens": _context_tokens(view),
            "context_numbers": shared,
        }
        for view, history, items, own, shared in zip(
            views, _histories(schema, views), side.hashes, numbers, context, strict=True
        )
    ]


def _candidate_tokens(view: View, names: Sequence[str]) -> Array:
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


def _histories(schema: Schema, views: Sequence[View]) -> list[Inputs]:
    """Return the steps of each list, as arrays: one after the other in one table, then cut."""
    sizes = [min(len(view.query.state.steps), schema.history) for view in views]
    ends = np.cumsum(sizes)
    items, types, values, first, last, count, here = np.concatenate(
        [view.history.table for view in views], axis=1
    )
    at = np.repeat([view.query.at for view in views], sizes)
    following = np.empty_like(first)
    following[:-1] = first[1:]
    newest = [end - 1 for end, size in zip(ends.tolist(), sizes, strict=True) if size]
    following[newest] = at[newest]
    numbers = np.empty((STEP_NUMBERS, len(first)))
    np.log1p(np.maximum(0, np.array([at - last, following - last])) / 1000, out=numbers[:2])
    numbers[2], numbers[3] = np.log1p(count), here
    tables = {
        "history_items": items,
        "history_types": types,
        "history_places": _history_places(views, ends.tolist(), len(items)),
        "history_values": values,
        "history_numbers": np.ascontiguousarray(numbers.T, np.float32),
    }
    return [
        {name: whole[end - size : end] for name, whole in tables.items()}
        for end, size in zip(ends.tolist(), sizes, strict=True)
    ]


def _history_places(views: Sequence[View], ends: Sequence[int], size: int) -> Array:
    """Return 1 + where each step's item is in its list, 0 where it is not."""
    places = np.zeros(size, np.int64)
    for view, end in zip(views, ends, strict=True):
        agos, seen = view.history.agos, view.history.table.shape[1]
        for item in view.met:
            for ago in agos[item]:
                if ago < seen:
                    places[end - 1 - ago] = 1 + view.places[item]
    return places


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
