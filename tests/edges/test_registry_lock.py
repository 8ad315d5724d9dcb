"""Two learners started by mistake: the second one refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streamrank.edges import registry
from streamrank.edges.registry import LearnerRunning, LockLost
from streamrank.edges.registry_folders import MARK, folders
from streamrank.edges.registry_lock import Beat
from tests.services import ROOT, until

LONG = timedelta(seconds=30)


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return tmp_path / "registry" if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def test_the_second_learner_refuses_and_names_the_first(root: str | Path) -> None:
    with (
        registry.learner_lock(root, "ranker", by="the first"),
        pytest.raises(LearnerRunning, match=r"a learner of ranker runs already \(the first\)"),
        registry.learner_lock(root, "ranker"),
    ):
        pass


def test_a_lock_given_back_is_free_at_once(root: str | Path) -> None:
    for _ in range(3):
        with registry.learner_lock(root, "ranker") as lock:
            lock.check()


def test_learners_of_two_models_do_not_meet(root: str | Path) -> None:
    with registry.learner_lock(root, "ranker"), registry.learner_lock(root, "other") as lock:
        lock.check()


def test_the_lock_is_no_version(root: str | Path) -> None:
    with registry.learner_lock(root, "ranker"):
        assert registry.versions(root, "ranker") == []
        registry.retain(root, "ranker", keep=1, now=datetime.now(UTC) + timedelta(days=400))
        with pytest.raises(LearnerRunning), registry.learner_lock(root, "ranker"):
            pass


LEARNER = """
import sys
from streamrank.edges import registry
with registry.learner_lock(sys.argv[1], "ranker", by="another process"):
    print("learning", flush=True)
    sys.stdin.read()
"""


@contextmanager
def a_learner(root: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", LEARNER, str(root)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "learning\n"
    with process:
        yield process
        process.kill()


def test_a_lock_of_a_process_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    with a_learner(tmp_path) as learner:
        with (
            pytest.raises(LearnerRunning, match="another process"),
            registry.learner_lock(tmp_path, "ranker"),
        ):
            pass
        os.kill(learner.pid, signal.SIGKILL)
        learner.wait(30)
        with registry.learner_lock(tmp_path, "ranker") as lock:
            lock.check()


# --- the lease of a bucket --------------------------------------------------------------------


def a_bucket() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_a_lease_is_renewed_as_long_as_its_holder_lives() -> None:
    root, begun = a_bucket(), datetime.now(UTC)
    with registry.learner_lock(root, "ranker", lease=timedelta(seconds=0.6)) as lock:
        until(lambda: datetime.now(UTC) - begun > timedelta(seconds=1.5), 10, "two leases pass")
        lock.check()
        with pytest.raises(LearnerRunning), registry.learner_lock(root, "ranker"):
            pass
    assert len(folders(root, "ranker/learner").names()) == 1


def test_a_lease_of_the_dead_is_taken_over_once_it_has_run_out() -> None:
    root, now = a_bucket(), datetime(2026, 11, 24, tzinfo=UTC)
    beat = Beat(holder="the dead", until=now + LONG).model_dump_json().encode()
    folders(root, "ranker/learner").put("000000000004", {MARK: beat})
    with (
        pytest.raises(LearnerRunning, match="the dead"),
        registry.learner_lock(root, "ranker", clock=lambda: now + LONG / 2),
    ):
        pass
    with registry.learner_lock(root, "ranker", clock=lambda: now + LONG) as lock:
        lock.check()


def test_who_slept_through_its_lease_hears_that_the_lock_is_lost() -> None:
    root, now = a_bucket(), [datetime(2026, 11, 24, tzinfo=UTC)]
    with registry.learner_lock(root, "ranker", clock=lambda: now[0]) as slow:
        slow.check()
        now[0] += LONG
        with pytest.raises(LockLost, match="the lock of ranker's learner was not renewed"):
            slow.check()
        with registry.learner_lock(root, "ranker", clock=lambda: now[0]) as quick:
            quick.check()


def test_of_learners_that_start_at_the_same_moment_one_learns() -> None:
    root, ready, gone = a_bucket(), threading.Barrier(8), threading.Barrier(8)
    learned: list[int] = []

    def learn(number: int) -> None:
        ready.wait()
        try:
            with registry.learner_lock(root, "ranker"):
                learned.append(number)
                gone.wait(30)
        except LearnerRunning:
            gone.wait(30)

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(learned) == 1
