"""How learning begins, or goes on from what was kept: lessons on the registry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from streamrank import deployment
from streamrank.curves import Curves
from streamrank.edges import registry
from streamrank.edges.onnxruntime import OnnxScorer
from streamrank.features.inputs import Array
from streamrank.learning import gate
from streamrank.learning.examples import Example
from streamrank.learning.learned import Learned
from streamrank.lessons import Lessons, Rules
from streamrank.model import board
from streamrank.model.injection import Graph, NotInjectable
from streamrank.model.learner import Learner, Online, below, ranker_of
from streamrank.outside import Outside
from streamrank.publishing import Announces, Publishing
from streamrank.settings import Settings

log = logging.getLogger(__name__)


def rules_of(known: Settings, every: timedelta | None) -> Rules:
    """Return when an update is made, and what may serve."""
    own = known.gate
    judged = gate.Rules(
        lists=own.lists,
        metric=own.metric,
        require=own.require,
        confidence=own.confidence,
        latency=own.latency,
        segments=own.segments,
        segment_loss=own.segment_loss,
    )
    learn = known.learn
    return Rules(batch=learn.batch, every=every, gate=judged, abreast=own.abreast)


def recipe_of(known: Settings) -> Online:
    """Return how the model goes on learning."""
    learn = known.learn
    return Online(
        rate=learn.rate,
        replay=learn.replay,
        recall=learn.recall,
        memory=learn.memory,
        fading=learn.past == "fading",
    )


def outside_of(
    known: Settings, announcer: Announces | None, stopped: Callable[[], str | None]
) -> Outside:
    """Return the settings' registry, and ONNX Runtime, as lessons need them."""
    root, name, plan = known.registry.path, known.model.name, deployment.plan_of(known)
    return Outside(
        publisher=Publishing(
            root,
            name,
            plan.schema,
            announcer,
            keep=known.registry.keep,
            max_age=known.registry.max_age,
        ),
        load=partial(registry.load, root, name, provider="cpu", features=plan.features),
        weights=partial(registry.weights, root, name),
        build=partial(OnnxScorer, version="", provider="cpu"),
        learned_until=lambda version: registry.manifest(root, name, version).learned_until,
        learned=partial(_learned, root, name),
        offsets=lambda version: registry.manifest(root, name, version).offsets,
        stopped=stopped,
    )


def _learned(root: str | Path, name: str, version: str) -> Learned:
    """Return which lists a version knows: where a log made it, all up to its newest."""
    arrays = registry.learned(root, name, version)
    if arrays is not None:
        return Learned.of(arrays)
    return Learned(base=registry.manifest(root, name, version).learned_until or 0)


@contextmanager
def curves_in(folder: Path, updates: int) -> Iterator[Curves]:
    """Draw the learner's curves in a folder that TensorBoard is pointed at."""
    with board.writer(folder) as writer:
        yield Curves(writer, updates)


def graph_of(known: Settings, version: str) -> Graph | None:
    """Return the graph that a version's weights go into, `None` where they cannot.

    Where the version has none, or one that is no longer right, it is exported, which takes many
    seconds: to be done before records wait.
    """
    root, name = known.registry.path, known.model.name
    weights = registry.weights(root, name, version)
    ranker = ranker_of(weights, known.feature_schema(), known.model.size).eval()
    try:
        structure = registry.structure(root, name, version)
        if structure is not None:
            return Graph.decode(structure, ranker)
    except (NotInjectable, registry.VersionRefused) as error:
        log.warning("version %s: its graph is exported anew: %s", version, error)
    try:
        return Graph.of(ranker)
    except NotInjectable:
        return None


def begin(
    known: Settings,
    champion: str,
    *,
    past: Sequence[Example] = (),
    every: timedelta | None = None,
    announcer: Announces | None = None,
    stopped: Callable[[], str | None] = lambda: None,
    graph: Graph | None = None,
) -> Lessons:
    """Begin from the version that serves.

    Args:
        known: The settings.
        champion: That version.
        past: Lists that it has learned from, to be remembered.
        every: How long a list waits for an update; `None` for as long as it takes.
        announcer: Who tells of versions.
        stopped: Why nothing may be published, `None` where it may.
        graph: What `graph_of` returned, where it was called.
    """
    outside, schema = outside_of(known, announcer, stopped), known.feature_schema()
    weights, model = outside.weights(champion), known.model
    learner = Learner.begin(weights, schema, model.size, model.seed, recipe_of(known))
    learner.graph = graph
    for example in past:
        learner.memory.take(example)
    return Lessons(learner, champion, outside, rules_of(known, every))


def resume(
    known: Settings,
    arrays: Mapping[str, Array],
    words: Mapping[str, Any],
    now: datetime,
    *,
    announcer: Announces | None,
    stopped: Callable[[], str | None],
    graph: Graph | None = None,
) -> Lessons:
    """Go on from what `Lessons.state` returned; the rest is as `begin` takes it."""
    schema, model = known.feature_schema(), known.model
    state = below(arrays, "learner.")
    learner = Learner.resume(state, schema, model.size, model.seed, recipe_of(known))
    learner.graph = graph
    outside = outside_of(known, announcer, stopped)
    opened = Lessons(learner, words["champion"], outside, rules_of(known, known.learn.every))
    opened.recall(arrays, words, now)
    return opened
