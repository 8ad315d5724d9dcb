"""The message of topic `served`: what the model saw of one list, arrays and all.

`pack` and `unpack` are the binary form that it shares with the messages of topic `examples`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from streamrank.values import reason

Array = np.ndarray[Any, Any]
WordsT = TypeVar("WordsT", bound="Words")


class Words(BaseModel):
    """The part of a binary message that is no array."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Words(Words):
    """The part of `Served` that is no array."""

    id: str
    user: str
    timestamp: int
    items: tuple[str, ...]
    model: str
    features: str
    source: str
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What the model saw: the inputs of one list as they were at scoring time.

    Attributes:
        id: The ranking's id.
        user: Whose list it is (the message key).
        timestamp: Event time of what caused the list, epoch milliseconds.
        items: Candidates in incoming order.
        model: Version that scored, `""` where none did.
        features: Hash of the feature definitions.
        source: `"request"`, `"trigger"` or `"ranking"` (a list shown elsewhere).
        inputs: Arrays by name, as `streamrank.features.inputs` builds them.
        scores: One score a candidate and head, shape (candidates, heads).
        shown: Where each candidate stood in the list that went out, int64 (candidates,); -1
            where it was cut off.  `None` in records of before it was written down.
        propensities: With what probability it stood there, float32 (candidates,); likewise.
        session: The visit that it was made in, where that is known.
    """

    id: str
    user: str
    timestamp: int
    items: tuple[str, ...]
    model: str
    features: str
    source: str
    inputs: Mapping[str, Array]
    scores: Array
    shown: Array | None = None
    propensities: Array | None = None
    session: str | None = None
    event: ClassVar[str] = "served"

    @property
    def key(self) -> str:
        """The message key."""
        return self.user

    def encode(self) -> bytes:
        """Return the binary payload: safetensors, with the words in its metadata."""
        words = _Words.model_construct(**{key: getattr(self, key) for key in _Words.model_fields})
        arrays = {f"inputs.{name}": array for name, array in self.inputs.items()}
        found = {name: getattr(self, name) for name in ("scores", "shown", "propensities")}
        given = {name: array for name, array in found.items() if array is not None}
        return pack("served", words, arrays | given)


def decode_served(payload: bytes) -> Served:
    """Read a record of topic `served`.

    Raises:
        ValueError: The payload is not what `Served.encode` writes.
    """
    words, arrays = unpack("served", payload, _Words, needs=("scores",))
    scores = arrays.pop("scores")
    shown, propensities = arrays.pop("shown", None), arrays.pop("propensities", None)
    check_rows("served", words.items, {"scores": scores})
    check_rows("served", words.items, {"shown": shown, "propensities": propensities}, flat=True)
    return Served(
        **dict(words),
        inputs={name.removeprefix("inputs."): array for name, array in arrays.items()},
        scores=scores,
        shown=shown,
        propensities=propensities,
    )


# --- the binary form --------------------------------------------------------------------------


def pack(kind: str, words: Words, arrays: Mapping[str, Array]) -> bytes:
    """Return a binary message: safetensors, with the words in its metadata under its kind.

    It is put together here, in a quarter of the library's time: a record of `served` goes out
    with every list.

    Raises:
        KeyError: Safetensors has no such kind of number.

    References:
        Safetensors, "Format", https://huggingface.co/docs/safetensors.
    """
    header: dict[str, object] = {"__metadata__": {kind: words.model_dump_json()}}
    parts, end = [], 0
    # Wide numbers first, so that each array lies at a multiple of its numbers' width; then by name:
    # the same arrays are the same bytes.
    for name, array in sorted(arrays.items(), key=lambda one: (-one[1].itemsize, one[0])):
        data = array.tobytes()
        begin, end = end, end + len(data)
        kind_of_number = _KINDS[array.dtype.str]
        header[name] = {"dtype": kind_of_number, "shape": array.shape, "data_offsets": (begin, end)}
        parts.append(data)
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *parts))


_KINDS = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "|b1": "BOOL"} | {
    np.dtype(f"{sign}{width}").str: f"{sign.upper()}{8 * width}"
    for sign in "iu"
    for width in (1, 2, 4, 8)
}


def unpack(
    kind: str, payload: bytes, words: type[WordsT], *, needs: tuple[str, ...]
) -> tuple[WordsT, dict[str, Array]]:
    """Read what `pack` wrote.

    Args:
        kind: Which message it is.
        payload: The record's value.
        words: The form of the part that is no array.
        needs: Arrays that must be there.

    Raises:
        ValueError: The payload is something else; the text begins with the kind.
    """
    try:
        arrays = load_tensors(payload)
        found = words.model_validate_json(_metadata(payload)[kind])
        missing = [name for name in needs if name not in arrays]
        if missing:
            raise KeyError(*missing)
    except ValidationError as error:
        raise ValueError(f"{kind}: {reason(error)}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        rule = f"{kind}: must be safetensors with its words"
        raise ValueError(f"{rule}, got {type(error).__name__} {str(error)[:200]}") from None
    return found, arrays


def check_rows(
    kind: str, items: tuple[str, ...], arrays: Mapping[str, Array | None], *, flat: bool = False
) -> None:
    """Refuse arrays that have not a row for each item, or, where they are flat, a number.

    Raises:
        ValueError: One has another shape.
    """
    what, axes = ("a number", 1) if flat else ("a row", 2)
    for name, array in arrays.items():
        if array is not None and (array.ndim != axes or len(array) != len(items)):
            raise ValueError(
                f"{kind}: must have {what} of {name} for each of {len(items)} items, "
                f"got shape {array.shape}"
            )


def _metadata(payload: bytes) -> dict[str, str]:
    """Return the metadata of safetensors bytes: a length, then a JSON header."""
    length = int.from_bytes(payload[:8], "little")
    metadata: dict[str, str] = json.loads(payload[8 : 8 + length])["__metadata__"]
    return metadata
