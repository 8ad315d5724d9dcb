"""From what people did to what finds candidates: a catalogue, a sequence model, its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamrank.features.inputs import Array
from streamrank.features.trails import Trails
from streamrank.model import retrieval, sequence_training
from streamrank.model.sequence_training import History, Progress, Recipe
from streamrank.model.sequences import Shape

LONG = 20
"""Steps from which on sequences are long, in the mean."""
OF_LONG: dict[str, Any] = {"layers": 2, "heads": 2, "inner": 1, "dropout": 0.2}
OF_SHORT: dict[str, Any] = {"layers": 1, "heads": 1, "inner": 1, "dropout": 0.5}
FROM_LONG = Recipe(positions=3200, rate=2e-3, settle=0.3, every=4, patience=40)
FROM_SHORT = Recipe(positions=1600, rate=1e-3, every=2, patience=16, judged=3_000)
"""Model and recipe for either kind; `tests/benchmarks/sequences.py` measures them."""
BATCHES = 20
"""Of an epoch, at least: from a small log a few large ones would teach nothing."""
SMALLEST = 100
"""Steps of the smallest batch."""
SEVERAL = 1000
"""Steps of a batch below which one thread learns: on a busy machine several wait for each other."""
PATIENT = 500
"""Batches without a better result after which a small log has taught what it can."""
PROBED, FOUND = (3, 7), 10
"""Users and steps of the probe, and the items that are to be found for each."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What finds candidates, as the registry takes it.

    Attributes:
        onnx: The graph with its catalogue, see `model.retrieval`.
        items: The ids of the catalogue's items, in order.
        probe: What the graph takes.
        expected: The scores of what it finds for that, float32 (B, K).
        metrics: How well it found the last items that were held out, out of the whole catalogue.
        sequences: How many people it learned from.
    """

    onnx: bytes
    items: tuple[str, ...]
    probe: Mapping[str, Array]
    expected: Array
    metrics: Mapping[str, float]
    sequences: int


@dataclass(frozen=True, slots=True)
class Size:
    """How large it may become, and how long it may learn.

    Attributes:
        items: Of the catalogue, at most: the most often touched ones.
        width: Numbers that stand for an item.
        length: Steps of a user that are looked at.
        types: Deeds that are told apart.
        epochs: Passes over the sequences, at most.
        seconds: After which no further pass begins.
    """

    items: int
    width: int
    length: int
    types: int
    epochs: int = 100
    seconds: float = float("inf")


def train(
    trails: Trails,
    size: Size,
    *,
    seed: int = 0,
    logs: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Candidates:
    """Learn what comes after what, and export it.

    Args:
        trails: What people did.
        size: How large it may become.
        seed: Of weights and of chance.
        logs: Folder for TensorBoard.
        on_progress: Told after every step.

    Raises:
        ValueError: Nobody touched three items one after the other.
        ExportFailed: Graph and model differ.
    """
    items = trails.catalogue(size.items)
    histories = trails.histories(items)
    usable = [one for one in histories if len(one["items"]) >= 3]
    if not usable:
        rule = "somebody must have touched three items, one after the other"
        raise ValueError(f"{rule}, got nobody of {len(histories)} people")
    shape, recipe = _kind(usable, len(items), size)
    with _alone(recipe.positions < SEVERAL):
        learned = sequence_training.learn(
            usable, shape, recipe=recipe, seed=seed, logs=logs, on_progress=on_progress
        )
    onnx, probe = retrieval.export(learned.model).onnx, _probe_of(shape)
    [expected] = retrieval.session_of(onnx).run(["scores"], probe)
    return Candidates(onnx, items, probe, expected, learned.metrics, len(usable))


def _kind(histories: Sequence[History], items: int, size: Size) -> tuple[Shape, Recipe]:
    """Return the model and how it learns."""
    steps = sum(len(one["items"]) for one in histories)
    long = steps >= LONG * len(histories)
    kind, how = (OF_LONG, FROM_LONG) if long else (OF_SHORT, FROM_SHORT)
    how = replace(how, epochs=size.epochs, seconds=size.seconds)
    if steps < BATCHES * how.positions:
        positions = max(SMALLEST, steps // BATCHES)
        patience = max(how.patience, PATIENT * positions // steps)
        how = replace(how, positions=positions, patience=patience, rate=3e-3, average=0.98)
        kind = kind | {"dropout": 0.2}
    length = max(2, size.length)
    return Shape(items=items, types=size.types, width=size.width, length=length, **kind), how


@contextmanager
def _alone(small: bool) -> Iterator[None]:
    """Let a small log be learned from by one thread: several would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _probe_of(shape: Shape) -> dict[str, Array]:
    """Return users to find items for; what they touched is excluded."""
    fed = retrieval.fed_like(shape, *PROBED)
    return fed | {"excluded": fed["items"], "k": np.array([FOUND])}
