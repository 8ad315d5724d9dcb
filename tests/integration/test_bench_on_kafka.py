"""`streamrank bench` on Apache Kafka: it measures, and nothing of it stays."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from streamrank import bench
from streamrank.edges import registry
from tests.integration.test_flows_on_kafka import STREAMRANK, Project, project
from tests.services import ROOT

__all__ = ["project"]
pytestmark = [pytest.mark.integration, pytest.mark.slow]


def left(project: Project) -> tuple[list[str], list[str]]:
    """Return the topics and groups of benches that the broker has."""
    client = AdminClient({"bootstrap.servers": project.topics.bootstrap})
    topics = client.list_topics(timeout=10).topics
    groups = client.list_consumer_groups().result(20).valid
    found = [str(group.group_id) for group in groups]
    return [one for one in topics if "bench-" in one], [one for one in found if "bench-" in one]


def test_the_configured_flow_is_measured_and_nothing_stays(project: Project) -> None:
    # so short that no answer can come in it: it goes on until there are enough for a rate
    done = subprocess.run(
        [*STREAMRANK, "bench", "--seconds", "0.001", "--candidates", "10"],
        cwd=ROOT,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    known = project.known
    assert report["model"] == registry.current(known.registry.path, known.model.name)
    assert report["answered"] == report["requests"] > bench.USERS
    assert report["rankings_per_second"] > 0
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert {"decode", "enrich", "score", "rank", "encode"} <= report["steps_us"].keys()
    assert "rankings/s" in done.stderr
    assert left(project) == ([], [])
    assert project.got("rankings") == project.got("events") == []
