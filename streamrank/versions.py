"""From examples to a version that serves: train, export, publish, load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from streamrank import deployment
from streamrank.edges import registry
from streamrank.edges.registry import Manifest
from streamrank.errors import StreamRankError
from streamrank.learning.examples import Example
from streamrank.settings import Settings
from streamrank.steps import Scorer

log = logging.getLogger(__name__)


class NothingToLearn(StreamRankError):
    """The examples are too few or of one kind only; the text says what is wrong."""


def train(
    examples: Sequence[Example], known: Settings, console: Console, *, logs: Path | None = None
) -> Manifest:
    """Train a version from examples and publish it.

    Args:
        examples: Lists with their labels, in the order in which they were shown.
        known: The settings; the registry is theirs.
        console: Where the progress goes.
        logs: Folder for TensorBoard.

    Raises:
        NothingToLearn: No list has a label, all are of one class, or time goes backwards.
        RegistryError: The version cannot be written.
    """
    from streamrank.model import export, training

    schema = known.feature_schema()
    with _progress(console) as on_progress:
        try:
            trained = training.train(
                examples,
                schema,
                size=known.model.size,
                epochs=known.model.epochs,
                seed=known.model.seed,
                logs=logs,
                on_progress=on_progress,
            )
        except ValueError as error:
            raise NothingToLearn(f"the ranker cannot be trained: {error}") from None
    return registry.publish(
        known.registry.path,
        known.model.name,
        export.export(trained),
        schema=schema,
        features=deployment.plan_of(known).features,
        metrics=trained.metrics,
        lists_seen=len(examples),
        now=datetime.now(UTC),
    )
