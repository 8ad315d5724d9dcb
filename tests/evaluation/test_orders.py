from __future__ import annotations

import numpy as np

from streamrank.evaluation import metrics, orders
from streamrank.features import windows
from streamrank.features.inputs import Rows
from streamrank.features.schema import Schema
from streamrank.features.state import UserState
from tests import lists

SCHEMA = Schema(interactions=("view", "click"), label="click", horizons=(3600.0, 86400.0))


def ordered(scores: np.ndarray[tuple[int], np.dtype[np.float64]], items: str) -> str:
    return "".join(items[place] for place in metrics.order(scores))


def test_what_was_touched_last_comes_first_and_the_rest_stays_as_shown() -> None:
    deeds = (("view", "c", 90), ("click", "a", 60), ("view", "x", 30), ("view", "c", 10))
    state = UserState(tuple(lists.step(kind, item, ago) for kind, item, ago in deeds))
    found = orders.simple_orders(lists.example(SCHEMA, lists.query("abcd", state)), SCHEMA)
    assert ordered(found["as_shown"], "abcd") == "abcd"
    assert ordered(found["recently_touched"], "abcd") == "cabd"


def test_what_most_people_touched_comes_first_and_impressions_are_no_deeds() -> None:
    """By item: views, clicks, impressions; b has 7 deeds, c has 4, a has 1, d is unknown."""
    counts = {"a": (1, 0, 500), "b": (3, 4, 10), "c": (4, 0, 50)}
    rows = []
    for item in "abcd":
        window = windows.empty(2, len(SCHEMA.channels))
        for channel, count in enumerate(counts.get(item, ())):
            place = channel if channel < 2 else len(SCHEMA.channels) - 1
            for _ in range(count):
                window = windows.count(window, place, lists.NOW - 1000, np.array([3600.0, 86400.0]))
        rows.append(windows.pack(window) if item in counts else None)
    example = lists.example(SCHEMA, lists.query("abcd"), rows=Rows(item_windows=rows))
    assert ordered(orders.simple_orders(example, SCHEMA)["popularity"], "abcd") == "bcad"
