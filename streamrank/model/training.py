"""From examples to a trained Ranker: order and probability, in time order, the same twice on a CPU.

The last part in time validates, and decides how long to learn: to the last epoch that is not
clearly worse than the best.  Then all examples are learned from for as long, so that the newest
ones are not lost.  What the probabilities of the lists held out were off by is put right in the
end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from streamrank.evaluation.learned import Learned
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.model import calibration, checkpoint, pretraining, validation
from streamrank.model.calibration import Calibration
from streamrank.model.checkpoint import Checkpoint
from streamrank.model.course import (
    ITEMS,
    WORDS,
    Averaged,
    Course,
    Recipe,
    fresh,
    grouped,
    implied,
    once_a_list,
    targets,
    tensors,
)
from streamrank.model.losses import loss_of
from streamrank.model.ranker import Configuration, Ranker, Size, configure
from streamrank.model.validation import enough, means, orderable

__all__ = [
    "ITEMS",
    "WORDS",
    "Averaged",
    "Course",
    "Progress",
    "Recipe",
    "Trained",
    "checked",
    "enough",
    "fresh",
    "grouped",
    "loss_of",
    "means",
    "measured",
    "once_a_list",
    "repeatable",
    "scored",
    "targets",
    "tensors",
    "train",
]

VALIDATED = 0.15
"""Share of the lists with feedback, the last in time, that chooses the epoch."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is.

    Attributes:
        stage: `"pre-training"`, `"choosing"` (how many epochs) or `"fine-tuning"` (from all
            examples).
        done: Lists learned from so far, over all stages.
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
        metrics: Of the lists held out, before they were learned from: order, and probabilities.
        epochs: How many passes were best on them.
        examples: A few lists it has learned from, newest last.
        systems: How well those lists were ordered by it and by the orders that need no model.
        learned: What it learned from.
        calibration: How sure it may be, as the lists held out said before it had learned from
            them, and how often the label comes, as they say after it has; it is in the weights.
    """

    ranker: Ranker
    schema: Schema
    size: Size
    metrics: Mapping[str, float]
    epochs: int
    examples: tuple[Example, ...]
    systems: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    learned: Learned | None = None
    calibration: Calibration | None = None


def train(
    examples: Sequence[Example],
    schema: Schema,
    *,
    size: Size = "small",
    epochs: int = 9,
    seed: int = 0,
    logs: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    recipe: Recipe | None = None,
    checkpoint_file: Path | None = None,
    taught: Callable[[Sequence[Example]], Sequence[Example]] | None = None,
) -> Trained:
    """Train a Ranker.

    Its scores order the candidates of a list, and are the log-odds of the label; a second head's
    are those of label and conversion.  The odds are those of lists like the examples: where only
    lists with feedback were logged, of a list of which something gets the label.

    Args:
        examples: Lists with their labels, in the order in which they were shown; those without
            any label teach the probabilities.
        schema: What their inputs are made of.
        size: How large a model.
        epochs: Passes over the examples, at most.
        seed: Of weights, order and dropout.
        logs: Folder for TensorBoard.
        on_progress: Told after every step.
        recipe: How to learn, instead of the usual; its epochs count.
        checkpoint_file: Where it is written down how far training is.  An earlier training of
            the same lists and settings goes on from there, and ends with the same weights.
        taught: Gives lists the labels that are learned instead of their own, such as
            `distillation.softened`; the lists held out are judged by their own.

    Raises:
        ValueError: No list has a label, all are of one class, or time goes backwards.
    """
    usable, how = checked(examples), recipe or Recipe(epochs=epochs)
    saved: Checkpoint | None = None
    if checkpoint_file is not None:
        of = checkpoint.digest(usable, schema.encode(), size, seed, sorted(asdict(how).items()))
        saved = Checkpoint(checkpoint_file, of)
    with repeatable(seed), _writer(logs) as writer:
        run = _Run(configure(schema, size), how, seed, writer, saved, on_progress, taught)
        older, newer = split(usable)
        run.clock.total = how.epochs * (len(older) * bool(newer) + len(usable))
        best, figures, systems = how.epochs, dict[str, float](), dict[str, dict[str, float]]()
        fitted = Calibration.none(len(run.config.heads))
        if newer:
            curve = run.choose(older, newer)
            best = enough([_ndcg(scores, newer) for scores in curve])
            chosen = curve[best - 1]
            systems = validation.compared(chosen, newer, schema)
            heads = run.config.heads
            figures = systems["streamrank"] | validation.probabilities(chosen, newer, heads)
            fitted = calibration.fit(chosen, [implied(one.labels) for one in newer])
        run.clock.total = run.clock.done + best * len(usable)
        ranker = run.finish(usable, best)
        if newer:  # how sure it may be, only what it had not seen told; how often, it is asked
            seen = scored(ranker, newer)
            fitted = calibration.fit(seen, [implied(one.labels) for one in newer], fitted.scale)
        ranker.adjust(fitted.scale, fitted.shift)
        return Trained(
            ranker,
            schema,
            size,
            figures,
            best,
            tuple(usable[-8:]),
            systems,
            Learned.of(usable, run.config.heads),
            fitted,
        )


def checked(examples: Sequence[Example]) -> list[Example]:
    """Return the lists, which have something to teach.

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
    if not any(map(orderable, labelled)):
        raise ValueError(
            "examples must have candidates with and without the label, "
            f"got only such with it in {len(labelled)} lists"
        )
    return [one for one in examples if len(one.labels)]


def split(examples: Sequence[Example]) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split in time: the last lists are held out, or none where either part could teach nothing.

    Lists count by those that say something about order.
    """
    places = [place for place, one in enumerate(examples) if orderable(one)]
    held = round(VALIDATED * len(places))
    if not 0 < held < len(places):
        return examples, ()
    border = places[len(places) - held]
    return examples[:border], examples[border:]


def measured(ranker: Ranker, examples: Sequence[Example]) -> dict[str, float]:
    """Return the mean metrics of the label's head, the mean of two slices in time."""
    return means(validation.per_list(scored(ranker, examples), examples))


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


def _ndcg(scores: Sequence[Array], examples: Sequence[Example]) -> Array:
    return np.array([one["ndcg@10"] for one in validation.per_list(scores, examples)])


class _Clock:
    """Tells how far training is."""

    def __init__(self, listener: Callable[[Progress], None] | None) -> None:
        self.listener = listener
        self.total = self.done = self.before = 0
        self.started = time.monotonic()

    def skip(self, lists: int) -> None:
        """Count lists that an earlier training has learned from."""
        self.done += lists
        self.before += lists

    def tick(self, stage: str, lists: int, loss: float) -> None:
        self.done += lists
        if self.listener is not None:
            rate = (self.done - self.before) / max(1e-9, time.monotonic() - self.started)
            self.listener(Progress(stage, self.done, self.total, rate, loss))


class _Run:
    """Both courses of a training, written down as they go."""

    def __init__(
        self,
        config: Configuration,
        how: Recipe,
        seed: int,
        writer: SummaryWriter | None,
        saved: Checkpoint | None,
        on_progress: Callable[[Progress], None] | None,
        taught: Callable[[Sequence[Example]], Sequence[Example]] | None = None,
    ) -> None:
        self.config, self.how, self.seed, self.taught = config, how, seed, taught
        self.writer, self.saved = writer, saved
        self.on_progress, self.clock = on_progress, _Clock(on_progress)
        self.state = (saved.load() if saved else None) or {}
        self.held: list[Tensor] = []

    def choose(self, older: Sequence[Example], newer: Sequence[Example]) -> list[list[Array]]:
        """Learn from the older lists; return the scores of the newer ones after each epoch."""
        self.held = [self.state[name] for name in sorted(self.state) if name.startswith("held.")]
        borders = np.cumsum([len(one.labels) for one in newer])[:-1]
        if len(self.held) < self.how.epochs:
            course = self._course("choosing", older)
            for ranker in course.run(self.how.epochs):
                scores = np.concatenate(scored(ranker, newer))
                self.held.append(torch.from_numpy(scores))
                self._save(course, "choosing")
        else:
            self.clock.skip(self.how.epochs * len(older))
        curve = [np.split(scores.numpy(), borders) for scores in self.held]
        for epoch, lists in enumerate(curve, 1):
            self._show(epoch, lists, newer)
        return curve

    def finish(self, examples: Sequence[Example], epochs: int) -> Ranker:
        """Learn from all lists; return the averaged model."""
        course = self._course("fine-tuning", examples)
        for _ in course.run(epochs):
            self._save(course, "fine-tuning")
        ranker = course.averaged.ranker
        if self.writer is not None:
            newest = scored(ranker, examples[-256:])
            self._histogram("fine-tuning", np.concatenate(newest), epochs)
        return ranker

    def _course(self, stage: str, examples: Sequence[Example]) -> Course:
        begun = f"{stage}.steps" in self.state
        start = {} if begun or not self.how.pretrain else self._pretrained(stage, examples)
        learned = examples if self.taught is None else self.taught(examples)
        course = Course(self.config, learned, self.how, self.seed, start)
        if begun:
            parts = self.state.items()
            course.resume({n.removeprefix(f"{stage}."): v for n, v in parts})
            self.clock.skip(round(course.steps / course.batches * len(examples)))

        def on_step(lists: int, figures: dict[str, float]) -> None:
            self.clock.tick(stage, lists, figures["loss"])
            _log(self.writer, {f"{stage}/{name}": v for name, v in figures.items()}, course.steps)
            if course.steps % course.batches and self.saved is not None and self.saved.due():
                self._save(course, stage)

        course.on_step = on_step
        return course

    def _pretrained(self, stage: str, examples: Sequence[Example]) -> Mapping[str, Tensor]:
        def tell(now: pretraining.Progress) -> None:
            if self.on_progress is not None:
                told = Progress("pre-training", now.done, now.total, now.rate, now.loss)
                self.on_progress(told)

        writer = self.writer if stage == "fine-tuning" else None
        return pretraining.pretrain(
            examples, self.config, seed=self.seed, writer=writer, on_progress=tell
        )

    def _save(self, course: Course, stage: str) -> None:
        if self.saved is not None:
            state = {f"{stage}.{name}": value for name, value in course.state().items()}
            self.saved.save(state | {f"held.{n:04d}": one for n, one in enumerate(self.held)})

    def _show(self, epoch: int, scores: Sequence[Array], newer: Sequence[Example]) -> None:
        if self.writer is None:
            return
        figures = means(validation.per_list(scores, newer))
        figures |= validation.probabilities(scores, newer, self.config.heads)
        _log(self.writer, {f"validation/{name}": v for name, v in figures.items()}, epoch)
        self._histogram("validation", np.concatenate(scores), epoch)

    def _histogram(self, stage: str, scores: Array, epoch: int) -> None:
        assert self.writer is not None  # noqa: S101  # whoever calls has looked
        for name, column in zip(self.config.heads, scores.T, strict=True):
            self.writer.add_histogram(f"{stage}/scores/{name}", column, epoch)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
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
