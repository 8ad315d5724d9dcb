"""The benchmark of shown lists, on a log small enough to be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightgbm", reason="the peers need the dependency group `benchmarks`")

ROOT = Path(__file__).parents[1]
SYSTEMS = {"streamrank", "lambdamart", "lambdamart_tuned", "logistic"} | {
    "as_shown",
    "recently_touched",
    "popularity",
}


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


def run(folder: Path, *command: str) -> Any:
    done = subprocess.run(
        [sys.executable, *command, "--events", "log.jsonl", "--report", "report.json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_peers_are_measured_on_the_lists_that_a_replay_measures(tmp_path: Path) -> None:
    """Of 60 lists 18 are measured, the last; in all of them the item viewed before is clicked."""
    events = [event for number in range(60) for event in visit(number)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    replayed = run(tmp_path, "-m", "streamrank", "replay")["systems"]
    report = run(tmp_path, str(ROOT / "tests/benchmarks/lists.py"), "--refits", "2")
    assert set(report) >= SYSTEMS
    assert report["lists"] == {"learned": 42, "measured": 18}
    for name in SYSTEMS:
        assert set(report[name]) >= {"mrr", "ndcg@10", "seconds"}
        if name != "streamrank":
            lead = report[name]["ahead"]["mrr"]
            assert lead["mean"] == pytest.approx(report["streamrank"]["mrr"] - report[name]["mrr"])
            assert lead["low"] <= lead["mean"] <= lead["high"]
    for name in replayed:
        for metric in ("mrr", "ndcg@10"):
            assert report[name][metric] == pytest.approx(replayed[name][metric], abs=1e-12)
    assert report["recently_touched"]["mrr"] == report["logistic"]["mrr"] == 1.0
