"""Cells of the store as Feast's `Value`s, and vectors as the bytes of one, without making one.

References:
    Protocol Buffers, "Encoding", https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from feast.protos.feast.types.Value_pb2 import DoubleList, StringList, Value

from streamrank.edges.tables import Cell, Type
from streamrank.features.inputs import Array

_HELD: Mapping[Type, str] = {
    "number": "double_val",
    "text": "string_val",
    "texts": "string_list_val",
    "numbers": "double_list_val",
    "stamp": "int64_val",
}
_DOUBLE = np.dtype("<f8")


def value_of(kind: Type, cell: Any) -> Value:
    """Return a cell as Feast keeps it."""
    if cell is None:
        return Value()
    if kind == "texts":
        return Value(string_list_val=StringList(val=cell))
    if kind == "numbers":
        return Value(double_list_val=DoubleList(val=cell))
    return Value(**{_HELD[kind]: cell})


def cell_of(kind: Type, value: Value) -> Cell:
    """Return what Feast keeps as a cell, nothing where it was stored as another type.

    Examples:
        >>> cell_of("number", Value(double_val=1.5)), cell_of("text", Value(double_val=1.5))
        (1.5, None)
    """
    if value.WhichOneof("val") != _HELD[kind]:
        return None
    held = getattr(value, _HELD[kind])
    if kind == "numbers":
        return np.array(held.val)
    return tuple(held.val) if kind == "texts" else held


# --- as bytes ---------------------------------------------------------------------------------


def bytes_of(values: Array) -> bytes:
    """Return a vector as the bytes of Feast's `Value`.

    The numbers come last in it, as they lie in memory, after what depends on their count alone.

    Examples:
        >>> bytes_of(np.ones(1)) == value_of("numbers", [1.0]).SerializeToString()
        True
    """
    content: bytes = values.astype(_DOUBLE, copy=False).tobytes()
    return _before(len(values)) + content


def cell_from(kind: Type, content: bytes) -> Cell:
    """Return the cell that a `Value` of these bytes is; a vector is a view of them, not writable.

    Examples:
        >>> cell_from("numbers", bytes_of(np.array([0.5, 2.0])))
        array([0.5, 2. ])
    """
    if kind == "numbers":
        count = _count(len(content))
        before = _before(count) if count >= 0 else content + b"?"
        if content.startswith(before):
            return np.frombuffer(content, _DOUBLE, count, len(before))
    return cell_of(kind, Value.FromString(content))


@lru_cache(maxsize=1_000)
def _before(count: int) -> bytes:
    whole: bytes = Value(double_list_val=DoubleList(val=[0.0] * count)).SerializeToString()
    return whole[: len(whole) - _DOUBLE.itemsize * count]


@lru_cache(maxsize=1_000)
def _count(size: int) -> int:
    """Return how many numbers a vector of so many bytes has, -1 where none has so many."""
    most = size // _DOUBLE.itemsize
    for count in range(most, max(-1, most - 3), -1):  # two tags and two lengths come before them
        if len(_before(count)) + _DOUBLE.itemsize * count == size:
            return count
    return -1
