"""Lists are measured, judge the challenger, and only then are learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from streamrank.edges.onnxruntime import OnnxScorer
from streamrank.edges.registry_errors import RegistryUnusable
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning import gate
from streamrank.learning.examples import Example
from streamrank.learning.learned import Learned
from streamrank.lessons import BEHIND, Judged, Lessons, Rules, WentBack
from streamrank.model import course, export
from streamrank.model.artifact import Exported
from streamrank.model.injection import Graph
from streamrank.model.learner import Learner, Online, Updated, ranker_of
from streamrank.model.ranker import Ranker, configure
from streamrank.outside import Outside
from streamrank.steps_ranking import Scorer
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


@dataclass(frozen=True)
class Kept:
    """A version that was published."""

    version: str
    parent: str | None
    weights: Mapping[str, Array]
    scorer: Scorer
    offsets: Mapping[str, int] = field(default_factory=dict)
    until: int | None = None
    learned: Mapping[str, Array] | None = None


@dataclass
class Memory:
    """A publisher that remembers, as long as there is room."""

    versions: dict[str, Kept] = field(default_factory=dict)
    serving: str = "v0"
    room: bool = True

    def current(self) -> str | None:
        return self.serving

    def publish(
        self,
        exported: Exported,
        *,
        parent: str | None,
        now: datetime,
        metrics: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
        lists_seen: int = 0,
        learned_until: int | None = None,
        offsets: Mapping[str, int] | None = None,
        learned: Mapping[str, Array] | None = None,
        rejected: str | None = None,
    ) -> Kept:
        if not self.room:
            raise RegistryUnusable("version v9 cannot be written: no space left on device")
        version = f"v{len(self.versions)}"
        scorer = OnnxScorer(exported.onnx, version=version, provider="cpu")
        kept = Kept(
            version, parent, exported.weights, scorer, offsets or {}, learned_until, learned
        )
        self.versions[version] = kept
        return kept

    def announce(
        self, version: str, reason: str, now: datetime, *, expected: str | None = None
    ) -> None:
        assert expected == self.serving
        self.serving = version

    def roll_back(self, reason: str, now: datetime) -> str | None:
        self.serving = self.versions[self.serving].parent or self.serving
        return self.serving


@cache
def beginning() -> tuple[dict[str, Array], bytes, Graph]:
    """Return the weights of a Ranker that knows nothing, its graph, and what others go into."""
    torch.manual_seed(0)
    ranker = course.fresh(configure(SCHEMA), lists(20, 99)).eval()
    weights = {name: tensor.numpy().copy() for name, tensor in ranker.state_dict().items()}
    return weights, export.to_onnx(ranker), Graph.of(ranker)


def begun(stopped: Callable[[], str | None] = lambda: None) -> tuple[Lessons, Memory]:
    weights, onnx, graph = beginning()
    memory = Memory()
    scorer = OnnxScorer(onnx, version="v0", provider="cpu")
    memory.versions["v0"] = Kept("v0", None, weights, scorer)
    outside = Outside(
        publisher=memory,
        load=lambda version: memory.versions[version].scorer,
        weights=lambda version: memory.versions[version].weights,
        build=lambda onnx: OnnxScorer(onnx, version="", provider="cpu"),
        learned_until=lambda version: memory.versions[version].until,
        learned=lambda version: knows(memory.versions[version]),
        offsets=lambda version: memory.versions[version].offsets,
        stopped=stopped,
    )
    learner = Learner.begin(weights, SCHEMA, recipe=Online(rate=3e-3))
    learner.graph = graph  # as `graph_of` prepares it, and seconds saved for each test
    rules = Rules(batch=60, every=timedelta(seconds=2), gate=gate.Rules(lists=50, latency=100.0))
    return Lessons(learner, "v0", outside, rules), memory


def knows(kept: Kept) -> Learned:
    return Learned(base=kept.until or 0) if kept.learned is None else Learned.of(kept.learned)


def served(lessons: Lessons, memory: Memory, examples: list[Example]) -> list[Example]:
    """Return the lists as the version that serves scored them."""
    scores = memory.versions[memory.serving].scorer.score([one.inputs for one in examples])
    return [
        dataclasses.replace(one, scores=own, model=memory.serving)
        for one, own in zip(examples, scores, strict=True)
    ]


def test_a_challenger_is_judged_by_lists_that_it_has_not_learned_from_and_serves() -> None:
    lessons, memory = begun()
    assert lessons.take(lists(59, 0), TIME) == []
    [updated] = lessons.take(lists(1, 1), TIME)
    assert isinstance(updated, Updated)
    assert lessons.take(lists(49, 2), TIME) == []  # not enough of them yet
    news = [one for n in range(3, 9) for one in lessons.take(lists(60, n), TIME)]
    published = [one for one in news if isinstance(one, Judged) and one.verdict.passed]
    assert published
    assert lessons.champion == memory.serving == published[-1].version
    for one in published:
        assert one.verdict.figures["ndcg@10"] >= one.verdict.figures["champion_ndcg@10"]
        assert one.verdict.figures["lists"] == 50


def test_reversed_labels_are_believed_by_nobody_and_not_learned_from() -> None:
    lessons, memory = begun()
    for n in range(8):
        lessons.take(lists(60, n), TIME)
    champion, updates = lessons.champion, lessons.learner.updates
    wrong = [
        dataclasses.replace(one, labels=1 - one.labels, user=f"u{n}")
        for n, one in enumerate(lists(55, 50))
    ]
    news = lessons.take(wrong, TIME)
    judged = [one for one in news if isinstance(one, Judged)]
    assert [one.verdict.credible for one in judged] == [False]
    assert (lessons.champion, memory.serving) == (champion, champion)
    assert lessons.learner.updates == updates
    assert any(isinstance(one, WentBack) and one.version == champion for one in news)


def test_few_lists_are_learned_from_when_they_have_waited_long_enough() -> None:
    lessons, _ = begun()
    assert lessons.due() is None
    lessons.take(lists(5, 0), TIME)
    assert lessons.due() == TIME + timedelta(seconds=2)
    assert lessons.take([], TIME + timedelta(seconds=1)) == []
    [updated] = lessons.take([], TIME + timedelta(seconds=2))
    assert isinstance(updated, Updated)
    assert updated.lists == 5
    assert lessons.due() is None


def test_nothing_is_published_while_serving_and_learning_see_different_inputs() -> None:
    lessons, memory = begun(lambda: "parity: 9 of 100 lists differ")
    news = [one for n in range(4) for one in lessons.take(lists(60, n), TIME)]
    judged = [one for one in news if isinstance(one, Judged)]
    assert judged
    assert {one.verdict.reason for one in judged} == {"parity: 9 of 100 lists differ"}
    assert memory.serving == "v0"


def test_learning_goes_on_from_the_version_that_somebody_else_chose() -> None:
    lessons, memory = begun()
    for n in range(6):
        lessons.take(lists(60, n), TIME)
    assert memory.serving != "v0"
    memory.serving = "v0"
    [back] = lessons.take([], TIME)
    assert back == WentBack("v0", "another version was chosen", rolled_back=False)
    assert lessons.champion == "v0"
    for name, weight in lessons.learner.weights().items():
        assert np.array_equal(weight, memory.versions["v0"].weights[name])


def test_a_version_that_does_worse_than_its_parent_did_is_rolled_back() -> None:
    """The parent served lists of blue as blue is wanted; the new one is told to want red."""
    why: list[str] = []
    lessons, memory = begun(lambda: why[-1] if why else None)
    for n in range(8):
        lessons.take(lists(60, n), TIME)
    why.append("no other version may come between")
    good = lessons.champion
    lessons.take(served(lessons, memory, lists(100, 20)), TIME)
    bad = OnnxScorer(export.to_onnx(opposite(memory.versions[good].weights)), version="bad")
    memory.versions["bad"] = Kept("bad", good, memory.versions[good].weights, bad)
    memory.serving = lessons.champion = "bad"
    lessons.parent = good
    news = lessons.take(served(lessons, memory, lists(59, 23)), TIME)
    back = [one for one in news if isinstance(one, WentBack) and one.rolled_back]
    assert [one.version for one in back] == [good]
    assert memory.serving == lessons.champion == good


def opposite(weights: Mapping[str, Array]) -> Ranker:
    """Return a Ranker that orders every list the other way round."""
    ranker = ranker_of(weights, SCHEMA, "small")
    heads = len(ranker.config.heads)
    ranker.adjust(-torch.ones(heads), torch.zeros(heads))
    return ranker.eval()


def weights_after(lessons: Lessons, parts: Sequence[list[Example]]) -> list[bytes]:
    for part in parts:
        lessons.take(part, TIME + timedelta(seconds=1))
    return [array.tobytes() for array in lessons.learner.weights().values()]


def test_lessons_that_were_stopped_go_on_exactly() -> None:
    whole, _ = begun()
    whole.take(lists(70, 0), TIME)
    whole.take(lists(20, 1), TIME)
    arrays, words = whole.state()
    resumed, _ = begun()
    own = {n.removeprefix("learner."): a for n, a in arrays.items() if n.startswith("learner.")}
    resumed.learner = Learner.resume(own, SCHEMA, recipe=whole.learner.recipe)
    resumed.recall(arrays, words, TIME)
    assert len(resumed.waiting) == 30
    parts = [lists(30, 2), lists(20, 3)]
    assert weights_after(whole, parts) == weights_after(resumed, parts)


def test_challengers_are_judged_abreast_each_by_the_lists_after_its_own_making() -> None:
    lessons, _ = begun()
    lessons.rules = dataclasses.replace(lessons.rules, batch=20, abreast=3)
    news = [one for n in range(12) for one in lessons.take(lists(20, n), TIME)]
    judged = [one for one in news if isinstance(one, Judged)]
    assert len(judged) > 12 * 20 / 70  # more than there is time for, one after the other
    seen = [one.lists_seen for one in judged]
    assert seen == sorted(seen)
    assert all(one.verdict.figures["lists"] >= 50 for one in judged if one.verdict.figures)


def test_of_many_lists_at_once_the_newest_challenger_is_judged_first_and_the_rest_overtaken() -> (
    None
):
    lessons, _ = begun()
    lessons.rules = dataclasses.replace(lessons.rules, batch=20, abreast=3)
    news = [one for n in range(3) for one in lessons.take(lists(20, n), TIME)]
    news += lessons.take(lists(50, 3), TIME)
    judged = [one for one in news if isinstance(one, Judged)]
    # Set aside after 20, 40 and 60 lists; when the third has its 50, the others have more.
    assert [one.lists_seen for one in judged] == sorted(
        (one.lists_seen for one in judged), reverse=True
    )
    assert judged[0].lists_seen == 60
    assert [one.verdict.passed for one in judged[:-1]] == [False] * (len(judged) - 1)


def test_who_is_behind_learns_from_many_lists_at_once_with_no_more_old_ones_beside() -> None:
    lessons, _ = begun()
    for n in range(4):
        lessons.take(lists(60, n), TIME)
    news = lessons.take(lists(300, 4), TIME)
    [updated] = [one for one in news if isinstance(one, Updated)]
    most = round(lessons.learner.recipe.replay * 60)
    assert (updated.lists, updated.replayed) == (241, most)
    assert len(lessons.waiting) == 59  # too few for one of their own
    assert [one for one in news if isinstance(one, Judged)]  # nor does the gate wait longer


def test_there_is_an_end_to_how_many_lists_make_an_update() -> None:
    lessons, _ = begun()
    news = lessons.take(lists(60 * BEHIND + 100, 1), TIME)
    updated = [one.lists for one in news if isinstance(one, Updated)]
    assert updated == [60 * BEHIND, 60]
    assert len(lessons.waiting) == 40


def test_a_version_says_up_to_where_it_has_learned_from_feedback() -> None:
    """The challenger is set aside after 60 lists, the last of them at offsets 58 and 59."""
    lessons, memory = begun()
    for n in range(2):
        some = [
            dataclasses.replace(one, origin=f"events[{place % 2}]@{60 * n + place}")
            for place, one in enumerate(lists(60, n))
        ]
        lessons.take(some, TIME)
    assert memory.versions["v1"].offsets == {"events[0]": 59, "events[1]": 60}


def read_at(examples: list[Example], first: int) -> list[Example]:
    """Return lists with the places of their feedback in one partition."""
    return [
        dataclasses.replace(one, origin=f"events[0]@{first + place}")
        for place, one in enumerate(examples)
    ]


def test_after_a_way_back_a_version_claims_no_feedback_that_was_forgotten() -> None:
    """Of partition 1, 60 records are forgotten; of partition 0, the version knows 60."""
    lessons, memory = begun()
    kept = dataclasses.replace(memory.versions["v0"], offsets={"events[0]": 60}, until=NOW - 5)
    memory.versions["v0"] = kept
    elsewhere = [dataclasses.replace(one, origin="events[1]@59") for one in lists(60, 0)]
    lessons.take(elsewhere, TIME)
    memory.versions["other"] = dataclasses.replace(kept, version="other")
    memory.serving = "other"  # as after `models rollback`
    lessons.take([], TIME)
    for n in range(1, 3):
        lessons.take(read_at(lists(60, n), 60 * n), TIME)
    published = memory.versions["v2"]
    assert published.parent == "other"
    assert published.offsets == {"events[0]": 120}
    assert published.until == NOW + 59


def test_weights_that_are_no_numbers_are_not_published_and_learning_goes_on() -> None:
    lessons, memory = begun()
    with torch.no_grad():
        next(lessons.learner.mean.parameters()).fill_(float("nan"))
    [_, back] = lessons.take(lists(60, 0), TIME)
    assert isinstance(back, WentBack)
    assert (back.version, set(memory.versions)) == ("v0", {"v0"})
    news = [one for n in range(1, 4) for one in lessons.take(lists(60, n), TIME)]
    assert any(isinstance(one, Judged) and one.verdict.passed for one in news)


def test_where_a_version_finds_no_room_the_old_one_serves_and_the_next_one_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lessons, memory = begun()
    memory.room = False
    news = [one for n in range(4) for one in lessons.take(lists(60, n), TIME)]
    assert all(isinstance(one, Updated) for one in news)
    assert (lessons.champion, memory.serving) == ("v0", "v0")
    assert "no space left on device" in caplog.text
    memory.room = True
    news = [one for n in range(4, 8) for one in lessons.take(lists(60, n), TIME)]
    assert any(isinstance(one, Judged) and one.verdict.passed for one in news)


def test_a_segment_that_is_named_is_looked_at() -> None:
    lessons, _ = begun()
    named = dataclasses.replace(lessons.rules.gate, segments=("new item",), segment_loss=0.0)
    lessons.rules = dataclasses.replace(lessons.rules, gate=named)
    news = [one for n in range(6) for one in lessons.take(lists(60, n), TIME)]
    judged = [one.verdict.figures for one in news if isinstance(one, Judged)]
    assert any("new item" in name for figures in judged for name in figures)
