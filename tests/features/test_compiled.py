import logging
from collections.abc import Callable

import numpy as np
import pytest

from streamrank.features import compiled
from streamrank.features.compiled import Columns, Reals
from streamrank.features.view import Array


@compiled.compiled
def write_twice(values: Reals, factor: float, out: Columns) -> None:
    for n in range(len(values)):
        out[n, 0] = factor * values[n]
        out[n, 1] = factor * values[n]


def test_columns_are_written_into_a_part_of_a_table() -> None:
    table = np.zeros((2, 4), np.float32)
    write_twice(np.array([1.0, 3.0]), 2.0, table[:, 1:3])
    assert table.tolist() == [[0, 2, 2, 0], [0, 6, 6, 0]]


def test_bytes_that_cannot_be_written_to_are_read() -> None:
    table = np.zeros((2, 2), np.float32)
    write_twice(np.frombuffer(np.array([1.0, 3.0]).tobytes()), 1.0, table)
    assert table[:, 0].tolist() == [1, 3]


@pytest.mark.parametrize("room", [(1, 2), (2, 1)])
def test_what_is_out_of_bounds_is_an_error(room: tuple[int, int]) -> None:
    with pytest.raises(IndexError):
        write_twice(np.array([1.0, 3.0]), 1.0, np.zeros(room, np.float32))


@pytest.mark.parametrize(
    "values", [np.zeros(2, np.float32), np.zeros(4)[::2], np.zeros((2, 2))], ids=str
)
def test_another_kind_of_array_is_refused_rather_than_compiled_for(values: Array) -> None:
    with pytest.raises(TypeError, match="No matching definition"):
        write_twice(values, 1.0, np.zeros((2, 2), np.float32))


def test_code_that_cannot_be_kept_is_compiled_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nowhere: dict[str, Callable[[float], float]] = {}
    source = "def double(value: float) -> float:\n    return 2 * value\n"
    exec(compile(source, "<no file>", "exec"), nowhere)  # noqa: S102
    double = compiled.Compiled(nowhere["double"])
    with caplog.at_level(logging.WARNING):
        assert double(1.5) == 3.0
    assert "compiled code is not kept" in caplog.text


def test_what_was_prepared_is_what_is_called() -> None:
    compiled.prepare()
    assert write_twice.native() is write_twice.native()
