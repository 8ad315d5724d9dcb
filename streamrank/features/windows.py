"""Event-time windows of users and items: decayed counts over several horizons.

A window here has soft edges: an event weighs 1 when it happens and half as much one horizon
later (forward decay).  So a count needs no panes, costs the same for a quiet and a busy key,
takes late events in any order with the same result, and a reader brings it up to date by one
multiplication: it is never stale between two events.

References:
    Cormode, Shkapenyuk, Srivastava, Xu, ICDE 2009, "Forward decay: a practical time decay
    model for streaming systems".
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """The windows of one key.

    Attributes:
        at: Event time that `decayed` refers to, milliseconds.
        totals: Undecayed counts, shape (channels,).
        last: Event time each channel was last seen, milliseconds, 0 for never, (channels,).
        decayed: Counts at `at`, shape (horizons, channels).
    """

    at: int
    totals: Array
    last: Array
    decayed: Array


def empty(horizons: int, channels: int) -> Window:
    """Return the windows of a key that was never seen."""
    return Window(0, np.zeros(channels), np.zeros(channels), np.zeros((horizons, channels)))


def decay(elapsed: float | Array, horizons: Array) -> Array:
    """Return what weighs an event after `elapsed` ms, one factor a horizon (in seconds)."""
    return np.exp2(-np.asarray(elapsed) / (1000.0 * horizons))


def count(window: Window, channel: int, at: int, horizons: Array) -> Window:
    """Count one event, early or late.

    Args:
        window: The key's windows so far.
        channel: What is counted.
        at: The event's time, milliseconds.
        horizons: Half-lives, seconds, shape (horizons,).

    Returns:
        The windows with the event in them.

    Examples:
        >>> hour = np.array([3600.0])
        >>> once = count(empty(1, 1), 0, 10_000_000, hour)
        >>> count(once, 0, 13_600_000, hour).decayed  # one hour later
        array([[1.5]])
    """
    clock = Clock(tuple(horizons.tolist()), len(window.totals))
    counts = array("d", [window.at, *pack(window)])
    add(clock, counts, channel, at)
    return unpack(packed(clock, [counts])[0], len(horizons), len(window.totals))


# --- many keys at once ------------------------------------------------------------------------

_FARTHEST = 400.0
"""Half-lives between a key's mark and its newest event: a float64 holds 2 ** 1023."""


class Clock:
    """How counts grow: what is the same for all keys.

    A key's counts are an array: a mark, and then what `pack` lays out, with this difference:
    what is decayed refers to the mark, not to the newest event.  So an event changes its own
    channel alone, and nothing has to be multiplied before a row is written.

    Args:
        horizons: Half-lives, seconds.
        channels: How many things are counted.
    """

    __slots__ = ("channels", "first", "places", "rates", "reach", "size")

    def __init__(self, horizons: Sequence[float], channels: int) -> None:
        self.channels = channels
        self.size = 1 + width(len(horizons), channels)
        self.first = 2 + 2 * channels  # of the decayed counts
        self.rates = tuple(1.0 / (1000.0 * one) for one in horizons)  # half-lives per ms
        self.places = tuple(
            (self.first + row * channels, rate) for row, rate in enumerate(self.rates)
        )
        self.reach = _FARTHEST / max(self.rates)

    def begin(self) -> array[float]:
        """Return the counts of a key that was never seen."""
        return array("d", bytes(8 * self.size))


def add(clock: Clock, counts: array[float], channel: int, at: int) -> None:
    """Count one event, early or late, in place.

    Args:
        clock: Of these counts.
        counts: The key's counts so far.
        channel: What is counted.
        at: The event's time, milliseconds.

    Examples:
        >>> clock = Clock((3600.0,), 1)
        >>> counts = clock.begin()
        >>> add(clock, counts, 0, 10_000_000)
        >>> add(clock, counts, 0, 13_600_000)  # one hour later
        >>> packed(clock, [counts])
        array([[1.36e+07, 2.00e+00, 1.36e+07, 1.50e+00]])
    """
    if at > counts[1]:
        counts[1] = at
        if at - counts[0] > clock.reach:
            _mark(clock, counts, at)
    place = 2 + channel
    counts[place] += 1.0
    place += clock.channels
    if at > counts[place]:
        counts[place] = at
    elapsed = at - counts[0]
    for begin, rate in clock.places:
        counts[begin + channel] += 2.0 ** (elapsed * rate)


def _mark(clock: Clock, counts: array[float], at: int) -> None:
    """Let the decayed counts refer to another time."""
    elapsed = at - counts[0]
    for place, rate in clock.places:
        factor = 2.0 ** -(elapsed * rate)
        for one in range(place, place + clock.channels):
            counts[one] *= factor
    counts[0] = at


def packed(clock: Clock, known: Sequence[array[float]]) -> Array:
    """Return the windows of many keys, each as `pack` lays it out, shape (keys, width)."""
    counts = np.frombuffer(b"".join(known)).reshape(len(known), clock.size)
    found = counts[:, 1:].copy()
    elapsed = counts[:, 1] - counts[:, 0]
    factors = np.exp2(-elapsed[:, None] * np.array(clock.rates))  # (keys, horizons)
    decayed = found[:, clock.first - 1 :].reshape(len(known), len(clock.rates), clock.channels)
    decayed *= factors[:, :, None]
    return found


# --- as the store holds them ------------------------------------------------------------------


def pack(window: Window) -> Array:
    """Return a window as one vector: at, totals, last, decayed; the layout of `names`."""
    return np.concatenate([[window.at], window.totals, window.last, window.decayed.ravel()])


def unpack(vector: Array, horizons: int, channels: int) -> Window:
    """Read what `pack` wrote.

    Raises:
        ValueError: The vector belongs to other horizons or channels.
    """
    expected = width(horizons, channels)
    if len(vector) != expected:
        raise ValueError(f"window must hold {expected} values, got {len(vector)}")
    vector = np.asarray(vector, np.float64)
    return Window(
        int(vector[0]),
        vector[1 : 1 + channels],
        vector[1 + channels : 1 + 2 * channels],
        vector[1 + 2 * channels :].reshape(horizons, channels),
    )


def width(horizons: int, channels: int) -> int:
    """Return the length of a packed window."""
    return 1 + (2 + horizons) * channels


def names(channels: tuple[str, ...], horizons: tuple[float, ...]) -> list[str]:
    """Name each value of a packed window, for the registry and for people."""
    decayed = [f"{channel}.decayed_{h:g}s" for h in horizons for channel in channels]
    totals = [f"{channel}.total" for channel in channels]
    return ["at", *totals, *(f"{channel}.last" for channel in channels), *decayed]
