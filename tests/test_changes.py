"""Which change of a list a demo shows."""

from __future__ import annotations

from streamrank.changes import Change, Changes
from streamrank.events import Interaction, Placed, Ranking, User

NOW = 1_700_000_000_000


def ranked(order: str, request: str = "r1", trigger: str | None = None) -> Ranking:
    """Return a ranked list of items with one letter each."""
    return Ranking(
        id=f"{request}+{trigger}",
        timestamp=NOW,
        user="u1",
        request=request,
        trigger=trigger,
        items=tuple(Placed(id=item, score=1.0, propensity=1.0) for item in order),
        model="",
        policy="greedy",
        features="f",
        latency_ms=1.0,
    )


def click(name: str = "e1", item: str | None = "c") -> Interaction:
    return Interaction(
        id=name, timestamp=NOW, user="u1", type="click", item=item, fields={"city": "Paris"}
    )


def test_a_list_that_a_deed_changed_is_shown_before_and_after() -> None:
    changes = Changes(str.upper)
    changes.sent(click())
    changes.ranked(ranked("abc"), 1.0)
    changes.ranked(ranked("cab", trigger="e1"), 1.1)
    assert changes.last == Change("click C", ("A", "B", "C"), ("C", "A", "B"))


def test_a_deed_on_no_item_is_told_by_its_fields() -> None:
    changes = Changes()
    changes.sent(click(item=None))
    changes.ranked(ranked("abc"), 1.0)
    changes.ranked(ranked("cab", trigger="e1"), 1.1)
    assert changes.last is not None
    assert changes.last.deed == "click Paris"


def test_a_second_change_of_a_list_is_held_against_the_first() -> None:
    changes = Changes(hold=0.0)
    for name in ("e1", "e2"):
        changes.sent(click(name))
    changes.ranked(ranked("abc"), 1.0)
    changes.ranked(ranked("cab", trigger="e1"), 1.1)
    changes.ranked(ranked("bca", trigger="e2"), 1.2)
    assert changes.last is not None
    assert (changes.last.before, changes.last.after) == (("c", "a", "b"), ("b", "c", "a"))


def test_a_change_below_the_places_that_are_shown_is_none() -> None:
    changes = Changes(top=2)
    changes.sent(click())
    changes.ranked(ranked("abcd"), 1.0)
    changes.ranked(ranked("abdc", trigger="e1"), 1.1)
    assert changes.last is None


def test_only_as_many_places_are_shown_as_wanted() -> None:
    changes = Changes(top=2)
    changes.sent(click())
    changes.ranked(ranked("abcd"), 1.0)
    changes.ranked(ranked("dabc", trigger="e1"), 1.1)
    assert changes.last is not None
    assert (changes.last.before, changes.last.after) == (("a", "b"), ("d", "a"))


def test_a_change_stays_as_long_as_it_takes_to_read_it() -> None:
    changes = Changes(hold=5.0)
    changes.sent(click())
    orders = {0.0: "abc", 1.0: "cab", 5.9: "bca", 6.0: "acb"}
    seen = []
    for now, order in orders.items():
        changes.ranked(ranked(order, trigger=None if now == 0.0 else "e1"), now)
        seen.append(changes.last and changes.last.after)
    assert seen == [None, tuple("cab"), tuple("cab"), tuple("acb")]


def test_a_deed_or_a_list_that_nobody_has_seen_is_no_change() -> None:
    changes = Changes()
    changes.sent(User(id="e0", timestamp=NOW, user="u1"))
    changes.sent(None)
    changes.ranked(ranked("cab", trigger="e1"), 1.0)  # no list before
    changes.ranked(ranked("abc", trigger="e9"), 2.0)  # no such deed
    assert changes.last is None


def test_what_is_older_than_what_is_kept_is_forgotten() -> None:
    changes = Changes(keep=2)
    changes.sent(click())
    for request in ("r1", "r2", "r3"):
        changes.ranked(ranked("abc", request), 1.0)
    changes.ranked(ranked("cab", "r1", trigger="e1"), 2.0)
    assert changes.last is None
    changes.ranked(ranked("cab", "r3", trigger="e1"), 2.0)
    assert changes.last is not None
    for name in ("e2", "e3"):
        changes.sent(click(name))
    changes.ranked(ranked("bca", "r3", trigger="e1"), 20.0)
    assert changes.last.after == tuple("cab")


def test_the_deed_on_an_item_that_moved_the_most_is_kept_for_the_end() -> None:
    """A filter moves all four places, the first click two, the second three, the third two."""
    changes = Changes()
    orders = {"filter": "dcba", "e1": "cdba", "e2": "bcda", "e3": "bcad"}
    changes.sent(click("filter", item=None))
    for name in ("e1", "e2", "e3"):
        changes.sent(click(name))
    changes.ranked(ranked("abcd"), 1.0)
    for trigger, order in orders.items():
        changes.ranked(ranked(order, trigger=trigger), 1.1)
    assert changes.most == Change("click c", tuple("cdba"), tuple("bcda"))
    assert changes.most.moved == 3
    assert changes.last is not None
    assert changes.last.after == tuple("dcba")
