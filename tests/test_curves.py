"""What the learner did is drawn over its updates."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamrank import study
from streamrank.curves import Curves
from streamrank.learning.gate import Verdict
from streamrank.lessons import Judged
from streamrank.model.learner import Updated

pytestmark = pytest.mark.slow  # PyTorch's import takes seconds


class Drawn:
    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.points.append((tag, scalar_value, global_step))


def test_each_update_and_each_verdict_is_a_point() -> None:
    drawn = Drawn()
    curves = Curves(drawn, updates=4)
    verdict = Verdict(True, "as good", {"ndcg@10": 0.6, "champion_ndcg@10": 0.5, "lists": 50.0})
    curves.take([Updated(60, 2, 180, (3.0, 1.0), 0.25), Judged("v2", "v1", verdict, 60)])
    curves.take([Updated(0, 0, 0, (), 0.5)])
    assert drawn.points == [
        ("update/loss", 2.0, 5),
        ("update/lists", 60.0, 5),
        ("update/corrections", 2.0, 5),
        ("update/seconds", 0.25, 5),
        ("gate/passed", 1.0, 5),
        ("gate/ndcg@10", 0.6, 5),
        ("gate/champion_ndcg@10", 0.5, 5),
        ("update/lists", 0.0, 6),
        ("update/corrections", 0.0, 6),
        ("update/seconds", 0.5, 6),
    ]


def test_tensorboard_finds_them_in_the_folder(tmp_path: Path) -> None:
    with study.curves_in(tmp_path / "logs", updates=0) as curves:
        curves.take([Updated(60, 2, 180, (3.0, 1.0), 0.25)])
    assert [one.name.startswith("events.out.tfevents") for one in (tmp_path / "logs").iterdir()]
