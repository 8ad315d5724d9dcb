"""What people did, read without labels: where the Ranker's history encoder can start from.

Two tasks, on the histories of the lists: the item of the next step, from "now", and items hidden
in whole spans, from both sides.  Items are told apart by the vectors that the Ranker looks them
up with; hidden ones look as those that the Ranker forgets in training, so that nothing of what
is learned is of no use there.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from streamrank.features import inputs
from streamrank.features.inputs import Array, Inputs
from streamrank.learning.examples import Example
from streamrank.model import softmax
from streamrank.model.ranker import Buckets, Configuration, Encoder, Steps
from streamrank.model.spans import spans

VALIDATED = 0.15
"""Share of the histories, the last in time, that chooses the epoch."""
STEP = ("items", "types", "places", "values", "numbers")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How it is learned.

    Attributes:
        epochs: Passes over the histories, at most.
        batch: Histories a step.
        rate: Learning rate.
        decay: Weight decay.
        negatives: Items drawn for a batch, all if there are no more.
        masked: Share of the histories that teach hidden spans instead of the next item.
        hidden: Share of their steps that are hidden.
        span: Mean length of a span.
        average: How much of the averaged weights each step keeps.
        patience: Epochs without a better result after which learning ends.
    """

    epochs: int = 12
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.02
    negatives: int = 512
    masked: float = 0.5
    hidden: float = 0.2
    span: float = 2.0
    average: float = 0.99
    patience: int = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far pre-training is.

    Attributes:
        done: Histories learned from so far.
        total: Histories there will be, at most.
        rate: Histories a second.
        loss: Of the last step.
    """

    done: int
    total: int
    rate: float
    loss: float

    @property
    def left(self) -> float:
        """Seconds left, at this rate."""
        return (self.total - self.done) / self.rate if self.rate else float("inf")


def pretrain(
    examples: Sequence[Example],
    config: Configuration,
    *,
    seed: int = 0,
    writer: SummaryWriter | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    recipe: Recipe | None = None,
) -> dict[str, Tensor]:
    """Learn the Ranker's `steps` and `encoder` from histories, whatever the lists' labels.

    Args:
        examples: Lists in time order; overlapping histories of a user count once.
        config: Of the Ranker.
        seed: Of weights, order, spans, negatives and dropout.
        writer: Of TensorBoard, which gets `pretraining/...` over the steps.
        on_progress: Told after every step.
        recipe: How to learn.

    Returns:
        Weights by their names in the Ranker, for `load_state_dict(..., strict=False)` before
        fine-tuning; none where the histories hold nothing to learn from.
    """
    rows = histories(examples)
    if len(rows) < 2:
        return {}
    how = recipe or Recipe()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _Course(rows, config, how, seed, writer, on_progress).run()
    finally:
        torch.set_num_threads(threads)


def histories(examples: Sequence[Example]) -> list[Inputs]:
    """Return what each user did, each step once and in time order, as far as can be told.

    A list's history repeats most of what the one before it had; of a user's lists those are
    taken whose histories end before the next taken one begins.
    """
    taken, begins = list[Inputs](), dict[str, float]()
    for example in reversed(examples):
        row = {name: example.inputs[f"history_{name}"] for name in STEP}
        if (row["items"] != 0).sum() < 2:
            continue
        ages = np.expm1(row["numbers"][:, 0].astype(np.float64))
        newest, oldest = (example.at / 1000 - ages[place] for place in (-1, 0))
        oldest -= 1e-5 * ages[0] + 1e-3  # as exactly as float32 tells
        if newest < begins.get(example.user, np.inf):
            begins[example.user] = oldest
            taken.append(row)
    return taken[::-1]


class Reader(nn.Module):
    """The Ranker's history part, with a state's way to the vectors of items.

    Args:
        config: Of the Ranker.
        known: Hash of each item that can be found, 0 first, (N + 1,).
    """

    def __init__(self, config: Configuration, known: Array) -> None:
        super().__init__()
        items, words = (Buckets(config.buckets, config.width) for _ in range(2))
        self.steps = Steps(config, items, words)
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.width, config.width)
        self.known: Tensor
        self.register_buffer("known", torch.from_numpy(known))

    def forward(
        self, items: Tensor, types: Tensor, places: Tensor, values: Tensor, numbers: Tensor
    ) -> Tensor:
        """Return where each step and "now" look for their item, (B, H + 1, D)."""
        there = functional.pad(types > 0, (0, 1), value=True)
        steps = self.steps(items, types, places, values, numbers)
        found: Tensor = self.out(self.encoder(self.dropout(steps), there))
        return found

    def vectors(self, places: Tensor) -> Tensor:
        """Look up items by their place among the known."""
        found: Tensor = self.steps.items(self.known[places])
        return found


class _Course:
    """One pre-training from fresh weights."""

    def __init__(
        self,
        rows: Sequence[Inputs],
        config: Configuration,
        how: Recipe,
        seed: int,
        writer: SummaryWriter | None,
        listener: Callable[[Progress], None] | None,
    ) -> None:
        held = max(1, round(VALIDATED * len(rows)))
        self.older, self.newer = rows[:-held], rows[-held:]
        self.how, self.seed, self.writer, self.listener = how, seed, writer, listener
        self.random = np.random.default_rng(seed)
        counted = np.concatenate([row["items"] for row in rows])
        known, counts = np.unique(counted[counted != 0], return_counts=True)
        self.known = np.append(0, known)
        self.sampler = softmax.Sampler(np.append(0, counts), how.negatives)
        self.reader = Reader(config, self.known)
        self.reader.steps.items.fit(counted)
        self.reader.steps.words.fit(np.concatenate([row["values"] for row in rows]))
        self.mean = copy.deepcopy(self.reader).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.reader.parameters(), lr=how.rate, weight_decay=how.decay, fused=True
        )
        self.steps, self.begun = 0, time.monotonic()

    def run(self) -> dict[str, Tensor]:
        best, since, weights = np.inf, 0, self.mean.state_dict()
        for _ in range(self.how.epochs):
            self._epoch()
            loss = self._held()
            self._log({"pretraining/validation": loss}, self.steps)
            since += 1
            if loss < best:
                best, since, weights = loss, 0, copy.deepcopy(self.mean.state_dict())
            if since >= self.how.patience:
                break
        names = [n for n, _ in self.mean.named_parameters() if n.startswith(("steps", "encoder"))]
        return {name: weights[name] for name in names}

    def _epoch(self) -> None:
        self.reader.train()
        for places in self._cut(self.random.permutation(len(self.older))):
            loss = self._loss(self.reader, [self.older[p] for p in places], self.random)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.steps += 1
            self._average()
            self._log({"pretraining/loss": loss.item()}, self.steps)
            self._tell(loss.item())

    @torch.no_grad()
    def _held(self) -> float:
        """Return the mean loss of the held-out histories, cut and hidden alike each time."""
        random, losses = np.random.default_rng(self.seed), list[float]()
        for places in self._cut(np.arange(len(self.newer))):
            losses.append(self._loss(self.mean, [self.newer[p] for p in places], random).item())
        return float(np.mean(losses))

    def _cut(self, order: Array) -> Iterator[Array]:
        for start in range(0, len(order), self.how.batch):
            yield order[start : start + self.how.batch]

    def _loss(self, reader: Reader, rows: Sequence[Inputs], random: np.random.Generator) -> Tensor:
        lessons = [lesson(row, self.how, random) for row in rows]
        fed = inputs.stack([{f"history_{n}": a for n, a in one.items()} for one, _ in lessons])
        length = fed["history_items"].shape[1]
        wanted = np.zeros((len(rows), length + 1), np.int64)
        for row, (_, items) in zip(wanted, lessons, strict=True):
            row[length + 1 - len(items) :] = items
        states = reader(**{n: torch.from_numpy(fed[f"history_{n}"]) for n in STEP})
        targets = torch.from_numpy(np.searchsorted(self.known, wanted))
        negatives = self.sampler.draw(random)
        counted = targets > 0
        return softmax.loss_of(states[counted], targets[counted], reader.vectors, negatives)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.how.average, self.steps / (self.steps + 9))
        torch._foreach_lerp_(list(self.mean.parameters()), list(self.reader.parameters()), 1 - keep)

    def _tell(self, loss: float) -> None:
        if self.listener is not None:
            done = min(self.steps * self.how.batch, self.how.epochs * len(self.older))
            rate = done / max(1e-9, time.monotonic() - self.begun)
            self.listener(Progress(done, self.how.epochs * len(self.older), rate, loss))

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, step)


def lesson(row: Inputs, how: Recipe, random: np.random.Generator) -> tuple[Inputs, Array]:
    """Return a history to read, and the hash that is wanted at each step and "now", 0 for none.

    Either some of its items are hidden, or it is cut before a step whose item is wanted "now".
    """
    items = row["items"]
    if random.random() < how.masked:
        hidden = spans(len(items), how.hidden, how.span, random) & (items != 0)
        if hidden.any():
            return _hide(row, hidden), np.append(items * hidden, 0)
    later = np.flatnonzero(items[1:]) + 1  # what is wanted has something before it
    end = int(random.choice(later))
    return before(row, end), np.append(np.zeros(end, np.int64), items[end])


def _hide(row: Inputs, hidden: Array) -> Inputs:
    """Return a history without what tells which items the hidden ones are."""
    told = {name: row[name] * ~hidden for name in ("items", "places", "values")}
    return row | told


def before(row: Inputs, end: int) -> Inputs:
    """Return a history as it was just before a step: times are counted from that step.

    Places are of the list that came later, so there are none.
    """
    cut = {name: values[:end] for name, values in row.items()}
    numbers = cut["numbers"].copy()
    ages, gaps = np.expm1(numbers[:, 0]), np.expm1(numbers[:, 1])
    later = ages[-1] - gaps[-1]  # seconds from that step to the list
    numbers[:, 0] = np.log1p(np.maximum(0, ages - later))
    return cut | {"numbers": numbers, "places": np.zeros_like(cut["places"])}
