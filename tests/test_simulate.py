"""The simulated world: what it claims of tastes, places and time, held against what it does."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Candidate, Interaction, Item, Request, Shown, User, decode
from streamrank.features.inputs import Array
from streamrank.simulate import CATEGORIES, Size, World, as_shown, examination

NOW = 1_700_000_000_000
TURN = timedelta(days=40)
QUARTER = TURN // 4 // timedelta(milliseconds=1)
WORLD = World(seed=5)
ASKED = WORLD.request(NOW)
LIKES = WORLD.utility(ASKED)


def expected_clicks(order: list[str]) -> float:
    return float(np.dot([LIKES[item] for item in order], examination(len(order))))


def likings(at: int, *, shift: int | None = None, seeds: int = 20) -> Array:
    """Return what everybody likes of categories and tags, in many worlds, one after the other."""
    found: list[float] = []
    for seed in range(seeds):
        world = World(seed, Size(shoppers=20), turn=TURN)
        if shift is not None:
            world.shift(shift)
        for shopper in range(20):
            tastes = world.tastes(f"u{shopper}", at)
            found += [value for name, value in tastes.items() if name != "budget"]
    return np.array(found)


# --- chance -------------------------------------------------------------------------------------


def test_one_seed_is_one_history_and_another_seed_is_another() -> None:
    first, again, other = (list(World(seed).history(50, NOW)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_a_shopper_does_is_not_changed_by_what_was_asked_in_between() -> None:
    quiet, busy = World(seed=3), World(seed=3)
    request = quiet.request(NOW)
    assert busy.request(NOW) == request
    for seconds in range(1, 20):
        asked = busy.request(NOW + 1000 * seconds)
        busy.feedback(asked, [item.id for item in asked.items], asked.timestamp)
    shown = [item.id for item in request.items]
    assert quiet.feedback(request, shown, NOW) == busy.feedback(request, shown, NOW)


# --- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 4, 19])
def test_an_item_is_clicked_as_often_as_its_place_is_looked_at_times_its_utility(
    place: int,
) -> None:
    """The same item of the same list, 2,500 times, at 4.5 standard errors."""
    draws, item = 2_500, max(LIKES, key=LIKES.__getitem__)
    others = [one for one in LIKES if one != item]
    shown = [*others[:place], item, *others[place:]]
    clicked = 0
    for number in range(draws):
        again = ASKED.model_copy(update={"id": f"r{1_000 + number}"})
        deeds = WORLD.feedback(again, shown, NOW)
        clicked += any(deed.type == "click" and deed.item == item for deed in deeds)
    expected = LIKES[item] * (1 + place) ** -0.7
    error = (expected * (1 - expected) / draws) ** 0.5
    assert clicked / draws == pytest.approx(expected, abs=4.5 * error)


@given(order=st.permutations(list(LIKES)))
def test_no_order_expects_more_clicks_than_that_of_utility(order: list[str]) -> None:
    best = sorted(LIKES, key=LIKES.__getitem__, reverse=True)
    assert expected_clicks(order) <= expected_clicks(best) + 1e-12


def test_moving_an_item_up_never_takes_a_click_from_it() -> None:
    """Luck belongs to the item, so two orders differ by their orders alone."""
    shown = [item.id for item in ASKED.items]
    for number in range(300):
        again = ASKED.model_copy(update={"id": f"r{number}"})
        below = {d.item for d in WORLD.feedback(again, shown, NOW) if d.type == "click"}
        last = shown[-1]
        above = WORLD.feedback(again, [last, *shown[:-1]], NOW)
        assert last not in below or last in {d.item for d in above if d.type == "click"}


# --- time ---------------------------------------------------------------------------------------


def test_tastes_move_slowly_and_after_a_quarter_of_a_turn_nothing_is_left() -> None:
    now = likings(NOW)
    soon, quarter, half = (likings(NOW + ahead) for ahead in (QUARTER // 90, QUARTER, 2 * QUARTER))
    assert 0.999 < np.corrcoef(now, soon)[0, 1] < 1.0
    assert abs(np.corrcoef(now, quarter)[0, 1]) < 0.1  # 68 shared draws in each of 20 worlds
    np.testing.assert_allclose(half, -now, atol=1e-6)


def test_tastes_have_the_same_spread_at_all_times() -> None:
    for part in range(4):
        assert likings(NOW + part * QUARTER // 4).std() == pytest.approx(1.0, abs=0.06)


def test_a_shift_turns_all_tastes_by_a_quarter_from_its_moment_on() -> None:
    before, at = likings(NOW - 1, shift=NOW), likings(NOW, shift=NOW)
    np.testing.assert_array_equal(before, likings(NOW - 1))
    np.testing.assert_allclose(at, likings(NOW + QUARTER), atol=1e-6)


# --- history ------------------------------------------------------------------------------------

HISTORY = list(World(seed=7).history(400, NOW, timedelta(hours=6)))
LISTS = [event for event in HISTORY if isinstance(event, Shown)]
DEEDS = [event for event in HISTORY if isinstance(event, Interaction)]


def test_history_is_in_the_order_of_time_and_lasts_as_long_as_was_asked() -> None:
    times = [event.timestamp for event in HISTORY]
    assert times == sorted(times)
    assert times[0] == NOW - 6 * 3_600_000
    assert times[-1] <= NOW


def test_every_event_of_history_is_read_as_it_was_written() -> None:
    assert [decode(event.encode()) for event in HISTORY] == HISTORY


def test_no_id_is_used_twice() -> None:
    assert max(Counter(event.id for event in HISTORY).values()) == 1


def test_history_has_the_lists_that_were_asked_for_and_deeds_on_them() -> None:
    assert len(LISTS) == 400
    by_id = {shown.id: shown for shown in LISTS}
    assert Counter(deed.type for deed in DEEDS).keys() == {"click", "cart", "purchase", "filter"}
    for deed in DEEDS:
        if deed.type == "filter":
            assert (deed.item, deed.ranking) == (None, None)
            continue
        shown = by_id[deed.ranking or ""]
        assert deed.item in {item.id for item in shown.items}
        assert (deed.user, deed.session) == (shown.user, shown.session)
        assert deed.timestamp > shown.timestamp


def test_what_is_bought_was_in_the_cart_and_what_is_in_the_cart_was_clicked() -> None:
    for later, earlier in (("purchase", "cart"), ("cart", "click")):
        done = {(d.ranking, d.item): d.timestamp for d in DEEDS if d.type == earlier}
        assert all(
            done[deed.ranking, deed.item] < deed.timestamp for deed in DEEDS if deed.type == later
        )


def test_the_catalogue_holds_every_candidate_and_everybody_who_asks() -> None:
    items = {event.item: event for event in HISTORY if isinstance(event, Item)}
    users = {event.user for event in HISTORY if isinstance(event, User)}
    assert {item.id for shown in LISTS for item in shown.items} <= items.keys()
    assert {shown.user for shown in LISTS} <= users
    assert len({item.fields["title"] for item in items.values()}) == len(items)
    assert all(item.fields["category"] in CATEGORIES for item in items.values())


def test_large_catalogues_have_a_title_for_each_item() -> None:
    world = World(size=Size(items=2_000, shoppers=1))
    assert len({world.title(f"i{number}") for number in range(2_000)}) == 2_000


# --- visits -------------------------------------------------------------------------------------


def test_a_visit_is_of_one_shopper_and_takes_two_to_five_lists_one_after_the_other() -> None:
    by_session: dict[str, list[Shown]] = {}
    for shown in LISTS:
        by_session.setdefault(shown.session or "", []).append(shown)
    assert all(len({shown.user for shown in visit}) == 1 for visit in by_session.values())
    assert max(map(len, by_session.values())) <= 5
    last = {shown.user: shown.session for shown in LISTS}
    over = [visit for session, visit in by_session.items() if last[visit[0].user] != session]
    assert {len(visit) for visit in over} == {2, 3, 4, 5}


def test_who_is_in_a_visit_asks_again_soon_and_never_before_the_last_deeds_are_done() -> None:
    world, free = World(seed=2), dict[str, int]()
    asked: dict[str, list[int]] = {}
    for at in range(NOW, NOW + 600_000, 1_000):
        request = world.request(at)
        user = request.user or ""
        assert free.get(user, 0) <= at
        deeds = world.feedback(request, [item.id for item in request.items], at)
        free[user] = max([deed.timestamp for deed in deeds], default=at)
        asked.setdefault(user, []).append(at)
    pauses = [later - at for times in asked.values() for at, later in pairwise(times)]
    assert min(pauses) < 15_000  # not the half minute of who never got a list


def test_a_request_as_a_shown_list_keeps_all_but_the_wish_for_a_length() -> None:
    request = Request(id="r1", timestamp=NOW, user="u1", k=5, items=(Candidate(id="i1"),))
    assert as_shown(request) == Shown(
        id="r1", timestamp=NOW, user="u1", items=(Candidate(id="i1"),)
    )
