"""What people like changes, or what is heard of it turns round: the truth is the simulator's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from streamrank import settings
from streamrank.events import Request
from streamrank.features.inputs import Array
from streamrank.learning.examples import Example
from streamrank.simulate import Size
from tests.benchmarks import drift
from tests.benchmarks.drift import Course, Reversed

SIZE = Size(items=40, shoppers=16, candidates=6)
# Of fewer lists, 16 shoppers are hardly ever all to be called the opposite of what they were.
FEW: Mapping[str, Mapping[str, Any]] = {"gate": {"lists": 45}, "learn": {"rate": 2e-3, "batch": 32}}


def course(gained: Array) -> Course:
    return Course(gained, np.ones(len(gained)), [])


@dataclass
class Heard:
    """Lessons that only remember what they heard."""

    heard: list[Example]
    champion: str = "v0"

    def take(self, examples: Sequence[Example], now: datetime) -> list[object]:
        self.heard += examples
        return []


# --- what is measured ----------------------------------------------------------------------------


def test_a_system_is_back_when_its_newest_lists_are_as_good_as_all_before() -> None:
    """Of 600 lists at .5, 300 at 0 and 600 at .5, the window is at .475 with 285 good ones."""
    quality = np.repeat([0.5, 0.0, 0.5], [600, 300, 600])
    assert course(quality).back(600) == 300 + 285
    assert course(quality[:900]).back(600) is None


def test_the_best_order_has_quality_one_and_the_incoming_one_none() -> None:
    given = drift.case(20, 5, 5, shift=True, size=SIZE)
    for request in given.lists:
        likes = given.world.utility(request)
        gained, room = drift.held(given.world, request, sorted(likes, key=lambda i: -likes[i]))
        assert gained == pytest.approx(room)
        assert drift.held(given.world, request, list(likes)) == (0, room)


def test_two_logs_are_the_same_until_tastes_change() -> None:
    one, other = (drift.case(30, 30, 30, shift=shift, size=SIZE) for shift in (True, False))
    until = one.lists[one.change].timestamp
    first, second = (
        [event for event in given.events if event.timestamp < until] for given in (one, other)
    )
    assert first == second
    assert one.events != other.events
    assert sum(isinstance(event, Request) for event in first) == 60


def test_a_learner_hears_the_opposite_from_a_time_on() -> None:
    from tests.lists import example, query
    from tests.test_lessons import SCHEMA

    heard = Heard([])
    lessons = Reversed(heard, since=101)
    given = [example(SCHEMA, query("ab", at=at), "a") for at in (100, 101)]
    lessons.take(given, datetime(2026, 1, 1, tzinfo=UTC))
    assert [one.labels[:, 0].tolist() for one in heard.heard] == [[1, 0], [0, 1]]


# --- what becomes of quality ---------------------------------------------------------------------


@pytest.mark.slow
def test_reversed_labels_do_not_reach_what_is_served(tmp_path: Path) -> None:
    given = drift.case(600, 200, 700, shift=True, size=SIZE)
    known = settings.changed(
        drift.train(given, tmp_path, 4, {"rate": 1e-3}, Console(quiet=True)), FEW
    )
    found = drift.turned(drift.case(600, 50, 350, shift=False, size=SIZE), known)
    assert found["online"]["not_believed"] > 0
    assert found["worst_ndcg_ratio"] >= 0.98
    passed = [one for one in found["online"]["models"] if one["published"]]
    assert all(one["gate"]["ndcg@10"] >= one["gate"]["champion_ndcg@10"] for one in passed)
