from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from streamrank.edges.cache import CachedStore
from streamrank.edges.store import MemoryStore, Row, StoreUnreachable, View
from streamrank.features.schema import Schema

NOW = 1_700_000_000_000
SCHEMA = Schema(item={"price": "number"})


class CountingStore(MemoryStore):
    """A store that remembers what it was asked."""

    def __init__(self, ttl: timedelta = timedelta(days=1)) -> None:
        super().__init__(SCHEMA, ttl)
        self.asked: list[list[str]] = []
        self.away = False

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        self.asked.append(list(keys))
        if self.away:
            raise StoreUnreachable("it must answer")
        return super().rows(view, keys)


@dataclass
class Clock:
    """A clock that goes when told to, in seconds."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Setup:
    behind: CountingStore = field(default_factory=CountingStore)
    clock: Clock = field(default_factory=Clock)
    max_rows: int = 10

    def __post_init__(self) -> None:
        age = timedelta(seconds=2)
        self.cache = CachedStore(self.behind, max_rows=self.max_rows, max_age=age, clock=self.clock)

    def prices(self, *keys: str, at: int = NOW) -> list[object]:
        found = self.cache.read("item_fields", keys, at)
        return [None if values is None else dict(values)["price"] for values in found]


def price(key: str, value: float, at: int = NOW) -> Row:
    return Row("item_fields", key, at, 0, {"price": value})


def test_what_is_remembered_is_not_asked_again_and_the_rest_goes_in_one_batch() -> None:
    here = Setup()
    here.behind.write([price("a", 1.0), price("b", 2.0), price("c", 3.0)])
    here.prices("a")
    assert here.prices("b", "a", "c", "b") == [2.0, 1.0, 3.0, 2.0]
    assert here.behind.asked == [["a"], ["b", "c"]]


def test_that_there_was_nothing_is_remembered_too() -> None:
    here = Setup()
    assert here.prices("nobody") == here.prices("nobody") == [None]
    assert here.behind.asked == [["nobody"]]


@pytest.mark.parametrize(("seconds", "expected"), [(1.9, 1.0), (2.0, 5.0)])
def test_nothing_is_remembered_longer_than_max_age(seconds: float, expected: float) -> None:
    here = Setup()
    here.behind.write([price("a", 1.0)])
    here.prices("a")
    here.behind.write([price("a", 5.0, NOW + 1)])
    here.clock.seconds = seconds
    assert here.prices("a") == [expected]


def test_reading_again_does_not_make_a_row_younger() -> None:
    here = Setup()
    here.behind.write([price("a", 1.0)])
    for here.clock.seconds in (0.0, 1.5, 3.0):
        here.prices("a")
    assert here.behind.asked == [["a"], ["a"]]


def test_a_remembered_value_passes_its_ttl_on_time() -> None:
    here = Setup(CountingStore(ttl=timedelta(seconds=1)))
    here.behind.write([price("a", 1.0)])
    assert here.prices("a", at=NOW + 1000) == [1.0]
    assert here.prices("a", at=NOW + 1001) == [None]
    assert here.behind.asked == [["a"]]


def test_it_never_holds_more_than_max_rows_and_forgets_what_was_used_longest_ago() -> None:
    here = Setup(max_rows=3)
    here.prices("a", "b", "c")
    here.prices("a")
    here.prices("d")
    assert len(here.cache) == 3
    here.prices("a", "c", "d")
    here.prices("b")
    assert here.behind.asked == [["a", "b", "c"], ["d"], ["b"]]


def test_a_batch_larger_than_the_cache_is_answered_whole() -> None:
    here = Setup(max_rows=2)
    here.behind.write([price(key, 1.0) for key in "abcde"])
    assert here.prices(*"abcde") == [1.0] * 5
    assert len(here.cache) == 2


def test_what_is_written_through_it_is_read_at_once() -> None:
    here = Setup()
    assert here.prices("a") == [None]
    here.cache.write([price("a", 1.0)])
    assert here.prices("a") == [1.0]


def test_views_with_the_same_key_are_kept_apart() -> None:
    here = Setup()
    here.behind.write([price("a", 1.0)])
    here.prices("a")
    assert here.cache.read("user_fields", ["a"], NOW) == [None]


def test_while_the_store_is_away_what_is_remembered_is_given_out_however_old_and_marked() -> None:
    here = Setup()
    here.behind.write([price("a", 1.0), price("b", 2.0)])
    assert here.prices("a") == [1.0]
    here.behind.away, here.clock.seconds = True, 60.0
    assert here.prices("a", "b") == [1.0, None]
    assert here.cache.degraded


def test_a_store_that_is_away_keeps_one_question_a_second_waiting_and_no_other() -> None:
    here = Setup()
    here.behind.away = True
    for seconds in (0.0, 0.1, 0.9, 1.0, 1.5):
        here.clock.seconds = seconds
        here.prices("a")
    assert here.behind.asked == [["a"], ["a"]]


def test_once_the_store_answers_again_nothing_is_old_or_marked() -> None:
    here = Setup()
    here.behind.away = True
    assert here.prices("a") == [None]
    here.behind.away, here.clock.seconds = False, 1.0
    here.behind.write([price("a", 1.0)])
    assert here.prices("a") == [1.0]
    assert not here.cache.degraded
