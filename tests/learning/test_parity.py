"""How many lists differ from what was served, and when that is too many."""

from __future__ import annotations

from streamrank.learning.parity import ENOUGH, RECENT, Compared, Parity


def fed(parity: Parity, *differ: bool) -> Parity:
    for number, one in enumerate(differ):
        parity.take(Compared(f"r{number}", ("scores",) if one else (), 10))
    return parity


def test_a_few_lists_say_nothing() -> None:
    assert fed(Parity(limit=0.0), *[True] * (ENOUGH - 1)).stopped is None


def test_more_differing_lists_than_the_limit_stop_publishing_and_say_which_name() -> None:
    parity = fed(Parity(limit=0.1), *[False] * 87, *[True] * 13)
    assert parity.stopped == (
        "13 of the newest 100 lists differ from what was served (most often scores), more than 0.1"
    )


def test_as_many_as_the_limit_are_let_pass() -> None:
    assert fed(Parity(limit=0.1), *[False] * 90, *[True] * 10).stopped is None


def test_only_the_newest_lists_count_so_that_a_mended_fault_is_over() -> None:
    parity = fed(Parity(limit=0.01), *[True] * 50, *[False] * RECENT)
    assert (parity.stopped, parity.rate) == (None, 0.0)
    assert parity.figures()["mismatched"] == 50


def test_a_copy_does_not_follow() -> None:
    before = fed(Parity(), True)
    after = before.copy()
    fed(before, True)
    assert (after.lists, after.by_name, list(after.recent)) == (1, {"scores": 1}, [True])
