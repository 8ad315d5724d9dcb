"""The whole features flow, in memory, on one worker and on two."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main

from flows import features
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.edges.store import MemoryStore, View
from streamrank.features import windows
from tests.flows import stage
from tests.flows.stage import NOW, PLAN, deed, record, records, shown

Run = Callable[..., tuple[MemoryStore, list[dict[str, Any]]]]
TWO_WORKERS: Callable[[Dataflow], None] = partial(
    cluster_main, addresses=[], proc_id=0, worker_count_per_proc=2
)


@pytest.fixture(params=[run_main, TWO_WORKERS], ids=["one worker", "two workers"])
def run(request: pytest.FixtureRequest) -> Run:
    """Send records through the whole flow; give back the store and the dead letters."""

    def through(*incoming: Incoming) -> tuple[MemoryStore, list[dict[str, Any]]]:
        store, letters = stage.store(), list[tuple[str, Outgoing]]()
        flow = features.build(
            TestingSource(incoming, batch_size=2),
            TestingSink(letters),
            plan=PLAN,
            store=store,
            decoders=stage.decoders(),
            ttl=stage.KNOWN.windows.ttl,
            flush=timedelta(seconds=1),
        )
        request.param(flow)
        return store, stage.messages(letters)

    return through


def totals(store: MemoryStore, view: View, key: str) -> dict[str, float]:
    [values] = store.read(view, [key], NOW)
    if not isinstance(values, np.ndarray):
        return {}
    window = windows.unpack(values, len(PLAN.schema.horizons), len(PLAN.schema.channels))
    counted = zip(PLAN.schema.channels, window.totals, strict=True)
    return {channel: total for channel, total in counted if total}


def test_deeds_and_lists_are_counted_at_users_and_items(run: Run) -> None:
    store, letters = run(
        *records(shown(1, "a", "b"), deed(1, "a", at=1), deed(2, "a", at=2, type="view"))
    )
    assert letters == []
    assert totals(store, "item_windows", "a") == {"view": 1, "click": 1, "impression": 1}
    assert totals(store, "item_windows", "b") == {"impression": 1}
    assert totals(store, "user_windows", "u") == {"view": 1, "click": 1, "impression": 1}


def test_the_same_event_id_twice_counts_once_even_in_another_flush(run: Run) -> None:
    again = [deed(1, "a", at=0)] * 5
    store, letters = run(*records(*again, deed(2, "a", at=1), *again))
    assert letters == []
    assert totals(store, "item_windows", "a") == {"click": 2}


def test_late_events_count_up_to_the_lateness_and_are_reported_beyond_it(run: Run) -> None:
    minute = 60_000
    store, letters = run(
        *records(
            deed(1, "a", at=0),
            deed(2, "a", at=-10 * minute),
            deed(3, "a", at=-10 * minute - 1),
        )
    )
    assert totals(store, "item_windows", "a") == {"click": 2}
    [letter] = letters
    assert letter["origin"] == "events[0]@2"
    assert "must be at most 600000 ms before the newest event of its user" in letter["reason"]
    assert letter["reason"].endswith("too late")


def test_fields_of_items_and_users_are_kept_field_by_field(run: Run) -> None:
    item = {"event": "item", "id": "1", "timestamp": NOW, "item": "a", "fields": {"price": 7}}
    title = item | {"id": "2", "timestamp": NOW + 1, "fields": {"title": "sea", "junk": 1}}
    user = {"event": "user", "id": "3", "timestamp": NOW, "user": "u", "fields": {"country": "FR"}}
    store, _ = run(*records(item, title, user))
    assert store.read("item_fields", ["a"], NOW) == [{"price": 7.0, "title": "sea"}]
    assert store.read("user_fields", ["u"], NOW) == [{"country": "FR"}]


def test_popular_items_come_by_their_interactions(run: Run) -> None:
    deeds = [deed(n, item, at=n) for n, item in enumerate(["a", "b", "b", "c", "b", "c"])]
    store, _ = run(*records(*deeds))
    assert store.read("popular", ["all"], NOW) == [{"items": ("b", "c", "a")}]


def test_our_own_rankings_count_as_impressions_and_re_rankings_do_not(run: Run) -> None:
    ranking = {
        "event": "ranking",
        "id": "q1",
        "timestamp": NOW,
        "user": "u",
        "request": "q1",
        "items": [{"id": "a", "score": 1.0, "propensity": 1.0}],
        "model": "m",
        "policy": "greedy",
        "features": "f",
        "latency_ms": 1.0,
    }
    again = ranking | {"id": "t", "trigger": "e1"}
    store, letters = run(record(ranking, 0, "rankings"), record(again, 1, "rankings"))
    assert letters == []
    assert totals(store, "item_windows", "a") == {"impression": 1}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"not json", "event: Invalid JSON"),
        (b"", "record: must not be empty"),
        (deed(1, timestamp=NOW // 1000), "interaction.timestamp"),
        (deed(1, timestamp=4 * NOW), "interaction.timestamp: must be at most 1:00:00 ahead"),
    ],
)
def test_what_cannot_be_read_is_set_aside_and_the_rest_goes_on(
    run: Run, payload: bytes | dict[str, Any], reason: str
) -> None:
    store, [letter] = run(*records(payload, deed(2, "a")))
    assert totals(store, "item_windows", "a") == {"click": 1}
    assert letter["origin"] == "events[0]@0"
    assert letter["reason"].startswith(reason)
