"""The message of topic `served`: what the model saw of one list, arrays and all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from streamrank.values import reason

Array = np.ndarray[Any, Any]


class _Words(BaseModel):
    """The part of `Served` that is no array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    user: str
    timestamp: int
    items: tuple[str, ...]
    model: str
    features: str
    source: str


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

    def encode(self) -> bytes:
        """Return the binary payload: safetensors, with the words in its metadata."""
        words = _Words.model_construct(**{key: getattr(self, key) for key in _Words.model_fields})
        arrays = {f"inputs.{name}": array for name, array in self.inputs.items()}
        arrays["scores"] = self.scores
        # Safetensors writes the memory as it lies: a view that is not contiguous would be garbled.
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return save_tensors(whole, {"served": words.model_dump_json()})


def decode_served(payload: bytes) -> Served:
    """Read a record of topic `served`.

    Raises:
        ValueError: The payload is not what `Served.encode` writes.
    """
    try:
        arrays = load_tensors(payload)
        words = _Words.model_validate_json(_metadata(payload)["served"])
        scores = arrays.pop("scores")
    except ValidationError as error:
        raise ValueError(f"served: {reason(error)}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        rule = "served: must be safetensors with its words"
        raise ValueError(f"{rule}, got {type(error).__name__} {str(error)[:200]}") from None
    if scores.ndim != 2 or len(scores) != len(words.items):
        raise ValueError(
            f"served: must have a row of scores for each of {len(words.items)} items, "
            f"got shape {scores.shape}"
        )
    inputs = {name.removeprefix("inputs."): array for name, array in arrays.items()}
    return Served(**dict(words), inputs=inputs, scores=scores)


def _metadata(payload: bytes) -> dict[str, str]:
    """Return the metadata of safetensors bytes: a length, then a JSON header."""
    length = int.from_bytes(payload[:8], "little")
    metadata: dict[str, str] = json.loads(payload[8 : 8 + length])["__metadata__"]
    return metadata
