"""A flow as a process: it runs, or says in one line why it does not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamrank import process
from streamrank import settings as settings_module
from streamrank.settings import Settings


def test_a_flow_whose_broker_does_not_come_says_so_in_one_line_and_ends(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, so that nobody else has it, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        kafka = {"bootstrap_servers": address, "delivery_timeout": "100ms"}
        known = settings_module.changed(Settings(), {"kafka": kafka})
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


@pytest.mark.parametrize(
    ("number", "addresses", "rule"),
    [
        (0, None, "--process and --addresses must be given together"),
        (None, "a:1;b:1", "--process and --addresses must be given together"),
        (2, "a:1;b:1", "--process must be within 0..1, got 2"),
        (0, "a:1;b", "--addresses must be different host:port, got 'b'"),
        (0, "a:1;a:1", "--addresses must be different host:port, got 'a:1'"),
    ],
)
def test_processes_that_do_not_fit_together_are_named(
    number: int | None, addresses: str | None, rule: str
) -> None:
    with pytest.raises(process.NoCluster, match=f"^{rule}$"):
        process.cluster(number, addresses)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_part_of_the_snapshots_is_made_by_one_process(processes: int) -> None:
    addresses = tuple(f"a:{port}" for port in range(1, processes + 1))
    shares = [process.Cluster(number, addresses).share(8) for number in range(processes)]
    assert sorted(part for share in shares for part in share) == list(range(8))


def test_more_processes_than_parts_of_the_snapshots_are_refused() -> None:
    addresses = tuple(f"a:{port}" for port in range(1, 10))
    rule = r"^--addresses must be at most 8 \(state.partitions\), got 9$"
    with pytest.raises(process.NoCluster, match=rule):
        process.run("rank", None, cluster=process.Cluster(0, addresses))


def test_the_learn_flow_is_not_shared() -> None:
    two = process.Cluster(0, ("a:1", "b:1"))
    with pytest.raises(process.NoCluster, match="the learn flow must be one process"):
        process.run("learn", None, cluster=two)
