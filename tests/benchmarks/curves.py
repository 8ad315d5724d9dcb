"""A picture of a training, drawn from what `streamrank train --logs FOLDER` wrote for TensorBoard.

    python tests/benchmarks/curves.py --logs FOLDER --picture curves.svg

Panels of pre-training (where there was one), of fine-tuning, of each head that is trained with the
others, of the lists held out after each epoch (order, and the probability of each head), and of the
learning rate.  Losses of single steps are faint, their running means are not.  Fine-tuning goes
twice: on the older lists, to choose the epoch, and then on all.  The folder holds one training.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from tests.benchmarks import pictures

WINDOW = 20
"""The share of a course that a running mean is over is one in so many."""
POINTS = 150
"""Of a curve, as many are drawn."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What TensorBoard has under one tag."""

    steps: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]

    def smooth(self) -> Curve:
        """Return running means, each at the last of its steps.

        Examples:
            >>> steps = np.arange(40)
            >>> Curve(steps, steps % 2).smooth().values[:2].tolist()
            [0.5, 0.5]
        """
        wide = max(1, len(self.steps) // WINDOW)
        means = np.convolve(self.values, np.ones(wide) / wide, "valid")
        return Curve(self.steps[wide - 1 :], means)

    def thin(self) -> Curve:
        """Return at most `POINTS` of it, the last one among them."""
        places = np.unique(np.linspace(0, len(self.steps) - 1, POINTS).astype(int))
        return Curve(self.steps[places], self.values[places])


Curves = Mapping[str, Curve]


def read(logs: Path) -> dict[str, Curve]:
    """Return the curves in a folder, by tag.

    Raises:
        ValueError: There is none of a training.
    """
    if not logs.is_dir():
        raise ValueError(f"{logs} must be a folder that `streamrank train --logs` wrote")
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0}).Reload()
    found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    if "fine-tuning/loss" not in found:
        raise ValueError(f"{logs} must hold what `streamrank train --logs` writes, got {[*found]}")
    return {
        tag: Curve(np.array([one.step for one in some]), np.array([one.value for one in some]))
        for tag, some in found.items()
    }


def heads_of(curves: Curves) -> list[str]:
    """Return what is scored: the label, and the conversion where there is one."""
    prefix = "fine-tuning/loss/"
    return [tag.removeprefix(prefix) for tag in curves if tag.startswith(prefix)]


def draw(curves: Curves) -> Figure:
    """Draw all panels."""
    heads = heads_of(curves)
    figure, panels = pictures.grid(2, 2 + len(heads))
    rest = iter(panels)
    both = {"pretraining/loss": "learned from", "pretraining/validation": "held out"}
    _losses(next(rest), curves, "Pre-training", both)
    stages = {"choosing/loss": "older lists", "fine-tuning/loss": "all lists"}
    _losses(next(rest), curves, "Fine-tuning: all heads", stages)
    for number, head in enumerate(heads):
        _losses(
            next(rest), curves, f"Fine-tuning: {head}", {f"fine-tuning/loss/{head}": ""}, number
        )
    _epochs(next(rest), curves, "Held out: NDCG@10", "validation/ndcg@10")
    for number, head in enumerate(heads):
        tag = f"validation/{head}.log_loss" if number else "validation/log_loss"
        _epochs(next(rest), curves, f"Held out: log loss of {head}", tag, number)
    rate = next(rest)
    rate.set(title="Learning rate", xlabel="step")
    thin = curves["fine-tuning/rate"].thin()
    rate.plot(thin.steps, thin.values)
    return figure


def _losses(
    panel: Axes, curves: Curves, title: str, tags: Mapping[str, str], colour: int = 0
) -> None:
    """Draw losses over steps; what has no points is left out."""
    panel.set(title=title, xlabel="step", ylabel="loss")
    for number, (tag, name) in enumerate(tags.items(), colour):
        if tag not in curves:
            continue
        own, one = pictures.COLOURS[number], curves[tag]
        if len(one.steps) < WINDOW:  # once an epoch
            panel.plot(one.steps, one.values, color=own, marker="o", markersize=4, label=name)
            continue
        faint, means = one.thin(), one.smooth().thin()
        panel.plot(faint.steps, faint.values, color=own, alpha=0.25, linewidth=0.6)
        panel.plot(means.steps, means.values, color=own, label=name)
    if not panel.lines:
        panel.text(0.5, 0.5, "none", transform=panel.transAxes, ha="center")
    elif len(tags) > 1:
        panel.legend()


def _epochs(panel: Axes, curves: Curves, title: str, tag: str, colour: int = 0) -> None:
    """Draw what was measured after each epoch; nothing where no list was held out."""
    panel.set(title=title, xlabel="epoch")
    if tag in curves:
        own, one = pictures.COLOURS[colour], curves[tag]
        panel.plot(one.steps, one.values, color=own, marker="o", markersize=4)
        panel.set_xticks(one.steps[:: -(-len(one.steps) // 10)])


def main() -> None:
    """Read, draw, and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--logs", type=Path, required=True, help="TensorBoard's folder")
    parser.add_argument("--picture", type=Path, required=True, help="where it goes: .svg, .png")
    given = parser.parse_args()
    try:
        pictures.save(draw(read(given.logs)), given.picture)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
