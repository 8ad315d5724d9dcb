"""A state as bytes is the same state, whatever its user did."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Candidate, Interaction, Request, Shown
from streamrank.features import packed, state
from streamrank.features.state import Rules, UserState
from streamrank.values import EARLIEST, LATEST

RULES = Rules(history=5, lists=2, lateness=1_000)
texts = st.text(st.characters(codec="utf-8"), max_size=9)
names = texts.filter(bool)
numbers = st.floats(allow_nan=False, allow_infinity=False)
fields = st.dictionaries(
    names,
    st.none()
    | st.booleans()
    | numbers
    | texts
    | st.lists(numbers).map(tuple)
    | st.lists(names).map(tuple),
    max_size=3,
)
candidates = st.lists(
    st.builds(
        Candidate, id=names, fields=fields, relevancy=st.none() | numbers, label=st.none() | numbers
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one.id,
).map(tuple)
who = {
    "id": names,
    "timestamp": st.integers(EARLIEST, EARLIEST + 3_000) | st.integers(EARLIEST, LATEST),
    "user": names,
    "session": st.none() | names,
    "fields": fields,
}
events = (
    st.builds(Interaction, **who, type=names, item=st.none() | names)
    | st.builds(Shown, **who, items=candidates)
    | st.builds(Request, **who, items=st.just(()) | candidates, k=st.none() | st.integers(1, 9))
)


@given(st.lists(events, max_size=12))
def test_a_state_as_bytes_is_the_same_state(happened: list[Interaction | Shown | Request]) -> None:
    kept = UserState()
    for event in happened:
        kept, _ = state.advance(kept, event, RULES)
        again = packed.unpack(packed.pack(kept))
        assert (again, repr(again)) == (kept, repr(kept))  # True equals 1.0, and is not the same


def test_another_layout_is_refused() -> None:
    parts = msgspec.msgpack.decode(packed.pack(UserState()))
    other = msgspec.msgpack.encode([packed.LAYOUT + 1, *parts[1:]])
    with pytest.raises(ValueError, match="layout of a user's state must be 2, got 3"):
        packed.unpack(other)
