"""What the commands do: read, call the package, say what was found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    inferred = inferred_from(events, label, conversion, console)
    path.write_text(settings_module.to_toml(inferred.settings))
    for note in inferred.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print(f"wrote {path}", markup=False, highlight=False)
