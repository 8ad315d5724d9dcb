"""What a version finds candidates with, learned from what people did before it was made."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from streamrank.features.trails import Trails
from streamrank.settings import Settings

if TYPE_CHECKING:
    from streamrank.model.candidates import Candidates  # torch and transformers take seconds
    from streamrank.model.sequence_training import Progress

EVERY = 10.0
"""Seconds between two lines of progress."""


def train(
    trails: Trails | None, known: Settings, console: Console, *, logs: Path | None = None
) -> Candidates | None:
    """Return what finds candidates, where the settings want it and somebody did enough.

    Args:
        trails: What people did; `None` where nobody noted it.
        known: The settings.
        console: Where the progress goes.
        logs: Folder for TensorBoard's curves, in a folder `retrieval` of their own.
    """
    if not known.retrieval.enabled or trails is None:
        return None
    from streamrank.model import candidates

    own, schema = known.retrieval, known.feature_schema()
    size = candidates.Size(
        items=own.items,
        width=own.width,
        length=schema.history,
        types=len(schema.interactions) + 1,
        epochs=own.epochs,
        seconds=own.within.total_seconds(),
    )
    try:
        made = candidates.train(
            trails,
            size,
            seed=known.model.seed,
            logs=None if logs is None else logs / "retrieval",
            on_progress=_lines(console),
        )
    except ValueError as error:
        _say(console, f"no candidates can be found for requests without items: {error}")
        return None
    figures = ", ".join(f"{name} {value:.3f}" for name, value in _told(made).items())
    _say(console, f"retrieval: {len(made.items)} items, by {made.sequences} people: {figures}")
    return made


def metrics_of(made: Candidates | None) -> dict[str, object]:
    """Return what a version's manifest says of it, by the name `retrieval`."""
    if made is None:
        return {}
    return {"retrieval": _told(made) | {"items": len(made.items), "sequences": made.sequences}}


def _told(made: Candidates) -> dict[str, float]:
    return {name: made.metrics[name] for name in ("ndcg@10", "hr@10")}


def _lines(console: Console) -> Callable[[Progress], None]:
    """Return what prints a line every few seconds."""
    last = time.monotonic()

    def tell(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            _say(
                console,
                f"training: retrieval, pass {now.epoch} of at most {now.epochs}, "
                f"{now.rate:.0f} sequences/s, loss {now.loss:.3f}, NDCG@10 {now.best:.3f}",
            )

    return tell


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
