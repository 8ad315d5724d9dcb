"""Lists are measured, judge the challenger, and only then are learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import torch

from streamrank.edges.onnxruntime import OnnxScorer
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.learning.gate import Rules
from streamrank.lessons import Lessons, Opened, Published, Rejected
from streamrank.model import course, export
from streamrank.model.export import Exported
from streamrank.model.learner import Learner, Online, Updated
from streamrank.model.ranker import configure
from tests.lists import NOW, example, query

pytestmark = pytest.mark.slow  # exports take seconds
SCHEMA = Schema(interactions=("click",), label="click", item={"colour": "category"})
TIME = datetime(2026, 1, 1, tzinfo=UTC)


def lists(count: int, seed: int, wanted: str = "blue") -> list[Example]:
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        colours = random.permutation(["red", "green", "blue", "grey"]).tolist()
        shown = {f"i{random.integers(10**6)}": {"colour": c} for c in colours}
        clicked = list(shown)[colours.index(wanted)]
        made.append(example(SCHEMA, query(shown, at=NOW + n, name=f"r{seed}-{n}"), clicked))
    return made


@dataclass
class Memory:
    """A publisher that remembers."""

    versions: dict[str, Opened] = field(default_factory=dict)
    current: str = "v0"

    def publish(
        self,
        exported: Exported,
        *,
        parent: str | None,
        now: datetime,
        metrics: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
        lists_seen: int = 0,
        rejected: str | None = None,
    ) -> Opened:
        version = f"v{len(self.versions)}"
        scorer = OnnxScorer(exported.onnx, version=version, provider="cpu")
        self.versions[version] = Opened(version, parent, exported.weights, scorer)
        return self.versions[version]

    def announce(
        self, version: str, reason: str, now: datetime, *, expected: str | None = None
    ) -> None:
        self.current = version

    def roll_back(self, reason: str, now: datetime) -> str | None:
        self.current = self.versions[self.current].parent or self.current
        return self.current


def begun() -> Lessons:
    torch.manual_seed(0)
    ranker = course.fresh(configure(SCHEMA), lists(20, 99)).eval()
    weights = {name: tensor.numpy().copy() for name, tensor in ranker.state_dict().items()}
    memory = Memory()
    first = Opened("v0", None, weights, OnnxScorer(export.to_onnx(ranker), version="v0"))
    memory.versions["v0"] = first
    learner = Learner.begin(weights, SCHEMA, recipe=Online(rate=3e-3))
    return Lessons(
        learner,
        first,
        memory,
        memory.versions.__getitem__,
        lambda onnx: OnnxScorer(onnx, version="", provider="cpu"),
        Rules(lists=50, latency=100.0),
        batch=60,
    )


def test_a_challenger_is_judged_by_lists_ahead_of_learning_from_them_and_serves() -> None:
    lessons = begun()
    assert lessons.take(lists(59, 0), TIME) == []
    [updated] = lessons.take(lists(1, 1), TIME)
    assert isinstance(updated, Updated)
    outcomes = [one for n in range(2, 8) for one in lessons.take(lists(60, n), TIME)]
    published = [one for one in outcomes if isinstance(one, Published)]
    assert published
    assert lessons.champion.version == published[-1].version
    assert all(one.verdict.figures["difference"] >= 0 for one in published)
    # Reversed labels from upstream are believed by nobody, and not learned from.
    wrong = [dataclasses.replace(one, labels=1 - one.labels) for one in lists(60, 50)]
    before = lessons.learner.updates
    [refused] = lessons.take(wrong, TIME)
    assert isinstance(refused, Rejected)
    assert not refused.verdict.credible
    assert lessons.learner.updates == before


def weights_after(lessons: Lessons, parts: Sequence[list[Example]]) -> list[bytes]:
    for part in parts:
        lessons.take(part, TIME + timedelta(seconds=1))
    return [array.tobytes() for array in lessons.learner.weights().values()]


def test_lessons_that_were_stopped_go_on_exactly() -> None:
    whole = begun()
    whole.take(lists(90, 0)[:70], TIME)
    whole.take(lists(20, 1), TIME)
    arrays, words = whole.state()
    resumed = begun()
    resumed.resume(arrays, words)
    assert len(resumed.waiting) == 20
    parts = [lists(30, 2), lists(20, 3)]
    assert weights_after(whole, parts) == weights_after(resumed, parts)
