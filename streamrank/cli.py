"""The commands: parse, call, print."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from streamrank import __version__
from streamrank.errors import StreamRankError

app = typer.Typer(
    name="streamrank",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lists that re-rank themselves while people act.",
    rich_markup_mode="markdown",
)
topics_app = typer.Typer(no_args_is_help=True, help="The topics, as the settings want them.")
app.add_typer(topics_app, name="topics")
models_app = typer.Typer(no_args_is_help=True, help="The versions of the model in the registry.")
app.add_typer(models_app, name="models")
letters_app = typer.Typer(no_args_is_help=True, help="The dead letters, and back again.")
app.add_typer(letters_app, name="letters")
people = Console(stderr=True)

EventsOption = Annotated[
    Path, typer.Option("--events", help="A log: JSON lines, plain or gzip, in order of time.")
]
SettingsOption = Annotated[
    Path | None,
    typer.Option("--settings", help="Settings file; else $STREAMRANK_SETTINGS, ./streamrank.toml."),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", dir_okay=False, help="Where the report goes, as JSON; else stdout."),
]
RegistryOption = Annotated[
    str | None,
    typer.Option("--registry", help="Folder or address of the versions; else the settings'."),
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help='From when on: a span back as "2h", or ISO 8601 with a zone.'),
]


class Flow(StrEnum):
    """The flows that `run` starts."""

    FEATURES = "features"
    RANK = "rank"
    LEARN = "learn"


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    _log_to_people()


def _log_to_people() -> None:
    """Log our own lines to stderr, and of the libraries only what is wrong."""
    handler = RichHandler(console=people, show_path=False) if people.is_terminal else _plain()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    level = os.environ.get("STREAMRANK_LOG", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise typer.BadParameter(f"STREAMRANK_LOG must be a level like INFO, got {level!r}")
    logging.getLogger("streamrank").setLevel(level)


def _plain() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


@app.command()
def init(
    events: EventsOption,
    settings_file: Annotated[Path, typer.Option("--settings", help="The file to write.")] = Path(
        "streamrank.toml"
    ),
    label: Annotated[
        str | None, typer.Option(help="The interaction type that is feedback.")
    ] = None,
    conversion: Annotated[str | None, typer.Option(help="The rarer, later feedback.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Look at a log and write the settings that fit it.

    Example: `streamrank init --events events.jsonl.gz`
    """
    from streamrank import commands

    commands.init(events, settings_file, label, conversion, force=force, console=people)


@app.command()
def replay(
    events: EventsOption,
    report: ReportOption = None,
    settings_file: SettingsOption = None,
    registry: RegistryOption = None,
    learn_until: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the labelled lists to learn from.")
    ] = 0.7,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Learn nothing after the first share.")
    ] = False,
    rankings: Annotated[
        Path | None, typer.Option(help="Where every ranked list goes, as JSON lines.")
    ] = None,
) -> None:
    """Run the whole system over a log, without a broker, and measure the lists.

    Example: `streamrank replay --events events.jsonl.gz --report report.json`
    """
    from streamrank import commands

    found = commands.replay(
        events,
        settings_file,
        registry,
        learn_until,
        freeze=freeze,
        rankings=rankings,
        console=people,
    )
    write_report(report, found)


@app.command()
def train(
    events: EventsOption,
    registry: RegistryOption = None,
    settings_file: SettingsOption = None,
    logs: Annotated[Path | None, typer.Option(help="Folder for TensorBoard.")] = None,
) -> None:
    """Train a version from a log and publish it.

    Example: `streamrank train --events events.jsonl.gz --registry data/registry`
    """
    from streamrank import commands

    commands.train(events, settings_file, registry, logs, console=people)


@app.command()
def run(
    flow: Annotated[Flow, typer.Argument(help="Which flow.")],
    settings_file: SettingsOption = None,
    accept_gap: Annotated[
        bool,
        typer.Option("--accept-gap", help="Go on where records to read are gone; says which."),
    ] = False,
    number: Annotated[
        int | None,
        typer.Option("--process", "-i", help="Which process of several this is, from 0."),
    ] = None,
    addresses: Annotated[
        str | None,
        typer.Option("--addresses", "-a", help='host:port of each, as "one:2101;two:2101".'),
    ] = None,
) -> None:
    """Run one flow as a process on the configured broker, or as one process of several.

    Example: `streamrank run rank --settings streamrank.toml`
    """
    from streamrank import process

    with _usage(process.NoCluster):
        cluster = process.cluster(number, addresses)
    process.run(flow.value, settings_file, accept_gap=accept_gap, cluster=cluster)


@app.command()
def demo(
    events: Annotated[
        Path | None, typer.Option(help="A real log to send as live traffic; else shoppers.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long people act.")] = 60.0,
    speed: Annotated[
        str | None, typer.Option(help="`max` sends a log as fast as it is answered.")
    ] = None,
    report: ReportOption = None,
    folder: Annotated[
        Path, typer.Option(help="Where its settings, store and registry go; emptied first.")
    ] = Path("data/demo"),
) -> None:
    """Show it all, live, on a broker inside this process; ends by itself.

    Example: `streamrank demo --seconds 60`
    """
    if speed not in (None, "max"):
        raise typer.BadParameter(f"must be max, got {speed!r}", param_hint="--speed")
    from streamrank import commands

    found = commands.demo(events, seconds, speed == "max", folder, console=people)
    write_report(report, found)


@app.command()
def bench(
    settings_file: SettingsOption = None,
    broker: Annotated[
        str | None, typer.Option(help="host:port of a broker; else the settings'.")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.001, help="How long requests are sent; longer where too few are answered."
        ),
    ] = 30.0,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates of a request.")] = 100,
    report: ReportOption = None,
) -> None:
    """Measure the rank flow on topics of its own, which are removed again.

    Example: `streamrank bench --seconds 30 --report bench.json`
    """
    from streamrank import bench as benching

    found = benching.run(settings_file, broker, seconds, candidates, console=people)
    write_report(report, found)


@app.command()
def size(
    users: Annotated[int, typer.Option(min=0, help="Who come within `session.ttl`.")],
    items: Annotated[int, typer.Option(min=0, help="Items in the catalogue.")],
    events: Annotated[float, typer.Option(min=0, help="Deeds a second.")],
    requests: Annotated[float, typer.Option(min=0, help="Requests a second.")],
    reranks: Annotated[
        float | None,
        typer.Option(min=0, help="Lists a second that deeds rank again; else one a deed."),
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates of a request.")] = 100,
    bench_report: Annotated[
        Path | None,
        typer.Option("--bench", help="What `bench` found here; else what a slow core does."),
    ] = None,
    settings_file: SettingsOption = None,
    report: ReportOption = None,
) -> None:
    """Say how many cores, how much memory and how many partitions a load needs.

    Example: `streamrank size --users 100000 --items 50000 --events 500 --requests 100`
    """
    from streamrank import settings, sizing

    load = sizing.Load(
        users, items, events, requests, events if reranks is None else reranks, candidates
    )
    pace = None if bench_report is None else sizing.pace_of(bench_report)
    found = sizing.size(load, settings.load(settings_file), pace)
    sizing.show(found, people)
    write_report(report, found)


@topics_app.command("create")
def topics_create(settings_file: SettingsOption = None) -> None:
    """Create the topics that are missing.

    Example: `streamrank topics create`
    """
    from streamrank import commands

    commands.topics_create(settings_file, console=people)


@topics_app.command("check")
def topics_check(settings_file: SettingsOption = None) -> None:
    """Compare the broker's topics with the settings; exit 1 where they differ.

    Example: `streamrank topics check`
    """
    from streamrank import commands

    if not commands.topics_check(settings_file, console=people):
        raise typer.Exit(1)


@models_app.command("list")
def models_list(
    registry: RegistryOption = None,
    settings_file: SettingsOption = None,
    report: ReportOption = None,
) -> None:
    """Show the versions with parent, metrics and gate verdict, and which one serves.

    Example: `streamrank models list --registry data/registry`
    """
    from streamrank import models_commands

    write_report(report, models_commands.listed(settings_file, registry, console=people))


@models_app.command("show")
def models_show(
    version: Annotated[
        str | None,
        typer.Argument(help="The version, or a part of its name; else the one that serves."),
    ] = None,
    registry: RegistryOption = None,
    settings_file: SettingsOption = None,
    report: ReportOption = None,
) -> None:
    """Show all that is known of one version.

    Example: `streamrank models show 0123abcd`
    """
    from streamrank import models_commands

    write_report(report, models_commands.shown(settings_file, registry, version, console=people))


@models_app.command("rollback")
def models_rollback(
    version: Annotated[
        str | None,
        typer.Argument(help="The version, or a part of its name; else the nearest good ancestor."),
    ] = None,
    registry: RegistryOption = None,
    settings_file: SettingsOption = None,
    report: ReportOption = None,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "rolled back by hand",
    bar: Annotated[
        bool, typer.Option("--bar", help="Never let what served so far serve again.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even to a version that was rejected or barred.")
    ] = False,
) -> None:
    """Let an earlier version serve again; all that runs follows.

    Example: `streamrank models rollback --bar --reason "clicks fell"`
    """
    from streamrank import models_commands

    found = models_commands.rollback(
        settings_file, registry, version, reason=reason, bar=bar, force=force, console=people
    )
    write_report(report, found)


@letters_app.command("list")
def letters_list(
    since: SinceOption = None,
    settings_file: SettingsOption = None,
    report: ReportOption = None,
) -> None:
    """Show the dead letters by reason: how many, since when, an example, what became of them.

    Example: `streamrank letters list --since 2h`
    """
    from streamrank import letters_commands

    with _usage(letters_commands.NoMoment):
        found = letters_commands.listed(settings_file, since, console=people)
    write_report(report, found)


@letters_app.command("replay")
def letters_replay(
    reason: Annotated[
        str, typer.Option(help="A part of the reason as `letters list` shows it; all for ''.")
    ],
    since: SinceOption = None,
    settings_file: SettingsOption = None,
    report: ReportOption = None,
) -> None:
    """Send letters back, once, to the topic that they came from.

    What fails again comes back marked and is not sent a second time.

    Example: `streamrank letters replay --reason "must hold at most"`
    """
    from streamrank import letters_commands

    with _usage(letters_commands.NoMoment):
        found = letters_commands.replayed(settings_file, reason, since, console=people)
    write_report(report, found)


@app.command()
def doctor(settings_file: SettingsOption = None, report: ReportOption = None) -> None:
    """Check what a flow would meet: versions, provider, broker, topics, store, registry.

    Example: `streamrank doctor`
    """
    from streamrank import doctor as checks

    found = checks.examine(settings_file)
    checks.show(found, people)
    if report is not None:
        write_report(report, {check.name: check.as_report() for check in found})
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def write_report(path: Path | None, report: dict[str, Any]) -> None:
    """Write a report whole or not at all: to a file, or to stdout."""
    text = json.dumps(report, indent=2)
    if path is None:
        typer.echo(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text + "\n")
    partial.replace(path)


@contextmanager
def _usage(kind: type[StreamRankError]) -> Iterator[None]:
    """Say of an error that the words of the command are wrong."""
    try:
        yield
    except kind as error:
        raise typer.BadParameter(str(error)) from error


def _fail(message: str, code: int) -> NoReturn:
    style = "red" if code == 1 else None
    people.print(message, style=style, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def main() -> None:
    """Run a command; what is expected to go wrong becomes a line and an exit code."""
    try:
        app()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except SystemExit as end:
        if end.code == 130:  # Typer makes it of a KeyboardInterrupt, without a word
            _fail("interrupted", 130)
        raise
    except (StreamRankError, OSError) as error:
        _fail(f"error: {error}", 1)
