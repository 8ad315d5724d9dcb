"""One training from fresh weights, step by step: what optimises, and how far it has come.

A course can be written down after any step and taken up again: the weights at its end are the
same to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamrank.features import inputs
from streamrank.features.inputs import Array
from streamrank.learning.examples import Example
from streamrank.model import losses
from streamrank.model.ranker import Configuration, Ranker, fit_bins
from streamrank.model.rarity import Rarity

ITEMS = ("candidate_items", "history_items")
WORDS = ("candidate_tokens", "context_tokens", "history_values")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How it is learned.

    Attributes:
        epochs: Passes over the examples, at most.
        batch: Lists with feedback a step; with them come as many without as there are.
        rate: Learning rate at its highest.
        decay: Weight decay.
        table_rate: Learning rate of the table of hashed ids, as a share of `rate`: Adam takes a
            step of full length for a row that it sees once, and would learn it by heart.
        word_rate: That of the table of hashed words, of which most lists hold some.
        match_rate: That of what is multiplied, item by user: either factor learns only as far as
            the other one is there already, and falls behind at the rate of the rest.
        average: How much of the averaged weights each step keeps.
        clip: Norm that a gradient is cut to.
        rare: How far a label that is rarer than others counts for more, as `Rarity` takes it.
        tail: The same of items that got the label seldom.
        pretrain: Whether the history's encoder starts from what people did, read without labels.
    """

    epochs: int = 9
    batch: int = 64
    rate: float = 1e-3
    decay: float = 0.02
    average: float = 0.995
    table_rate: float = 0.1
    word_rate: float = 1.0
    match_rate: float = 5.0
    clip: float = 1.0
    rare: float = 0.0
    tail: float = 0.0
    pretrain: bool = False


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
class Course:
    """One training.

    Args:
        config: What the Ranker looks like.
        examples: What it learns from, in time order.
        how: The recipe.
        seed: Of weights, order and dropout.
        start: Weights that it starts from, by name; all others are fresh.
        on_step: Told after each step of how many lists it was, loss (also by head), norm of the
            gradient, rate.
    """

    config: Configuration
    examples: Sequence[Example]
    how: Recipe
    seed: int
    start: Mapping[str, Tensor] = field(default_factory=dict)
    on_step: Callable[[int, dict[str, float]], None] = lambda lists, figures: None
    steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.ranker = fresh(self.config, self.examples)
        self.ranker.load_state_dict(self.start, strict=False)
        self.averaged = Averaged(self.ranker, self.how.average)
        self.optimizer = torch.optim.AdamW(
            grouped(self.ranker, self.how), lr=self.how.rate, fused=True
        )
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._rarity = Rarity.of(self.examples, self.how.rare, self.how.tail)
        labelled = sum(bool(one.labels[:, 0].any()) for one in self.examples)
        self.batches = max(1, -(-labelled // self.how.batch))
        self._factor = warm_cosine(self.batches * self.how.epochs)

    def run(self, epochs: int) -> Iterator[Ranker]:
        """Learn; give the averaged model after each epoch that was not done yet.

        The learning rate falls as for all of the recipe's epochs, so that stopping early gives
        the very model that was measured.

        Args:
            epochs: Where to end, counted from the beginning of the course.
        """
        order = np.random.default_rng(self.seed)
        for epoch in range(epochs):
            places = np.array_split(order.permutation(len(self.examples)), self.batches)
            done = self.steps - epoch * self.batches
            if done >= self.batches:
                continue
            for batch in places[done:]:
                figures = self._step([self.examples[place] for place in batch])
                self.on_step(len(batch), figures)
            yield self.averaged.ranker

    def _step(self, batch: Sequence[Example]) -> dict[str, float]:
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._factor(self.steps)
        self.ranker.train()
        fed = tensors(batch)
        scores = self.ranker(**fed)
        size = scores.shape[1]
        costs = losses.by_head(
            scores,
            targets(batch, size),
            fed["candidate_items"] != 0,
            weights=None if self._rarity is None else self._rarity.weights(batch, size),
        )
        loss = costs.sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.ranker.parameters(), self.how.clip)
        self.optimizer.step()
        self.averaged.update(self.ranker)
        self.steps += 1
        rate = self.optimizer.param_groups[-1]["lr"]
        heads = zip(self.config.heads, costs.tolist(), strict=True)
        return {"loss": loss.item(), "gradient": norm.item(), "rate": rate} | {
            f"loss/{head}": cost for head, cost in heads
        }

    def state(self) -> dict[str, Tensor]:
        """Return all that the next steps follow from."""
        found = {f"ranker.{name}": value for name, value in self.ranker.state_dict().items()}
        means = self.averaged.ranker.state_dict()
        found |= {f"averaged.{name}": value for name, value in means.items()}
        for place, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{place}.{name}": value for name, value in state.items()}
        return found | {"random": torch.get_rng_state(), "steps": torch.tensor(self.steps)}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is not of such a course.
        """
        try:
            self._resume(state)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"the state must be of this course: {error}") from None

    def _resume(self, state: Mapping[str, Tensor]) -> None:
        self.ranker.load_state_dict(_part(state, "ranker."))
        self.averaged.ranker.load_state_dict(_part(state, "averaged."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(state, "optimizer.").items():
            place, _, kind = name.partition(".")
            moments.setdefault(int(place), {})[kind] = value
        known = self.optimizer.state_dict()
        self.optimizer.load_state_dict(known | {"state": moments})
        torch.set_rng_state(state["random"])
        self.steps = self.averaged.steps = int(state["steps"])


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}


def tensors(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the model's inputs for a batch."""
    stacked = inputs.stack([example.inputs for example in examples])
    return {name: torch.from_numpy(array) for name, array in stacked.items()}


def targets(examples: Sequence[Example], size: int) -> Tensor:
    """Return the labels of a batch, padded, (B, C, heads)."""
    labels = torch.zeros(len(examples), size, examples[0].labels.shape[1])
    for row, example in zip(labels, examples, strict=True):
        row[: len(example.labels)] = torch.from_numpy(implied(example.labels))
    return labels


def implied(labels: Array) -> Array:
    """Return labels of which none comes without those before it, (C, heads).

    What somebody bought was chosen, whether or not the log says by which click.

    Examples:
        >>> implied(np.array([[1, 0], [0, 1], [0, 0]])).tolist()
        [[1, 0], [1, 1], [0, 0]]
    """
    return np.maximum.accumulate(labels[:, ::-1], axis=1)[:, ::-1].copy()


def fresh(config: Configuration, examples: Sequence[Example]) -> Ranker:
    """Return a Ranker that knows quantiles and frequencies of what it is to learn from.

    It begins with every candidate as likely as they are on average.
    """
    numbers = np.concatenate([one.inputs["candidate_numbers"] for one in examples])
    shared = np.stack([one.inputs["context_numbers"] for one in examples])
    ranker = Ranker(config, fit_bins(numbers, config.bins), fit_bins(shared, config.bins))
    ranker.steps.items.fit(once_a_list(examples, ITEMS))
    ranker.steps.words.fit(once_a_list(examples, WORDS))
    usual = usual_log_odds(np.concatenate([implied(one.labels) for one in examples]))
    ranker.adjust(torch.ones(len(usual)), torch.from_numpy(usual).float())
    return ranker


def usual_log_odds(labels: Array) -> Array:
    """Return the log-odds of each head, of the second one given the first, (heads,).

    One of each kind is counted in, so that nothing is sure.

    Examples:
        >>> usual_log_odds(np.array([[1, 0], [0, 0], [0, 0]])).round(2).tolist()
        [-0.41, -0.69]
    """
    got = (labels > 0).sum(0, dtype=np.float64)
    of = np.array([len(labels), *got[:-1]])
    return np.asarray(np.log((got + 1) / (of - got + 1)))


def once_a_list(examples: Sequence[Example], names: Sequence[str]) -> Array:
    """Return the hashes of some inputs, each one once for every list that holds it."""
    return np.concatenate(
        [
            np.unique(np.concatenate([one.inputs[name].ravel() for name in names]))
            for one in examples
        ]
    )


def grouped(ranker: Ranker, how: Recipe) -> list[dict[str, Any]]:
    """Weights decay; biases and norms, which have one axis, do not; each has its rate."""
    items, words = ranker.steps.items.table.weight, ranker.steps.words.table.weight
    factors = [ranker.item.weight, ranker.user.weight]
    apart = {id(one) for one in (items, words, *factors)}
    rest = [one for one in ranker.parameters() if id(one) not in apart]
    return [
        {"params": [items], "weight_decay": how.decay, "lr": how.rate * how.table_rate},
        {"params": [words], "weight_decay": how.decay, "lr": how.rate * how.word_rate},
        {"params": factors, "weight_decay": how.decay, "lr": how.rate * how.match_rate},
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": how.decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
    ]


def warm_cosine(steps: int, warm: float = 0.05) -> Callable[[int], float]:
    """Rise over the first steps, then fall to 0 along half a cosine."""
    rise = max(1, round(warm * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, steps - rise))))

    return factor
