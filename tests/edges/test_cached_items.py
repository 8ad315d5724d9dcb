"""Items as arrays are what the cache would read, whatever happens to their rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrank.edges.cache import CachedStore
from streamrank.edges.store import MemoryStore, Row, StoreUnreachable, View
from streamrank.features import items, windows
from streamrank.features.items import Items
from streamrank.features.schema import Schema

NOW = 1_700_000_000_000
SCHEMA = Schema(item={"price": "number", "tags": "text_list"}, horizons=(3600.0,))
WIDTH = windows.width(1, len(SCHEMA.channels))
IDS = [f"i{n}" for n in range(6)]


class FarStore(MemoryStore):
    """A store that can be away, and counts how often it was asked for a key."""

    away = False
    asked = questions = 0

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        if self.away:
            raise StoreUnreachable("it must answer")
        self.asked += len(keys)
        self.questions += 1
        return super().rows(view, keys)


class Setup:
    """A store, and two caches before it: of one rows are read, of the other arrays."""

    def __init__(self, max_rows: int = 100) -> None:
        self.seconds = 0.0
        self.behind = FarStore(SCHEMA, timedelta(seconds=10))
        self.one, self.other = (
            CachedStore(
                self.behind, max_rows=rows, max_age=timedelta(seconds=2), clock=lambda: self.seconds
            )
            for rows in (1_000, max_rows)
        )
        self.stamp = 0

    def write(self, item: str, *, through: bool = False) -> None:
        """Write an item anew, to the store behind or through both caches."""
        self.stamp += 1
        window = np.full(WIDTH, float(self.stamp))
        new = Row("item_windows", item, NOW, self.stamp, window)
        named = Row("item_fields", item, NOW, self.stamp, {"price": float(self.stamp)})
        for store in (self.one, self.other) if through else (self.behind,):
            store.write([new, named])

    def rows(self, ids: Sequence[str], at: int) -> Items:
        """Return what one reads row by row."""
        vectors = self.one.read("item_windows", ids, at)
        fields = self.one.read("item_fields", ids, at)
        return items.encode(SCHEMA, ids, vectors, fields)  # type: ignore[arg-type]

    def agree(self, ids: Sequence[str], at: int = NOW) -> None:
        """Check that both caches say the same."""
        expected, found = self.rows(ids, at), self.other.items(SCHEMA, ids, at)
        for name in ("hashes", "windows", "unknown", "numbers", "tokens", "counts"):
            a, b = getattr(expected, name), getattr(found, name)
            width = min(a.shape[-1], b.shape[-1]) if name == "tokens" else None
            assert np.array_equal(a[..., :width], b[..., :width], equal_nan=name == "numbers"), name


deeds = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.lists(st.sampled_from(IDS), max_size=6)),
        st.tuples(st.just("write"), st.sampled_from(IDS)),
        st.tuples(st.just("through"), st.sampled_from(IDS)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 2.0])),
        st.tuples(st.just("later"), st.integers(0, 12_000)),
    ),
    max_size=20,
)


@given(deeds)
def test_arrays_say_what_rows_say(happens: list[tuple[str, object]]) -> None:
    here, at = Setup(), NOW
    for kind, what in happens:
        if kind == "wait":
            here.seconds += float(what)  # type: ignore[arg-type]
        elif kind == "later":
            at = NOW + int(what)  # type: ignore[call-overload]
        elif kind == "read":
            here.agree(list(what), at)  # type: ignore[call-overload]
        else:
            here.write(str(what), through=kind == "through")
            if kind == "write":  # both are to see it from here on, not one before the other
                here.seconds += 2.0


def test_what_is_remembered_is_not_asked_for_again_until_its_age() -> None:
    here = Setup()
    here.write("i0")
    here.other.items(SCHEMA, ["i0", "i0", "i1"], NOW)
    asked = here.behind.asked
    assert here.other.items(SCHEMA, ["i1", "i0"], NOW).windows[1, 0] == 1.0
    assert here.behind.asked == asked
    here.write("i0")
    here.seconds = 2.0
    assert here.other.items(SCHEMA, ["i0"], NOW).windows[0, 0] == 2.0


def test_rows_that_were_read_before_as_rows_grow_no_younger() -> None:
    here = Setup()
    here.write("i0")
    here.other.read("item_windows", ["i0"], NOW)
    here.seconds = 1.5
    here.other.items(SCHEMA, ["i0"], NOW)
    here.write("i0")
    here.seconds = 2.0
    assert here.other.items(SCHEMA, ["i0"], NOW).windows[0, 0] == 2.0


def test_what_is_still_asked_for_is_read_again_a_few_at_a_time_before_it_is_too_old() -> None:
    here = Setup(max_rows=1_000)
    ids = [f"i{n}" for n in range(320)]
    here.other.items(SCHEMA, [*ids, "once"], NOW)
    here.other.items(SCHEMA, ids, NOW)
    most = 0
    for _ in range(500):  # of rows that last for 2 s, 5 s
        here.seconds += 0.01
        before = here.behind.asked
        here.other.items(SCHEMA, ids, NOW)
        most = max(most, here.behind.asked - before)
    assert most <= 2 * 64  # two views; at once it would be all of them
    assert here.behind.asked <= 2 * (321 + 3 * 320)  # each about every 1.5 s
    assert (
        here.behind.questions <= here.behind.asked / 50
    )  # each of which costs some dozens of rows


def test_who_looks_seldom_reads_more_at_a_time_and_never_all_at_once() -> None:
    """Whole batches of lists may take many times as long as it is between two looks."""
    here = Setup(max_rows=1_000)
    ids = [f"i{n}" for n in range(640)]
    for _ in range(2):
        here.other.items(SCHEMA, ids, NOW)
    most = 0
    for _ in range(50):
        here.seconds += 0.14  # of rows that last for 2 s
        before = here.behind.asked
        here.other.items(SCHEMA, ids, NOW)
        most = max(most, here.behind.asked - before)
    assert most <= 2 * 640 / 4


def test_a_list_after_a_silence_does_not_wait_for_the_rows_of_all_others() -> None:
    here = Setup(max_rows=1_000)
    ids = [f"i{n}" for n in range(640)]
    for _ in range(2):
        here.other.items(SCHEMA, ids, NOW)
    here.seconds, before = 1.2, here.behind.asked
    here.other.items(SCHEMA, ids[:20], NOW)
    assert here.behind.asked - before <= 2 * 64


def test_what_is_read_ahead_of_time_is_what_is_there_now() -> None:
    here = Setup()
    here.write("i0")
    for _ in range(2):
        here.other.items(SCHEMA, ["i0"], NOW)
    here.write("i0")
    here.seconds = 1.99
    assert here.other.items(SCHEMA, ["i0"], NOW).windows[0, 0] == 2.0


def test_a_store_that_is_away_when_it_is_read_ahead_of_time_takes_nothing_back() -> None:
    here = Setup()
    here.write("i0")
    for _ in range(2):
        here.other.items(SCHEMA, ["i0"], NOW)
    here.behind.away, here.seconds = True, 1.99
    for seconds in (1.99, 1.995, 60.0):
        here.seconds = seconds
        assert here.other.items(SCHEMA, ["i0"], NOW).windows[0, 0] == 1.0
    here.behind.away, here.seconds = False, 62.0
    here.write("i0")
    assert here.other.items(SCHEMA, ["i0"], NOW).windows[0, 0] == 2.0


def test_more_items_than_there_are_places_for_are_answered_whole() -> None:
    here = Setup(max_rows=2)
    for item in IDS:
        here.write(item)
    for ids in (IDS[:2], IDS, IDS[1:3], IDS[::-1]):
        here.agree(ids)


def test_many_items_make_room_for_themselves() -> None:
    here = Setup(max_rows=100_000)
    ids = [f"i{n}" for n in range(3_000)]
    for start in range(0, 3_000, 700):
        here.agree(ids[start : start + 700])
    here.agree(ids)


def test_while_the_store_is_away_what_is_remembered_is_given_out_however_old() -> None:
    here = Setup()
    here.write("i0")
    here.other.items(SCHEMA, ["i0"], NOW)
    here.behind.away, here.seconds = True, 60.0
    found = here.other.items(SCHEMA, ["i0", "i1"], NOW)
    assert (found.windows[0, 0], found.unknown.tolist()) == (1.0, [False, True])
    assert here.other.degraded
    here.behind.away, here.seconds = False, 62.0
    here.write("i0")
    assert here.other.items(SCHEMA, ["i0"], NOW).windows[0, 0] == 2.0
    assert not here.other.degraded


def test_what_is_here_counts_as_a_hit() -> None:
    here = Setup()
    here.other.items(SCHEMA, ["i0", "i1"], NOW)
    assert (here.other.hits, here.other.misses) == (0, 4)
    here.other.items(SCHEMA, ["i0", "i1"], NOW)
    assert (here.other.hits, here.other.misses) == (4, 4)
