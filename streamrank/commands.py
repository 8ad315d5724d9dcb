"""What the commands do: read, call the package, say what was found."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streamrank import reading
from streamrank import settings as settings_module
from streamrank.errors import StreamRankError
from streamrank.settings import Secrets


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
    settings = reading.inferred(events, label, conversion, console)
    path.write_text(settings_module.to_toml(settings), encoding="utf-8")
    reading.say(console, f"wrote {path}")


def replay(
    events: Path,
    settings_file: Path | None,
    registry: Path | str | None,
    learn_until: float,
    *,
    freeze: bool,
    rankings: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Run the system over a log, show what came of it, and return the report.

    Raises:
        StreamRankError: The log or the settings cannot be read, or nothing can be learned.
    """
    from streamrank import deployment, versions
    from streamrank import replay as replaying
    from streamrank.edges.onnxruntime import AsShown

    started, now, learns = time.monotonic(), datetime.now(UTC), learn_until > 0.0
    known = reading.settings_for(settings_file, events, console)
    with ExitStack() as stack:
        if registry is None and learns:  # what is learned here is for the report alone
            registry = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if registry is not None:
            known = settings_module.changed(known, {"registry": {"path": str(registry)}})
        with reading.records_of(events, "looking", console) as records:
            found = replaying.survey(records, known, now)
        out = stack.enter_context(_lines(rankings))
        published: list[dict[str, Any]] = []
        load = deployment.loader_of(known)
        scorer = AsShown() if learns else deployment.scorer_of(known, load)
        lane = replaying.lane_of(known, scorer, now)
        run = replaying.Replay(
            known,
            found,
            learn_until,
            lane,
            train=versions.trainer(known, published, console, lane.trails) if learns else None,
            begin=versions.beginner(known) if learns and not freeze else None,
            load=lambda version: load(version).scorer,
            on_ranking=out,
        )
        with reading.records_of(events, "replaying", console) as records:
            run.run(records)
    published += versions.judged(run.news)
    report = run.report() | {"models": published, "seconds": round(time.monotonic() - started, 1)}
    show_systems(report["systems"], report["lists"]["measured"], console)
    if chances := report["probabilities"]:
        said = ", ".join(f"{name} {value:.4f}" for name, value in chances.items())
        reading.say(console, f"its probabilities: {said}")
    if gains := report["learning"]:
        said = ", ".join(
            f"{name} {one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
            for name, one in gains.items()
        )
        reading.say(console, f"learning on against frozen, with intervals of 95 %: {said}")
    return report


def train(
    events: Path,
    settings_file: Path | None,
    registry: Path | str | None,
    logs: Path | None,
    *,
    console: Console,
) -> None:
    """Train a version from a whole log and publish it; go on where a call before was interrupted.

    Raises:
        StreamRankError: The log or the settings cannot be read, or nothing can be learned.
    """
    from streamrank import replay as replaying
    from streamrank import versions
    from streamrank.edges.onnxruntime import AsShown

    known = reading.settings_for(settings_file, events, console)
    if registry is not None:
        known = settings_module.changed(known, {"registry": {"path": str(registry)}})
    lane = replaying.lane_of(known, AsShown(), datetime.now(UTC))
    with reading.records_of(events, "reading lists", console) as records:
        examples = replaying.gather(lane, records, known)
    manifest = versions.train(
        examples,
        known,
        console,
        logs=logs,
        checkpoint_file=versions.checkpoint_of(known, logs),
        trails=lane.trails,
    )
    reading.say(console, f"published {manifest.name} {manifest.version} in {known.registry.path}")


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
        reading.say(console, f"created {name}")
    if not created:
        reading.say(console, "all topics were there")


def topics_check(settings_file: Path | None, *, console: Console) -> bool:
    """Say where the broker's topics differ from the settings; return whether none does."""
    from streamrank.edges import topics

    problems = topics.check(settings_module.load(settings_file), Secrets())
    for problem in problems:
        reading.say(console, problem)
    if not problems:
        reading.say(console, "all topics are as the settings want them")
    return not problems


def show_systems(systems: Mapping[str, Mapping[str, float]], lists: int, console: Console) -> None:
    """Print a table of metrics by system."""
    names = list(dict.fromkeys(name for figures in systems.values() for name in figures))
    table = Table("order", *names, title=f"{lists} measured lists")
    for system, figures in systems.items():
        cells = (f"{figures[name]:.4f}" if name in figures else "" for name in names)
        table.add_row(system, *cells, style="bold" if system == "streamrank" else None)
    console.print(table)


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
