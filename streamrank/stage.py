"""Where a demo plays: a folder of its own, settings, and the flows as processes."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess  # nosec B404  # the flows as this very program, and nothing that was given
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamrank import settings as settings_module
from streamrank.errors import StreamRankError
from streamrank.settings import Settings

log = logging.getLogger(__name__)
FLOWS = ("features", "rank", "learn")
TOPICS = (
    *("events", "requests", "rankings", "served", "dead-letters"),
    *("examples", "models"),
)
MARKER = ".streamrank-demo"
"""The file that says that a folder may be emptied."""


class DemoError(StreamRankError):
    """A flow of the demo ended, nothing answers any more, or its folder is somebody else's."""


@dataclass
class Stage:
    """Where a demo plays: its folder, settings and broker."""

    folder: Path
    known: Settings

    @property
    def settings_file(self) -> Path:
        """The settings that the flows read."""
        return self.folder / "streamrank.toml"

    def log_of(self, flow: str) -> Path:
        """Return where a flow's output goes."""
        return self.folder / f"{flow}.log"


def refuse_other(folder: Path) -> None:
    """Keep from emptying what no demo wrote.

    Raises:
        DemoError: The folder holds something else, or is none.
    """
    if folder.exists() and not folder.is_dir():
        raise DemoError(f"{folder} is no folder: choose another --folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise DemoError(f"{folder} is not empty and not a demo's: choose another --folder")


def prepare(folder: Path, wanted: Settings, bootstrap: str) -> Stage:
    """Empty the demo's folder and write the settings of its flows.

    Args:
        folder: Where settings, store and registry go.
        wanted: The settings, but for what lies in the folder and on the broker.
        bootstrap: The broker.
    """
    refuse_other(folder)
    folder = folder.resolve()  # what a link names is emptied, the link stays
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    changes: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap_servers": bootstrap},
        "store": {"online": "sqlite", "path": str(folder / "feast")},
        "registry": {"path": str(folder / "registry")},
        "rank": {"provider": "cpu"},
        "windows": {"flush": "500ms"},
    }
    stage = Stage(folder, settings_module.changed(wanted, changes))
    stage.settings_file.write_text(settings_module.to_toml(stage.known), encoding="utf-8")
    return stage


@contextmanager
def flows(stage: Stage) -> Iterator[Callable[[], None]]:
    """Run the flows as processes of their own; at the end let them finish what they hold.

    Yields:
        What raises a DemoError where one of them has ended.
    """
    started: dict[str, subprocess.Popen[bytes]] = {}
    with ExitStack() as files:
        try:
            for name in FLOWS:
                out = files.enter_context(stage.log_of(name).open("wb"))
                command = [sys.executable, "-m", "streamrank", "run", name]
                command += ["--settings", str(stage.settings_file)]
                # A session of their own: Ctrl-C reaches this process, which stops them in order.
                started[name] = subprocess.Popen(  # nosec B603  # words of our own, no shell
                    command, stdout=out, stderr=out, env=_environment(), start_new_session=True
                )
            yield lambda: _alive(stage, started)
        finally:
            _stop(list(started.values()))


def _environment() -> dict[str, str]:
    """Return the environment of the flows: without what would send them elsewhere."""
    kept = {name: value for name, value in os.environ.items() if "STREAMRANK_" not in name.upper()}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "STREAMRANK_LOG": os.environ.get("STREAMRANK_LOG", "INFO"),
    }


def _alive(stage: Stage, started: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for name, flow in started.items():
        if flow.poll() is not None:
            log = stage.log_of(name)
            end = log.read_text(errors="replace").strip()[-1500:]
            raise DemoError(f"the {name} flow ended with {flow.returncode}; {log} says:\n{end}")


def _stop(started: list[subprocess.Popen[bytes]], within: float = 15.0) -> None:
    """Let the flows drain; whoever is in a hurry, or takes too long, has them killed."""
    try:
        for flow in started:
            flow.send_signal(signal.SIGTERM)
        for flow in started:
            flow.wait(within)
    except subprocess.TimeoutExpired as late:
        log.warning("%s did not stop within %.0f s: killed", late.cmd[-3], within)
    finally:
        for flow in started:
            flow.kill()
            flow.wait()
