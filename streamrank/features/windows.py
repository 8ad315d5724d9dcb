"""Event-time windows of one user or item: decayed counts over several horizons.

A window here has soft edges: an event weighs 1 when it happens and half as much one horizon
later (forward decay).  So a count needs no panes, costs the same for a quiet and a busy key,
takes late events in any order with the same result, and a reader brings it up to date by one
multiplication: it is never stale between two events.

References:
    Cormode, Shkapenyuk, Srivastava, Xu, ICDE 2009, "Forward decay: a practical time decay
    model for streaming systems".
"""

from __future__ import annotations

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
    totals, last = window.totals.copy(), window.last.copy()
    totals[channel] += 1
    last[channel] = max(last[channel], at)
    newest = max(window.at, at)
    if newest > window.at:
        decayed = window.decayed * decay(newest - window.at, horizons)[:, None]
    else:
        decayed = window.decayed.copy()
    decayed[:, channel] += decay(newest - at, horizons)
    return Window(newest, totals, last, decayed)


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
