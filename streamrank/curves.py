"""The learner's curves for TensorBoard: every update, every verdict, and when it went back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamrank.learning.gate import METRICS
from streamrank.lessons import Judged, News, WentBack
from streamrank.model.learner import Updated


class Writes(Protocol):
    """Where points go: TensorBoard's `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Add a point to a curve."""


@dataclass
class Curves:
    """Draws what the learner says, over its updates.

    Args:
        writer: Where the points go.
        updates: Updates that the learner has made so far.

    Examples:
        >>> class Printed:
        ...     def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        ...         print(global_step, tag, scalar_value)
        >>> Curves(Printed(), updates=6).take([WentBack("v1", "chosen", False)])
        6 went back 1.0
    """

    writer: Writes
    updates: int = 0

    def take(self, news: Iterable[News]) -> None:
        """Draw what came of some examples."""
        for one in news:
            self.updates += isinstance(one, Updated)
            for name, value in _points(one).items():
                self.writer.add_scalar(name, value, self.updates)


def _points(one: News) -> Mapping[str, float]:
    match one:
        case Updated():
            loss = {"update/loss": float(np.mean(one.losses))} if one.losses else {}
            return loss | {
                "update/lists": float(one.lists),
                "update/corrections": float(one.corrections),
                "update/seconds": one.seconds,
            }
        case Judged(verdict=verdict):
            compared = [name for metric in METRICS for name in (metric, f"champion_{metric}")]
            found = {f"gate/{n}": verdict.figures[n] for n in compared if n in verdict.figures}
            return {"gate/passed": float(verdict.passed), **found}
        case WentBack():
            return {"went back": 1.0}
