"""State that wakes up by itself, and is forgotten when it has no reason to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, Source, StatelessSourcePartition
from bytewax.operators import KeyedStream
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main

from streamrank import operators

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Egg:
    """Boils for a while, counted from when it was put in."""

    size: int
    done: datetime | None


def flow(
    source: TestingSource[int] | Slowly,
    out: list[tuple[str, int]],
    clock: Callable[[], datetime],
) -> Dataflow:
    """Gather numbers by parity; say their sum a moment after the last, or at once above 100."""

    def advance(egg: Egg, values: list[int], now: datetime) -> tuple[Egg, list[int]]:
        size = egg.size + sum(values)
        if size > 100 or (egg.done is not None and egg.done <= now):
            return Egg(0, None), [size]
        return Egg(size, now + timedelta(milliseconds=20)), []

    def begin(saved: Egg | None, now: datetime) -> Egg:
        return saved or Egg(0, None)

    built = Dataflow("eggs")
    numbers = op.input("numbers", built, source)
    keyed = op.key_on("by", numbers, lambda number: "odd" if number % 2 else "even")
    sums: KeyedStream[int] = operators.awake(
        "sum", keyed, begin, advance, lambda egg: egg.done, clock
    )
    op.output("out", sums, TestingSink(out))
    return built


@dataclass
class _Slow(StatelessSourcePartition[int]):
    numbers: Iterator[int]
    until: Callable[[], bool]

    def next_batch(self) -> list[int]:
        following = next(self.numbers, None)
        if following is None and self.until():
            raise StopIteration
        return [] if following is None else [following]


@dataclass
class Slowly(DynamicSource[int]):
    """Some numbers, and then nothing until a condition holds."""

    numbers: tuple[int, ...]
    until: Callable[[], bool]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Slow:
        return _Slow(iter(self.numbers), self.until)


def test_a_state_wakes_up_by_itself_when_nothing_comes() -> None:
    out: list[tuple[str, int]] = []
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    source = Slowly((1, 2, 3), lambda: len(out) == 2 or datetime.now(UTC) > deadline)
    run_main(flow(source, out, operators.utc_now))
    assert sorted(out) == [("even", 2), ("odd", 4)]


def test_a_state_without_an_alarm_is_forgotten_and_begins_anew() -> None:
    out: list[tuple[str, int]] = []
    run_main(flow(TestingSource([101, 1, 201, 2]), out, lambda: START))
    assert out == [("odd", 101), ("odd", 202)]


def sums(source: Source[int], out: list[int], form: operators.Form[int] | None) -> Dataflow:
    """Say the sum of all numbers so far, but for that of zero."""

    def advance(total: int, number: int) -> tuple[int, list[int]]:
        return total + number, [total + number] if total + number else []

    built = Dataflow("sums")
    keyed = op.key_on("by", op.input("numbers", built, source), lambda number: "all")
    day = timedelta(days=1)
    kept = operators.keep("keep", keyed, int, advance, day, operators.utc_now, form=form)
    op.output("out", op.key_rm("values", kept), TestingSink(out))
    return built


def test_a_state_as_bytes_goes_on_after_a_restart_also_from_one_that_was_not(
    tmp_path: Path,
) -> None:
    """Snapshots of 1 as an object, then of 3 and 6 as bytes."""
    init_db_dir(tmp_path, 1)
    as_bytes = operators.Form[int](lambda n: str(n).encode(), int)
    out: list[int] = []
    steps: list[Any] = [1, TestingSource.EOF(), 2, TestingSource.EOF(), 3, 4]
    source: TestingSource[int] = TestingSource(steps)
    for form in (None, as_bytes, as_bytes):
        run_main(
            sums(source, out, form),
            epoch_interval=timedelta(0),
            recovery_config=RecoveryConfig(tmp_path),
        )
    assert out == [1, 3, 6, 10]


def test_a_snapshot_holds_what_came_after_the_last_value_that_gave_something_out(
    tmp_path: Path,
) -> None:
    init_db_dir(tmp_path, 1)
    as_bytes = operators.Form[int](lambda n: str(n).encode(), int)
    out: list[int] = []
    source: TestingSource[int] = TestingSource([5, -5, TestingSource.EOF(), 3], batch_size=1)
    for _ in range(2):
        run_main(
            sums(source, out, as_bytes),
            epoch_interval=timedelta(hours=1),
            recovery_config=RecoveryConfig(tmp_path),
        )
    assert out == [5, 3]


def test_a_place_that_is_given_back_is_free_and_a_restart_takes_its_own_anyway() -> None:
    room = operators.Room(1)
    assert room.enter()
    assert not room.enter()
    assert room.enter(anyway=True)
    room.leave()
    room.leave()
    assert room.enter()
    assert (room.held, room.refused) == (1, 1)
