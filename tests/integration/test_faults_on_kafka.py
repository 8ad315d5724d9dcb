"""What the rank flow does when told to stop, when its store hangs, when a disk is full."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from streamrank.edges import topics as edges
from streamrank.sections import StateSection
from streamrank.settings import Secrets
from tests.integration.test_flows_on_kafka import (
    STREAMRANK,
    Project,
    answered,
    answers_more,
    project,
    requests,
)
from tests.services import ROOT, Kafka, Missing, Redis, Topics, until

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
    """A Redis that is away until the test starts it."""
    try:
        redis = Redis(tmp_path)
    except Missing as missing:
        pytest.skip(str(missing))
    yield redis
    redis.stop(kill=True)


def test_while_redis_is_away_or_hangs_lists_go_on_marked_degraded_and_later_they_are_not(
    project: Project, own_redis: Redis
) -> None:
    """The flow starts without it, finds it, and loses it for a while."""
    project.change(store={"redis": own_redis.address})
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
        without = [asked() for _ in range(2)]
        own_redis.start()
        until(lambda: "degraded" not in asked(), 20, "a list that misses nothing")
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        until(lambda: "degraded" in asked(), 20, "a list that says what it misses")
        hanging = [asked() for _ in range(3)]
        own_redis.process.send_signal(signal.SIGCONT)
        until(lambda: "degraded" not in asked(), 20, "a list that misses nothing")
        assert flow.poll() is None
    assert all(one["degraded"] is True for one in without + hanging)
    wait = project.known.rank.store_wait.total_seconds() * 1000
    assert all(float(str(one["latency_ms"])) < 2 * wait + 500 for one in hanging)


def test_a_flow_whose_broker_stays_away_stops_loudly_with_exit_code_1(
    project: Project, private_kafka: Kafka
) -> None:
    where = {"bootstrap_servers": private_kafka.bootstrap, "delivery_timeout": "2s"}
    project.change(kafka=where, store={"online": "sqlite"})
    project.topics = Topics(private_kafka.bootstrap)
    edges.create(project.known, Secrets())
    project.send("requests", *requests(project, 0, 20))
    with project.running(*RANK) as flow:
        served = project.known.topic("served")  # written last: at most its word is under way
        until(lambda: len(project.topics.values(served)) == 20, 60, "every list is served")
        private_kafka.stop(kill=True)
        assert flow.wait(60) == 1
    said = (project.folder / "rank.log").read_text()
    told = [
        r"no Kafka broker has answered at \S+ for 2 s \(kafka.delivery_timeout\); nothing is lost: "
        "start the flow again",
        r"\S+: the broker did not take a record: Local: Message timed out; the flow must be "
        "started again and works from its last snapshot on",  # the last word was under way
    ]
    assert re.search(f"error: ({'|'.join(told)})", said)


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


def test_a_torn_snapshot_is_an_error_that_says_where_and_what_to_do(project: Project) -> None:
    folder = project.folder / "state" / "rank"
    folder.mkdir(parents=True)
    init_db_dir(folder, StateSection().partitions)
    for part in folder.glob("*.sqlite3"):
        part.write_bytes(part.read_bytes()[:5000])
    with project.running(*RANK) as flow:
        assert flow.wait(60) == 1
    said = (project.folder / "rank.log").read_text()
    assert f"error: the snapshots in {folder} must be readable and" in said
    assert "bring back a copy of the whole folder, or remove it" in said
