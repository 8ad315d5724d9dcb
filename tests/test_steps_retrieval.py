"""Candidates for requests without: found, touched, popular, and never an error."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from streamrank import metrics
from streamrank.edges.store import MemoryStore, Row
from streamrank.features.inputs import Array, Inputs, Query
from streamrank.features.state import UserState
from streamrank.features.trails import Trail
from streamrank.steps import Plan
from streamrank.steps_retrieval import retrieve
from tests import lists
from tests.flows import stage

PLAN = replace(stage.PLAN, found=3, popular=6)


@dataclass
class Finds:
    """Finds the same for everybody who touched anything, and remembers what it was asked."""

    items: Sequence[str] = ("f1", "f2", "f3", "f4")
    error: Exception | None = None
    asked: list[list[Trail]] = field(default_factory=list)
    version = "finds"

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        raise NotImplementedError

    def find(self, trails: Sequence[Trail], count: int) -> list[list[str]]:
        self.asked.append(list(trails))
        if self.error is not None:
            raise self.error
        return [list(self.items[:count]) if trail.items else [] for trail in trails]


def store() -> MemoryStore:
    made = stage.store()
    made.write([Row("popular", "all", lists.NOW, 0, {"items": ("p1", "f2", "p2", "p3")})])
    return made


def asks(*touched: str) -> Query:
    steps = [lists.step("view", one, ago=60 - n) for n, one in enumerate(touched)]
    return lists.query("", UserState(steps=tuple(steps)))


def ids(queries: Sequence[Query]) -> list[list[str]]:
    return [[one.id for one in query.candidates] for query in queries]


def retrieved() -> dict[str, float]:
    [family] = metrics.RETRIEVED.collect()
    return {
        one.labels["outcome"]: one.value for one in family.samples if one.name.endswith("_total")
    }


def since(before: dict[str, float]) -> dict[str, float]:
    found = {name: value - before.get(name, 0.0) for name, value in retrieved().items()}
    return {name: value for name, value in found.items() if value}


def test_the_found_come_first_then_the_touched_then_the_popular_and_no_more_than_may_be() -> None:
    found = retrieve(PLAN, store(), Finds(), [asks("t1", "t2")])
    assert ids(found) == [["f1", "f2", "f3", "t2", "t1", "p1"]]


def test_one_question_is_asked_for_a_batch_and_none_for_lists_with_items() -> None:
    scorer, before = Finds(), retrieved()
    listed = lists.query("ab")
    found = retrieve(PLAN, store(), scorer, [asks("t1"), listed, asks(), asks("t2")])
    assert ids(found) == [
        ["f1", "f2", "f3", "t1", "p1", "p2"],
        ["a", "b"],
        ["p1", "f2", "p2", "p3"],
        ["f1", "f2", "f3", "t2", "p1", "p2"],
    ]
    [asked] = scorer.asked
    assert [trail.items for trail in asked] == [("t1",), (), ("t2",)]
    assert since(before) == {"found": 2, "nothing": 1}
    assert retrieve(PLAN, store(), scorer, [listed]) == [listed]
    assert len(scorer.asked) == 1


@pytest.mark.parametrize(
    ("plan", "scorer"), [(PLAN, stage.TouchedFirst()), (replace(PLAN, found=0), Finds())]
)
def test_where_nobody_finds_or_nobody_is_to_be_asked_it_is_the_touched_and_the_popular(
    plan: Plan, scorer: stage.TouchedFirst | Finds
) -> None:
    before = retrieved()
    found = retrieve(plan, store(), scorer, [asks("t1", "t2")])
    assert ids(found) == [["t2", "t1", "p1", "f2", "p2", "p3"]]
    assert since(before) == {}


def test_an_error_costs_no_request_and_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    retrieve(PLAN, store(), Finds(), [asks("t1")])
    before, scorer = retrieved(), Finds(error=MemoryError("no room"))
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            found = retrieve(PLAN, store(), scorer, [asks("t1"), asks()])
            assert ids(found) == [["t1", "p1", "f2", "p2", "p3"], ["p1", "f2", "p2", "p3"]]
    assert since(before) == {"failed": 8}
    assert "MemoryError: no room" in caplog.text
    assert len(caplog.records) == 3  # the first, the second and the fourth


def test_fewer_answers_than_questions_are_an_error_too() -> None:
    class Short(Finds):
        def find(self, trails: Sequence[Trail], count: int) -> list[list[str]]:
            return super().find(trails[1:], count)

    assert ids(retrieve(PLAN, store(), Short(), [asks("t1")])) == [["t1", "p1", "f2", "p2", "p3"]]
