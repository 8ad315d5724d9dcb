"""What `streamrank train --logs` wrote is read back as it was, and drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="pictures need the dependency group `benchmarks`")

from streamrank.model import board
from tests.benchmarks import curves, pictures

pytestmark = pytest.mark.slow  # PyTorch's import takes seconds


def logs(folder: Path, *, heads: tuple[str, ...]) -> Path:
    """Write the points of a training of three steps."""
    names = ("loss", "rate", *(f"loss/{head}" for head in heads))
    with board.writer(folder) as writer:
        for step in (1, 2, 3):
            for name in names:
                writer.add_scalar(f"fine-tuning/{name}", 1.0 / step, step)
    return folder


def test_the_points_are_those_that_were_written(tmp_path: Path) -> None:
    found = curves.read(logs(tmp_path, heads=("click", "buy")))
    assert curves.heads_of(found) == ["click", "buy"]
    assert found["fine-tuning/loss"].steps.tolist() == [1, 2, 3]
    assert found["fine-tuning/loss"].values.tolist() == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(("heads", "panels"), [(("click",), 6), (("click", "buy"), 8)])
def test_each_head_has_its_panels_and_what_is_missing_is_said(
    heads: tuple[str, ...], panels: int, tmp_path: Path
) -> None:
    figure = curves.draw(curves.read(logs(tmp_path, heads=heads)))
    assert len(figure.axes) == panels
    assert [text.get_text() for text in figure.axes[0].texts] == ["none"]
    pictures.save(figure, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").stat().st_size > 10_000


def test_a_folder_without_a_training_is_refused(tmp_path: Path) -> None:
    with board.writer(tmp_path / "other") as writer:
        writer.add_scalar("update/loss", 1.0, 1)
    for folder in ("other", "nowhere"):
        with pytest.raises(ValueError, match=f"{folder} must"):
            curves.read(tmp_path / folder)
