"""The message of topic `examples`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.learning.examples import Example, decode_example

ARRAYS = ("labels", "scores", "shown", "propensities")


def example() -> Example:
    return Example(
        "r1",
        "ü1",
        1_700_000_000_000,
        {"candidate_numbers": np.arange(6, dtype=np.float32).reshape(2, 3).T},
        np.array([[0, 0], [1, 0], [0, 0]], np.float32),
        items=("i1", "i2", "i3"),
        model="v1",
        source="request",
        scores=np.array([[0.5, -1], [2.0, -2], [0.25, 0]], np.float32),
        shown=np.array([1, 0, -1], np.int64),
        propensities=np.array([1.0, 1.0, 1.0], np.float32),
        revision=2,
    )


def test_an_example_comes_back_word_by_word_and_array_by_array() -> None:
    before, after = example(), decode_example(example().encode())
    for key in ("id", "user", "at", "items", "model", "source", "revision"):
        assert getattr(after, key) == getattr(before, key)
    assert after.inputs.keys() == before.inputs.keys()
    for name in ARRAYS:
        assert getattr(after, name).dtype == getattr(before, name).dtype
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_an_example_of_a_log_has_inputs_and_labels_alone() -> None:
    known = example()
    bare = Example(known.id, known.user, known.at, known.inputs, known.labels)
    after = decode_example(bare.encode())
    assert (after.items, after.model, after.source, after.revision) == ((), "", "ranking", 0)
    assert (after.scores, after.shown, after.propensities) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": np.zeros((2, 1), np.float32)}, "a row of labels for each of 3 items"),
        ({"labels": np.zeros(3, np.float32)}, "a row of labels for each of 3 items"),
        ({"scores": np.zeros((4, 1), np.float32)}, "a row of scores for each of 3 items"),
        ({"shown": np.zeros((3, 1), np.int64)}, "a number of shown for each of 3 items"),
    ],
)
def test_arrays_that_do_not_fit_the_items_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_example(replace(example(), **change).encode())


@given(st.data())
def test_a_garbled_example_has_a_reason(data: st.DataObject) -> None:
    record = bytearray(example().encode())
    header = 8 + int.from_bytes(record[:8], "little")
    record[data.draw(st.integers(0, header - 1))] ^= data.draw(st.integers(1, 255))
    assert _refusal(bytes(record)).startswith("example: ")


def _refusal(payload: bytes) -> str:
    try:
        decode_example(payload)
    except ValueError as error:
        return str(error)
    return "example: "  # the change left it readable
