import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.features import windows

HOURS = np.array([3600.0, 86400.0])
NOW = 1_700_000_000_000
events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3 * 86_400_000)), min_size=1, max_size=20
)


def counted(deeds: list[tuple[int, int]]) -> windows.Window:
    window = windows.empty(2, 3)
    for channel, after in deeds:
        window = windows.count(window, channel, NOW + after, HOURS)
    return window


def test_an_event_weighs_half_after_one_horizon() -> None:
    """At one hour: 1 + 1/2 by the hour, and 1 + 2 ** (-1/24) by the day."""
    window = counted([(0, 0), (0, 3_600_000)])
    assert window.decayed[:, 0] == pytest.approx([1.5, 1 + 2 ** (-1 / 24)])
    assert window.totals.tolist() == [2.0, 0.0, 0.0]
    assert window.last.tolist() == [NOW + 3_600_000, 0.0, 0.0]


@given(events, st.randoms(use_true_random=False))
def test_late_events_in_any_order_give_the_same_windows(
    deeds: list[tuple[int, int]], random: object
) -> None:
    shuffled = list(deeds)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = counted(deeds), counted(shuffled)
    assert one.at == other.at
    np.testing.assert_allclose(one.decayed, other.decayed, rtol=1e-9)
    np.testing.assert_array_equal(one.totals, other.totals)
    np.testing.assert_array_equal(one.last, other.last)


@given(events)
def test_counts_are_the_sum_of_each_event_decayed_on_its_own(deeds: list[tuple[int, int]]) -> None:
    window = counted(deeds)
    expected = np.zeros((2, 3))
    for channel, after in deeds:
        expected[:, channel] += 0.5 ** ((window.at - NOW - after) / 1000 / HOURS)
    np.testing.assert_allclose(window.decayed, expected, rtol=1e-9)


@given(events)
def test_packing_loses_nothing(deeds: list[tuple[int, int]]) -> None:
    window = counted(deeds)
    vector = windows.pack(window)
    again = windows.unpack(vector, 2, 3)
    assert len(vector) == len(windows.names(("a", "b", "c"), (3600.0, 86400.0)))
    assert again.at == window.at
    np.testing.assert_array_equal(again.decayed, window.decayed)
    np.testing.assert_array_equal(again.last, window.last)


def test_a_vector_of_other_horizons_is_refused() -> None:
    with pytest.raises(ValueError, match="window must hold 13 values, got 10"):
        windows.unpack(windows.pack(windows.empty(1, 3)), 2, 3)


@given(st.lists(events, min_size=1, max_size=4))
def test_many_keys_in_place_count_as_each_alone(keys: list[list[tuple[int, int]]]) -> None:
    clock = windows.Clock(tuple(HOURS.tolist()), 3)
    known = [clock.begin() for _ in keys]
    for counts, deeds in zip(known, keys, strict=True):
        for channel, after in deeds:
            windows.add(clock, counts, channel, NOW + after)
    expected = [windows.pack(counted(deeds)) for deeds in keys]
    np.testing.assert_allclose(windows.packed(clock, known), expected, rtol=1e-9)


def test_years_between_two_events_leave_a_number_and_nothing_of_the_first() -> None:
    clock = windows.Clock((1.0,), 1)
    counts = clock.begin()
    for at in (NOW, NOW + 10**11, NOW + 10**11 - 1_000):  # the last one second late
        windows.add(clock, counts, 0, at)
    assert windows.packed(clock, [counts]).tolist() == [[NOW + 10**11, 3.0, NOW + 10**11, 1.5]]
