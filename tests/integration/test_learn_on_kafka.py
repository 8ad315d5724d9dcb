"""The learn flow as a process on Apache Kafka: what a kill at any moment costs.

    STREAMRANK_KILLS=20 pytest tests/integration/test_learn_on_kafka.py

kills it twenty times; without the variable it is five times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrank import settings
from streamrank.edges import topics as edges
from streamrank.edges.kafka_connection import ID_HEADER
from streamrank.features.inputs import digest
from streamrank.learning.examples import Example, decode_example
from streamrank.served import Served
from streamrank.settings import Secrets, Settings
from tests.lists import example, query
from tests.services import ROOT, Topics, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
KILLS = int(os.environ.get("STREAMRANK_KILLS", "5"))
LISTS = 6
"""Lists between two kills."""


def now() -> int:
    return round(datetime.now(UTC).timestamp() * 1000)


@dataclass
class Project:
    """Settings and topics of its own on a shared broker, and what was sent."""

    folder: Path
    topics: Topics
    known: Settings
    lists: dict[str, int] = field(default_factory=dict)
    clicks: dict[str, set[str]] = field(default_factory=dict)
    events: int = 0

    @contextmanager
    def learning(self) -> Iterator[subprocess.Popen[bytes]]:
        path = str(self.folder / "streamrank.toml")
        environment = os.environ | {settings.SETTINGS_VARIABLE: path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "streamrank", "run", "learn"]
        with (self.folder / "learn.log").open("ab") as out:
            flow = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
            try:
                yield flow
            finally:
                flow.kill()
                flow.wait()

    def log(self) -> str:
        return (self.folder / "learn.log").read_text()

    def runs(self) -> int:
        """Return how often a flow has come so far that it runs."""
        log = self.folder / "learn.log"
        return log.read_text().count("learn runs on") if log.exists() else 0

    def show(self, name: str) -> None:
        self.lists[name] = at = now()
        served = Served(
            name,
            self.user(name),
            at,
            ("a", "b", "c"),
            "v1",
            digest(self.known.feature_schema()),
            "request",
            example(self.known.feature_schema(), query({"a": {}, "b": {}, "c": {}}), "a").inputs,
            np.zeros((3, 1), np.float32),
        )
        self.topics.write(self.known.topic("served"), [served.encode()], key=served.user)

    def click(self, name: str, item: str) -> None:
        self.clicks.setdefault(name, set()).add(item)
        self.events += 1
        who = self.user(name)
        event = {
            "event": "interaction",
            "id": f"e{self.events}",
            "timestamp": self.lists.get(name, now()) + 20,
            "user": who,
            "type": "click",
            "item": item,
            "ranking": name,
        }
        self.topics.write(self.known.topic("events"), [json.dumps(event).encode()], key=who)

    @staticmethod
    def user(name: str) -> str:
        return f"u{int(name[1:]) % 5}"

    def examples(self) -> list[Example]:
        return [decode_example(v) for v in self.topics.values(self.known.topic("examples"))]

    def labelled(self) -> dict[str, set[str]]:
        """Return the labelled items of each list: of its example with the most of them."""
        found: dict[str, set[str]] = {}
        for one in self.examples():
            got = {item for item, hit in zip(one.items, one.labels[:, 0], strict=True) if hit}
            found[one.id] = max(got, found.get(one.id, set()), key=len)
        return found

    def ids(self) -> list[bytes]:
        messages = self.topics.read(self.known.topic("examples"))
        headers: list[dict[str, Any]] = [dict(m.headers() or []) for m in messages]
        return [bytes(one[ID_HEADER]) for one in headers]


@pytest.fixture
def project(topics: Topics, tmp_path: Path) -> Project:
    prefix = f"{tmp_path.name.replace('_', '-')[-20:]}-{os.getpid()}-"
    known = settings.changed(
        Settings(),
        {
            "learn": {"label_window": "2s", "idle": "2s", "settle": "50ms", "lateness": "5m"},
            "kafka": {
                "bootstrap_servers": topics.bootstrap,
                "prefix": prefix,
                "group": f"{prefix}group",
                "fetch_wait": "5ms",
                "partitions": 3,
            },
            "state": {"path": str(tmp_path / "state"), "every": "200ms"},
            "registry": {"path": str(tmp_path / "registry")},
        },
    )
    (tmp_path / "streamrank.toml").write_text(settings.to_toml(known))
    edges.create(known, Secrets())
    return Project(tmp_path, topics, known)


def test_a_learn_flow_killed_at_any_moment_loses_no_example_and_writes_none_twice(
    project: Project,
) -> None:
    """A third of the lists gets no click, a third one, a third two, the second a round later."""
    chance = random.Random(7)
    for kill in range(KILLS):
        with project.learning() as flow:
            before = len(project.examples())
            fresh = [f"r{kill * LISTS + number}" for number in range(LISTS)]
            for number, name in enumerate(fresh):
                if number % 2:  # the click comes before its list
                    project.click(name, "b") if number % 3 else None
                project.show(name)
                if not number % 2 and number % 3:
                    project.click(name, "b")
            for number in range(2, LISTS, 3):
                if kill:
                    project.click(f"r{(kill - 1) * LISTS + number}", "c")
            wanted = before + chance.randrange(LISTS)
            until(lambda: len(project.examples()) >= wanted, 60, "examples")  # noqa: B023
            flow.kill()
    with project.learning() as flow:
        with suppress(TimeoutError):  # the comparison below says which
            until(lambda: project.labelled() == expected(project), 60, "every label is there")
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(30) == 0
    assert project.labelled() == expected(project)
    assert [name for name, count in Counter(project.ids()).items() if count > 1] == []


def test_a_second_learner_refuses(project: Project) -> None:
    with project.learning() as first:
        project.show("r1")
        project.click("r1", "a")
        until(lambda: bool(project.examples()), 60, "the first one works")
        with project.learning() as second:
            assert second.wait(60) == 1
        assert first.poll() is None
    assert "error: a learner of ranker runs already" in project.log()


def expected(project: Project) -> dict[str, set[str]]:
    return {name: project.clicks.get(name, set()) for name in project.lists}
