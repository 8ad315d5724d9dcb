"""From examples to a version: published whole, or refused with the reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from streamrank import deployment, infer, replay, versions
from streamrank import settings as settings_module
from streamrank.edges import registry
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown
from streamrank.learning.examples import Example
from streamrank.settings import Settings
from streamrank.simulate import Size, World
from streamrank.versions import NothingToLearn

NOW = 1_700_000_000_000
WORLD = World(seed=6, size=Size(items=30, shoppers=15, candidates=6))
PAST = list(WORLD.history(60, NOW, timedelta(hours=2)))


def quiet() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


@pytest.fixture(scope="module")
def inferred() -> Settings:
    found = infer.infer(PAST).settings
    return settings_module.changed(found, {"model": {"epochs": 1}, "rank": {"provider": "cpu"}})


@pytest.fixture
def known(inferred: Settings, tmp_path: Path) -> Settings:
    return settings_module.changed(inferred, {"registry": {"path": str(tmp_path / "registry")}})


@pytest.fixture(scope="module")
def examples(inferred: Settings) -> list[Example]:
    records = [Incoming(replay.TOPIC, 0, n, event.encode()) for n, event in enumerate(PAST)]
    now = datetime.now(UTC)
    found = replay.survey(records, inferred, now)
    lane = replay.lane_of(inferred, AsShown(), now)
    return replay.gather(lane, records, inferred, frozenset(found.labelled))


@pytest.mark.slow
def test_what_was_learned_is_published_and_serves(known: Settings, examples: list[Example]) -> None:
    published: list[dict[str, object]] = []
    scorer = versions.trainer(known, published, quiet())(examples)
    [report] = published
    assert scorer.version == report["version"]
    assert (report["parent"], report["published"], report["gate"]) == (None, True, {})
    assert report["lists_seen"] == len(examples)
    assert registry.latest(known.registry.path, known.model.name) == scorer.version
    assert deployment.scorer_of(known).version == scorer.version
    heads = 1 if known.events.conversion is None else 2
    scored = scorer.score([one.inputs for one in examples])
    assert [scores.shape for scores in scored] == [(6, heads)] * len(examples)


@pytest.mark.parametrize("start", ["fresh", "pretrained"])
def test_a_version_may_start_from_what_people_did(
    start: str, known: Settings, examples: list[Example], tmp_path: Path
) -> None:
    known = settings_module.changed(known, {"model": {"start": start}})
    versions.train(examples, known, quiet(), logs=tmp_path / "logs")
    held = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert ("pretraining/loss" in held.Tags()["scalars"]) == (start == "pretrained")


def all_clicked(examples: list[Example]) -> list[Example]:
    return [replace(one, labels=np.ones_like(one.labels)) for one in examples]


def none_clicked(examples: list[Example]) -> list[Example]:
    return [replace(one, labels=np.zeros_like(one.labels)) for one in examples]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda examples: [], "examples must have labels, got none in 0 lists"),
        (none_clicked, r"examples must have labels, got none in \d+ lists"),
        (all_clicked, "must have candidates with and without the label, got only such with it"),
        (lambda examples: examples[::-1], "examples must be in time order, got 'r"),
    ],
)
def test_what_teaches_nothing_is_refused_with_the_reason_and_leaves_no_version(
    spoil: Callable[[list[Example]], list[Example]],
    reason: str,
    known: Settings,
    examples: list[Example],
) -> None:
    with pytest.raises(NothingToLearn, match=f"the ranker cannot be trained: .*{reason}"):
        versions.train(spoil(examples), known, quiet())
    assert registry.latest(known.registry.path, known.model.name) is None
