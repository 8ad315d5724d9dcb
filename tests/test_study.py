"""Learning begins when there is a version, publishes to the registry, and goes on after a stop."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from streamrank import settings as settings_module
from streamrank.edges import registry
from streamrank.edges.checkpoints import Checkpoints
from streamrank.features.inputs import digest
from streamrank.features.schema import Schema, decode_schema
from streamrank.learning.examples import Example
from streamrank.learning.parity import Parity
from streamrank.lessons import Judged
from streamrank.model import artifact, course, export
from streamrank.model.artifact import Exported
from streamrank.model.injection import Graph
from streamrank.model.learner import Online, ranker_of
from streamrank.model.ranker import Ranker, configure
from streamrank.model.training import Trained
from streamrank.settings import Settings
from streamrank.study import graph_of, recipe_of
from streamrank.study_kept import Study, opener
from tests.lists import NOW, example, query

pytestmark = pytest.mark.slow  # exports take seconds
TIME = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def known(tmp_path: Path) -> Settings:
    return settings_module.changed(
        Settings(),
        {
            "fields": {"item": {"colour": "category"}},
            "registry": {"path": str(tmp_path / "registry")},
            "state": {"path": str(tmp_path / "state")},
            "learn": {"batch": 40, "rate": 3e-3},
            "gate": {"lists": 30, "latency": 100},
        },
    )


def lists(schema: Schema, count: int, seed: int) -> list[Example]:
    """Everybody wants blue."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        colours = random.permutation(["red", "green", "blue", "grey"]).tolist()
        shown = {f"i{random.integers(10**6)}": {"colour": c} for c in colours}
        clicked = list(shown)[colours.index("blue")]
        made.append(example(schema, query(shown, at=NOW + n, name=f"r{seed}-{n}"), clicked))
    return made


@cache
def first(encoded: str) -> tuple[Exported, Graph]:
    """Return a Ranker of a schema that knows nothing, and the graph that later ones go into."""
    schema = decode_schema(encoded)
    torch.manual_seed(0)
    some = lists(schema, 20, 99)
    ranker = course.fresh(configure(schema), some).eval()
    exported = artifact.exported(Trained(ranker, schema, "small", {}, 0, tuple(some[:8])))
    assert exported.structure is not None
    return exported, Graph.decode(exported.structure, ranker)


def publish_first(
    known: Settings, learned_until: int | None = None, but: Mapping[str, Any] | None = None
) -> str:
    schema = known.feature_schema()
    exported, _ = first(schema.encode())
    return registry.publish(
        known.registry.path,
        known.model.name,
        dataclasses.replace(exported, **(but or {})),
        schema=schema,
        features=digest(schema),
        now=TIME,
        learned_until=learned_until,
    ).version


def study(known: Settings, token: str | None = None) -> Study:
    """Open as `opener` does, with a graph that was prepared once for all tests."""
    states = Checkpoints(known.state.path or known.registry.path, "ranker-learner")
    _, graph = first(known.feature_schema().encode())
    return Study(known, states, token, None, lambda: None, graph)


def ranker(known: Settings) -> Ranker:
    """Return the first version's."""
    schema = known.feature_schema()
    exported, _ = first(schema.encode())
    return ranker_of(exported.weights, schema, known.model.size).eval()


def nodes(graph: bytes) -> int:
    return len(onnx.load_from_string(graph).graph.node)


def weights(kept: Study) -> list[bytes]:
    assert kept._lessons is not None
    return [array.tobytes() for array in kept._lessons.learner.weights().values()]


def test_how_it_goes_on_learning_is_what_the_settings_say() -> None:
    said = {"rate": 0.01, "replay": 1.5, "recall": 0.25, "memory": 7, "past": "fading"}
    known = settings_module.changed(Settings(), {"learn": said})
    wanted = Online(rate=0.01, replay=1.5, recall=0.25, memory=7, fading=True)
    assert recipe_of(known) == wanted
    assert recipe_of(Settings()) == Online()


def test_the_structure_that_a_version_holds_takes_its_weights(known: Settings) -> None:
    exported, _ = first(known.feature_schema().encode())
    graph = graph_of(known, publish_first(known))
    assert graph is not None
    assert graph.encode() == exported.structure
    export.check(graph.with_weights(exported.weights), ranker(known), [exported.probe])


@pytest.mark.parametrize(
    ("published", "lies", "why"),
    [
        (b"of another model", b"of another model", "structure must be an ONNX model"),
        (b"as it was", b"damaged", "structure.onnx: must be 9 bytes"),
    ],
)
def test_a_structure_that_is_not_right_is_made_anew(
    known: Settings, caplog: pytest.LogCaptureFixture, published: bytes, lies: bytes, why: str
) -> None:
    exported, _ = first(known.feature_schema().encode())
    version = publish_first(known, but={"structure": published})
    root = known.registry.path
    assert isinstance(root, Path)
    (root / known.model.name / version / "structure.onnx").write_bytes(lies)
    graph = graph_of(known, version)
    assert f"version {version}: its graph is exported anew:" in caplog.text
    assert why in caplog.text
    assert graph is not None
    export.check(graph.with_weights(exported.weights), ranker(known), [exported.probe])


def test_learning_begins_with_the_first_version_and_what_proves_itself_serves(
    known: Settings,
) -> None:
    schema, kept = known.feature_schema(), opener(known, None)(None, Parity())
    assert list(kept.take(lists(schema, 5, 0), TIME)) == []
    assert kept.save() == ""
    champion = publish_first(known)
    news = [one for n in range(6) for one in kept.take(lists(schema, 40, n), TIME)]
    judged = [one for one in news if isinstance(one, Judged)]
    passed = [one.version for one in judged if one.verdict.passed]
    assert passed
    assert registry.current(known.registry.path, known.model.name) == passed[-1]
    manifests = registry.versions(known.registry.path, known.model.name)
    assert [one.version for one in manifests] == [champion, *(one.version for one in judged)]
    for one in judged:
        manifest = registry.manifest(known.registry.path, known.model.name, one.version)
        assert manifest.parent == one.parent
        assert (manifest.rejected is None) == one.verdict.passed
        assert manifest.gate is not None
        assert manifest.gate["reason"] == one.verdict.reason
    graph = graph_of(known, passed[-1])
    assert graph is not None
    root, name = known.registry.path, known.model.name
    assert isinstance(root, Path)
    served = (root / name / passed[-1] / "ranker.onnx").read_bytes()
    learned = registry.weights(root, name, passed[-1])
    whole = graph.with_weights(learned)
    assert nodes(served) == nodes(export.folded(whole)) < nodes(whole)
    its = ranker_of(learned, schema, known.model.size).eval()
    export.check(served, its, [export.random_inputs(its.config, 2, 3, 7)])


def test_a_learner_that_was_stopped_goes_on_from_its_snapshot(known: Settings) -> None:
    publish_first(known)
    schema, whole = known.feature_schema(), study(known)
    whole.take(lists(schema, 55, 0), TIME)
    token = whole.save()
    resumed = study(known, token)
    for kept in (whole, resumed):
        kept.take(lists(schema, 10, 1), TIME + timedelta(seconds=1))
        kept.take([], TIME + timedelta(seconds=9))
    assert weights(whole) == weights(resumed)


def test_snapshots_between_two_whole_states_lose_no_list_and_teach_none_twice(
    known: Settings,
) -> None:
    publish_first(known)
    known = settings_module.changed(known, {"gate": {"lists": 1000}})  # no other champion
    schema, kept = known.feature_schema(), study(known)
    tokens = []
    for turn in range(4):
        kept.take(lists(schema, 25, turn), TIME)
        tokens.append(kept.save())
    assert len({token.partition("+")[0] for token in tokens}) == 1  # one whole state
    for turn, token in enumerate(tokens):
        resumed = study(known, token)
        resumed.take([], TIME)
        assert resumed._lessons is not None
        waiting, learned = resumed._lessons.waiting, resumed._lessons.learner.lists
        assert learned + len(waiting) == 25 * (turn + 1)
        assert len({one.id for one in waiting}) == len(waiting)


def test_a_crash_after_a_version_was_published_costs_no_list_and_teaches_none_twice(
    known: Settings,
) -> None:
    """The snapshot is older than the version, and the lists come again in another order."""
    publish_first(known)
    schema, crashed = known.feature_schema(), study(known)
    before, after = lists(schema, 30, 0), lists(schema, 130, 1)
    crashed.take(before, TIME)
    token = crashed.save()
    news = crashed.take(after, TIME)
    published = [one for one in news if isinstance(one, Judged) and one.verdict.passed]
    assert published
    resumed = study(known, token)
    resumed.take(after[::-1], TIME)
    lessons = resumed._lessons
    assert lessons is not None
    assert lessons.champion == published[-1].version
    learned = [*lessons.learner.memory.kept, *lessons.waiting]
    assert Counter(one.id for one in learned) == Counter(one.id for one in (*before, *after))
    taught = registry.learned(known.registry.path, known.model.name, published[-1].version)
    assert taught is not None
    # Updates are of 40 lists: the rest alone is learned, not what the version knows.
    assert lessons.learner.updates * 40 + len(lessons.waiting) == 160 - len(taught["lists"])


def test_where_nothing_is_kept_over_a_restart_no_list_is_held_for_it(known: Settings) -> None:
    publish_first(known)
    known = settings_module.changed(known, {"state": {"path": None}})
    schema, kept = known.feature_schema(), study(known)
    kept.take(lists(schema, 10, 0), TIME)
    assert kept.save() == ""
    assert kept._new == []


def test_lists_that_the_first_version_has_learned_from_teach_nothing(known: Settings) -> None:
    publish_first(known, learned_until=NOW + 30)
    kept = study(known)
    kept.take(lists(known.feature_schema(), 50, 0), TIME)
    assert kept._lessons is not None
    assert [one.at for one in kept._lessons.waiting] == list(range(NOW + 30, NOW + 50))
