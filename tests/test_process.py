"""A flow as a process: it runs, or says in one line why it does not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from streamrank import settings as settings_module
from streamrank.settings import Settings


def test_a_flow_whose_broker_is_away_says_so_in_one_line_and_ends(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, so that nobody else has it, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        known = settings_module.changed(Settings(), {"kafka": {"bootstrap_servers": address}})
        (tmp_path / "mine.toml").write_text(settings_module.to_toml(known), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "streamrank", "run", "rank", "--settings", "mine.toml"],
            cwd=tmp_path,
            env=os.environ | {"RUST_BACKTRACE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: no Kafka broker answers at {address}")
    assert not any(trace in done.stderr for trace in ("Traceback", "panicked", "backtrace"))
