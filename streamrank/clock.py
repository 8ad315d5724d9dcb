"""The clock of the wall, watched: when it is set back, Bytewax waits until it has caught up.

A flow would stand still for an hour and say nothing, since Bytewax asks its sources again, and
takes its snapshots, by that clock.  So the process ends as if it were killed, and says why: who
starts it again goes on from the last snapshot, as after any other death.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
MOST = 5.0
"""Seconds by which the clock may step back: a flow waits for so long."""
EVERY = 1.0
"""Seconds between two looks."""


def stepped_back(
    ended: threading.Event,
    *,
    wall: Callable[[], float] = time.time,
    steady: Callable[[], float] = time.monotonic,
    every: float = EVERY,
) -> float:
    """Wait until the clock is set back by more than a flow may wait for.

    Args:
        ended: Ends the watch.
        wall: The clock that people set, seconds.
        steady: One that only goes on, seconds.
        every: Seconds between two looks.

    Returns:
        By how many seconds it was set back, 0 where the watch was ended.
    """
    before = wall() - steady()
    while not ended.wait(every):
        now = wall() - steady()
        if now < before - MOST:
            return before - now
        before = now
    return 0.0


@contextmanager
def watched(wall: Callable[[], float] = time.time, every: float = EVERY) -> Iterator[None]:
    """End this process, with exit code 1, when the clock is set back meanwhile."""
    ended = threading.Event()

    def watch() -> None:
        back = stepped_back(ended, wall=wall, every=every)
        if back:
            log.error(
                "the clock must not be set back while a flow runs, and was, by %.0f s: start the "
                "flow again, and it goes on from its last snapshot",
                back,
            )
            os._exit(1)

    thread = threading.Thread(target=watch, name="clock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
