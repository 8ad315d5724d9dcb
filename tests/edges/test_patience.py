from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest

from streamrank.edges.patience import PatientStore
from streamrank.edges.store import MemoryStore, Row, StoreUnreachable
from streamrank.features.schema import Schema

NOW = 1_700_000_000_000
ROW = Row("item_fields", "a", NOW, 0, {"price": 1.0})


class Leaving(MemoryStore):
    """A store that does not answer the first few writes."""

    def __init__(self, away: int) -> None:
        super().__init__(Schema(item={"price": "number"}), timedelta(days=1))
        self.away = away

    def write(self, rows: Sequence[Row]) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnreachable("it must answer")
        super().write(rows)


@dataclass
class Time:
    """A clock that goes on by what is waited."""

    seconds: float = 0.0

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


def patient(behind: Leaving, time: Time) -> PatientStore:
    return PatientStore(behind, timedelta(seconds=10), clock=time.now, pause=time.wait)


def test_what_is_written_while_the_store_is_away_is_there_once_it_is_back() -> None:
    store = patient(Leaving(away=20), Time())
    store.write([ROW])
    assert store.read("item_fields", ["a"], NOW) == [{"price": 1.0}]


def test_a_store_that_stays_away_stops_the_flow_when_patience_is_over() -> None:
    time = Time()
    with pytest.raises(StoreUnreachable, match="it must answer"):
        patient(Leaving(away=1000), time).write([ROW])
    assert time.seconds == pytest.approx(10.0, abs=0.3)
