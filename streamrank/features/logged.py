"""What a record of `served` must hold before anybody learns from it or scores it again.

Whoever can write to the topic could else stop a flow, or teach it nonsense, with arrays of a
wrong shape; and so could the lists of the days before the fields were changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamrank.features.dense import context_features, features
from streamrank.features.inputs import STEP_NUMBERS, TOKENS, Array, digest
from streamrank.features.schema import Schema
from streamrank.served import Served, decode_served

Shape = tuple[int | None, ...]
"""Length of each axis; `None` for the steps of history or the words, of which there may be less."""


def reader(schema: Schema) -> Callable[[bytes], Served]:
    """Return what reads records of `served` that fit a schema, and refuses the others.

    Examples:
        >>> read = reader(Schema(interactions=("click",), label="click"))
        >>> read(b"garbled")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: served: must be safetensors with its words, got SafetensorError ...
    """
    return partial(_read, form(schema))


@dataclass(frozen=True, slots=True)
class Form:
    """What the inputs of a schema look like.

    Attributes:
        digest: Which features there are.
        steps: Steps of history at most.
        candidate: Features of a candidate.
        context: Features of a list.
    """

    digest: str
    steps: int
    candidate: int
    context: int


def form(schema: Schema) -> Form:
    """Return what the inputs of a schema look like."""
    sizes = len(features(schema)), len(context_features(schema))
    return Form(digest(schema), schema.history, *sizes)


def _read(known: Form, payload: bytes) -> Served:
    served = decode_served(payload)
    if served.features != known.digest:
        raise ValueError(
            f"served.features: must be {known.digest}, as the settings' fields make it, "
            f"got {served.features[:64]!r}"
        )
    check(known, len(served.items), served.inputs)
    if served.scores.dtype.kind != "f" or not np.isfinite(served.scores).all():
        raise ValueError("served.scores: must be finite numbers")
    return served


def check(known: Form, candidates: int, inputs: Mapping[str, Array]) -> None:
    """Refuse the inputs of a list that `features.inputs.build` cannot have made.

    Args:
        known: What they should look like.
        candidates: How many there are.
        inputs: Arrays by name.

    Raises:
        ValueError: An array is missing, or has another shape or kind.
    """
    wanted = _shapes(known, candidates)
    strange = sorted(wanted.keys() ^ inputs.keys())
    if strange:
        raise ValueError(f"served.inputs: must hold {', '.join(wanted)}; differs in {strange[:3]}")
    history = {
        len(array) for name, array in inputs.items() if name.startswith("history") and array.ndim
    }
    for name, (kind, shape) in wanted.items():
        _check_array(name, inputs[name], np.dtype(kind), shape)
    if len(history) != 1 or history.pop() > known.steps:
        raise ValueError(f"served.inputs: must hold one history of at most {known.steps} steps")


def _check_array(name: str, array: Array, kind: np.dtype[np.generic], shape: Shape) -> None:
    fits = array.ndim == len(shape) and all(
        length in (None, found) for length, found in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != kind:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(
            f"served.inputs.{name}: must be {kind} of shape ({wanted}), "
            f"got {array.dtype} of {array.shape}"
        )
    if name.endswith("tokens") and array.shape[-1] > TOKENS:
        raise ValueError(f"served.inputs.{name}: must have at most {TOKENS} words")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"served.inputs.{name}: must be finite numbers")


def _shapes(known: Form, candidates: int) -> dict[str, tuple[str, Shape]]:
    return {
        **dict.fromkeys(_OF_STEPS, ("int64", (None,))),
        "history_numbers": ("float32", (None, STEP_NUMBERS)),
        "candidate_items": ("int64", (candidates,)),
        "candidate_tokens": ("int64", (candidates, None)),
        "candidate_numbers": ("float32", (candidates, known.candidate)),
        "context_tokens": ("int64", (None,)),
        "context_numbers": ("float32", (known.context,)),
    }


_OF_STEPS = ("history_items", "history_types", "history_places", "history_values")
