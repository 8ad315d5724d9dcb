"""Dead letters on Apache Kafka: mended ones are answered, others come back once."""

from __future__ import annotations

import io
import signal
import subprocess
from typing import Any

import pytest
from rich.console import Console

from streamrank import letters_commands
from tests.integration.test_flows_on_kafka import STREAMRANK, Project, project
from tests.services import ROOT, until

__all__ = ["project"]
pytestmark = [pytest.mark.integration, pytest.mark.slow]
LIMIT = "STREAMRANK_EVENTS__MAX_CANDIDATES"
BECAUSE = "must hold at most"


def quiet() -> Console:
    return Console(file=io.StringIO())


def listed(project: Project) -> list[dict[str, Any]]:
    found = letters_commands.listed(project.settings_file, None, console=quiet())
    return list(found["groups"])


def sent_back(project: Project) -> int:
    found = letters_commands.replayed(project.settings_file, BECAUSE, None, console=quiet())
    return int(found["sent"])


def test_a_mended_letter_is_answered_and_one_still_bad_comes_back_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three candidates too many at first, then allowed; five never are."""
    lists = [[{"id": f"i{n}"} for n in range(size)] for size in (3, 5)]
    asked = [project.event("request", n, items=items) for n, items in enumerate(lists)]
    monkeypatch.setenv(LIMIT, "2")
    with project.running(*STREAMRANK, "run", "rank") as flow:
        project.send("requests", *asked)
        until(lambda: len(project.got("dead-letters")) == 2, 60, "both are set aside")
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(60) == 0
    assert [(one["count"], one["waiting"]) for one in listed(project)] == [(2, 2)]
    monkeypatch.setenv(LIMIT, "4")
    with project.running(*STREAMRANK, "run", "rank"):
        assert sent_back(project) == 2
        until(lambda: len(project.got("rankings")) == 1, 60, "the mended one is answered")
        until(lambda: _returned(project) == 1, 60, "the other comes back")
    again = subprocess.run(
        [*STREAMRANK, "letters", "replay", "--reason", BECAUSE],
        cwd=ROOT,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 1
    assert "came back after they were sent once, and are not sent again" in again.stderr
    [answer] = project.got("rankings")
    assert answer["id"] == "request0"
    assert len(project.topics.read(project.known.topic("requests"))) == 4
    found = [(one["reason"][-12:], one["replayed"], one["returned"]) for one in listed(project)]
    assert found == [("2 candidates", 2, 0), ("4 candidates", 0, 1)]


def _returned(project: Project) -> int:
    return sum(letter.get("letter") is not None for letter in project.got("dead-letters"))
