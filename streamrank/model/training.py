"""From examples to a trained Ranker: list-wise, in time order, the same twice on a CPU.

The last part in time validates, cut into two slices, because one slice alone orders designs by
chance.  The epoch that is best on both decides how long to learn; then all examples are learned
from for as long, so that the newest ones are not lost.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from streamrank.evaluation import metrics
from streamrank.features import inputs
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.model.ranker import Buckets, Configuration, Ranker, Size, configure, fit_bins

VALIDATED = 0.15
"""Share of the examples, the last in time, that chooses the epoch."""
SLICES = 2
ITEMS = ("candidate_items", "history_items")
WORDS = ("candidate_tokens", "context_tokens", "history_values")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How it is learned.

    Attributes:
        epochs: Passes over the examples, at most.
        batch: Lists a step.
        rate: Learning rate at its highest.
        decay: Weight decay.
        table_rate: Learning rate of the tables of hashed ids and words, as a share of `rate`:
            Adam takes a step of full length for a row that it sees once, and would learn it
            by heart.
        average: How much of the averaged weights each step keeps.
        clip: Norm that a gradient is cut to.
    """

    epochs: int = 6
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.02
    average: float = 0.995
    table_rate: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is.

    Attributes:
        stage: `"choosing"` (how many epochs) or `"learning"` (from all examples).
        done: Lists learned from so far, over both stages.
        total: Lists there will be, at most.
        rate: Lists a second.
        loss: Of the last step.
    """

    stage: str
    done: int
    total: int
    rate: float
    loss: float

    @property
    def left(self) -> float:
        """Seconds left, at this rate."""
        return (self.total - self.done) / self.rate if self.rate else float("inf")


@dataclass(frozen=True, slots=True)
class Trained:
    """A Ranker that has learned.

    Attributes:
        ranker: The model, in evaluation mode.
        schema: What its inputs are made of.
        size: How large it is.
        metrics: Of the lists held out, before they were learned from.
        epochs: How many passes were best on them.
        examples: A few lists it has learned from, newest last.
    """

    ranker: Ranker
    schema: Schema
    size: Size
    metrics: Mapping[str, float]
    epochs: int
    examples: tuple[Example, ...]


def train(
    examples: Sequence[Example],
    schema: Schema,
    *,
    size: Size = "small",
    epochs: int = 6,
    seed: int = 0,
    logs: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    recipe: Recipe | None = None,
) -> Trained:
    """Train a Ranker.

    Args:
        examples: Lists with their labels, in the order in which they were shown.
        schema: What their inputs are made of.
        size: How large a model.
        epochs: Passes over the examples, at most.
        seed: Of weights, order and dropout.
        logs: Folder for TensorBoard.
        on_progress: Told after every step.
        recipe: How to learn, instead of the usual; its epochs count.

    Raises:
        ValueError: No list has a label, all are of one class, or time goes backwards.
    """
    usable = checked(examples)
    how = recipe or Recipe(epochs=epochs)
    held = round(VALIDATED * len(usable))
    older, newer = usable[: len(usable) - held], usable[len(usable) - held :]
    clock = _Clock(how.epochs * (len(older) + len(usable)), on_progress)
    with _repeatable(seed), _writer(logs) as writer:
        config = configure(schema, size)
        best, figures = how.epochs, dict[str, float]()
        if older and newer:
            course = _Course(config, older, how, seed, clock, writer, "choosing")
            curve = [per_list(ranker, newer) for ranker in course.run()]
            for epoch, lists in enumerate(curve):
                _log(writer, {f"validation/{n}": v for n, v in means(lists).items()}, epoch)
            best = enough([np.array([one["ndcg@10"] for one in lists]) for lists in curve])
            figures = means(curve[best - 1])
        clock.total = clock.done + best * len(usable)
        course = _Course(config, usable, how, seed, clock, writer, "learning")
        *_, ranker = course.run(best)
    return Trained(ranker, schema, size, figures, best, tuple(usable[-8:]))


def checked(examples: Sequence[Example]) -> list[Example]:
    """Return the lists that teach something about the label.

    Raises:
        ValueError: There is nothing to learn, or time goes backwards.
    """
    for before, after in pairwise(examples):
        if after.at < before.at:
            raise ValueError(
                f"examples must be in time order, got {after.id!r} of {after.at} "
                f"after {before.id!r} of {before.at}"
            )
    labelled = [one for one in examples if one.labels[:, 0].any()]
    if not labelled:
        raise ValueError(f"examples must have labels, got none in {len(examples)} lists")
    usable = [one for one in labelled if not one.labels[:, 0].all()]
    if not usable:
        raise ValueError(
            "examples must have candidates with and without the label, "
            f"got only such with it in {len(labelled)} lists"
        )
    return usable


def measured(ranker: Ranker, examples: Sequence[Example]) -> dict[str, float]:
    """Return the mean metrics of the label's head, the mean of two slices in time."""
    return means(per_list(ranker, examples))


def per_list(ranker: Ranker, examples: Sequence[Example]) -> list[dict[str, float]]:
    """Return the metrics of the label's head of each list."""
    return [
        metrics.of_list(scores[:, 0], one.labels[:, 0])
        for one, scores in zip(examples, scored(ranker, examples), strict=True)
    ]


def means(lists: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of two slices in time, which count alike."""
    parts = [part for part in np.array_split(np.arange(len(lists)), SLICES) if len(part)]
    found = [metrics.mean([dict(lists[place]) for place in part]) for part in parts]
    return {name: float(np.mean([mean[name] for mean in found])) for name in found[0]}


def enough(curve: Sequence[Array]) -> int:
    """Choose how many epochs to learn: the most that are not clearly worse than the best.

    Of a few hundred lists the best epoch is often an early one by chance, and learning to the
    end, with a falling rate, is the safer choice where the lists cannot tell.

    Args:
        curve: After each epoch, how well each list was ranked.

    Returns:
        Epochs, from 1: the last one whose mean is in each of two slices in time within one
        standard error of the difference to the best epoch.

    Examples:
        >>> enough([np.array([0.2, 0.4, 0.1, 0.3]), np.array([0.1, 0.5, 0.1, 0.3])])
        2
        >>> enough([np.array([0.9, 0.8, 0.9, 0.8]), np.array([0.1, 0.1, 0.2, 0.1])])
        1
    """
    best = max(curve, key=lambda lists: float(lists.mean()))
    for epochs in range(len(curve), 1, -1):
        slices = [part for part in np.array_split(best - curve[epochs - 1], SLICES) if len(part)]
        if all(part.mean() <= part.std() / len(part) ** 0.5 for part in slices):
            return epochs
    return 1


def scored(ranker: Ranker, examples: Sequence[Example], batch: int = 256) -> list[Array]:
    """Return the scores of each list, (C, heads), by PyTorch."""
    ranker.eval()
    found: list[Array] = []
    with torch.no_grad():
        for start in range(0, len(examples), batch):
            part = examples[start : start + batch]
            stacked = ranker(**tensors(part)).numpy()
            found += [scores[: len(one.labels)] for one, scores in zip(part, stacked, strict=True)]
    return found


def tensors(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the model's inputs for a batch."""
    stacked = inputs.stack([example.inputs for example in examples])
    return {name: torch.from_numpy(array) for name, array in stacked.items()}


def targets(examples: Sequence[Example], size: int) -> Tensor:
    """Return the labels of a batch, padded, (B, C, heads)."""
    labels = torch.zeros(len(examples), size, examples[0].labels.shape[1])
    for row, example in zip(labels, examples, strict=True):
        row[: len(example.labels)] = torch.from_numpy(example.labels)
    return labels


def loss_of(scores: Tensor, labels: Tensor, there: Tensor) -> Tensor:
    """Return the list-wise cross-entropy, the mean over heads and over lists with that label.

    Args:
        scores: (B, C, heads).
        labels: The same shape.
        there: Which candidates exist, (B, C).

    References:
        Cao et al., ICML 2007, "Learning to rank: from pairwise approach to listwise approach".
    """
    log_shares = scores.masked_fill(~there[..., None], -1e4).log_softmax(1)
    wanted = labels.sum(1)  # (B, heads)
    each = -(labels * log_shares).sum(1) / wanted.clamp(min=1)
    counted = (wanted > 0).float()
    return ((each * counted).sum(0) / counted.sum(0).clamp(min=1)).sum()


class _Clock:
    """Tells how far training is."""

    def __init__(self, total: int, listener: Callable[[Progress], None] | None) -> None:
        self.total, self.listener = total, listener
        self.done, self.started = 0, time.monotonic()

    def tick(self, stage: str, lists: int, loss: float) -> None:
        self.done += lists
        if self.listener is not None:
            rate = self.done / max(1e-9, time.monotonic() - self.started)
            self.listener(Progress(stage, self.done, self.total, rate, loss))


class Averaged:
    """A copy of a Ranker whose weights are the running mean of its course.

    Early on the mean is over fewer steps, so that it does not drag the first weights along.
    """

    def __init__(self, ranker: Ranker, keep: float) -> None:
        self.ranker = copy.deepcopy(ranker).eval().requires_grad_(False)
        self.keep, self.steps = keep, 0

    @torch.no_grad()
    def update(self, ranker: Ranker) -> None:
        """Take the weights after one more step in."""
        self.steps += 1
        keep = min(self.keep, self.steps / (self.steps + 9))
        for mean, new in zip(self.ranker.parameters(), ranker.parameters(), strict=True):
            mean.lerp_(new, 1 - keep)


@dataclass
class _Course:
    """One training from fresh weights."""

    config: Configuration
    examples: Sequence[Example]
    how: Recipe
    seed: int
    clock: _Clock
    writer: SummaryWriter | None
    stage: str
    steps: int = field(default=0, init=False)

    def run(self, epochs: int | None = None) -> Iterator[Ranker]:
        """Learn; give the averaged model after each epoch of the first `epochs`.

        The learning rate falls as for all of the recipe's epochs, so that stopping early gives
        the very model that was measured.
        """
        torch.manual_seed(self.seed)
        ranker = fresh(self.config, self.examples)
        averaged = Averaged(ranker, self.how.average)
        optimizer = torch.optim.AdamW(_grouped(ranker, self.how), lr=self.how.rate, fused=True)
        batches = -(-len(self.examples) // self.how.batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, _warm_cosine(batches * self.how.epochs)
        )
        order = np.random.default_rng(self.seed)
        for _ in range(epochs or self.how.epochs):
            ranker.train()
            for places in np.array_split(order.permutation(len(self.examples)), batches):
                loss = self._step(ranker, optimizer, [self.examples[p] for p in places])
                schedule.step()
                averaged.update(ranker)
                self.clock.tick(self.stage, len(places), loss)
            yield averaged.ranker

    def _step(
        self, ranker: Ranker, optimizer: torch.optim.Optimizer, batch: Sequence[Example]
    ) -> float:
        fed = tensors(batch)
        scores = ranker(**fed)
        loss = loss_of(scores, targets(batch, scores.shape[1]), fed["candidate_items"] != 0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(ranker.parameters(), self.how.clip)
        optimizer.step()
        self.steps += 1
        figures = {"loss": loss.item(), "gradient": norm.item()}
        figures["rate"] = optimizer.param_groups[-1]["lr"]
        _log(self.writer, {f"{self.stage}/{name}": v for name, v in figures.items()}, self.steps)
        return figures["loss"]


def fresh(config: Configuration, examples: Sequence[Example]) -> Ranker:
    """Return a Ranker that knows quantiles and frequencies of what it is to learn from."""
    numbers = np.concatenate([one.inputs["candidate_numbers"] for one in examples])
    shared = np.stack([one.inputs["context_numbers"] for one in examples])
    ranker = Ranker(config, fit_bins(numbers, config.bins), fit_bins(shared, config.bins))
    ranker.steps.items.fit(_once_a_list(examples, ITEMS))
    ranker.steps.words.fit(_once_a_list(examples, WORDS))
    return ranker


def _once_a_list(examples: Sequence[Example], names: Sequence[str]) -> Array:
    """Return the hashes of some inputs, each one once for every list that holds it."""
    return np.concatenate(
        [
            np.unique(np.concatenate([one.inputs[name].ravel() for name in names]))
            for one in examples
        ]
    )


def _grouped(ranker: Ranker, how: Recipe) -> list[dict[str, Any]]:
    """Weights decay; biases and norms, which have one axis, do not; tables learn slowly."""
    tables = [part.table.weight for part in ranker.modules() if isinstance(part, Buckets)]
    rest = [p for p in ranker.parameters() if all(p is not table for table in tables)]
    return [
        {"params": tables, "weight_decay": how.decay, "lr": how.rate * how.table_rate},
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": how.decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _warm_cosine(steps: int, warm: float = 0.05) -> Callable[[int], float]:
    """Rise over the first steps, then fall to 0 along half a cosine."""
    rise = max(1, round(warm * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, steps - rise))))

    return factor


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Leave the random state of the process as it was, and sum in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _writer(logs: Path | None) -> Iterator[SummaryWriter | None]:
    if logs is None:
        with nullcontext():
            yield None
        return
    with SummaryWriter(str(logs)) as writer:
        yield writer


def _log(writer: SummaryWriter | None, figures: Mapping[str, float], step: int) -> None:
    if writer is not None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
