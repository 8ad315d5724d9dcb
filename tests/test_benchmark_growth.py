"""What grows, and by how much: the benchmark of growth on sizes that take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import growth
from tests.benchmarks.features import HOUR


def test_an_hour_of_events_comes_in_batches_and_in_order() -> None:
    found = list(growth.hour(2_500, 10, 10, growth.BEGIN))
    assert [len(batch) for batch in found] == [1_000, 1_000, 500]
    values = [one.value for batch in found for one in batch]
    assert len(set(values)) == 2_500
    assert b'"timestamp":%d,' % (growth.BEGIN + HOUR // 2) in values[1_250]


def test_a_flow_makes_a_row_of_each_window_that_changed() -> None:
    """Three users at three items: a window of each, and what is popular."""
    flow = growth.Flow()
    for batch in growth.begun(3, 3, growth.BEGIN):
        flow.take(batch)
    assert flow.flush() == 3 + 3 + 1
    assert flow.flush() == 0


def test_a_round_is_ten_batches_and_what_is_left() -> None:
    times = list(growth.rounds(growth.Flow(), growth.begun(10_001, 5, growth.BEGIN)))
    assert len(times) == 2
    assert min(times) > 0


def test_the_picture_has_time_and_memory_of_each_axis(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the dependency group `benchmarks`")
    from tests.benchmarks import pictures

    points = [
        {"size": size, "microseconds": {"all": size / 10}, "memory": 1_000 * size}
        for size in (10, 100)
    ]
    axes = {"users": growth.grown(points), "items": growth.grown(points)}
    for name in "ab":
        figure = growth.draw(axes)
        assert len(figure.axes) == 4
        pictures.save(figure, tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(ValueError, match="must end in one of"):
        pictures.save(figure, tmp_path / "a.tiffany")
