"""The clock of a machine is set while its flows run: what they do does not hang on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.testing import TestingSink, TestingSource, run_main

from flows import features, rank
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.edges.store import MemoryStore
from streamrank.steps import Decoder, Message
from tests.flows import stage
from tests.flows.stage import asked, deed, record

REQUESTS, EVENTS = "requests", "events"


@dataclass
class Clock:
    """Stands at so many minutes from the true time; the next ones follow once a record is read."""

    minutes: list[int]
    read: int = 0

    def __call__(self) -> datetime:
        at = self.minutes[min(self.read, len(self.minutes) - 1)]
        return datetime.fromtimestamp(stage.NOW / 1000, UTC) + timedelta(minutes=at)

    def decoders(self) -> Mapping[str, Decoder]:
        return {topic: self._counting(decode) for topic, decode in stage.decoders().items()}

    def _counting(self, decode: Decoder) -> Decoder:
        def counting(payload: bytes) -> Message:
            self.read += 1
            return decode(payload)

        return counting


def ranked(
    clock: Clock, *records: Incoming
) -> tuple[list[dict[str, Any]], list[tuple[str, Outgoing]]]:
    """Send records through the rank flow, one by one; give back lists and dead letters."""
    rankings: list[tuple[str, Outgoing]] = []
    letters: list[tuple[str, Outgoing]] = []
    flow = rank.build(
        TestingSource(records, batch_size=1),
        TestingSink(rankings),
        TestingSink([]),
        TestingSink(letters),
        plan=stage.PLAN,
        store=stage.store(),
        scorer=stage.TouchedFirst(),
        decoders=clock.decoders(),
        reports=frozenset({REQUESTS}),
        ttl=stage.KNOWN.session.ttl,
        now=clock,
    )
    run_main(flow)
    return stage.messages(rankings), letters


def test_a_clock_that_jumps_changes_no_list_and_no_latency_falls_below_zero() -> None:
    """Sessions, duplicates, lateness and triggers go by the time of the events."""
    records = [
        record(asked(1, "a", "b", "c"), 0, REQUESTS),
        record(deed(1, "c", at=1_000), 1, EVENTS),
        record(asked(2, "a", "b", "c", at=2_000), 2, REQUESTS),
        record(asked(2, "a", "b", "c", at=2_000), 3, REQUESTS),
        record(deed(2, "b", at=4_000), 4, EVENTS),
        record(asked(3, "a", "b", "c", at=5_000), 5, REQUESTS),
    ]
    steady, _ = ranked(Clock([0]), *records)
    jumping, letters = ranked(Clock([0, -50, 600, -30, 100_000, -59, 0]), *records)
    assert letters == []
    assert all(one.pop("latency_ms") >= 0 for one in steady + jumping)
    assert jumping == steady
    assert [one["id"] for one in steady if "trigger" not in one] == ["q1", "q2", "q3"]


def test_what_a_clock_that_is_behind_takes_for_the_future_is_set_aside_and_can_be_sent_again() -> (
    None
):
    """Two hours behind, and an hour is allowed."""
    request = record(asked(1, "a"), 0, REQUESTS)
    clock = Clock([-120, 0])
    none, letters = ranked(clock, request)
    assert none == []
    [letter] = stage.messages(letters)
    assert letter["reason"].startswith("request.timestamp: must be at most 1:00:00 ahead of the")
    answers, _ = ranked(Clock([0]), request)
    assert [one["id"] for one in answers] == ["q1"]


@dataclass
class _Slow(StatelessSourcePartition[Incoming]):
    records: Iterator[Incoming]
    source: Slowly

    def next_batch(self) -> list[Incoming]:
        one = next(self.records, None)
        if one is None and self.source.done():
            raise StopIteration
        return [] if one is None else [one]


@dataclass
class Slowly(DynamicSource[Incoming]):
    """Records, and then nothing until the store has a row; meanwhile the clock is put right."""

    records: list[Incoming]
    store: MemoryStore
    deadline: datetime = field(
        default_factory=lambda: datetime.now(UTC) + timedelta(seconds=20), init=False
    )
    reached: bool = field(default=False, init=False)
    given: int = field(default=0, init=False)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(hours=1 if self.given < 2 else 0)

    def done(self) -> bool:
        [row] = self.store.read("user_windows", ["u"], stage.NOW)
        self.reached = isinstance(row, np.ndarray)
        return self.reached or datetime.now(UTC) > self.deadline

    def _counted(self) -> Iterator[Incoming]:
        for one in self.records:
            self.given += 1
            yield one

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Slow:
        return _Slow(self._counted(), self)


def test_windows_are_written_in_time_also_after_the_clock_was_set_back_by_an_hour() -> None:
    store = stage.store()
    source = Slowly([record(deed(n, at=n), n) for n in (1, 2)], store)
    flow = features.build(
        source,
        TestingSink([]),
        plan=stage.PLAN,
        store=store,
        decoders=stage.decoders(),
        ttl=stage.KNOWN.windows.ttl,
        flush=timedelta(milliseconds=50),
        now=source.now,
    )
    run_main(flow)
    assert source.reached
