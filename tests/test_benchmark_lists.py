"""The benchmark of shown lists, on a log small enough to be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from streamrank import reading, replay, settings
from streamrank.edges.log import records
from streamrank.edges.onnxruntime import AsShown
from streamrank.features import dense
from streamrank.features.schema import Schema
from streamrank.settings import Settings
from tests.lists import example, query

pytest.importorskip("lightgbm", reason="the peers need the dependency group `benchmarks`")

ROOT = Path(__file__).parents[1]
SYSTEMS = {"streamrank", "lambdamart", "lambdamart_tuned", "logistic"} | {
    "as_shown",
    "recently_touched",
    "popularity",
}

ABLATED = ("with pre-training", "without history", "without candidates' attention")


def test_about_thirty_of_the_dense_features_are_simple() -> None:
    """A place, 5 touches, 10 types and the rest, 2 offsets, 4 quantities, 4 counts, 2 shared."""
    from tests.benchmarks.lists_peers import names_of, simple_names

    types = tuple(f"type_{number}" for number in range(10))
    schema = Schema(interactions=types, label="type_0", item={"price": "number"})
    chosen = simple_names(schema)
    assert len(chosen) == len(set(chosen)) == 1 + 5 + 11 + 2 + 4 + 4 + 2
    assert set(chosen) <= set(names_of(schema))


@pytest.mark.parametrize(
    ("name", "prefix"), [("touch", "touch."), ("number", "price."), ("window", "window.")]
)
def test_without_a_group_its_columns_are_zero_and_no_others(name: str, prefix: str) -> None:
    from tests.benchmarks.lists_ablation import ablations

    known = settings.changed(Settings(), {"fields": {"item": {"price": "number"}}})
    schema = known.feature_schema()
    given = example(schema, query(["a", "b"]), "a").inputs
    given["candidate_numbers"] = np.ones_like(given["candidate_numbers"])
    changed = ablations(known)[f"without {name} features"](given)["candidate_numbers"]
    names = [feature.name for feature in dense.features(schema)]
    assert changed.tolist() == [[float(not n.startswith(prefix)) for n in names]] * 2
    assert given["candidate_numbers"].all()


def visit(number: int) -> list[dict[str, Any]]:
    """One user sees three items, among them the one viewed before, and clicks that."""
    start, wanted = 1_700_000_000_000 + number * 60_000, f"i{number * number % 3}"
    who = {"user": f"u{number}", "session": f"s{number}"}
    items = [{"id": f"i{place}", "fields": {"price": 10 + place}} for place in range(3)]
    deed = {"event": "interaction", "item": wanted}
    events: list[dict[str, Any]] = [
        deed | {"id": f"v{number}", "type": "view"},
        {"event": "ranking", "id": f"r{number}", "items": items},
        deed | {"id": f"c{number}", "type": "click", "ranking": f"r{number}"},
    ]
    return [event | who | {"timestamp": start + 1000 * n} for n, event in enumerate(events)]


def replayed(log: Path) -> dict[str, dict[str, float]]:
    """Replay the log without a model: the simple orders need none."""
    now = datetime.now(UTC)
    known = reading.inferred(log, None, None, Console(quiet=True))
    found = replay.survey(records(log, "events"), known, now)
    run = replay.Replay(known, found, 0.7, replay.lane_of(known, AsShown(), now))
    run.run(records(log, "events"))
    systems: dict[str, dict[str, float]] = run.report()["systems"]
    return systems


def benchmark(log: Path, report: Path) -> dict[str, Any]:
    script = ROOT / "tests/benchmarks/lists.py"
    more = ("--refits=2", "--distil=base", "--ablate", *ABLATED)
    done = subprocess.run(
        [sys.executable, script, "--events", log, "--report", report, *more],
        cwd=log.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.slow
def test_peers_are_measured_on_the_lists_that_a_replay_measures(tmp_path: Path) -> None:
    """Of 60 lists 18 are measured, the last; in all of them the item viewed before is clicked."""
    events = [event for number in range(60) for event in visit(number)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    report = benchmark(log, tmp_path / "report.json")
    assert set(report) >= SYSTEMS
    assert report["lists"] == {"learned": 42, "measured": 18}
    for name in SYSTEMS:
        assert set(report[name]) >= {"mrr", "ndcg@10", "seconds"}
        if name != "streamrank":
            lead = report[name]["ahead"]["mrr"]
            assert lead["mean"] == pytest.approx(report["streamrank"]["mrr"] - report[name]["mrr"])
            assert lead["low"] <= lead["mean"] <= lead["high"]
    simple = replayed(log)
    for name in ("as_shown", "recently_touched", "popularity"):
        for metric in ("mrr", "ndcg@10"):
            assert report[name][metric] == pytest.approx(simple[name][metric], abs=1e-12)
    assert set(report["ablation"]) == set(ABLATED)
    assert all(set(one) >= {"mrr", "ahead"} for one in report["ablation"].values())
    assert set(report["distillation"]) == {"base", "small from base"}
    assert all(set(one) >= {"mrr", "ahead"} for one in report["distillation"].values())
    assert report["recently_touched"]["mrr"] == report["logistic"]["mrr"] == 1.0
