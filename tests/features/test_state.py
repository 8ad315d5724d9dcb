from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Candidate, Interaction, Request, Shown
from streamrank.features.state import Rules, UserState, advance, lists, triggers

NOW = 1_700_000_000_000
RULES = Rules(history=5, lists=2, lateness=600_000)


def deed(
    number: int, item: str | None = "i1", *, at: int = 0, kind: str = "click", session: str = "s"
) -> Interaction:
    return Interaction(
        id=f"e{number}", timestamp=NOW + at, user="u", session=session, type=kind, item=item
    )


def shown(number: int, *items: str, at: int = 0, session: str = "s") -> Shown:
    return Shown(
        id=f"r{number}",
        timestamp=NOW + at,
        user="u",
        session=session,
        items=tuple(Candidate(id=item) for item in items),
    )


def after(*events: Interaction | Shown | Request, rules: Rules = RULES) -> UserState:
    state = UserState()
    for event in events:
        state, _ = advance(state, event, rules)
    return state


def test_a_run_of_the_same_deed_is_one_step() -> None:
    state = after(deed(1), deed(2, at=5), deed(3, at=9), deed(4, "i2", at=9))
    assert [(step.item, step.count, step.first - NOW, step.last - NOW) for step in state.steps] == [
        ("i1", 3, 0, 9),
        ("i2", 1, 9, 9),
    ]


def test_a_late_deed_takes_its_place_in_time() -> None:
    state = after(deed(1, "a", at=0), deed(2, "c", at=20), deed(3, "b", at=10))
    assert [step.item for step in state.steps] == ["a", "b", "c"]


@given(st.lists(st.integers(0, 500_000), max_size=30))
def test_steps_are_in_order_of_time_and_bounded(times: list[int]) -> None:
    state = after(*(deed(n, f"i{n}", at=at) for n, at in enumerate(times)))
    moments = [step.last for step in state.steps]
    assert moments == sorted(moments)
    assert len(moments) <= RULES.history


def test_the_same_id_twice_counts_once_and_a_late_one_not_at_all() -> None:
    state = after(deed(1, at=0))
    assert advance(state, deed(1, at=0), RULES) == (state, "duplicate")
    assert advance(state, deed(2, at=-600_001), RULES) == (state, "late")


def test_a_deed_a_list_and_a_request_may_have_the_same_id() -> None:
    """Somebody waits for the answer to a request, whatever else has its id."""
    asked = Request(id="e1", timestamp=NOW, user="u", items=(Candidate(id="a"),))
    listed = Shown(id="e1", timestamp=NOW, user="u", items=(Candidate(id="a"),))
    state = after(deed(1), listed)
    state, verdict = advance(state, asked, RULES)
    assert verdict == "new"
    assert [advance(state, one, RULES)[1] for one in (deed(1), listed, asked)] == ["duplicate"] * 3


def test_what_was_asked_for_and_is_told_as_shown_counts_once() -> None:
    asked = Request(id="q", timestamp=NOW, user="u", items=(Candidate(id="a"),))
    state, _ = advance(after(), asked, RULES)
    listed = Shown(id="q", timestamp=NOW + 9, user="u", items=(Candidate(id="a"),))
    assert advance(state, listed, RULES) == (state, "duplicate")


def test_a_request_is_answered_however_late_it_comes() -> None:
    state = after(deed(1, at=0))
    late = Request(id="q", timestamp=NOW - 10**9, user="u", items=(Candidate(id="a"),))
    assert advance(state, late, RULES)[1] == "new"


def test_earlier_lists_are_remembered_and_forgotten_in_order() -> None:
    state = after(*(shown(n, f"a{n}", f"b{n}", at=n) for n in range(4)))
    assert lists(state) == (("a1", "b1"), ("a2", "b2"), ("a3", "b3"))
    assert state.current is not None
    assert state.current.id == "r3"


def test_a_new_session_starts_its_own_count() -> None:
    state = after(deed(1), deed(2, "i2", at=1), deed(3, at=2, session="other"))
    assert (state.session, state.session_start - NOW, state.session_steps) == ("other", 2, 1)


def test_a_deed_ranks_the_current_list_again_if_its_type_may_and_not_too_often() -> None:
    state = after(shown(1, "a", "b"))
    click = deed(5, "a", at=10)
    types = frozenset({"click"})
    assert triggers(state, click, types, 1000) is state.current
    assert triggers(state, click, frozenset({"buy"}), 1000) is None
    assert triggers(UserState(), click, types, 1000) is None
    assert triggers(state, deed(5, "a", session="other"), types, 1000) is None


def test_two_triggers_of_a_user_keep_their_distance() -> None:
    state = replace(after(shown(1, "a")), triggered=NOW)
    types = frozenset({"click"})
    assert triggers(state, deed(1, at=999), types, 1000) is None
    assert triggers(state, deed(1, at=1000), types, 1000) is state.current
