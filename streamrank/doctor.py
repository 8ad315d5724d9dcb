"""What `streamrank doctor` looks at: everything a flow would meet when it starts."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrank import __version__, settings
from streamrank.errors import StreamRankError
from streamrank.settings import Secrets, Settings

PACKAGES = ("bytewax", "confluent-kafka", "torch", "transformers", "feast", "pydantic")
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")
Look = Callable[[Settings, Secrets], str]


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
    for name, look in LOOKS.items():
        if name == "topics" and not checks[-1].ok:
            checks.append(Check(name, False, "not looked at: the broker does not answer"))
        else:
            checks.append(checked(name, look, known, secrets))
    return checks


def checked(name: str, look: Look, known: Settings, secrets: Secrets) -> Check:
    """Look at one thing; whatever goes wrong is what was found, and no secret shows.

    Examples:
        >>> def broken(known: Settings, secrets: Secrets) -> str:
        ...     raise OSError("no route to host")
        >>> checked("broker", broken, Settings(), Secrets())
        Check(name='broker', ok=False, found='OSError: no route to host')
    """
    try:
        ok, found = True, look(known, secrets)
    except StreamRankError as error:
        ok, found = False, str(error)
    except Exception as error:  # noqa: BLE001  # what nobody foresaw is a finding as well
        ok, found = False, f"{type(error).__name__}: {error}"
    return Check(name, ok, _without(secrets, found))


def _without(secrets: Secrets, text: str) -> str:
    """Blot out the secrets, should a library's message repeat one."""
    for _, secret in secrets:
        if isinstance(secret, SecretStr) and secret.get_secret_value():
            text = text.replace(secret.get_secret_value(), "…")
    return text


def _packages() -> Check:
    found = {name: number for name in (*PACKAGES, *RUNTIMES) if (number := _version(name))}
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    missing = [name for name in PACKAGES if name not in found]
    runtimes = [name for name in RUNTIMES if name in found]
    if missing or len(runtimes) != 1:
        needs = f"missing: {', '.join(missing) or 'none'}; exactly one of {' and '.join(RUNTIMES)}"
        return Check("packages", False, f"{needs} must be there, got {runtimes}; {text}")
    return Check("packages", True, f"streamrank {__version__}, {text}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _settings(known: Settings, secrets: Secrets) -> str:
    given = [name for name, secret in secrets if secret is not None]
    events = f"label {known.events.label} of {len(known.events.interactions)} interaction types"
    return f"project {known.project}, {events}, secrets given: {', '.join(given) or 'none'}"


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
    store.close()
    where = known.store.redis if known.store.online == "redis" else known.store.path
    return f"feast on {known.store.online}, {where}"


def _state(known: Settings, secrets: Secrets) -> str:
    path = known.state.path
    if path is None:
        return "no folder: nothing is kept over a restart (state.path)"
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StreamRankError(f"state.path must be a folder to write in, got {path}: see {there}")
    return f"{path}, every {known.state.every.total_seconds():g} s"


def _registry(known: Settings, secrets: Secrets) -> str:
    from streamrank.edges import registry

    found = registry.versions(known.registry.path, known.model.name)
    return f"{len(found)} versions of {known.model.name} in {known.registry.path}"


def _provider(known: Settings, secrets: Secrets) -> str:
    """Say where a session really runs: the model's, or without one that of a graph of one node."""
    from streamrank import deployment
    from streamrank.edges.onnxruntime import OnnxScorer

    scorer = deployment.scorer_of(known)
    model = f"model {scorer.version}"
    if not isinstance(scorer, OnnxScorer):
        provider, threads = known.rank.provider, known.rank.threads
        scorer = OnnxScorer(_graph(), version="", provider=provider, threads=threads)
        model = "no model yet"
    return f"{scorer.provider} (asked for: {known.rank.provider}), {model}"


def _graph() -> bytes:
    """Return the least graph that a session takes for a ranker."""
    from onnx import TensorProto, helper

    shape: list[str | int | None] = ["lists", "candidates", 1]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "io"]
    tensors[1].name = "scores"
    node = helper.make_node("Identity", ["i"], ["scores"])
    graph = helper.make_graph([node], "identity", tensors[:1], tensors[1:])
    # Versions that every ONNX Runtime of these years reads, whatever `onnx` itself is.
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


LOOKS: Mapping[str, Look] = {
    "settings": _settings,
    "broker": _broker,
    "topics": _topics,
    "store": _store,
    "state": _state,
    "registry": _registry,
    "provider": _provider,
}
"""What is looked at once the settings are read, in this order."""


def show(checks: list[Check], console: Console) -> None:
    """Print the checks as a table."""
    table = Table("check", "", "found", title="streamrank doctor")
    for check in checks:
        verdict = Text("ok", "green") if check.ok else Text("fails", "red")
        table.add_row(check.name, verdict, Text(check.found))  # no markup: it holds [brackets]
    console.print(table)
