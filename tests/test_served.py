"""The binary form of what was served and learned is safetensors, as the library reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from streamrank.served import Words, pack, unpack


class Said(Words):
    """Some words."""

    text: str


Array = np.ndarray[Any, Any]
KINDS = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
SHAPES = [(), (0,), (3,), (2, 0), (2, 3), (2, 3, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_reads_every_kind_of_number_in_every_shape(kind: str) -> None:
    arrays = {
        f"{kind}{shape}": np.arange(int(np.prod(shape))).reshape(shape).astype(kind)
        for shape in SHAPES
    } | {"odd one": np.zeros(3, bool)}
    payload = pack("said", Said(text='a "quoted" é'), arrays)
    found = load(payload)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array)
    words, again = unpack("said", payload, Said, needs=())
    assert words.text == 'a "quoted" é'
    assert again.keys() == arrays.keys()


def test_what_lies_scattered_in_memory_is_written_in_its_order() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    scattered: dict[str, Array] = {"turned": grid.T, "column": grid[:, 1], "back": grid[::-1]}
    found = load(pack("said", Said(text=""), scattered))
    assert all(np.array_equal(found[name], array) for name, array in scattered.items())


def test_the_same_arrays_are_the_same_bytes_also_once_they_were_read() -> None:
    arrays: dict[str, Array] = {"b": np.zeros(2, np.int64), "a": np.ones(3), "c": np.zeros(1, bool)}
    payload = pack("said", Said(text="x"), arrays)
    _, found = unpack("said", payload, Said, needs=())
    assert pack("said", Said(text="x"), found) == payload
    assert pack("said", Said(text="x"), dict(reversed(found.items()))) == payload


def test_a_kind_of_number_that_the_form_lacks_is_an_error() -> None:
    with pytest.raises(KeyError, match="c16"):
        pack("said", Said(text=""), {"complex": np.zeros(2, complex)})
