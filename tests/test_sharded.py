"""Shards of the features flow: rows in time, nothing lost by a crash, silent keys let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main

from flows import features
from streamrank import operators, sharded
from streamrank.edges.kafka import Incoming
from streamrank.edges.store import MemoryStore, Row
from streamrank.features import windows
from streamrank.features.aggregate import Impact
from streamrank.shelves import Things
from tests.flows import stage
from tests.flows.stage import NOW, PLAN, deed, records

HOUR, SOON = timedelta(hours=1), timedelta(milliseconds=200)
PATIENCE = timedelta(seconds=30)


def counting(source: TestingSource[Incoming], store: MemoryStore, flush: timedelta) -> Dataflow:
    return features.build(
        source,
        TestingSink([]),
        plan=PLAN,
        store=store,
        decoders=stage.decoders(),
        ttl=stage.KNOWN.windows.ttl,
        flush=flush,
    )


def clicks(store: MemoryStore, key: str) -> float:
    [values] = store.read("item_windows", [key], NOW)
    if not isinstance(values, np.ndarray):
        return 0.0
    schema = PLAN.schema
    window = windows.unpack(values, len(schema.horizons), len(schema.channels))
    return float(window.totals[schema.channel("click")])


@pytest.fixture
def recovery(tmp_path: Path) -> RecoveryConfig:
    init_db_dir(tmp_path, 1)
    return RecoveryConfig(tmp_path)


@pytest.mark.parametrize("flush", [timedelta(0), HOUR], ids=["at once", "in an hour"])
def test_a_crash_loses_nothing_and_doubles_nothing(
    recovery: RecoveryConfig, flush: timedelta
) -> None:
    store = stage.store()
    source: list[Incoming | TestingSource.ABORT] = []
    for number, one in enumerate(records(*(deed(n, "ab"[n % 2], at=n) for n in range(20)))):
        source += [one, TestingSource.ABORT()] if number % 4 == 3 else [one]
    flow = counting(TestingSource(source), store, flush)
    for _ in range(6):  # five crashes, and the end
        run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery)
    assert (clicks(store, "a"), clicks(store, "b")) == (10.0, 10.0)


@dataclass
class _Steps(StatelessSourcePartition[tuple[str, list[Impact]]]):
    steps: Iterator[Callable[[], list[tuple[str, list[Impact]]] | None]]
    deadline: datetime
    now: Callable[[], list[tuple[str, list[Impact]]] | None] | None = None

    def next_batch(self) -> list[tuple[str, list[Impact]]]:
        if self.now is None:
            self.now = next(self.steps)
        found = self.now()
        if found is None and datetime.now(UTC) < self.deadline:
            return []
        self.now = None
        return found or []


@dataclass
class Steps(DynamicSource[tuple[str, list[Impact]]]):
    """Asks each step again until it has something to say."""

    steps: Sequence[Callable[[], list[tuple[str, list[Impact]]] | None]]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Steps:
        return _Steps(iter(self.steps), datetime.now(UTC) + PATIENCE)


@dataclass
class Scene:
    """A shard of items that are soon forgotten."""

    rows: list[tuple[str, list[Row] | None]] = field(default_factory=list)
    shelves: list[Things] = field(default_factory=list)

    def begin(self, now: int, saved: bytes | None) -> Things:
        self.shelves.append(Things(PLAN, SOON // timedelta(milliseconds=1), now, saved))
        return self.shelves[-1]

    def run(self, *steps: Callable[[], list[tuple[str, list[Impact]]] | None]) -> None:
        flow = Dataflow("shards")
        up = op.input("in", flow, Steps(steps))
        held = sharded.hold("hold", up, self.begin, taken, SOON / 4, SOON, operators.utc_now)
        op.output("out", held, TestingSink(self.rows))
        run_main(flow)


def taken(things: Things, batch: list[list[Impact]], now: int) -> list[None]:
    for changes in batch:
        things.take(changes, now)
    return []


def test_rows_come_when_they_are_due_and_silent_keys_are_let_go_by_themselves() -> None:
    scene = Scene()

    def touched() -> list[tuple[str, list[Impact]]]:
        return [("7", [Impact("a", 0, NOW), Impact("b", 0, NOW), Impact("a", 0, NOW)])]

    def once_forgotten() -> list[tuple[str, list[Impact]]] | None:
        return [] if not len(scene.shelves[0]) else None

    scene.run(touched, once_forgotten, touched, finished)
    assert [len(rows or []) for _, rows in scene.rows] == [2, 2]
    assert len(scene.shelves) == 2  # the empty shard was let go too, and the last deeds made one


def finished() -> list[tuple[str, list[Impact]]]:
    raise StopIteration
