"""What `streamrank models` does: the versions, one of them, and back to an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrank import reading
from streamrank import settings as settings_module
from streamrank.edges import kafka, registry
from streamrank.edges.announcements import Announcer
from streamrank.edges.registry import Manifest, Standing, VersionMissing
from streamrank.errors import StreamRankError
from streamrank.settings import Secrets, Settings

HEADLINE = ("mrr", "ndcg@10", "auc", "log_loss")
"""Metrics that the table of versions has room for, where a version has them."""


def listed(settings_file: Path | None, folder: str | None, *, console: Console) -> dict[str, Any]:
    """Show the versions, and return them as a report.

    Raises:
        StreamRankError: The settings or the registry cannot be read.
    """
    known = _settings(settings_file, folder)
    root, name = known.registry.path, known.model.name
    serving, bars = registry.current(root, name), registry.barred(root, name)
    found = registry.versions(root, name)
    described = [as_report(one, serving, bars) for one in found]
    report = {
        "model": name,
        "registry": str(root),
        "serving": serving,
        "versions": described,
        "history": [_of_history(one) for one in registry.history(root, name)],
    }
    if found:
        console.print(_table(name, described))
    else:
        reading.say(console, f"no version of {name} in {root} yet (streamrank train)")
    return report


def shown(
    settings_file: Path | None, folder: str | None, version: str | None, *, console: Console
) -> dict[str, Any]:
    """Show all that is known of a version, and return it as a report.

    Args:
        settings_file: The settings.
        folder: The registry; else the settings'.
        version: Which one, or a part of its name that no other has; else the one that serves.
        console: Where the table goes.

    Raises:
        StreamRankError: There is no such version, or it cannot be read.
    """
    known = _settings(settings_file, folder)
    root, name = known.registry.path, known.model.name
    serving = registry.current(root, name)
    wanted = serving if version is None else _named(known, version)
    if wanted is None:
        raise VersionMissing(f"no version of {name} in {root} serves: name one")
    manifest = registry.manifest(root, name, wanted)
    report = as_report(manifest, serving, registry.barred(root, name)) | {
        "heads": list(manifest.heads),
        "features": manifest.features,
        "offsets": manifest.offsets,
        "files": {file: one.model_dump() for file, one in manifest.files.items()},
    }
    table = Table("what", "", title=f"{name} {wanted}", show_header=False)
    for key, text in _flat(report):
        table.add_row(Text(key), Text(text))
    console.print(table)
    return report


def rollback(
    settings_file: Path | None,
    folder: str | None,
    version: str | None,
    *,
    reason: str,
    bar: bool,
    force: bool,
    console: Console,
) -> dict[str, Any]:
    """Let an earlier version serve again, tell all who run, and return what stands now.

    Args:
        settings_file: The settings.
        folder: The registry; else the settings'.
        version: Which one, or a part of its name; else the nearest good ancestor.
        reason: Why, for the history.
        bar: Whether what served so far must never serve again.
        force: Even to a version that was rejected or barred.
        console: Where the lines go.

    Raises:
        StreamRankError: There is no such version, or it must not serve; nothing is changed.
    """
    known = _settings(settings_file, folder)
    root, name, now = known.registry.path, known.model.name, datetime.now(UTC)
    to = None if version is None else _named(known, version)
    stands = registry.rollback(root, name, to, now=now, reason=reason, bar=bar, force=force)
    reading.say(console, f"{name} {stands.version} serves, after {stands.former}")
    return _of_history(stands) | {"model": name, "announced": _announced(known, stands, console)}


def as_report(
    manifest: Manifest, serving: str | None, bars: Mapping[str, registry.Bar]
) -> dict[str, Any]:
    """Return a version as reports name it."""
    barred = bars.get(manifest.version)
    return {
        "version": manifest.version,
        "created": manifest.created.isoformat(),
        "parent": manifest.parent,
        "serving": manifest.version == serving,
        "rejected": manifest.rejected,
        "barred": None if barred is None else barred.reason,
        "gate": manifest.gate,
        "metrics": manifest.metrics,
        "lists_seen": manifest.lists_seen,
    }


def _settings(path: Path | None, folder: str | None) -> Settings:
    known = settings_module.load(path)
    if folder is None:
        return known
    return settings_module.changed(known, {"registry": {"path": folder}})


def _named(known: Settings, part: str) -> str:
    """Return the version with this name, or the only one with this part of it."""
    names = [one.version for one in registry.versions(known.registry.path, known.model.name)]
    found = [part] if part in names else [name for name in names if part in name]
    if len(found) == 1:
        return found[0]
    rule = "must name one version" if not found else f"must name one version, not {len(found)}"
    raise VersionMissing(f"{part!r} {rule} of {known.model.name} (streamrank models list)")


def _announced(known: Settings, stands: Standing, console: Console) -> bool:
    """Tell all who run; where that cannot be, they find out by themselves."""
    version, topic = stands.version or "", known.topic("models")
    digest = registry.manifest(known.registry.path, known.model.name, version).digest
    try:
        connection = kafka.connection(known.kafka, Secrets())
        with Announcer(connection, topic) as announcer:
            announcer.announce(known.model.name, version, digest, stands.reason, stands.at)
    except StreamRankError as error:
        seconds = known.registry.poll.total_seconds()
        reading.say(console, f"not announced: {error}")
        reading.say(
            console, f"what runs sees it in the registry, which it polls every {seconds:g} s"
        )
        return False
    reading.say(console, f"announced on {topic}: all that runs follows now")
    return True


def _of_history(one: Standing) -> dict[str, Any]:
    found = one.model_dump(mode="json", exclude={"format", "barred"})
    return found | {"barred": {version: bar.reason for version, bar in one.barred.items()}}


# --- for people -------------------------------------------------------------------------------


def _table(name: str, versions: list[dict[str, Any]]) -> Table:
    metrics = [one for one in HEADLINE if any(one in found["metrics"] for found in versions)]
    table = Table("version", "", "parent", "lists", *metrics, "gate", title=f"versions of {name}")
    for found in versions:
        figures = (_figure(found["metrics"].get(one)) for one in metrics)
        table.add_row(
            Text(found["version"]),
            _mark(found),
            Text((found["parent"] or "").rpartition("-")[2]),
            str(found["lists_seen"]),
            *figures,
            Text(verdict(found)),
        )
    return table


def _mark(found: Mapping[str, Any]) -> Text:
    if found["serving"]:
        return Text("serves", "bold green")
    if found["barred"] is not None:
        return Text("barred", "red")
    return Text("rejected", "red") if found["rejected"] is not None else Text("")


def verdict(found: Mapping[str, Any]) -> str:
    """Say in a line what the gate thought of a version, or why it must not serve.

    Examples:
        >>> verdict({"barred": None, "rejected": None, "gate": {"reason": "mrr +.004"}})
        'mrr +.004'
        >>> verdict({"barred": "clicks fell", "rejected": None, "gate": None})
        'clicks fell'
    """
    gate = found["gate"] or {}
    said = found["barred"] or found["rejected"] or gate.get("reason")
    if said is not None:
        return str(said)
    return ", ".join(f"{key} {value}" for key, value in gate.items()) or "no gate"


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def _flat(report: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Give a report as lines of a key and a value, what is nested by its path."""
    for key, value in report.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", _figure(value) if value not in (None, {}) else "-"
