"""The demo as people stop it, and as its flows may stop: no trace, no process left."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from streamrank.stage import FLOWS
from tests.test_demo import small_log, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass
class Running:
    """A demo whose people are acting."""

    demo: subprocess.Popen[str]
    children: list[psutil.Process]
    heard: str

    def flow(self, name: str) -> psutil.Process:
        [found] = [one for one in self.children if one.cmdline()[3:5] == ["run", name]]
        return found

    def end(self) -> tuple[int, str]:
        """Wait for its end; return the exit code and all that it said."""
        _, errors = self.demo.communicate(timeout=120)
        return self.demo.returncode, self.heard + errors


@contextmanager
def running(folder: Path, until: str) -> Iterator[Running]:
    """Start a demo that would take ten minutes, and give it when it has said this."""
    small_log(folder / "log.jsonl")
    demo = start("--events", "log.jsonl", "--seconds", "600", folder=folder)
    try:
        assert demo.stderr is not None
        heard = ""
        for line in demo.stderr:
            heard += line
            if until in line:
                break
        else:
            pytest.fail(f"the demo ended before it was to: {heard}")
        yield Running(demo, _flows(demo), heard)
    finally:
        for process in _flows(demo) if demo.poll() is None else []:
            process.kill()
        demo.kill()
        demo.communicate()


def _flows(demo: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(demo.pid).children(recursive=True)
    return found


@pytest.mark.parametrize(
    ("told", "when"),
    [(signal.SIGINT, " answered "), (signal.SIGTERM, "starting the flows")],
    ids=["SIGINT", "SIGTERM"],
)
def test_who_interrupts_a_demo_has_no_trace_and_no_process_left(
    tmp_path: Path, told: signal.Signals, when: str
) -> None:
    """While people act, and while the flows are still on their way."""
    with running(tmp_path, until=when) as stopped:
        stopped.demo.send_signal(told)
        code, errors = stopped.end()
    assert code == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted"
    assert when != " answered " or len(stopped.children) == len(FLOWS)
    assert psutil.wait_procs(stopped.children, timeout=0)[1] == []


def test_a_flow_that_dies_ends_the_demo(tmp_path: Path) -> None:
    with running(tmp_path, until="starting the flows") as bereaved:
        bereaved.flow("rank").kill()
        code, errors = bereaved.end()
    assert code == 1
    assert "Traceback" not in errors
    assert "error: the rank flow ended with -9" in errors
    assert psutil.wait_procs(bereaved.children, timeout=0)[1] == []
