"""State that wakes up by itself, and is forgotten when it has no reason to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import KeyedStream
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


def test_a_place_that_is_given_back_is_free_and_a_restart_takes_its_own_anyway() -> None:
    room = operators.Room(1)
    assert room.enter()
    assert not room.enter()
    assert room.enter(anyway=True)
    room.leave()
    room.leave()
    assert room.enter()
    assert (room.held, room.refused) == (1, 1)
