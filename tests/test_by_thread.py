from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, cluster_main

from streamrank.by_thread import ByThread
from streamrank.edges.cache import CachedStore
from streamrank.edges.store import MemoryStore, Row, View
from streamrank.features.schema import Schema

SCHEMA = Schema(item={"price": "number"})


class Counter:
    """Counts what it is called for."""

    def __init__(self) -> None:
        self.called = 0


def in_cluster(work: Callable[[int], int], workers: int) -> list[int]:
    """Run some work on 100 records as Bytewax does where there are several processes or threads."""
    found: list[int] = []
    flow = Dataflow("cluster")
    numbers = op.input("numbers", flow, TestingSource(range(100), batch_size=5))
    spread = op.redistribute("spread", numbers)
    op.output("out", op.map("work", spread, work), TestingSink(found))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    assert len(found) == 100
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_python_forgets_finds_its_own_again(workers: int) -> None:
    own: ByThread[Counter] = ByThread()
    threads: set[int] = set()

    def count(_: int) -> int:
        threads.add(threading.get_ident())
        mine = own.get()
        if mine is None:
            mine = Counter()
            own.set(mine)
        mine.called += 1
        return mine.called

    found = in_cluster(count, workers)
    assert found.count(1) == len(threads) <= workers


def test_threads_do_not_find_each_others() -> None:
    own: ByThread[str] = ByThread()
    own.set("mine")
    found: list[str | None] = []

    def other() -> None:
        found.append(own.get())
        own.set("yours")
        found.append(own.get())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert (found, own.get()) == ([None, "yours"], "mine")


class AskedStore(MemoryStore):
    """A store that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(SCHEMA, timedelta(days=1))
        self.asked: list[View] = []

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        self.asked.append(view)
        return super().rows(view, keys)


def test_a_worker_of_several_keeps_the_items_that_it_has_read() -> None:
    at = 1_700_000_000_000
    behind = AskedStore()
    behind.write([Row("item_fields", "i1", at, 0, {"price": 3.0})])
    # Too small for both rows: what is asked again is not answered from there.
    cache = CachedStore(behind, max_rows=1, max_age=timedelta(hours=1))

    def look(_: int) -> int:
        return int(cache.items(SCHEMA, ["i1"], at).numbers[0, 0])

    assert set(in_cluster(look, 1)) == {3}
    assert behind.asked == ["item_windows", "item_fields"]
