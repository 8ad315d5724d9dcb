"""`streamrank train` as a person meets it: says what it learned from, and bears an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from streamrank.edges import registry
from tests.test_cli import in_process, lines_of, small_log, streamrank, visit

CHECKPOINT = "ranker.training.safetensors"


def settings(folder: Path, *, epochs: int) -> None:
    """Infer the settings of the log, with this many epochs."""
    assert in_process("init", "--events", "log.jsonl", folder=folder).exit_code == 0
    path = folder / "streamrank.toml"
    text = path.read_text().replace("epochs = 9", f"epochs = {epochs}")
    assert f"epochs = {epochs}" in text
    path.write_text(text)


@pytest.mark.slow
def test_it_says_what_it_learned_from_and_how_it_compares(tmp_path: Path) -> None:
    """Of 60 lists 30 got no click; the last of those is too young to be called so."""
    events = [event for n in range(60) for event in visit(n)[: 3 if n % 2 else 2]]
    late = visit(60)[:2]
    (tmp_path / "log.jsonl").write_text(lines_of([*events, *late]))
    settings(tmp_path, epochs=1)
    done = in_process("train", "--events", "log.jsonl", "--logs", "logs", folder=tmp_path)
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "lists of" in said
    assert "30 with feedback" in said
    for system in ("streamrank", "as_shown", "recently_touched", "popularity"):
        assert f"held out: {system}: NDCG@10" in said
    assert "times as many labels expected as there were" in said
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    assert not list(tmp_path.rglob(CHECKPOINT))  # it is published: there is nothing to go on with
    root = tmp_path / "data/registry"
    [manifest] = registry.versions(root, "ranker")
    assert {"ndcg@10", "log_loss", "calibration_ratio"} <= manifest.metrics.keys()
    assert registry.current(root, "ranker") == manifest.version


@pytest.mark.slow
def test_an_interrupted_training_exits_130_and_the_next_call_goes_on(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(lines_of(small_log(120)))
    settings(tmp_path, epochs=10)
    command = ("train", "--events", "log.jsonl", "--registry")
    begun = subprocess.Popen(
        [sys.executable, "-m", "streamrank", *command, "first"],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "100"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "first" / CHECKPOINT).exists():
        assert begun.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun.send_signal(signal.SIGINT)
    _, said = begun.communicate(timeout=60)
    assert (begun.returncode, "interrupted" in said, "Traceback" in said) == (130, True, False)
    again = streamrank(*command, "first", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "training goes on from" in again.stderr
    whole = in_process(*command, "whole", folder=tmp_path)
    assert whole.exit_code == 0, whole.stderr
    assert "training goes on" not in whole.stderr
    weights = [next((tmp_path / name).rglob("*weights*")) for name in ("first", "whole")]
    one, two = map(load_file, weights)
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)
    assert not (tmp_path / "first" / CHECKPOINT).exists()
