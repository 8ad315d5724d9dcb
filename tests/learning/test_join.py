"""Interactions joined to lists: in time, out of order, and with an account of what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrank.events import Candidate, Interaction, Shown
from streamrank.learning import join
from streamrank.learning.examples import Example
from streamrank.learning.join import Arrival, Joining, Outcome, Rules
from streamrank.served import Served

NOW = 1_700_000_000_000
SECOND, MINUTE, DAY = 1_000, 60_000, 86_400_000
RULES = Rules(
    label="click",
    conversion="buy",
    label_window=10 * MINUTE,
    conversion_window=3 * DAY,
    idle=5 * MINUTE,
    settle=SECOND,
    lateness=10 * MINUTE,
    lists=20,
)
OF_LISTS = {"with_feedback", "without_feedback", "unseen_rerank", "duplicate_list", "empty_list"}


def served(
    name: str = "r1",
    at: int = 0,
    *,
    items: tuple[str, ...] = ("a", "b", "c"),
    source: str = "request",
    session: str | None = "s",
    shown: Iterable[int] | None = None,
) -> Served:
    places = range(len(items)) if shown is None else shown
    return Served(
        name,
        "u",
        NOW + at,
        items,
        "v1",
        "f",
        source,
        {"candidate_items": np.arange(len(items))},
        np.ones((len(items), 2), np.float32),
        np.array(list(places), np.int64),
        np.ones(len(items), np.float32),
        session,
    )


def deed(
    number: int,
    item: str | None = "b",
    at: int = SECOND,
    *,
    kind: str = "click",
    of: str | None = "r1",
    session: str | None = "s",
) -> Interaction:
    return Interaction(
        id=f"e{number}",
        timestamp=NOW + at,
        user="u",
        session=session,
        type=kind,
        item=item,
        ranking=of,
    )


@dataclass
class Desk:
    """One user's join, with a system clock that moves only when it is told."""

    rules: Rules = RULES
    state: Joining = field(default_factory=Joining)
    now: int = NOW
    examples: list[Example] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def take(self, *arrivals: Served | Interaction | Shown | None) -> list[Example]:
        """Take in what comes, and return the examples that came of it."""
        before = len(self.examples)
        for what in arrivals:
            self.state, out = join.advance(self.state, Arrival(what, self.now), self.rules)
            self.examples += [one for one in out if isinstance(one, Example)]
            self.outcomes.update(one.name for one in out if isinstance(one, Outcome))
        return self.examples[before:]

    def wait(self, milliseconds: int) -> list[Example]:
        """Let time pass, and wake up whenever the join has asked for it."""
        before, end = len(self.examples), self.now + milliseconds
        while (alarm := join.alarm(self.state, self.rules)) is not None and alarm <= end:
            self.now = max(self.now, alarm)
            self.take(None)
        self.now = end
        return self.examples[before:]


def labels(example: Example) -> list[list[float]]:
    """Return the labels, then the conversions."""
    found: list[list[float]] = example.labels.T.tolist()
    return found


def test_a_list_with_a_click_waits_a_moment_for_more_and_is_learned_from() -> None:
    desk = Desk()
    assert desk.take(served(), deed(1, "b"), deed(2, "c", 1500)) == []
    [example] = desk.wait(SECOND)
    assert (example.id, example.revision, labels(example)) == ("r1", 0, [[0, 1, 1], [0, 0, 0]])
    assert desk.outcomes == {"joined": 2, "with_feedback": 1}


def test_an_example_names_the_first_record_of_the_feedback_that_is_new_in_it() -> None:
    state, out = Joining(), list[Example | Outcome]()
    arrivals = [
        Arrival(served(), NOW),
        Arrival(deed(1), NOW + SECOND, "events[2]@7"),
        Arrival(deed(2, "c"), NOW + SECOND, "events[2]@9"),
        Arrival(None, NOW + 3 * SECOND),
        Arrival(deed(3, "a", at=5 * SECOND), NOW + 5 * SECOND, "events[2]@12"),
        Arrival(None, NOW + 9 * SECOND),
    ]
    for arrival in arrivals:
        state, more = join.advance(state, arrival, RULES)
        out += more
    examples = [one for one in out if isinstance(one, Example)]
    assert [one.origin for one in examples] == ["events[2]@7", "events[2]@12"]


def test_an_example_is_what_was_served() -> None:
    desk, list_ = Desk(), served(shown=(1, 0, -1))
    desk.take(list_, deed(1))
    [example] = desk.wait(SECOND)
    assert (example.user, example.at, example.items) == ("u", NOW, ("a", "b", "c"))
    assert (example.model, example.source) == ("v1", "request")
    for name in ("scores", "shown", "propensities"):
        np.testing.assert_array_equal(getattr(example, name), getattr(list_, name))
    np.testing.assert_array_equal(example.inputs["candidate_items"], [0, 1, 2])


def test_a_list_without_feedback_is_over_when_its_user_is_silent() -> None:
    desk = Desk()
    desk.take(served())
    assert desk.wait(5 * MINUTE - 1) == []
    [example] = desk.wait(1)
    assert labels(example) == [[0, 0, 0], [0, 0, 0]]
    assert desk.outcomes == {"without_feedback": 1}


def test_a_list_without_feedback_is_over_when_its_window_has_passed() -> None:
    desk = Desk()
    desk.take(served())
    views = [deed(n, at=n * MINUTE, kind="view", of=None) for n in range(1, 10)]
    assert desk.take(*views) == []
    [example] = desk.take(deed(10, at=10 * MINUTE, kind="view", of=None))
    assert example.id == "r1"


def test_a_list_is_over_when_another_visit_begins() -> None:
    desk = Desk()
    [example] = desk.take(served(), deed(1, at=30, kind="view", of=None, session="t"))
    assert (example.id, example.labels.sum()) == ("r1", 0)


def test_a_visit_that_nobody_named_ends_no_other() -> None:
    desk = Desk()
    assert desk.take(served(), deed(1, at=30, kind="view", of=None, session=None)) == []


def test_a_list_shown_elsewhere_ends_a_visit_as_a_deed_does() -> None:
    desk = Desk()
    shown = Shown(id="r2", timestamp=NOW + 9, user="u", session="t", items=(Candidate(id="x"),))
    [example] = desk.take(served(), shown)
    assert example.id == "r1"


def test_the_clock_that_closes_lists_is_that_of_the_events() -> None:
    """A log of a day read in a moment: nothing is closed before its feedback was read."""
    desk = Desk()
    lists = [served(f"r{hour}", hour * 60 * MINUTE) for hour in range(24)]
    assert desk.take(*lists[:20]) == []
    clicks = [deed(h, "a", h * 60 * MINUTE + SECOND, of=f"r{h}") for h in range(24)]
    desk.take(*clicks[:10], *lists[20:], *clicks[10:])
    desk.wait(SECOND)
    assert [labels(example)[0] for example in desk.examples] == [[1, 0, 0]] * 24
    assert {example.revision for example in desk.examples} == {0}


def test_feedback_may_come_before_its_list() -> None:
    desk = Desk()
    desk.take(deed(1), deed(2, "c"))
    desk.wait(9 * MINUTE)
    assert [labels(example)[0] for example in desk.take(served())] == [[0, 1, 1]]
    assert desk.outcomes == {"joined": 2, "with_feedback": 1}


def test_feedback_on_a_list_that_never_comes_is_given_up() -> None:
    desk = Desk()
    desk.take(deed(1, of="r9"), deed(2, of=None))
    desk.wait(10 * MINUTE)
    assert desk.outcomes == {"unknown_list": 1, "no_list_named": 1}
    assert join.alarm(desk.state, RULES) is None  # nothing is left of this user


def test_feedback_later_than_its_window_is_late_though_the_list_is_there() -> None:
    desk = Desk()
    desk.take(served(), deed(1, at=10 * MINUTE + 1))
    assert desk.outcomes["late"] == 1
    assert desk.examples[0].labels.sum() == 0


def test_feedback_that_comes_when_its_list_is_forgotten_is_late() -> None:
    desk = Desk()
    desk.take(served())
    desk.wait(20 * MINUTE)
    desk.take(deed(1))
    assert desk.outcomes == {"without_feedback": 1, "late": 1}


def test_feedback_in_its_window_that_comes_after_the_example_corrects_it() -> None:
    desk = Desk()
    desk.take(served())
    desk.wait(6 * MINUTE)
    desk.take(deed(1, at=7 * MINUTE))
    desk.wait(SECOND)
    assert [(one.revision, one.labels.sum()) for one in desk.examples] == [(0, 0), (1, 1)]
    assert desk.outcomes == {"without_feedback": 1, "corrected": 1}


def test_a_conversion_days_later_corrects_the_example_and_holds_all_labels() -> None:
    desk = Desk()
    desk.take(served(), deed(1, "b"))
    desk.wait(2 * DAY)
    desk.take(deed(2, "b", 2 * DAY, kind="buy"))
    desk.wait(SECOND)
    assert [one.revision for one in desk.examples] == [0, 1]
    assert labels(desk.examples[1]) == [[0, 1, 0], [0, 1, 0]]
    assert desk.outcomes == {"joined": 1, "with_feedback": 1, "corrected": 1}


def test_a_conversion_later_than_its_window_is_late() -> None:
    desk = Desk()
    desk.take(served(), deed(1, "b"), deed(2, "b", 3 * DAY + 1, kind="buy"))
    assert desk.outcomes["late"] == 1


def test_a_conversion_of_a_list_without_a_label_is_lost_and_says_so() -> None:
    desk = Desk()
    desk.take(served())
    desk.wait(DAY)
    desk.take(deed(1, "b", DAY, kind="buy"))
    assert desk.outcomes == {"without_feedback": 1, "without_label": 1}


def test_a_conversion_that_names_no_list_goes_to_the_list_where_its_item_was_clicked() -> None:
    desk = Desk()
    desk.take(served("r1"), deed(1, "b"), served("r2", MINUTE), served("r3", 2 * MINUTE))
    desk.take(deed(2, "b", 3 * MINUTE, kind="buy", of=None))
    desk.wait(SECOND)
    assert [(one.id, labels(one)[1]) for one in desk.examples] == [("r1", [0, 1, 0])]


def test_a_click_that_names_no_list_goes_to_the_newest_before_it_that_showed_its_item() -> None:
    desk = Desk()
    desk.take(
        served("r1"),
        served("r2", MINUTE),
        served("r3", 2 * MINUTE, items=("x", "y")),
        served("r4", 2 * MINUTE, items=("a", "b"), shown=(0, -1)),
        served("r5", 4 * MINUTE),
        served("t1", 2 * MINUTE, source="trigger"),
    )
    desk.take(deed(1, "b", 3 * MINUTE, of=None))
    desk.wait(SECOND)
    assert [(one.id, labels(one)[0]) for one in desk.examples] == [("r2", [0, 1, 0])]


@pytest.mark.parametrize("item", ["z", "c"])
def test_feedback_on_what_the_list_did_not_show_is_not_in_it(item: str) -> None:
    desk = Desk()
    desk.take(served(shown=(1, 0, -1)), deed(1, item))
    assert desk.outcomes == {"not_in_list": 1}


def test_a_record_of_before_places_were_written_down_shows_all_it_has() -> None:
    desk = Desk()
    desk.take(replace(served(), shown=None, propensities=None, session=None), deed(1, "c"))
    assert [labels(one)[0] for one in desk.wait(SECOND)] == [[0, 0, 1]]


def test_the_same_event_twice_is_a_duplicate_and_the_same_click_again_a_repetition() -> None:
    desk = Desk()
    desk.take(served(), deed(1), deed(1), deed(2), deed(7, of="r7"), deed(7, of="r7"))
    assert desk.outcomes == {"joined": 1, "duplicate": 2, "repeated": 1}


def test_the_same_list_twice_is_a_duplicate_for_as_long_as_it_is_known() -> None:
    desk = Desk()
    desk.take(served(), served())
    desk.wait(2 * DAY)
    desk.take(served())
    assert desk.outcomes == {"duplicate_list": 2, "without_feedback": 1}
    assert len(desk.examples) == 1


def test_a_rerank_that_nobody_fed_back_on_is_dropped_and_counted() -> None:
    desk = Desk()
    desk.take(served("t1", source="trigger"))
    desk.wait(DAY)
    assert desk.examples == []
    assert desk.outcomes == {"unseen_rerank": 1}


def test_a_rerank_with_feedback_was_seen() -> None:
    desk = Desk()
    desk.take(served("t1", source="trigger"))
    desk.wait(9 * MINUTE)
    desk.take(deed(1, "a", at=9 * MINUTE, of="t1"))
    assert [(one.id, one.revision) for one in desk.wait(SECOND)] == [("t1", 0)]
    assert desk.outcomes == {"joined": 1, "with_feedback": 1}


def test_feedback_without_an_item_and_a_list_without_items_are_counted() -> None:
    desk = Desk()
    desk.take(served("r0", items=()), deed(1, None), deed(2, "a", of="r0"))
    assert desk.outcomes == {"empty_list": 1, "no_item": 1, "late": 1}


def test_deeds_that_are_no_feedback_leave_no_trace_when_nothing_waits() -> None:
    desk = Desk()
    desk.take(deed(1, kind="view"), deed(2, None, kind="search", of=None))
    assert desk.outcomes == {}
    assert join.alarm(desk.state, RULES) is None


def test_of_too_many_lists_the_oldest_is_over_at_once_and_reranks_are_before_all() -> None:
    desk = Desk(replace(RULES, lists=2))
    desk.take(served("r1"), served("t1", source="trigger"), served("r2"))
    assert desk.outcomes == {"unseen_rerank": 1}
    [example] = desk.take(served("r3"))
    assert (example.id, set(desk.state.lists)) == ("r1", {"r2", "r3"})


def test_too_much_feedback_without_lists_is_counted() -> None:
    desk = Desk()
    desk.take(*(deed(n, of=f"r{n}") for n in range(join.WAITING + 3)))
    assert desk.outcomes == {"crowded_out": 3}


def test_all_that_is_kept_of_a_user_expires() -> None:
    desk = Desk()
    desk.take(served("r1"), deed(1), served("r2", MINUTE), served("t1", source="trigger"))
    desk.wait(4 * DAY)
    assert join.alarm(desk.state, RULES) is None
    assert not desk.state.lists
    assert not desk.state.over


def test_after_a_rest_all_goes_on_as_if_no_time_had_passed() -> None:
    desk = Desk()
    desk.take(served(), deed(1, of="r9"))
    desk.now += DAY
    desk.state = join.resumed(desk.state, desk.now)
    assert desk.take(None) == []
    desk.take(deed(2, at=4 * MINUTE), served("r9"))
    desk.wait(SECOND)
    assert {one.id: one.labels.sum() for one in desk.examples} == {"r1": 1, "r9": 1}


ITEMS = ("a", "b", "c", "z")
ARRIVALS = st.one_of(
    st.builds(
        lambda n, at, source, session: served(f"r{n}", at, source=source, session=session),
        st.integers(0, 5),
        st.integers(0, 30).map(lambda m: m * MINUTE),
        st.sampled_from(["request", "ranking", "trigger"]),
        st.sampled_from(["s", "t", None]),
    ),
    st.builds(
        lambda n, item, at, kind, of, session: deed(n, item, at, kind=kind, of=of, session=session),
        st.integers(0, 20),
        st.sampled_from([*ITEMS, None]),
        st.integers(0, 40).map(lambda m: m * MINUTE),
        st.sampled_from(["click", "buy", "view"]),
        st.sampled_from([None, *(f"r{n}" for n in range(7))]),
        st.sampled_from(["s", "t", None]),
    ),
    st.integers(1, 2 * DAY),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ARRIVALS, max_size=40), st.integers(1, 6))
def test_every_list_and_every_feedback_has_one_outcome(
    arrivals: list[Served | Interaction | int], most: int
) -> None:
    desk = Desk(replace(RULES, lists=most))
    for arrival in arrivals:
        if isinstance(arrival, int):
            desk.wait(arrival)
        else:
            desk.take(arrival)
    desk.wait(10 * DAY)
    lists = sum(isinstance(one, Served) for one in arrivals)
    deeds = [one for one in arrivals if isinstance(one, Interaction)]
    fed = sum(one.type in ("click", "buy") for one in deeds)
    counted = desk.outcomes
    assert sum(counted[name] for name in OF_LISTS) == lists
    assert sum(count for name, count in counted.items() if name not in OF_LISTS) == fed
    assert (desk.state.lists, desk.state.over, desk.state.waiting) == ({}, {}, ())

    sent = Counter(one.revision for one in desk.examples)
    assert sent[0] == counted["with_feedback"] + counted["without_feedback"]
    newest = {one.id: one for one in desk.examples}
    ids = [one.id for one in arrivals if isinstance(one, Served)]
    if len(set(ids)) == len(ids):  # one that comes again when it is forgotten counts as new
        assert len({(one.id, one.revision) for one in desk.examples}) == len(desk.examples)
        found = sum(int(one.labels.sum()) for one in newest.values())
        assert found == counted["joined"] + counted["corrected"]


@settings(max_examples=100, deadline=None)
@given(st.permutations([served(), deed(1, "a"), deed(2, "b", MINUTE), deed(3, "c", 2 * MINUTE)]))
def test_whatever_comes_first_the_newest_example_is_the_same(
    arrivals: list[Served | Interaction],
) -> None:
    desk = Desk()
    desk.take(*arrivals)
    desk.wait(DAY)
    assert labels(desk.examples[-1]) == [[1, 1, 1], [0, 0, 0]]
    assert [one.revision for one in desk.examples] == list(range(len(desk.examples)))
