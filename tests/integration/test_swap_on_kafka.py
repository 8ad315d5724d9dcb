"""The rank flow as a process follows what is announced, and refuses what is not good."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest

from streamrank import deployment
from streamrank.edges import registry
from streamrank.edges.announcements import Announcer
from streamrank.edges.registry import Manifest
from streamrank.features import inputs
from streamrank.features.inputs import features
from tests import graphs
from tests.integration.test_flows_on_kafka import STREAMRANK, Project, project
from tests.services import ROOT, until

__all__ = ["project"]
pytestmark = [pytest.mark.integration, pytest.mark.slow]


def publish(project: Project, weight: float, parent: str | None) -> Manifest:
    """Publish a version that scores a candidate by how recently its user touched it."""
    known = project.known
    names = [feature.name for feature in features(known.feature_schema())]
    weights = np.zeros((len(names), 1), np.float32)
    weights[names.index("touch.recency")] = weight
    probe = graphs.a_list(3) | {
        "candidate_numbers": np.ones((3, len(names)), np.float32),
        "history_numbers": np.zeros((2, 4), np.float32),
    }
    model = graphs.Model(
        onnx=graphs.linear(weights),
        weights={"weight": weights},
        heads=("click",),
        probe=inputs.stack([probe]),
        expected=np.full((1, 3, 1), weight, np.float32),
    )
    return registry.publish(
        known.registry.path,
        known.model.name,
        model,
        schema=known.feature_schema(),
        features=deployment.plan_of(known).features,
        parent=parent,
        now=datetime.now(UTC),
    )


def serve(project: Project, one: Manifest) -> None:
    """Point at a version and announce it."""
    known, now = project.known, datetime.now(UTC)
    registry.point(known.registry.path, known.model.name, one.version, "learned", now)
    with Announcer(project.topics.connection, known.topic("models")) as announcer:
        announcer.announce(known.model.name, one.version, one.digest, "learned", now)


def answered_by(project: Project, number: list[int]) -> str:
    """Ask for a list, and return which version made it."""
    number[0] += 1
    name = f"request{number[0]}"
    items = [{"id": item} for item in ("a", "b")]
    project.send("requests", project.event("request", number[0], items=items))
    until(lambda: any(one["id"] == name for one in project.got("rankings")), 60, "an answer")
    [found] = [one for one in project.got("rankings") if one["id"] == name]
    return str(found["model"])


def test_a_running_flow_swaps_refuses_rolls_back_and_starts_again_as_announced(
    project: Project,
) -> None:
    known, asked = project.known, [0]
    root, name = known.registry.path, known.model.name
    first = str(registry.current(root, name))
    second = publish(project, 2.0, first)
    registry.point(root, name, first, "it serves", datetime.now(UTC))
    by = partial(answered_by, project, asked)
    log = project.folder / "rank.log"
    with project.running(*STREAMRANK, "run", "rank") as flow:
        assert by() == first
        serve(project, second)
        until(lambda: by() == second.version, 30, "the second version serves")
        broken = publish(project, 3.0, second.version)
        graph = project.folder / "registry" / name / broken.version / "ranker.onnx"
        graph.write_bytes(graph.read_bytes()[:-1])
        serve(project, broken)
        until(lambda: f"model {broken.version} is refused" in log.read_text(), 30, "refusal")
        assert by() == second.version
        command = [*STREAMRANK, "models", "rollback", first, "--reason", "clicks fell", "--bar"]
        done = subprocess.run(
            command, cwd=ROOT, env=project.environment, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["announced"] is True
        until(lambda: by() == first, 30, "the first version serves again")
        flow.terminate()
        assert flow.wait(60) == 0
    assert "clicks fell; it was still there" in log.read_text()
    with project.running(*STREAMRANK, "run", "rank"):
        assert by() == first
