"""What the rank flow does when told to stop, when its store hangs, when a disk is full."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from streamrank import settings
from tests.integration.test_flows_on_kafka import (
    STREAMRANK,
    Project,
    answered,
    answers_more,
    project,
    requests,
)
from tests.services import ROOT, Missing, Redis, until

__all__ = ["project"]
pytestmark = [pytest.mark.integration, pytest.mark.slow]
RANK = (*STREAMRANK, "run", "rank")


def ranked(project: Project) -> Counter[str]:
    return Counter(one["id"] for one in project.got("rankings"))


def test_a_stop_drains_within_seconds_and_a_second_signal_ends_at_once_without_loss(
    project: Project,
) -> None:
    with project.running(*RANK) as flow:
        project.send("requests", *requests(project, 0, 40))
        until(partial(answers_more, project, 0), 60, "answers")
        begun = time.monotonic()
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(20) == 0
        drained = time.monotonic() - begun
    after = ranked(project)
    with project.running(*RANK) as flow:
        project.send("requests", *requests(project, 40, 40))
        until(partial(answers_more, project, len(after)), 60, "answers")
        flow.send_signal(signal.SIGINT)
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(5) in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
    with project.running(*RANK) as flow:
        log = project.folder / "rank.log"
        until(lambda: log.read_text().count(" runs on ") == 3, 60, "the flow runs")
        until(lambda: len(answered(project)) == 80, 60, "every request is answered")
        flow.terminate()
        assert flow.wait(20) == 0
    counts = ranked(project)
    assert drained < 20
    assert set(counts.values()) == {1}
    assert all(counts[name] == 1 for name in after)  # nothing came again after the stop


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    try:
        redis = Redis(tmp_path)
    except Missing as missing:
        pytest.skip(str(missing))
    redis.start()
    yield redis
    redis.stop(kill=True)


def test_while_redis_hangs_lists_go_on_marked_degraded_and_later_they_are_not(
    project: Project, own_redis: Redis
) -> None:
    project.known = settings.changed(project.known, {"store": {"redis": own_redis.address}})
    (project.folder / "streamrank.toml").write_text(settings.to_toml(project.known))
    assert own_redis.process is not None
    number = [0]

    def asked() -> dict[str, object]:
        """Ask for a list, and return it; it never takes long."""
        number[0] += 1
        name = f"request{number[0]}"
        [request] = requests(project, number[0], 1)
        project.send("requests", request)
        until(lambda: name in answered(project), 60, "an answer")
        [found] = [one for one in project.got("rankings") if one["id"] == name]
        return dict(found)

    with project.running(*RANK) as flow:
        assert "degraded" not in asked()
        own_redis.process.send_signal(signal.SIGSTOP)
        until(lambda: "degraded" in asked(), 20, "a list that says what it misses")
        hanging = [asked() for _ in range(3)]
        own_redis.process.send_signal(signal.SIGCONT)
        until(lambda: "degraded" not in asked(), 20, "a list that misses nothing")
        assert flow.poll() is None
    assert all(one["degraded"] is True for one in hanging)
    wait = project.known.rank.store_wait.total_seconds() * 1000
    assert all(float(str(one["latency_ms"])) < 2 * wait + 500 for one in hanging)


SMALL = 150_000
"""Bytes that a file may have: as if the disk were full."""


def test_a_full_disk_under_the_snapshots_stops_the_flow_loudly_and_costs_no_request(
    project: Project,
) -> None:
    log = project.folder / "full.log"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (SMALL, SMALL))
    sent = 0
    with log.open("wb") as out:
        flow = subprocess.Popen(
            RANK, cwd=ROOT, env=project.environment, stdout=out, stderr=out, preexec_fn=limit
        )
        deadline = time.monotonic() + 60
        while flow.poll() is None and time.monotonic() < deadline:
            project.send("requests", *requests(project, sent, 20))
            sent += 20
        flow.kill()
        code = flow.wait()
    said = log.read_text()
    assert code == 1, said[-2000:]
    assert f"error: the snapshots in {project.folder}/state/rank must be readable and" in said
    with project.running(*RANK):
        until(lambda: len(answered(project)) == sent, 60, "every request is answered")
    assert set(ranked(project).values()) == {1}


def test_a_damaged_snapshot_is_an_error_that_says_where_and_what_to_do(project: Project) -> None:
    with project.running(*RANK) as flow:
        project.send("requests", *requests(project, 0, 5))
        until(lambda: len(answered(project)) == 5, 60, "answers")
        flow.terminate()
        flow.wait(30)
    for part in (project.folder / "state" / "rank").glob("*.sqlite3"):
        part.write_bytes(part.read_bytes()[:5000])
    with project.running(*RANK) as flow:
        assert flow.wait(60) == 1
    said = (project.folder / "rank.log").read_text()
    assert f"error: the snapshots in {project.folder}/state/rank must be readable and" in said
    assert "bring back a copy of the whole folder, or remove it" in said
