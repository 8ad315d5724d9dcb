"""A clock that is set back ends a flow that would stand still; nothing else does."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from streamrank import clock
from tests.services import ROOT


def told(*times: float) -> Callable[[], float]:
    """Return a clock that gives these times, one after the other."""
    return iter(times).__next__


@pytest.mark.parametrize(
    ("wall", "back"),
    [
        ([100.0, 101.0, 102.0, -3498.0], 3601.0),
        ([100.0, 7301.0, 3701.0], 3601.0),  # to summer time by mistake, and to winter time again
        ([100.0, 101.0, 96.0 - 1e-3], 5.0 + 1e-3 + 1.0),
    ],
)
def test_a_step_back_is_seen_from_wherever_the_clock_was(wall: list[float], back: float) -> None:
    steady = [float(second) for second in range(len(wall))]
    found = clock.stepped_back(threading.Event(), wall=told(*wall), steady=told(*steady), every=0.0)
    assert found == pytest.approx(back)


def test_steps_ahead_and_small_ones_back_are_no_reason() -> None:
    ended = threading.Event()
    wall, looks = iter([100.0, 9e9, 9e9 - 3, 9e9 - 6, 9e9 - 9]), []

    def now() -> float:
        looks.append(1)
        if len(looks) == 5:
            ended.set()
        return next(wall)

    assert clock.stepped_back(ended, wall=now, steady=lambda: 0.0, every=0.0) == 0.0
    assert len(looks) == 5


PROGRAM = """
import itertools, logging, threading
from streamrank import clock
logging.basicConfig()
times = itertools.chain([7200.0], itertools.repeat(0.0))
with clock.watched(wall=lambda: next(times), every=0.01):
    threading.Event().wait()  # as a flow that nobody asks for anything
"""


def test_the_process_ends_and_says_why_and_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "was, by 7200 s: start the flow again, and it goes on from its" in done.stderr


def test_who_ends_in_time_is_not_ended() -> None:
    with clock.watched(every=0.01):
        pass
    assert not any(thread.name == "clock" for thread in threading.enumerate())
