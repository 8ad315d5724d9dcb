"""From examples to a version that serves: train, export, publish, load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from streamrank import deployment, versions_retrieval
from streamrank.edges import registry
from streamrank.edges.registry import Manifest
from streamrank.errors import StreamRankError
from streamrank.features.trails import Trails
from streamrank.learning.examples import Example
from streamrank.replay import Begin, Learns
from streamrank.settings import Settings
from streamrank.steps_ranking import Scorer

if TYPE_CHECKING:
    from streamrank.model import training  # torch and transformers take seconds to import

PLAIN_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class NothingToLearn(StreamRankError):
    """The examples are none, or all of one kind, or out of order; the text says which."""


def checkpoint_of(known: Settings, logs: Path | None) -> Path | None:
    """Return where a training is written down: in its logs, else beside the registry's versions.

    `None` where the registry is in a bucket and there are no logs.
    """
    name = f"{known.model.name}.training.safetensors"
    if logs is not None:
        return logs / name
    return known.registry.path / name if isinstance(known.registry.path, Path) else None


def train(
    examples: Sequence[Example],
    known: Settings,
    console: Console,
    *,
    logs: Path | None = None,
    checkpoint_file: Path | None = None,
    trails: Trails | None = None,
) -> Manifest:
    """Train a version from examples and publish it in the settings' registry.

    Args:
        examples: Lists with their labels, in the order in which they were shown.
        known: The settings.
        console: Where the progress goes.
        logs: Folder for TensorBoard.
        checkpoint_file: Where the training is written down, until it is published.
        trails: What people did in that time: what is to find candidates learns from it, where the
            settings want it.

    Raises:
        NothingToLearn: No list has a label, all are of one class, or time goes backwards.
        RegistryError: The version cannot be written.
    """
    from streamrank.model import artifact, training

    schema, model = known.feature_schema(), known.model
    recipe = training.Recipe(epochs=model.epochs, pretrain=model.start == "pretrained")
    try:
        with _progress(console) as on_progress:
            trained = training.train(
                examples,
                schema,
                size=model.size,
                recipe=recipe,
                seed=model.seed,
                logs=logs,
                on_progress=on_progress,
                checkpoint_file=checkpoint_file,
            )
    except ValueError as error:
        raise NothingToLearn(f"the ranker cannot be trained: {error}") from None
    _tell(trained, console)
    finds = versions_retrieval.train(trails, known, console, logs=logs)
    manifest = registry.publish(
        known.registry.path,
        model.name,
        artifact.exported(trained),
        schema=schema,
        features=deployment.plan_of(known).features,
        metrics={**trained.metrics, **versions_retrieval.metrics_of(finds)},
        lists_seen=len(examples),
        learned_until=examples[-1].at,
        now=datetime.now(UTC),
        finds=finds,
    )
    registry.point(
        known.registry.path, model.name, manifest.version, "trained from history", datetime.now(UTC)
    )
    if checkpoint_file is not None:
        checkpoint_file.unlink(missing_ok=True)
    return manifest


def _tell(trained: training.Trained, console: Console) -> None:
    """Say what was learned from, and how the lists held out were ordered."""
    said = [f"learned from {trained.learned}"]
    said += [
        f"held out: {name}: NDCG@10 {system['ndcg@10']:.3f}, MRR {system['mrr']:.3f}"
        for name, system in trained.systems.items()
    ]
    ratio = trained.metrics.get("calibration_ratio")
    if ratio is not None:
        said.append(f"held out: {ratio:.2f} times as many labels expected as there were")
    for line in said:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def trainer(
    known: Settings,
    published: list[dict[str, Any]],
    console: Console,
    trails: Trails | None = None,
) -> Callable[[list[Example]], Scorer]:
    """Return what makes a serving version from examples, and notes it for a report.

    `trails` are those of the lane that the examples come from, which grow as it goes on.
    """

    def train_and_load(examples: list[Example]) -> Scorer:
        manifest = train(examples, known, console, trails=trails)
        published.append(as_report(manifest))
        return deployment.scorer_of(known)

    return train_and_load


def beginner(known: Settings) -> Begin:
    """Return what goes on learning from the version that serves, by count of lists alone.

    A log's time is not that of a clock: waiting has no meaning in it.
    """

    def begin(examples: Sequence[Example]) -> Learns:
        from streamrank import study

        champion = registry.current(known.registry.path, known.model.name)
        if champion is None:
            raise NothingToLearn(f"there is no version of {known.model.name!r} to go on from")
        return study.begin(known, champion, past=examples, every=None)

    return begin


def judged(news: Iterable[object]) -> list[dict[str, Any]]:
    """Return the versions that learning made, as reports name them."""
    from streamrank.lessons import Judged

    return [
        {
            "version": one.version,
            "parent": one.parent,
            "published": one.verdict.passed,
            "gate": {"reason": one.verdict.reason, **one.verdict.figures},
            "lists_seen": one.lists_seen,
        }
        for one in news
        if isinstance(one, Judged)
    ]


def reported(known: Settings) -> list[dict[str, Any]]:
    """Return all versions in the registry, the oldest first, as reports name them."""
    found = registry.versions(known.registry.path, known.model.name)
    return [as_report(manifest) for manifest in found]


def as_report(manifest: Manifest) -> dict[str, Any]:
    """Return a version as reports name it."""
    return {
        "version": manifest.version,
        "parent": manifest.parent,
        "published": manifest.rejected is None,
        "gate": manifest.gate or {},
        "lists_seen": manifest.lists_seen,
        "validation": manifest.metrics,
    }


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[training.Progress], None]]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("training: {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("lists, loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None, loss=float("nan"))
        yield lambda now: bar.update(
            task, description=now.stage, completed=now.done, total=now.total, loss=now.loss
        )


class _Lines:
    """Progress as a plain line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()

    def __call__(self, now: training.Progress) -> None:
        if time.monotonic() - self._last < PLAIN_EVERY:
            return
        self._last = time.monotonic()
        self._console.print(
            f"training: {now.stage}, {now.done} of {now.total} lists, {now.rate:.0f}/s, "
            f"loss {now.loss:.3f}, {now.left:.0f} s left",
            markup=False,
            highlight=False,
        )
