"""The benchmark of sequences, on files small enough to be read."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("implicit", reason="the peers need the dependency group `benchmarks`")

from tests.benchmarks import sequences, sequences_peers

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "text",
    [
        "7 30\n7 10\n9 20\n9 30\n7 20\n",  # SASRec's: a user's items need not lie together
        "7 30 10 20\n9 20 30\n",  # S3-Rec's
        "7 30 10\n9 20 30\n7 20\n\n",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_both_forms_are_read(text: str, packed: bool, tmp_path: Path) -> None:
    """Items 10, 20, 30 become 1, 2, 3."""
    path = tmp_path / ("data.txt.gz" if packed else "data.txt")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert [one.tolist() for one in sequences.read(path)] == [[3, 1, 2], [2, 3]]


@pytest.mark.parametrize("text", ["", "5\n", "1 2\n5\n"])
def test_a_file_of_neither_form_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="a line must be a user and items"):
        sequences.read(path)


def test_popularity_by_hand() -> None:
    """Items 1, 2, 3 were had by 3, 2 and 1 of three users; the others' order is their own."""
    rows = [np.array(one) for one in ([1, 2, 3, 20, 20], [2, 1, 20, 20], [1, 20, 20])]
    had = sequences_peers.matrix(rows, 2, 20)
    tops = sequences_peers.popularity(had)
    assert tops[1, :2].tolist() == [2, 3]
    assert tops[2, :3].tolist() == [1, 2, 3]
    assert sequences_peers.places(tops, np.array([0, 3, 3])).tolist() == [11, 2, 3]


def test_peers_do_not_find_what_was_had_and_know_who_belongs_together() -> None:
    """Two kinds of users with five items each; the one item of its kind a user lacks is found."""
    random = np.random.default_rng(0)
    rows = [
        np.concatenate([random.permutation(5)[:4] + 1 + 20 * (n % 2), [1, 1]]) for n in range(80)
    ]
    had = sequences_peers.matrix(rows, 2, 40)
    lacks = np.array(
        [
            ({*range(5)} - {*(row[:4] - 1 - 20 * (n % 2)).tolist()}).pop() + 20 * (n % 2)
            for n, row in enumerate(rows)
        ]
    )
    for tops in sequences_peers.settings(0)["item-kNN"].values():
        assert (sequences_peers.places(tops(had), lacks) == 1).mean() > 0.95


@pytest.mark.slow
def test_the_report_has_peers_and_no_figure_was_chosen_by_the_test_items(tmp_path: Path) -> None:
    """Everybody goes round 30 items in one order, but each test item is drawn by lot."""
    random = np.random.default_rng(0)
    lines = []
    for user in range(80):
        path = 1 + (random.integers(30) + np.arange(9)) % 30
        lines.append(" ".join(map(str, [user, *path, random.integers(1, 31)])))
    (tmp_path / "data.txt").write_text("\n".join(lines))
    script, report = ROOT / "tests/benchmarks/sequences.py", tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, script, "--data", tmp_path / "data.txt", "--report", report, "--epochs=2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert set(found["peers"]) == {"popularity", "item-kNN", "ALS", "BPR"}
    assert {"ndcg@10", "hr@10", "seconds", "peak_memory_mb"} <= set(found)
    assert found["data"] == {"users": 80, "items": 30, "interactions": 800}
    best = max(found["curve"], key=lambda one: one["ndcg@10"])
    assert found["validation"]["ndcg@10"] == best["ndcg@10"]
