"""A request without items, from a log to the list: what people go on to is found for others."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from streamrank import deployment, replay, settings, versions
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown
from streamrank.edges.registry import Manifest
from streamrank.settings import Settings
from streamrank.steps import Read
from streamrank.steps_ranking import Scorer

pytestmark = pytest.mark.slow  # it trains a version
NOW = 1_700_000_000_000
TIME = datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(days=1)
ITEMS, STRIDE, PEOPLE = 30, 7, 150
KNOWN = settings.changed(
    Settings(),
    {
        "events": {"interactions": ["view", "click"], "label": "click"},
        "model": {"epochs": 1},
        "rank": {"provider": "cpu"},
        "windows": {"popular": 20},
        "retrieval": {"enabled": True, "found": 5, "width": 32, "epochs": 60},
    },
)


def item(number: int) -> str:
    return f"i{number % ITEMS}"


def deed(who: str, number: int, what: str, at: int, **more: Any) -> dict[str, Any]:
    return {
        "event": "interaction",
        "id": f"{who}-{number}",
        "timestamp": NOW + at,
        "user": who,
        "type": "view",
        "item": what,
    } | more


def planted() -> list[dict[str, Any]]:
    """Whoever touches an item goes on to the one seven places on; sometimes a list is clicked."""
    random = np.random.default_rng(0)
    events = []
    for person in range(PEOPLE):
        start, at, who = int(random.integers(ITEMS)), person * 60_000, f"u{person}"
        steps = [item(start + STRIDE * step) for step in range(int(random.integers(4, 8)))]
        events += [deed(who, n, one, at + 1000 * n) for n, one in enumerate(steps)]
        if person % 3 == 0:
            shown = [{"id": one} for one in dict.fromkeys([steps[-1], "i0", "i1", "i2"])]
            about = {"timestamp": NOW + at + 10_000, "user": who}
            events.append({"event": "ranking", "id": f"r{person}", "items": shown} | about)
            click = {"type": "click", "ranking": f"r{person}"}
            events.append(deed(who, 99, steps[-1], at + 11_000, **click))
    return events


def records(events: Sequence[dict[str, Any]]) -> list[Incoming]:
    return [Incoming(replay.TOPIC, 0, n, json.dumps(one).encode()) for n, one in enumerate(events)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A registry with a version that was trained on the planted log as `streamrank train` does."""
    root = tmp_path_factory.mktemp("registry")
    known = at(root)
    lane = replay.lane_of(known, AsShown(), TIME)
    examples = replay.gather(lane, records(planted()), known)
    said = Console(file=io.StringIO(), force_terminal=False)
    return root, versions.train(examples, known, said, trails=lane.trails)


def at(root: Path, **retrieval: Any) -> Settings:
    changes = {"registry": {"path": str(root)}, "retrieval": retrieval}
    return settings.changed(KNOWN, changes)


def candidates(scorer: Scorer, touched: Sequence[str], known: Settings = KNOWN) -> list[str]:
    """Return the candidates of a request without items by somebody who touched these."""
    lane = replay.lane_of(known, scorer, TIME)
    asked = {"event": "request", "id": "q", "timestamp": NOW + 5000, "user": "v", "items": []}
    deeds = [deed("v", n, one, 1000 * n) for n, one in enumerate(touched)]
    others = [deed("w", n, "popular", 10 * n) for n in range(3)]
    found: list[str] = []
    for record in records([*others, *deeds, asked]):
        read = lane.read(record)
        assert isinstance(read, Read)
        for scored in lane.take(read):
            found = [one.id for one in scored.query.candidates]
    return found


def test_what_others_go_on_to_is_found_first_then_the_touched_and_the_popular(
    trained: tuple[Path, Manifest],
) -> None:
    root, manifest = trained
    scorer = deployment.scorer_of(at(root))
    assert scorer.version == manifest.version
    for start in (3, 11, 26):
        ids = candidates(scorer, [item(start - STRIDE), item(start)])
        assert ids[0] == item(start + STRIDE)
        assert ids[5:7] == [item(start), item(start - STRIDE)]
        assert ids[7] == "popular"
        assert len(ids) == len(set(ids)) <= KNOWN.windows.popular
