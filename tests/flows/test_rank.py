"""The whole rank flow, in memory, on one worker and on two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main

from flows import rank
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.edges.store import MemoryStore, Row
from streamrank.events import Served, decode_served
from streamrank.features.trails import Trail
from streamrank.steps_ranking import Scorer
from tests.flows import stage
from tests.flows.stage import asked, deed, record, records, shown

Run = Callable[[Dataflow], None]
TWO_WORKERS: Run = partial(cluster_main, addresses=[], proc_id=0, worker_count_per_proc=2)


@dataclass
class Out:
    rankings: list[dict[str, Any]] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(params=[run_main, TWO_WORKERS], ids=["one worker", "two workers"])
def run(request: pytest.FixtureRequest) -> Callable[..., Out]:
    """Send records through the whole flow; give back what came out."""

    def through(
        *incoming: Incoming, store: MemoryStore | None = None, scorer: Scorer | None = None
    ) -> Out:
        rankings: list[tuple[str, Outgoing]] = []
        served: list[tuple[str, Outgoing]] = []
        letters: list[tuple[str, Outgoing]] = []
        flow = rank.build(
            TestingSource(incoming),
            TestingSink(rankings),
            TestingSink(served),
            TestingSink(letters),
            plan=replace(stage.PLAN, found=2),
            store=store or stage.store(),
            scorer=scorer or stage.TouchedFirst(),
            decoders=stage.decoders(),
            reports=frozenset({"requests"}),
            ttl=stage.KNOWN.session.ttl,
        )
        request.param(flow)
        return Out(
            stage.messages(rankings),
            [decode_served(outgoing.value) for _, outgoing in served],
            stage.messages(letters),
        )

    return through


def ids(ranking: dict[str, Any]) -> list[str]:
    return [item["id"] for item in ranking["items"]]


def test_a_click_ranks_the_current_list_again(run: Callable[..., Out]) -> None:
    out = run(*records(asked(1, "a", "b", "c"), deed(1, "c", at=2000)))
    first, again = out.rankings
    assert (first["id"], ids(first)) == ("q1", ["a", "b", "c"])
    assert (again["request"], again["trigger"], ids(again)) == ("q1", "e1", ["c", "a", "b"])
    assert [served.source for served in out.served] == ["request", "trigger"]
    assert out.served[1].items == ("a", "b", "c")


def test_a_list_shown_elsewhere_is_scored_and_logged_and_not_sent(run: Callable[..., Out]) -> None:
    out = run(*records(shown(1, "a", "b")))
    assert out.rankings == []
    [served] = out.served
    assert (served.id, served.source, served.items) == ("r1", "ranking", ("a", "b"))
    assert served.scores.shape == (2, 1)
    assert served.features == stage.PLAN.features


def test_what_was_served_says_where_each_candidate_stood_and_whether_by_chance(
    run: Callable[..., Out],
) -> None:
    out = run(*records(asked(1, "a", "b", "c", k=2), deed(1, "c", at=2000), shown(1, "b", "c")))
    assert [served.source for served in out.served] == ["request", "trigger", "ranking"]
    places = [served.shown.tolist() for served in out.served if served.shown is not None]
    assert places == [[0, 1, -1], [1, -1, 0], [0, 1]]
    chances = [one.propensities.tolist() for one in out.served if one.propensities is not None]
    assert chances == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0]]
    assert {served.session for served in out.served} == {"s"}


def test_deeds_of_one_user_do_not_change_the_lists_of_another(run: Callable[..., Out]) -> None:
    out = run(*records(deed(1, "b"), asked(1, "a", "b", user="v", session="t")))
    assert [ids(ranking) for ranking in out.rankings] == [["a", "b"]]


def test_the_same_request_twice_is_answered_once(run: Callable[..., Out]) -> None:
    out = run(*records(asked(1, "a", "b"), asked(1, "a", "b")))
    assert len(out.rankings) == 1


def test_without_candidates_the_list_holds_the_touched_and_the_popular(
    run: Callable[..., Out],
) -> None:
    store = stage.store()
    store.write([Row("popular", "all", stage.NOW, 0, {"items": ("p1", "p2")})])
    out = run(*records(deed(1, "x"), asked(1, at=5)), store=store)
    assert ids(out.rankings[-1]) == ["x", "p1", "p2"]


class Following(stage.TouchedFirst):
    """Finds what comes after an item in the alphabet."""

    def find(self, trails: Sequence[Trail], count: int) -> list[list[str]]:
        return [[chr(ord(trail.items[-1]) + n) for n in (1, 2)] for trail in trails]


def test_without_candidates_the_list_holds_what_the_model_finds_as_well(
    run: Callable[..., Out],
) -> None:
    store = stage.store()
    store.write([Row("popular", "all", stage.NOW, 0, {"items": ("p1", "y")})])
    out = run(*records(deed(1, "x"), asked(1, at=5)), store=store, scorer=Following())
    assert out.served[-1].items == ("y", "z", "x", "p1")
    assert ids(out.rankings[-1]) == ["x", "y", "z", "p1"]


def test_a_model_that_finds_nothing_but_errors_does_not_stop_the_flow(
    run: Callable[..., Out],
) -> None:
    """Nobody touched anything: there is no last item to look at, which is an IndexError."""
    out = run(*records(asked(1), asked(2, "a")), scorer=Following())
    assert [ids(ranking) for ranking in out.rankings] == [[], ["a"]]


def test_without_candidates_and_without_a_store_the_list_is_empty(run: Callable[..., Out]) -> None:
    out = run(*records(asked(1)))
    assert [ids(ranking) for ranking in out.rankings] == [[]]


def test_an_unknown_user_with_unknown_items_gets_a_list(run: Callable[..., Out]) -> None:
    request = asked(1, "never", "seen") | {"user": None, "session": "fresh"}
    [ranking] = run(*records(request)).rankings
    assert ids(ranking) == ["never", "seen"]
    assert "user" not in ranking


def test_triggers_of_one_user_keep_their_distance(run: Callable[..., Out]) -> None:
    clicks = [deed(n, f"i{n}", at=n * 400) for n in range(1, 8)]
    out = run(*records(asked(0, "i1", "i2", "i3"), *clicks))
    assert [ranking.get("trigger") for ranking in out.rankings] == [None, "e1", "e4", "e7"]


def test_bad_records_of_its_own_topics_are_set_aside_and_the_rest_goes_on(
    run: Callable[..., Out],
) -> None:
    bad = record(b"\xff not even text", 7, "requests")
    others = record(b"not json", 8, "events")  # the features flow reports these
    out = run(bad, others, record(asked(1, "a"), 9, "requests"))
    assert len(out.rankings) == 1
    [letter] = out.letters
    assert letter["origin"] == "requests[0]@7"
    assert "event" in letter["reason"]


def test_values_older_than_their_time_to_live_are_as_good_as_none(run: Callable[..., Out]) -> None:
    store = stage.store()
    day = 86_400_000
    age = stage.KNOWN.windows.ttl.days * day + 1
    store.write([Row("popular", "all", stage.NOW - age, 0, {"items": ("old",)})])
    assert [ids(r) for r in run(*records(asked(1)), store=store).rankings] == [[]]


def test_of_more_users_than_may_be_held_each_is_answered_and_the_last_is_not_remembered() -> None:
    def of(user: str, number: int, *items: str) -> list[dict[str, Any]]:
        clicked = deed(number, items[-1], at=number, user=user, session=user)
        return [clicked, asked(number, *items, at=number, user=user, session=user)]

    rankings: list[tuple[str, Outgoing]] = []
    sent = [*of("a", 1, "x", "y"), *of("b", 2, "x", "y"), *of("c", 3, "x", "y")]
    flow = rank.build(
        TestingSource(records(*sent), batch_size=1),
        TestingSink(rankings),
        TestingSink([]),
        TestingSink([]),
        plan=stage.PLAN,
        store=stage.store(),
        scorer=stage.TouchedFirst(),
        decoders=stage.decoders(),
        reports=frozenset(),
        ttl=stage.KNOWN.session.ttl,
        users=2,
    )
    run_main(flow)
    orders = {one["id"]: [i["id"] for i in one["items"]] for one in stage.messages(rankings)}
    assert orders == {"q1": ["y", "x"], "q2": ["y", "x"], "q3": ["x", "y"]}
