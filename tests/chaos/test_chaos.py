"""Flows, broker and store die under load: nothing is lost, nothing comes twice, all is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.play import Plan, play
from tests.chaos.scene import Scene, prepare
from tests.services import Missing

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    try:
        made = prepare(tmp_path / "scene")
    except Missing as missing:
        if os.environ.get("STREAMRANK_REQUIRE_SERVICES") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    yield made
    made.close()


def test_whatever_dies_under_load_nothing_is_lost_doubled_or_miscounted(scene: Scene) -> None:
    """`make chaos` does it with 50 kills."""
    plan = Plan(kills=3, broker_restarts=1, redis_restarts=1, seed=3, longest=0.7)
    outcome = play(scene, plan)
    found = outcome.verdict
    assert found.unanswered == []
    assert found.duplicated == []
    assert found.miscounted == {}
    assert found.examples_lost == []
    assert found.dead_letters == []
    assert outcome.stopped_by_themselves == []
    assert {code for code, _ in outcome.exits.values()} == {0}
