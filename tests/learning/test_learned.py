"""What was learned is known list by list, and with how many labels."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrank.learning.examples import Example
from streamrank.learning.learned import Learned


def one(name: str, at: int, labels: int = 1, revision: int = 0) -> Example:
    column = np.arange(3)[:, None] < labels
    return Example(name, "u", at, {}, column.astype(np.float32), revision=revision)


def test_a_list_is_known_by_itself_and_not_by_its_time() -> None:
    known = Learned()
    known.take([one("clicked", 20)])
    earlier = one("not clicked", 10, labels=0)
    assert known.new_in(earlier) is earlier
    assert known.new_in(one("clicked", 20)) is None


def test_of_a_list_that_comes_again_with_more_labels_the_new_ones_are_learned() -> None:
    """After a crash the join may find both clicks at once, where the first went out alone."""
    known = Learned()
    known.take([one("r", 20, labels=1)])
    again = known.new_in(one("r", 20, labels=2))
    assert again is not None
    assert again.revision == 1
    known.take([again])
    assert known.new_in(one("r", 20, labels=2, revision=1)) is None
    assert known.new_in(one("r", 20, labels=1)) is None


def test_what_a_log_taught_is_known_with_all_of_its_feedback() -> None:
    known = Learned(base=20)
    assert known.new_in(one("r", 19)) is None
    assert known.new_in(one("r", 19, revision=1)) is None
    assert known.new_in(one("r", 20)) is not None


def test_a_list_whose_window_ends_late_is_new_however_many_were_learned_meanwhile() -> None:
    """Without a click a list is over when its window is; those with one are far ahead by then."""
    known = Learned(most=2)
    known.take([one(f"clicked{n}", 100 + n) for n in range(5)])
    waited = one("not clicked", 10, labels=0)
    assert known.new_in(waited) is waited


def test_what_was_learned_first_is_forgotten_first() -> None:
    known = Learned(most=2)
    known.take([one("a", 30), one("b", 20)])
    known.take([one("c", 10)])
    assert [known.new_in(one(name, 40)) is None for name in "abc"] == [False, True, True]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.integers(0, 3)), max_size=9)
)
def test_what_is_written_down_is_read_back(rows: list[tuple[str, int, int]]) -> None:
    known = Learned(base=1, most=3)
    known.take([one(name, at, labels) for name, at, labels in rows])
    assert dataclasses.replace(Learned.of(known.arrays()), most=3) == known
