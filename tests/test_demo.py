"""The demo as people run it: a program that ends by itself.

What is asserted of a whole run is asserted of one run; each takes most of a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from streamrank import settings as settings_module
from streamrank.events import Shown
from streamrank.settings import Secrets
from streamrank.simulate import Size, World
from tests.test_cli import in_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NOW = 1_700_000_000_000
LISTS = 40
SMALL = Size(items=40, shoppers=20, candidates=8)


@dataclass(frozen=True)
class Ended:
    """A demo that ended by itself."""

    report: dict[str, Any]
    folder: Path
    errors: str


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "streamrank", "demo", "--folder", "played", *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def played(*arguments: str, folder: Path) -> Ended:
    demo = start(*arguments, "--report", "report.json", folder=folder)
    out, errors = demo.communicate(timeout=900)
    assert demo.returncode == 0, errors
    assert out == ""
    assert "Traceback" not in errors
    return Ended(json.loads((folder / "report.json").read_text()), folder / "played", errors)


def small_log(path: Path, seed: int = 9) -> int:
    """Write a log, and return how many lists it has shown."""
    events = list(World(seed, SMALL).history(LISTS, NOW, timedelta(hours=2)))
    path.write_bytes(b"".join(event.encode() + b"\n" for event in events))
    return sum(isinstance(event, Shown) for event in events)


# --- shoppers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shopped(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return played("--seconds", "10", folder=tmp_path_factory.mktemp("shoppers"))


def test_every_request_of_a_shopper_is_answered_once(shopped: Ended) -> None:
    report = shopped.report
    assert report["requests"] > 0
    assert report["answered"] == report["requests"]
    counts = {name: report[name] for name in ("missing", "duplicated", "dead_letters")}
    assert counts == {"missing": 0, "duplicated": 0, "dead_letters": 0}
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]


def test_both_arms_are_measured_and_the_learned_order_is_nearer_to_the_true_one(
    shopped: Ended,
) -> None:
    systems = shopped.report["systems"]
    assert systems.keys() == {"streamrank", "as_shown"}
    assert all(arm["lists"] > 0 for arm in systems.values())
    assert sum(arm["lists"] for arm in systems.values()) == shopped.report["requests"]
    near = {system: arm["ndcg@10_of_true_order"] for system, arm in systems.items()}
    assert near["streamrank"] > near["as_shown"]


def test_deeds_changed_lists_and_a_version_served(shopped: Ended) -> None:
    assert shopped.report["reranked"] > 0
    model, *_ = shopped.report["models"]
    assert model["published"]
    assert "the same list before and after" in shopped.errors
    assert f"model {model['version']} on cpu" in (shopped.folder / "rank.log").read_text()


def test_the_features_are_in_the_store_and_in_the_log_beside_it(shopped: Ended) -> None:
    from streamrank.edges.feast import FeastStore

    parts = [
        pq.read_table(part)
        for part in shopped.folder.glob("feast/offline/item_windows-*/*.parquet")
    ]
    items = {str(item) for part in parts for item in part.column(0).to_pylist()}
    assert {f"i{number}" for number in range(100)} <= items  # and those of the first requests
    known = settings_module.load(shopped.folder / "streamrank.toml")
    store = FeastStore(known, Secrets())
    rows = [row for row in store.rows("item_windows", sorted(items)) if row is not None]
    assert len(rows) == len(items)
    newest = max(row.at for row in rows)
    assert all(
        isinstance(values, np.ndarray)
        for values in store.read("item_windows", [row.key for row in rows], newest)
    )


# --- a log --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("log")
    assert small_log(folder / "log.jsonl") == LISTS
    command = ("demo", "--folder", "played", "--events", "log.jsonl", "--speed", "max")
    done = in_process(*command, "--report", "report.json", folder=folder)
    assert (done.exit_code, done.stdout) == (0, "")
    return Ended(json.loads((folder / "report.json").read_text()), folder / "played", done.stderr)


def test_every_list_of_a_log_is_answered_once(replayed: Ended) -> None:
    report = replayed.report
    assert report["requests"] == report["answered"] == LISTS
    assert (report["missing"], report["duplicated"], report["dead_letters"]) == (0, 0, 0)


def test_only_lists_that_no_model_learned_from_are_measured(replayed: Ended) -> None:
    """The first 70 percent of the labelled lists are learned from, the rest is measured."""
    model, *_ = replayed.report["models"]
    lists = {system: found["lists"] for system, found in replayed.report["systems"].items()}
    assert lists["streamrank"] == lists["as_shown"] > 0
    labelled = model["lists_seen"] + lists["streamrank"]
    assert labelled <= LISTS
    assert model["lists_seen"] == int(0.7 * labelled + 1e-9)
