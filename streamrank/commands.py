"""What the commands do: read, call the package, say what was found."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
from rich.table import Table

from streamrank import settings as settings_module
from streamrank.edges import log as event_log
from streamrank.edges.kafka import Incoming
from streamrank.errors import StreamRankError
from streamrank.settings import Secrets, Settings


def init(
    events: Path,
    path: Path,
    label: str | None,
    conversion: str | None,
    *,
    force: bool,
    console: Console,
) -> None:
    """Write the settings that fit a log.

    Raises:
        StreamRankError: The file exists, or the log cannot be read or has nothing to infer from.
    """
    if path.exists() and not force:
        raise StreamRankError(f"{path} exists: --force writes over it")
    settings = _inferred(events, label, conversion, console)
    path.write_text(settings_module.to_toml(settings), encoding="utf-8")
    _say(console, f"wrote {path}")


def replay(
    events: Path,
    settings_file: Path | None,
    registry: Path | None,
    learn_until: float,
    *,
    rankings: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Run the system over a log, show what came of it, and return the report.

    Raises:
        StreamRankError: The log or the settings cannot be read, or nothing can be learned.
    """
    from streamrank import deployment, versions
    from streamrank import replay as replaying

    started, now = time.monotonic(), datetime.now(UTC)
    known = _settings(settings_file, events, console)
    with ExitStack() as stack:
        root = registry or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        known = settings_module.changed(known, {"registry": {"path": str(root)}})
        with _reading(events, "looking", console) as records:
            found = replaying.survey(records, known, now)
        out = stack.enter_context(_lines(rankings))
        published: list[dict[str, Any]] = []
        run = replaying.Replay(
            known,
            found,
            learn_until,
            replaying.lane_of(known, deployment.scorer_of(known), now),
            train=None if learn_until == 0.0 else versions.trainer(known, published, console),
            on_ranking=out,
        )
        with _reading(events, "replaying", console) as records:
            run.run(records)
    report = run.report() | {"models": published, "seconds": round(time.monotonic() - started, 1)}
    show_systems(report["systems"], report["lists"]["measured"], console)
    return report


def train(
    events: Path,
    settings_file: Path | None,
    registry: Path | None,
    logs: Path | None,
    *,
    console: Console,
) -> None:
    """Train a version from a whole log and publish it.

    Raises:
        StreamRankError: The log or the settings cannot be read, or nothing can be learned.
    """
    from streamrank import replay as replaying
    from streamrank import versions
    from streamrank.edges.onnxruntime import AsShown

    now = datetime.now(UTC)
    known = _settings(settings_file, events, console)
    if registry is not None:
        known = settings_module.changed(known, {"registry": {"path": str(registry)}})
    with _reading(events, "looking", console) as records:
        found = replaying.survey(records, known, now)
    lane = replaying.lane_of(known, AsShown(), now)
    with _reading(events, "reading lists", console) as records:
        examples = replaying.gather(lane, records, known, frozenset(found.labelled))
    manifest = versions.train(examples, known, console, logs=logs)
    _say(console, f"published {manifest.name} {manifest.version} in {known.registry.path}")


def demo(
    events: Path | None, seconds: float, max_speed: bool, folder: Path, *, console: Console
) -> dict[str, Any]:
    """Show the system live, and return the report."""
    from streamrank import demo as showing

    return showing.run(events, seconds=seconds, max_speed=max_speed, folder=folder, console=console)


def topics_create(settings_file: Path | None, *, console: Console) -> None:
    """Create the topics that are missing.

    Raises:
        StreamRankError: The settings cannot be read, or the broker does not answer or says no.
    """
    from streamrank.edges import topics

    known = settings_module.load(settings_file)
    created = topics.create(known, Secrets())
    for name in created:
        _say(console, f"created {name}")
    if not created:
        _say(console, "all topics were there")


def topics_check(settings_file: Path | None, *, console: Console) -> bool:
    """Say where the broker's topics differ from the settings; return whether none does."""
    from streamrank.edges import topics

    problems = topics.check(settings_module.load(settings_file), Secrets())
    for problem in problems:
        _say(console, problem)
    if not problems:
        _say(console, "all topics are as the settings want them")
    return not problems


def show_systems(systems: Mapping[str, Mapping[str, float]], lists: int, console: Console) -> None:
    """Print a table of metrics by system."""
    names = list(dict.fromkeys(name for figures in systems.values() for name in figures))
    table = Table("order", *names, title=f"{lists} measured lists")
    for system, figures in systems.items():
        cells = (f"{figures[name]:.4f}" if name in figures else "" for name in names)
        table.add_row(system, *cells, style="bold" if system == "streamrank" else None)
    console.print(table)


def _settings(path: Path | None, events: Path, console: Console) -> Settings:
    """Read the settings; where there is no file, infer them from the log."""
    if (
        path
        or os.environ.get(settings_module.SETTINGS_VARIABLE)
        or Path("streamrank.toml").exists()
    ):
        return settings_module.load(path)
    _say(console, "no settings file: inferred from the log (streamrank init writes one)")
    return _inferred(events, None, None, console)


def _inferred(
    events: Path, label: str | None, conversion: str | None, console: Console
) -> Settings:
    from streamrank import infer, replay
    from streamrank.steps import Read, decode

    known = Settings()
    with _reading(events, "looking", console) as records:
        read = decode(replay.decoders_of(known), records, datetime.now(UTC), known.events.max_ahead)
        seen = (one.event for one in read if isinstance(one, Read))
        inferred = infer.infer(seen, label=label, conversion=conversion)
    for note in inferred.notes:
        _say(console, f"- {note}")
    return inferred.settings


@contextmanager
def _reading(events: Path, what: str, console: Console) -> Iterator[Iterator[Incoming]]:
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
        _say(console, f"{what} {events.name}: done")


@contextmanager
def _lines(path: Path | None) -> Iterator[Callable[[Any], None] | None]:
    """Give a place for messages, one a line; the file appears when all of them are there."""
    if path is None:
        yield None
        return
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as out:
        yield lambda message: _write(out, message.encode())
    draft.replace(path)


def _write(out: Any, line: bytes) -> None:
    out.write(line + b"\n")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
