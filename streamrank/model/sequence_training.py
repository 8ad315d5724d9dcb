"""How a sequence model learns from what people did, without labels.

Of some sequences the last item is held out; all else teaches two tasks at once: the next item
after every step, and items hidden in whole spans, found from both sides.  Both are told from
negatives that the positions of a batch share.  Learning ends when the held-out items are no
longer found better; the weights are the running mean of their course.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from streamrank.features.inputs import Array
from streamrank.model import softmax
from streamrank.model.leave_one_out import figures, ranks
from streamrank.model.sequences import SequenceModel, Shape
from streamrank.model.spans import spans

History = Mapping[str, Array]
"""A sequence, oldest first: `items` (H,), and `types` and `gaps` where the shape has them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How it is learned.

    Attributes:
        epochs: Passes over the sequences, at most.
        positions: Steps of sequences in a batch, padding included.
        rate: Learning rate, after a short rise.
        settle: Share of the epochs, the last, over which it falls to 0 in a straight line.
        decay: Weight decay of matrices.
        negatives: Drawn for a batch; the whole catalogue if it is not larger.
        power: 0 draws negatives alike, 1 as often as they were seen.
        masked: Share of the sequences that teach hidden spans instead of next items.
        hidden: Share of their items that are hidden.
        span: Mean length of a span.
        anywhere: Whether a window of a long sequence lies anywhere, or is its newest part.
        average: How much of the averaged weights each step keeps.
        again: Whether items come again, so that those of the history are in the running too.
        patience: Epochs without a better result after which learning ends.
        every: Epochs from one validation to the next.
        judged: Sequences whose last item is held out, and looked for in each validation, at most.
            Of all others the last one teaches too: what is newest says most of what comes next.
        seconds: After which no further epoch begins.
    """

    epochs: int = 200
    positions: int = 6400
    rate: float = 1e-3
    settle: float = 0.0
    decay: float = 0.01
    negatives: int = 1024
    power: float = 0.5
    masked: float = 0.0
    hidden: float = 0.3
    span: float = 2.0
    anywhere: bool = True
    average: float = 0.998
    again: bool = False
    patience: int = 12
    every: int = 1
    judged: int = 1_000
    seconds: float = float("inf")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far learning is.

    Attributes:
        epoch: Which pass, from 1.
        epochs: How many there will be, at most.
        share: Of this pass that is done.
        rate: Sequences a second.
        loss: Of the last step.
        best: The best NDCG@10 of the held-out items so far.
    """

    epoch: int
    epochs: int
    share: float
    rate: float
    loss: float
    best: float


@dataclass(frozen=True, slots=True)
class Learned:
    """A sequence model that has learned.

    Attributes:
        model: In evaluation mode.
        metrics: Of the held-out items, at the best epoch.
        epochs: How many passes were best.
        curve: The metrics of each validation.
        seconds: What learning took.
    """

    model: SequenceModel
    metrics: Mapping[str, float]
    epochs: int
    curve: tuple[Mapping[str, float], ...]
    seconds: float


def learn(
    histories: Sequence[History],
    shape: Shape,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    logs: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Learned:
    """Learn from sequences; the last items of some are held out and choose the epoch.

    Args:
        histories: Sequences; those of fewer than three steps teach nothing.
        shape: Of the model.
        recipe: How to learn.
        seed: Of weights, order, windows, negatives and dropout.
        logs: Folder for TensorBoard.
        on_progress: Told after every step.

    Raises:
        ValueError: No sequence has three steps, or an item is outside the catalogue.
    """
    usable = checked(histories, shape)
    how = recipe or Recipe()
    threads = torch.get_num_threads()
    writer = SummaryWriter(str(logs)) if logs else None
    try:
        with torch.random.fork_rng(devices=[]), writer or nullcontext():
            torch.manual_seed(seed)
            return _Course(usable, shape, how, seed, writer, on_progress).run()
    finally:
        torch.set_num_threads(threads)


def checked(histories: Sequence[History], shape: Shape) -> list[History]:
    """Return the sequences that teach something and leave an item to be held out.

    Raises:
        ValueError: There is none, or an item is outside the catalogue.
    """
    usable = [one for one in histories if len(one["items"]) >= 3]
    if not usable:
        raise ValueError(f"sequences must have three steps, got none in {len(histories)}")
    low = min(int(one["items"].min()) for one in usable)
    high = max(int(one["items"].max()) for one in usable)
    if low < 1 or high > shape.items:
        raise ValueError(f"items must be within 1..{shape.items}, got {low}..{high}")
    return usable


@dataclass
class _Course:
    """One training from fresh weights."""

    histories: Sequence[History]
    shape: Shape
    how: Recipe
    seed: int
    writer: SummaryWriter | None
    listener: Callable[[Progress], None] | None
    steps: int = field(default=0, init=False)
    done: float = field(default=0.0, init=False)
    """Epochs, with the part of this one that is done."""

    def __post_init__(self) -> None:
        self.model = SequenceModel(self.shape)
        self.mean = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(_grouped(self.model, self.how), fused=True)
        self.random = np.random.default_rng(self.seed)
        self.judges = _some(len(self.histories), self.how.judged, self.seed)
        self.held = np.array([self.histories[place]["items"][-1] for place in self.judges])
        self.past = list(self.histories)
        for place in self.judges:
            self.past[place] = {n: a[:-1] for n, a in self.past[place].items()}
        self.sizes = np.array([min(len(one["items"]) - 1, self.shape.length) for one in self.past])
        counts = np.bincount(
            np.concatenate([one["items"] for one in self.past]), minlength=self.shape.items + 1
        )
        self.sampler = softmax.Sampler(counts, self.how.negatives, self.how.power)

    def run(self) -> Learned:
        begun, best, curve = time.monotonic(), -1, list[dict[str, float]]()
        weights = self.mean.state_dict()
        for epoch in range(1, self.how.epochs + 1):
            self._epoch(epoch, max((one["ndcg@10"] for one in curve), default=0.0))
            if epoch % self.how.every == 0 or epoch == self.how.epochs:
                curve.append(self._found() | {"epoch": epoch})
                self._log({f"validation/{n}": v for n, v in curve[-1].items()}, epoch)
                if best < 0 or curve[-1]["ndcg@10"] > curve[best]["ndcg@10"]:
                    best, weights = len(curve) - 1, copy.deepcopy(self.mean.state_dict())
                if epoch - curve[best]["epoch"] >= self.how.patience:
                    break
            if time.monotonic() - begun > self.how.seconds and curve:
                break
        self.mean.load_state_dict(weights)
        chosen, seconds = curve[best], time.monotonic() - begun
        return Learned(self.mean, chosen, int(chosen["epoch"]), tuple(curve), seconds)

    def _found(self) -> dict[str, float]:
        past = [self.past[place] for place in self.judges]
        return figures(ranks(self.mean, past, self.held, again=self.how.again))

    def _epoch(self, epoch: int, best: float) -> None:
        self.model.train()
        begun, done = time.monotonic(), 0
        for rows in batches(self.sizes, self.how.positions, self.random):
            loss = self._step([self.past[row] for row in rows])
            done += len(rows)
            self.done = epoch - 1 + done / len(self.past)
            if self.listener is not None:
                rate = done / max(1e-9, time.monotonic() - begun)
                share = done / len(self.past)
                self.listener(Progress(epoch, self.how.epochs, share, rate, loss, best))

    def _step(self, batch: Sequence[History]) -> float:
        fed, targets = lesson(batch, self.shape.length, self.how, self.random)
        states = self.model(**fed)  # (B, H, D)
        counted = targets > 0
        negatives = self.sampler.draw(self.random)
        loss = softmax.loss_of(states[counted], targets[counted], self.model.items, negatives)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.rate * self._pace()
        self.optimizer.step()
        self._average()
        value = loss.item()
        self._log({"loss": value}, self.steps)
        return value

    def _pace(self) -> float:
        """Return the share of the learning rate at this step."""
        left = (self.how.epochs - self.done) / max(1e-9, self.how.settle * self.how.epochs)
        return min(1.0, self.steps / 100, left)

    @torch.no_grad()
    def _average(self) -> None:
        """Take the new weights in; early on the mean is over fewer steps."""
        keep = min(self.how.average, self.steps / (self.steps + 9))
        torch._foreach_lerp_(list(self.mean.parameters()), list(self.model.parameters()), 1 - keep)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)


def _some(count: int, most: int, seed: int) -> Array:
    """Return all places, or some of them by chance, always the same."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _grouped(model: SequenceModel, how: Recipe) -> list[dict[str, object]]:
    """Matrices of the blocks decay; vectors of items, biases and norms do not."""
    blocks = [p for p in model.transformer.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if all(p is not block for block in blocks)]
    return [
        {"params": blocks, "weight_decay": how.decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def batches(sizes: Array, positions: int, random: np.random.Generator) -> Iterator[Array]:
    """Cut all sequences into batches of near lengths, in random order.

    Args:
        sizes: Length of each sequence.
        positions: Of a batch at most, padding included; a batch has at least one sequence.
        random: Shuffles.
    """
    order = np.argsort(sizes * random.uniform(0.95, 1.05, len(sizes)), kind="stable")
    cut, start, longest = list[Array](), 0, 0
    for place, size in enumerate(sizes[order]):
        longest = max(longest, int(size))
        if longest * (place + 1 - start) > positions and place > start:
            cut.append(order[start:place])
            start, longest = place, int(size)
    cut.append(order[start:])
    yield from (cut[place] for place in random.permutation(len(cut)))


def lesson(
    batch: Sequence[History], length: int, how: Recipe, random: np.random.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what the model is fed, and the item that is wanted at each step, 0 for none."""
    windows = [_window(one, length + 1, how.anywhere, random) for one in batch]
    longest = max(len(one["items"]) for one in windows) - 1
    fed = {n: np.zeros((len(batch), longest), a.dtype) for n, a in windows[0].items()}
    targets, hidden = (
        np.zeros((len(batch), longest), np.int64),
        np.zeros((len(batch), longest), bool),
    )
    both_ways = random.random(len(batch)) < how.masked
    for row, (window, masked) in enumerate(zip(windows, both_ways, strict=True)):
        size = len(window["items"]) - 1
        inside = slice(1, None) if masked else slice(None, -1)
        for name, values in window.items():
            fed[name][row, longest - size :] = values[inside]
        targets[row, longest - size :] = window["items"][1:]
        if masked:
            hidden[row, longest - size :] = spans(size, how.hidden, how.span, random)
            targets[row] *= hidden[row]
    tensors = {name: torch.from_numpy(values) for name, values in fed.items()}
    if both_ways.any():
        tensors |= {"hidden": torch.from_numpy(hidden), "both_ways": torch.from_numpy(both_ways)}
    return tensors, torch.from_numpy(targets)


def _window(
    history: History, size: int, anywhere: bool, random: np.random.Generator
) -> dict[str, Array]:
    spare = max(0, len(history["items"]) - size)
    start = int(random.integers(spare + 1)) if anywhere else spare
    return {name: values[start : start + size] for name, values in history.items()}
