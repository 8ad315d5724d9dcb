"""The flows as processes, on Apache Kafka and Redis: what they give, and what a kill costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrank import deployment, settings
from streamrank.edges import registry
from streamrank.edges import topics as edges
from streamrank.edges.feast import FeastStore
from streamrank.features import inputs, windows
from streamrank.features.inputs import features
from streamrank.served import decode_served
from streamrank.settings import Secrets, Settings
from tests import graphs
from tests.services import ROOT, Topics, until

pytestmark = pytest.mark.integration
NAMES = ("events", "requests", "rankings", "served", "dead-letters")
BYTEWAX = [sys.executable, "-m", "bytewax.run"]
STREAMRANK = [sys.executable, "-m", "streamrank"]


@dataclass
class Project:
    """A project of its own on shared services: settings, topics, and a version that serves."""

    folder: Path
    topics: Topics
    known: Settings
    now: int = field(default_factory=lambda: int(datetime.now(UTC).timestamp() * 1000))

    @property
    def settings_file(self) -> Path:
        return self.folder / "streamrank.toml"

    @property
    def environment(self) -> dict[str, str]:
        path = str(self.settings_file)
        return os.environ | {settings.SETTINGS_VARIABLE: path, "OMP_NUM_THREADS": "1"}

    def change(self, **tables: dict[str, Any]) -> None:
        self.known = settings.changed(self.known, tables)
        self.settings_file.write_text(settings.to_toml(self.known))

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        name = command[-1].replace(":", "-")
        with (self.folder / f"{name}.log").open("ab") as out:
            flow = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=out, stderr=out)
            try:
                yield flow
            finally:
                flow.kill()
                flow.wait()

    def send(self, name: str, *messages: dict[str, Any] | bytes) -> None:
        for message in messages:
            payload = message if isinstance(message, bytes) else json.dumps(message).encode()
            key = "u" if isinstance(message, bytes) else str(message.get("user", "x"))
            self.topics.write(self.known.topic(name), [payload], key=key)

    def got(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(value) for value in self.topics.values(self.known.topic(name))]

    def event(self, kind: str, number: int, **more: Any) -> dict[str, Any]:
        who = {} if kind == "item" else {"user": "u", "session": "s"}
        if kind == "user":
            who = {"user": "u"}
        return {"event": kind, "id": f"{kind}{number}", "timestamp": self.now} | who | more


@pytest.fixture
def project(topics: Topics, redis_address: str, tmp_path: Path) -> Project:
    prefix = f"{tmp_path.name.replace('_', '-')[-20:]}-{os.getpid()}-"
    known = settings.changed(
        Settings(),
        {
            "events": {"interactions": ["view", "click"], "label": "click"},
            "fields": {"item": {"price": "number", "title": "text"}},
            "windows": {"flush": "100ms"},
            "rank": {"provider": "cpu", "cache_age": "50ms"},
            "kafka": {
                "bootstrap_servers": topics.bootstrap,
                "prefix": prefix,
                "group": f"{prefix}group",
                "fetch_wait": "5ms",
                "partitions": 3,
            },
            "store": {"online": "redis", "redis": redis_address, "path": str(tmp_path / "feast")},
            "state": {"path": str(tmp_path / "state"), "every": "200ms"},
            "registry": {"path": str(tmp_path / "registry")},
        },
    )
    (tmp_path / "streamrank.toml").write_text(settings.to_toml(known))
    edges.create(known, Secrets())
    publish_touched_first(known)
    return Project(tmp_path, topics, known)


def publish_touched_first(known: Settings) -> None:
    """Publish a version that scores a candidate by how recently its user touched it."""
    schema = known.feature_schema()
    names = [feature.name for feature in features(schema)]
    weights = np.zeros((len(names), 1), np.float32)
    weights[names.index("touch.recency")] = 1.0
    probe = graphs.a_list(3) | {
        "candidate_numbers": np.ones((3, len(names)), np.float32),
        "history_numbers": np.zeros((2, 4), np.float32),
    }
    model = graphs.Model(
        onnx=graphs.linear(weights),
        weights={"weight": weights},
        heads=("click",),
        probe=inputs.stack([probe]),
        expected=np.ones((1, 3, 1), np.float32),
    )
    registry.publish(
        known.registry.path,
        known.model.name,
        model,
        schema=schema,
        features=deployment.plan_of(known).features,
        now=datetime.now(UTC),
    )


def ids(ranking: dict[str, Any]) -> list[str]:
    return [item["id"] for item in ranking["items"]]


@pytest.mark.slow
def test_the_flows_run_by_bytewax_on_kafka_and_redis(project: Project) -> None:
    items = [{"id": name} for name in ("a", "b", "c")]
    with (
        project.running(*BYTEWAX, "flows.features:main"),
        project.running(*BYTEWAX, "flows.rank:main"),
    ):
        project.send(
            "events", project.event("item", 1, item="c", fields={"price": 9, "title": "sea"})
        )
        project.send("requests", project.event("request", 1, items=items))
        until(lambda: len(project.got("rankings")) == 1, 60, "the request is answered")
        project.send(
            "events",
            project.event("interaction", 2, type="click", item="c", ranking="request1"),
            b"not json",
        )
        project.send("requests", b"\xff")
        until(lambda: len(project.got("rankings")) == 2, 30, "the click ranks the list again")
        until(lambda: len(project.got("dead-letters")) == 2, 30, "bad records are set aside")
        store = FeastStore(project.known, Secrets())
        until(lambda: store.read("item_windows", ["c"], project.now)[0] is not None, 30, "windows")
        until(lambda: counted(project, store) == {"click": 1, "impression": 1}, 30, "counts")
        until(lambda: store.read("item_fields", ["c"], project.now)[0] is not None, 30, "fields")
        [fields] = store.read("item_fields", ["c"], project.now)
        store.close()
    first, again = project.got("rankings")
    assert ids(first) == ["a", "b", "c"]
    assert (ids(again), again["request"], again["trigger"]) == (
        ["c", "a", "b"],
        "request1",
        "interaction2",
    )
    assert fields == {"price": 9.0, "title": "sea"}
    served = [decode_served(v) for v in project.topics.values(project.known.topic("served"))]
    assert [(one.source, one.model) for one in served] == [
        ("request", first["model"]),
        ("trigger", first["model"]),
    ]
    origins = {letter["origin"].partition("[")[0] for letter in project.got("dead-letters")}
    assert origins == {project.known.topic("events"), project.known.topic("requests")}


def counted(project: Project, store: FeastStore) -> dict[str, float]:
    [values] = store.read("item_windows", ["c"], project.now)
    schema = project.known.feature_schema()
    if not isinstance(values, np.ndarray):
        return {}
    window = windows.unpack(values, len(schema.horizons), len(schema.channels))
    return {c: float(n) for c, n in zip(schema.channels, window.totals, strict=True) if n}


@pytest.mark.slow
def test_a_rank_flow_killed_under_load_loses_no_request_and_answers_none_twice(
    project: Project,
) -> None:
    sent = 0
    for _ in range(3):
        with project.running(*STREAMRANK, "run", "rank") as flow:
            before = len(answered(project))
            project.send("requests", *requests(project, sent, 60))
            sent += 60
            until(partial(answers_more, project, before), 60, "answers")
            project.send("requests", *requests(project, sent, 20))
            sent += 20
            flow.kill()
    with project.running(*STREAMRANK, "run", "rank") as flow:
        until(lambda: len(answered(project)) >= sent, 60, "every request is answered")
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(30) == 0
    counts = Counter(ranking["id"] for ranking in project.got("rankings"))
    assert set(counts) == {f"request{number}" for number in range(sent)}
    assert [ranking for ranking, count in counts.items() if count > 1] == []
    seen = Counter(
        decode_served(v).id for v in project.topics.values(project.known.topic("served"))
    )
    assert seen == counts


def answered(project: Project) -> set[str]:
    return {ranking["id"] for ranking in project.got("rankings")}


def answers_more(project: Project, before: int) -> bool:
    return len(answered(project)) > before


def requests(project: Project, first: int, count: int) -> list[dict[str, Any]]:
    items = [{"id": f"i{number}"} for number in range(5)]
    return [
        project.event("request", number, items=items, user=f"u{number % 7}")
        for number in range(first, first + count)
    ]
