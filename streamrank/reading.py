"""A log as people read one: with a bar that shows how far, and the settings that fit it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from streamrank import infer, replay
from streamrank import settings as settings_module
from streamrank.edges import log as event_log
from streamrank.edges.kafka import Incoming
from streamrank.events import Ranking, Served
from streamrank.settings import Settings
from streamrank.steps import Read, decode


def settings_for(path: Path | None, events: Path, console: Console) -> Settings:
    """Read the settings; where there is no file, infer them from the log: environment over both."""
    if (
        path
        or os.environ.get(settings_module.SETTINGS_VARIABLE)
        or Path("streamrank.toml").exists()
    ):
        return settings_module.load(path)
    say(console, "no settings file: inferred from the log (streamrank init writes one)")
    return settings_module.overridden(inferred(events, None, None, console))


def inferred(events: Path, label: str | None, conversion: str | None, console: Console) -> Settings:
    """Infer the settings from a log, and say why they are what they are.

    Raises:
        StreamRankError: The log cannot be read, or has nothing to infer from.
    """
    known = Settings()
    with records_of(events, "looking", console) as records:
        read = decode(replay.decoders_of(known), records, datetime.now(UTC), known.events.max_ahead)
        kept = (one.event for one in read if isinstance(one, Read))
        seen = (event for event in kept if not isinstance(event, (Ranking, Served)))
        inferred = infer.infer(seen, label=label, conversion=conversion)
    for note in inferred.notes:
        say(console, f"- {note}")
    return inferred.settings


@contextmanager
def records_of(events: Path, what: str, console: Console) -> Iterator[Iterator[Incoming]]:
    """Give the records of a log, and show how far it is read."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    size = events.stat().st_size if events.is_file() else None
    with progress:
        task = progress.add_task(f"{what} {events.name}", total=size)
        yield event_log.records(
            events, "events", on_bytes=lambda done: progress.update(task, completed=done)
        )
    if not console.is_terminal:
        say(console, f"{what} {events.name}: done")


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
