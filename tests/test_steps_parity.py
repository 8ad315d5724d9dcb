"""What the same events give is compared with what was served, where it can be known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from streamrank import deployment, steps, steps_parity
from streamrank.edges.onnxruntime import ModelRefused
from streamrank.features import inputs
from streamrank.features.inputs import Rows
from streamrank.learning.parity import comparable
from streamrank.served import Served
from streamrank.steps import Read
from streamrank.steps_parity import Again, Checked, Followed, Watch
from streamrank.steps_ranking import Scored, Scorer, to_served, track
from tests.flows import stage
from tests.flows.stage import asked, deed, record

WATCH = Watch(stage.PLAN, share=1.0, hold=5_000)
START = datetime.fromtimestamp(stage.NOW / 1000, UTC)


def read(payload: dict[str, Any]) -> Read:
    topic = "requests" if payload["event"] == "request" else "events"
    [one] = steps.decode(
        stage.decoders(), [record(payload, topic=topic)], START, timedelta(hours=1)
    )
    assert isinstance(one, Read)
    return one


@dataclass
class Serving:
    """The rank flow of one user, event by event, without a store."""

    user: Any = field(default_factory=lambda: Followed().user)

    def lists(self, *events: dict[str, Any]) -> list[Served]:
        found = []
        for event in events:
            self.user, queries = track(stage.PLAN, self.user, read(event))
            for query in queries:
                built = inputs.build(stage.PLAN.schema, query, Rows())
                [scores] = stage.TouchedFirst().score([built])
                found.append(to_served(stage.PLAN, Scored(query, built, scores, "touched-first")))
        return found


def as_read(served: Served) -> Read:
    return Read(served, record(b"", topic="served"))


def followed(*reads: Read, watch: Watch = WATCH, later: int = 20) -> list[Checked]:
    """Let a user's events and lists come at once, and wait until they are in order."""
    state, checked = steps_parity.advance(watch, Followed(), list(reads), START)
    assert checked == []
    return steps_parity.advance(watch, state, [], START + timedelta(seconds=later))[1]


VISIT = [asked(1, "a", "b", "c"), deed(1, "b", at=2000), deed(2, "c", at=4000)]


def test_what_was_served_is_what_the_events_give_whatever_comes_first() -> None:
    lists = Serving().lists(*VISIT)
    checked = followed(*map(as_read, lists), *(read(event) for event in reversed(VISIT)))
    assert [(one.served.id, one.differing) for one in checked] == [
        (served.id, ()) for served in lists
    ]
    assert {one.compared for one in checked} == {len(comparable(stage.PLAN.schema))}


def test_a_change_of_a_feature_or_of_the_history_is_named() -> None:
    first, second, third = Serving().lists(*VISIT)
    names = [feature.name for feature in inputs.features(stage.PLAN.schema)]
    numbers = second.inputs["candidate_numbers"].copy()
    numbers[1, names.index("touch.recency")] += 0.01
    changed = replace(second, inputs={**second.inputs, "candidate_numbers": numbers})
    history = {**third.inputs, "history_items": third.inputs["history_items"] + 1}
    lists = [first, changed, replace(third, inputs=history)]
    checked = followed(*map(read, VISIT), *map(as_read, lists))
    assert [one.differing for one in checked] == [(), ("touch.recency",), ("history_items",)]


def test_windows_and_the_catalogue_may_differ() -> None:
    names = [feature.name for feature in inputs.features(stage.PLAN.schema)]
    [first] = Serving().lists(VISIT[0])
    numbers = first.inputs["candidate_numbers"].copy()
    numbers[:, names.index("window.age")] += 1
    numbers[:, names.index("price.log")] += 1
    other = replace(first, inputs={**first.inputs, "candidate_numbers": numbers})
    [checked] = followed(read(VISIT[0]), as_read(other))
    assert (checked.differing, checked.compared > 0) == ((), True)


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([deed(1, "b"), asked(1, "a", "b", at=2000)], slice(1, None)),  # the beginning is missing
        ([asked(1, "a", "b"), deed(1, "b", at=2000), asked(2, "a", at=2100)], slice(None)),
        ([asked(1)], slice(None)),  # retrieval chose the candidates
    ],
    ids=["begun before", "a deed in the same moment", "no candidates"],
)
def test_a_list_whose_making_is_not_wholly_known_is_left_out(
    events: list[dict[str, Any]], seen: slice
) -> None:
    *_, last = Serving().lists(*events)
    *_, checked = followed(*map(read, events[seen]), as_read(last))
    assert (checked.differing, checked.compared) == ((), 0)


def test_a_log_that_is_being_caught_up_with_is_left_out() -> None:
    old = asked(1, "a", "b", at=-steps_parity.FRESH - 1)
    [list_] = Serving().lists(old)
    assert [one.compared for one in followed(read(old), as_read(list_))] == [0]


def test_a_users_deeds_before_the_first_list_are_known_if_the_rank_flow_knows_as_many() -> None:
    visit = [deed(1, "b"), deed(2, "c", at=2000), asked(1, "a", "b", at=9000)]
    [list_] = Serving().lists(*visit)
    assert [one.compared > 0 for one in followed(*map(read, visit), as_read(list_))] == [True]


def test_a_list_made_without_the_users_deeds_differs() -> None:
    """The rank flow lost a state: what it served is not what the events give."""
    honest = Serving().lists(VISIT[0])
    forgetful = Serving().lists(asked(2, "a", "b", at=9000))
    later = asked(2, "a", "b", at=9000)
    reads = [*map(read, [*VISIT, later]), *map(as_read, honest + forgetful)]
    checked = followed(*reads)
    assert checked[0].differing == ()
    assert {"history_items", "touch.recency", "session.steps"} <= set(checked[1].differing)


def test_a_silent_user_is_forgotten() -> None:
    state, _ = steps_parity.advance(WATCH, Followed(), [read(VISIT[0])], START)
    state, _ = steps_parity.advance(WATCH, state, [], START + timedelta(seconds=5))
    alarm = steps_parity.alarm(WATCH, state)
    assert alarm == START + timedelta(days=1)
    state, _ = steps_parity.advance(WATCH, state, [], alarm)
    assert (state, steps_parity.alarm(WATCH, state)) == (Followed(), None)


def test_the_sample_is_a_share_of_the_users_and_always_the_same() -> None:
    users = [read(asked(n, "a", user=f"u{n}")) for n in range(1000)]
    tenth = [one for one in users if Watch(stage.PLAN, share=0.1).takes(one)]
    assert 60 < len(tenth) < 140
    assert set(map(id, tenth)) <= {id(one) for one in users if WATCH.takes(one)}


def test_scores_are_those_of_the_version_that_served() -> None:
    [list_] = Serving().lists(VISIT[0])
    again = Again(lambda version: stage.TouchedFirst())
    near = replace(list_, scores=list_.scores + np.float32(5e-4))
    far = replace(list_, id="q2", scores=list_.scores + np.float32(2e-3))
    compared = again.score([Checked(near), Checked(far)])
    assert [(one.list_id, one.differing) for one in compared] == [("q1", ()), ("q2", ("scores",))]


def test_a_version_that_is_gone_is_asked_for_once_and_no_fault_of_the_list() -> None:
    asked_for = []

    def load(version: str) -> Scorer:
        asked_for.append(version)
        raise ModelRefused("gone")

    [list_] = Serving().lists(VISIT[0])
    assert Again(load).score([Checked(list_), Checked(list_)]) == []
    assert asked_for == ["touched-first"]


def test_the_settings_say_how_many_are_watched() -> None:
    rules = deployment.join_rules(stage.KNOWN)
    assert (rules.label, rules.conversion, rules.label_window) == ("click", None, 600_000)
