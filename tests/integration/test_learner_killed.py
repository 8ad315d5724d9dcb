"""The learn flow with a real learner, killed at any step: what was learned, kept and published.

    STREAMRANK_KILLS=20 pytest tests/integration/test_learner_killed.py

kills it twenty times; without the variable it is once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from streamrank import settings
from streamrank.edges import registry
from streamrank.edges import topics as edges
from streamrank.edges.checkpoints import Checkpoints
from streamrank.edges.journal import Journal
from streamrank.features.inputs import digest
from streamrank.learning.examples import Example, decode_example
from streamrank.model import artifact, course
from streamrank.model.ranker import configure
from streamrank.model.training import Trained
from streamrank.settings import Secrets, Settings
from tests.integration.test_learn_on_kafka import Project
from tests.lists import example, query
from tests.services import Topics, until

KILLS = int(os.environ.get("STREAMRANK_KILLS", "1"))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(480 + 120 * KILLS),
]
LISTS = 24
"""Lists between two kills; one in three gets no click, and is over when its time has passed."""
BATCH = 8


@pytest.fixture
def project(topics: Topics, tmp_path: Path) -> Project:
    prefix = f"{tmp_path.name.replace('_', '-')[-20:]}-{os.getpid()}-"
    known = settings.changed(
        Settings(),
        {
            "learn": {
                "label_window": "1s",
                "idle": "1s",
                "settle": "20ms",
                "lateness": "5m",
                "batch": BATCH,
                "every": "200ms",
                "rate": 1e-3,
            },
            "gate": {"lists": 6, "latency": 100},
            "kafka": {
                "bootstrap_servers": topics.bootstrap,
                "prefix": prefix,
                "group": f"{prefix}group",
                "fetch_wait": "5ms",
                "partitions": 2,
            },
            "state": {"path": str(tmp_path / "state"), "every": "200ms"},
            "registry": {"path": str(tmp_path / "registry")},
        },
    )
    (tmp_path / "streamrank.toml").write_text(settings.to_toml(known))
    edges.create(known, Secrets())
    publish_first(known)
    return Project(tmp_path, topics, known)


def publish_first(known: Settings) -> None:
    schema = known.feature_schema()
    torch.manual_seed(0)
    some = [example(schema, query({"a": {}, "b": {}, "c": {}}, name=f"x{n}"), "a") for n in "123"]
    ranker = course.fresh(configure(schema), some).eval()
    exported = artifact.exported(Trained(ranker, schema, "small", {}, 0, tuple(some)))
    registry.publish(
        known.registry.path,
        known.model.name,
        exported,
        schema=schema,
        features=digest(schema),
        now=datetime.now(UTC),
    )


class Steps:
    """What a learner has come to, as its files say: what it is killed at."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.states = Checkpoints(project.folder / "state", f"{project.known.model.name}-learner")

    def moments(self) -> dict[str, Callable[[], int]]:
        """Return what rises while it works: examples, kept states, versions and their drafts."""
        shelf = self.project.folder / "registry" / self.project.known.model.name
        return {
            "examples": lambda: len(self.project.examples()),
            "a state": lambda: self._turn(),
            "a version": lambda: len([one for one in shelf.iterdir() if one.is_dir()]),
            # Not their size: journals of older states are removed in between.
            "a line of the journal": lambda: max(
                (one.stat().st_mtime_ns for one in self.journals.glob("*.journal")), default=0
            ),
        }

    @property
    def journals(self) -> Path:
        return Path(self.states.root, f"{self.states.name}-journals")

    def _turn(self) -> int:
        tokens = self.states.tokens()
        return int(tokens[-1].partition("-")[0]) if tokens else 0

    def learned(self) -> list[str]:
        """Return the lists of the newest state, learned from or waiting, and of its journal."""
        token = self.states.tokens()[-1]
        arrays, _ = self.states.get(token)
        _, lists, _, _, kept = arrays["learner.counts"].tolist()
        assert lists == kept  # fewer than are remembered, so each one is there
        journal = self.journals / f"{token}.journal"
        end = journal.stat().st_size if journal.exists() else 0
        found = [
            *decoded(arrays["learner.lists"].tobytes(), arrays["learner.ends"].tolist()[:kept]),
            *decoded(arrays["waiting"].tobytes(), arrays["ends"].tolist()),
            *map(decode_example, Journal(journal).read(end)),
        ]
        return [one.id for one in found if not one.revision]


def decoded(content: bytes, ends: list[int]) -> list[Example]:
    borders = zip([0, *ends], ends, strict=False)
    return [decode_example(content[first:last]) for first, last in borders]


def test_a_learner_killed_at_any_step_learns_from_every_list_once_and_shows_no_half_version(
    project: Project,
) -> None:
    chance, steps = random.Random(5), Steps(project)
    for kill in range(KILLS):
        begun = project.runs()
        with project.learning() as flow:
            moments = steps.moments()
            name = chance.choice([*moments, "examples"]) if kill else "a version"
            came, before = moments[name], moments[name]()
            further = chance.randint(1, 4) if name == "examples" else 1
            send(project, kill * LISTS)
            until(lambda: flow.poll() is not None or project.runs() > begun, 240, "it runs")  # noqa: B023
            there = reached(flow, came, before + further)
            if kill:
                with suppress(TimeoutError):  # it may have come to rest: a moment, too
                    until(there, 20, name)
            else:
                send_until(there, project)
            assert flow.poll() is None, project.log()[-2000:]
            flow.kill()
        assert_versions_are_whole(project.known)
    with project.learning() as flow:
        send(project, KILLS * LISTS)
        until(lambda: len(project.labelled()) == len(project.lists), 240, "every list is over")
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(60) == 0, project.log()[-2000:]
    assert Counter(steps.learned()) == Counter(project.lists.keys())
    assert [name for name, count in Counter(project.ids()).items() if count > 1] == []
    assert len(assert_versions_are_whole(project.known)) > 1


def reached(
    flow: subprocess.Popen[bytes], came: Callable[[], int], count: int
) -> Callable[[], bool]:
    return lambda: flow.poll() is not None or came() >= count


def send_until(there: Callable[[], bool], project: Project) -> None:
    """Send lists until a version is there: one that is judged by lists which came later."""
    for first in range(10_000, 10_000 + 20 * LISTS, LISTS):
        with suppress(TimeoutError):
            until(there, 12, "a version")
            return
        send(project, first)
    raise TimeoutError("a version: not after 20 times as many lists")


def send(project: Project, first: int) -> None:
    for number in range(first, first + LISTS):
        project.show(f"r{number}")
        if number % 3:
            project.click(f"r{number}", "ab"[number % 2])


def assert_versions_are_whole(known: Settings) -> list[str]:
    """Whoever looks finds versions that hold what they say, and one of them serves."""
    root, name = known.registry.path, known.model.name
    found = [one.version for one in registry.versions(root, name)]
    for version in found:
        registry.load(root, name, version, provider="cpu", features=digest(known.feature_schema()))
    assert registry.current(root, name) in found
    return found
