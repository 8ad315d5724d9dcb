"""What `streamrank doctor` looks at: everything a flow would meet when it starts."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from streamrank import __version__, deployment, settings
from streamrank.errors import StreamRankError
from streamrank.settings import Secrets, Settings

PACKAGES = ("bytewax", "confluent-kafka", "torch", "transformers", "feast", "pydantic")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str

    def as_report(self) -> dict[str, object]:
        """Return this check for the JSON report."""
        return {"ok": self.ok, "found": self.found}


def examine(path: Path | None) -> list[Check]:
    """Look at everything; a check that fails does not stop the others.

    Args:
        path: The settings file; `None` looks where `settings.load` looks.
    """
    checks = [Check("python", True, platform.python_version()), _packages()]
    try:
        known, secrets = settings.load(path), Secrets()
    except StreamRankError as error:
        return [*checks, Check("settings", False, str(error))]
    looks: dict[str, Callable[[Settings, Secrets], str]] = {
        "settings": lambda known, secrets: f"project {known.project}",
        "broker": _broker,
        "topics": _topics,
        "store": _store,
        "registry": _registry,
        "provider": _provider,
    }
    return checks + [_checked(name, look, known, secrets) for name, look in looks.items()]


def _checked(
    name: str, look: Callable[[Settings, Secrets], str], known: Settings, secrets: Secrets
) -> Check:
    try:
        return Check(name, True, look(known, secrets))
    except StreamRankError as error:
        return Check(name, False, str(error))


def _packages() -> Check:
    found = {}
    for package in (*PACKAGES, "onnxruntime-gpu", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    runtimes = [name for name in ("onnxruntime-gpu", "onnxruntime") if found[name]]
    missing = [name for name in PACKAGES if not found[name]]
    text = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if missing or len(runtimes) != 1:
        needs = f"missing: {missing or 'none'}; exactly one onnxruntime is needed, got {runtimes}"
        return Check("packages", False, f"{needs}; {text}")
    return Check("packages", True, f"streamrank {__version__}, {text}")


def _broker(known: Settings, secrets: Secrets) -> str:
    from streamrank.edges import topics

    return topics.reach(known, secrets)


def _topics(known: Settings, secrets: Secrets) -> str:
    from streamrank.edges import topics

    problems = topics.check(known, secrets)
    if problems:
        raise StreamRankError("; ".join(problems) + " (streamrank topics create)")
    return ", ".join(spec.name for spec in topics.wanted(known))


def _store(known: Settings, secrets: Secrets) -> str:
    from streamrank.edges.feast import FeastStore

    store = FeastStore(known, secrets)
    store.read("popular", ["all"], 0)
    return f"feast on {known.store.online}"


def _registry(known: Settings, secrets: Secrets) -> str:
    from streamrank.edges import registry

    found = registry.versions(known.registry.path, known.model.name)
    return f"{len(found)} versions of {known.model.name} in {known.registry.path}"


def _provider(known: Settings, secrets: Secrets) -> str:
    scorer = deployment.scorer_of(known)
    return f"{getattr(scorer, 'provider', 'none')} (asked for: {known.rank.provider})"


def show(checks: list[Check], console: Console) -> None:
    """Print the checks as a table."""
    table = Table("check", "", "found", title="streamrank doctor")
    for check in checks:
        verdict = "[green]ok[/]" if check.ok else "[red]fails[/]"
        table.add_row(check.name, verdict, check.found)
    console.print(table)
