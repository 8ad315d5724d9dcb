"""Learning goes on: small updates of a Ranker from what just happened, mixed with the past.

Each update learns from the newest lists and about three times as many old ones, drawn from a
reservoir.  An old list has been learned from before; to learn its labels again and again would be
to learn them by heart.  A share of what it teaches (`Online.recall`) is rather what was thought
of it once it was learned: the past holds the model where it was, the newest lists move it.

What is handed out is the running mean of the weights.  Everything follows from the seed and the
lists, in their order: a learner that was stopped and resumed ends with the very same weights.

New items need no rows: their hashes have some.  How far a row is trusted grows with the lists
that hold it, as in training.

References:
    Buzzega et al., NeurIPS 2020, "Dark experience for general continual learning: a strong, simple
    baseline" (old examples with the outputs of then).
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamrank.features import inputs
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example, decode_example
from streamrank.learning.negatives import shortened
from streamrank.learning.reservoir import Reservoir
from streamrank.model import artifact, course, export, losses, training
from streamrank.model.artifact import Exported
from streamrank.model.course import ITEMS, WORDS, Recipe, implied
from streamrank.model.export import ExportFailed
from streamrank.model.injection import Graph, NotInjectable
from streamrank.model.ranker import FAMILIAR, Bins, Buckets, Ranker, Size, configure
from streamrank.model.training import Trained

PROBE = 8
"""Lists, the newest, that a version is tried on before it serves."""


@dataclass(frozen=True, slots=True)
class Online:
    """How it goes on learning.

    Attributes:
        rate: Learning rate.
        table_rate: That of the vectors of ids, as a share of it.
        decay: Weight decay.
        average: How much of the running mean each step keeps.
        clip: Norm that a gradient is cut to.
        batch: Lists a step.
        replay: Old lists for every new one.
        recall: Share of an old list's labels that is what was thought of it, from 0, its labels
            alone, to 1, its thought alone.  A list too long to be learned from whole has its
            labels alone.
        memory: Old lists that are remembered.
        fading: Whether newer ones are remembered better; else all of them alike.
        negatives: Candidates of a list that are learned from; a longer one is sampled.
    """

    rate: float = 1e-3
    table_rate: float = 1.0
    decay: float = 0.02
    average: float = 0.95
    clip: float = 1.0
    batch: int = 64
    replay: float = 3.0
    recall: float = 0.5
    memory: int = 2000
    fading: bool = False
    negatives: int = 200


@dataclass(frozen=True, slots=True)
class Updated:
    """What one update did.

    Attributes:
        lists: New lists that it learned from.
        corrections: Lists of before whose labels were corrected.
        replayed: Old lists that it learned from again.
        losses: Of each step.
        seconds: How long it took.
    """

    lists: int
    corrections: int
    replayed: int
    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """A list as it is learned from.

    Attributes:
        example: The list, no longer than can be afforded.
        added: What its sample adds to the scores, (C,).
        heads: Which heads learn from it, (heads,).
    """

    example: Example
    added: Array
    heads: Array


class Learner:
    """A Ranker that goes on learning.

    Args:
        ranker: Where it starts from.
        schema: What its inputs are made of.
        size: How large it is.
        seed: Of what is drawn from the past, of order and of dropout.
        recipe: How it learns.

    Attributes:
        updates: Updates so far.
        lists: Lists learned from so far, each counted once.
        steps: Steps so far.
        memory: The past.
        mean: The Ranker with the running mean of the weights: what is handed out.
        graph: What they are handed out in; made with the first export, which takes seconds.
    """

    def __init__(
        self, ranker: Ranker, schema: Schema, size: Size, seed: int, recipe: Online
    ) -> None:
        self.schema, self.size, self.seed, self.recipe = schema, size, seed, recipe
        self.updates = self.lists = self.steps = 0
        self.memory = Reservoir[Example](size=recipe.memory, fading=recipe.fading, seed=seed)
        self._thoughts: dict[str, Array] = {}  # of lists in memory, by id
        self._newest: list[Example] = []
        self.graph: Graph | None = None
        self._injectable = True
        self._start(ranker)

    @classmethod
    def begin(
        cls,
        weights: Mapping[str, Array],
        schema: Schema,
        size: Size = "small",
        seed: int = 0,
        recipe: Online | None = None,
    ) -> Learner:
        """Begin from the weights of a version.

        Raises:
            ValueError: They are not those of such a Ranker.
        """
        return cls(ranker_of(weights, schema, size), schema, size, seed, recipe or Online())

    def go_back(self, weights: Mapping[str, Array]) -> None:
        """Go on from the weights of another version; what was learned since is forgotten.

        The past that is remembered stays, but not what was thought of it.
        """
        self._thoughts = {}
        self._start(ranker_of(weights, self.schema, self.size))

    def _start(self, ranker: Ranker) -> None:
        self.mean = ranker.eval().requires_grad_(False)
        self._ranker = copy.deepcopy(ranker).requires_grad_(True)
        how = self.recipe
        groups = course.grouped(
            self._ranker,
            Recipe(rate=how.rate, decay=how.decay, table_rate=how.table_rate),
        )
        self._optimizer = torch.optim.AdamW(groups, lr=how.rate, fused=True)

    # --- learning -----------------------------------------------------------------------------

    def update(self, fresh: Sequence[Example], *, most: int | None = None) -> Updated:
        """Learn from new lists, oldest first, and from old ones beside them.

        A list with a revision corrects one from before: only those of its labels count that
        were not learned then.

        Args:
            fresh: The lists.
            most: New lists for which old ones come beside; beyond, the new ones come alone.
        """
        begun = time.monotonic()
        self._think()  # of lists that were remembered, as the weights that know them have it
        new = [one for one in fresh if not one.revision]
        corrections = [one for one in fresh if one.revision]
        with_old = len(new) if most is None else min(most, len(new))
        old = self.memory.draw(round(self.recipe.replay * with_old), turn=self.updates)
        random = np.random.default_rng([self.seed, 2, self.updates])
        lessons = [self._lesson(one, random) for one in (*new, *map(self._recalled, old))]
        lessons += [self._correction(one, random) for one in corrections]
        for table, names in ((self._ranker.steps.items, ITEMS), (self._ranker.steps.words, WORDS)):
            familiarise(table, course.once_a_list(new, names) if new else np.zeros(0, np.int64))
        losses = tuple(self._learn(lessons, random))
        self._remember(new, corrections)
        return Updated(len(new), len(corrections), len(old), losses, time.monotonic() - begun)

    def _lesson(self, example: Example, random: np.random.Generator) -> Lesson:
        short, added = shortened(example, self.recipe.negatives, random)
        return Lesson(short, added, np.ones(example.labels.shape[1], np.bool_))

    def _think(self) -> None:
        """Note what is thought of the lists in memory of which that is not known."""
        known = self._thoughts
        new = [one for one in self.memory.kept if one.id not in known and self._whole(one)]
        for one, scores in zip(new, self.scored(new), strict=True):
            known[one.id] = scores

    def _whole(self, example: Example) -> bool:
        return bool(self.recipe.recall) and len(example.labels) <= self.recipe.negatives

    def _recalled(self, example: Example) -> Example:
        """Return an old list with what was thought of it as its labels, or a part of these."""
        if not self._whole(example):
            return example
        share = self.recipe.recall
        thought = torch.from_numpy(self._thoughts[example.id]).sigmoid().numpy()
        labels = (1 - share) * implied(example.labels) + share * thought
        return dataclasses.replace(example, labels=np.asarray(labels, np.float32))

    def _correction(self, example: Example, random: np.random.Generator) -> Lesson:
        """Return what a correction adds: the labels that were not known, and their heads alone."""
        known = next((one for one in self.memory.kept if one.id == example.id), None)
        before = np.zeros_like(example.labels)
        if known is not None and known.labels.shape == before.shape:
            before = known.labels
        elif before.shape[1] > 1:
            # What comes late is the conversion; the rest of it was learned when it came.
            before[:, 0] = example.labels[:, 0]
        late = np.asarray(example.labels - before).clip(min=0)
        lesson = self._lesson(dataclasses.replace(example, labels=late), random)
        return dataclasses.replace(lesson, heads=np.asarray(late.any(axis=0)))

    def _learn(self, lessons: Sequence[Lesson], random: np.random.Generator) -> Iterator[float]:
        """Take the steps of one update, and the running mean with each."""
        if not lessons:
            return
        order = random.permutation(len(lessons))
        seed = int(np.random.SeedSequence([self.seed, self.updates]).generate_state(1)[0])
        with training.repeatable(seed):
            self._ranker.train()
            for part in np.array_split(order, -(-len(lessons) // self.recipe.batch)):
                yield self._step([lessons[place] for place in part])

    def _step(self, lessons: Sequence[Lesson]) -> float:
        examples = [one.example for one in lessons]
        fed = course.tensors(examples)
        scores = self._ranker(**fed)  # (B, C, heads)
        size = scores.shape[1]
        added = torch.from_numpy(np.stack([_padded(one.added, size) for one in lessons]))
        heads = torch.from_numpy(np.stack([one.heads for one in lessons]))
        scores = torch.where(heads[:, None], scores, scores.detach())
        loss = losses.loss_of(
            scores, course.targets(examples, size), seen(examples, fed), rates=torch.exp(-added)
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._ranker.parameters(), self.recipe.clip)
        if torch.isfinite(norm):  # one list with a number that is none would ruin all weights
            self._optimizer.step()
        self.steps += 1
        self._average()
        return float(loss.item())

    @torch.no_grad()
    def _average(self) -> None:
        for mean, new in zip(self.mean.parameters(), self._ranker.parameters(), strict=True):
            mean.lerp_(new, 1 - self.recipe.average)
        for kept, now in zip(self.mean.buffers(), self._ranker.buffers(), strict=True):
            kept.copy_(now)

    def remember(self, example: Example) -> None:
        """Remember a list that the weights have learned from already."""
        self.lists += 1
        self.memory.take(example)
        self._newest = [*self._newest, example][-PROBE:]

    def _remember(self, new: Sequence[Example], corrections: Sequence[Example]) -> None:
        self.updates += 1
        self.lists += len(new)
        for one in new:
            self.memory.take(one)
        corrected = {one.id: dataclasses.replace(one, revision=0) for one in corrections}
        if corrected:
            self.memory.replace(lambda one: corrected.get(one.id))
        kept = {one.id for one in self.memory.kept} - corrected.keys()
        self._thoughts = {name: one for name, one in self._thoughts.items() if name in kept}
        self._think()
        self._newest = [*self._newest, *new][-PROBE:]

    # --- what came of it ----------------------------------------------------------------------

    def scored(self, examples: Sequence[Example]) -> list[Array]:
        """Return the scores of lists by the mean weights, by PyTorch, (C, heads) each."""
        return training.scored(self.mean, examples)

    def weights(self) -> dict[str, Array]:
        """Return the mean weights of now by their names in PyTorch; later updates change others."""
        return {name: array.copy() for name, array in _arrays(self.mean).items()}

    def exported(self) -> Exported:
        """Return a version to prove: its weights in a graph that is there, and not folded yet.

        That the graph does what the model does was seen when it was made; whoever may publish a
        version sees it again, on lists and on the probe (`learning.gate`, `edges.registry`).
        Where the graph cannot take the weights, it is exported anew, which takes seconds.

        Raises:
            ExportFailed: The probe's scores are not finite, or a new graph does not do what the
                model does.
        """
        injected = self._injected()
        if injected is None:
            examples = tuple(self._newest)
            return artifact.exported(Trained(self.mean, self.schema, self.size, {}, 0, examples))
        probe = self._probe()
        expected = export.run(self.mean, probe)
        if not np.isfinite(expected).all():
            raise ExportFailed("scores must be finite, got NaN or infinity")
        graph, structure = injected
        return Exported(graph, self.weights(), self.mean.config.heads, probe, expected, structure)

    def _probe(self) -> inputs.Inputs:
        if not self._newest:
            return export.random_inputs(self.mean.config, 2, 3, 5)
        return inputs.stack([example.inputs for example in self._newest])

    def _injected(self) -> tuple[bytes, bytes] | None:
        """Return the graph with the mean weights and without, `None` where it cannot take them."""
        for _ in range(2):
            try:
                if self.graph is None and self._injectable:
                    self.graph = Graph.of(self.mean)
            except NotInjectable:
                self._injectable = False
            if self.graph is None:
                return None
            try:
                return self.graph.with_weights(_arrays(self.mean)), self.graph.encode()
            except NotInjectable:  # it went back to a version with other bins
                self.graph = None
        return None

    # --- stopped and resumed ------------------------------------------------------------------

    def state(self) -> dict[str, Array]:
        """Return all that it takes to go on exactly, as arrays."""
        arrays = {f"weights.{n}": array.copy() for n, array in _arrays(self._ranker).items()}
        arrays |= {f"mean.{name}": array for name, array in self.weights().items()}
        for name, weight in self._ranker.named_parameters():
            for key, moment in self._optimizer.state.get(weight, {}).items():
                arrays[f"{key}.{name}"] = moment.numpy().copy()
        counts = [self.updates, self.lists, self.steps, self.memory.seen, len(self.memory.kept)]
        lists = [one.encode() for one in (*self.memory.kept, *self._newest)]
        thoughts = [self._thoughts.get(one.id) for one in self.memory.kept]
        thought = [one.ravel() for one in thoughts if one is not None]
        return arrays | {
            "thoughts": np.concatenate([np.zeros(0, np.float32), *thought]),
            "thought": np.array([one is not None for one in thoughts], np.bool_),
            "counts": np.array(counts, np.int64),
            "lists": np.frombuffer(b"".join(lists), np.uint8),
            "ends": np.cumsum([len(one) for one in lists], dtype=np.int64),
        }

    @classmethod
    def resume(
        cls,
        state: Mapping[str, Array],
        schema: Schema,
        size: Size = "small",
        seed: int = 0,
        recipe: Online | None = None,
    ) -> Learner:
        """Go on from what `state` returned: the same lists then give the same weights.

        Raises:
            ValueError: It is no state of such a learner.
        """
        learner = cls.begin(below(state, "mean."), schema, size, seed, recipe)
        learner._ranker.load_state_dict(_tensors(below(state, "weights.")))
        for name, weight in learner._ranker.named_parameters():
            moments = {key: state.get(f"{key}.{name}") for key in MOMENTS}
            if all(found is not None for found in moments.values()):
                learner._optimizer.state[weight] = {
                    key: torch.from_numpy(np.array(found)) for key, found in moments.items()
                }
        learner.updates, learner.lists, learner.steps, seen, kept = map(int, state["counts"])
        ends = state["ends"].tolist()
        lists = [
            decode_example(state["lists"][first:last].tobytes())
            for first, last in zip([0, *ends], ends, strict=False)
        ]
        learner.memory.kept, learner.memory.seen = lists[:kept], seen
        learner._newest = lists[kept:]
        if "thought" in state:  # else it is from before there was any
            learner._remind(state["thought"], state["thoughts"])
        return learner

    def _remind(self, thought: Array, thoughts: Array) -> None:
        """Take up what was thought of the lists in memory that something was thought of."""
        of = [one for one, known in zip(self.memory.kept, thought, strict=True) if known]
        ends = np.cumsum([one.labels.size for one in of], dtype=np.int64)
        for one, scores in zip(of, np.split(thoughts, ends[:-1]), strict=False):
            self._thoughts[one.id] = scores.reshape(one.labels.shape)


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight."""


def ranker_of(weights: Mapping[str, Array], schema: Schema, size: Size) -> Ranker:
    """Return the Ranker that has these weights.

    Raises:
        ValueError: They are those of another one: of another schema or size.
    """
    try:
        candidate, context = (
            Bins(*(torch.from_numpy(weights[f"{part}_bins.{n}"]) for n in BINS))
            for part in ("candidate", "context")
        )
        ranker = Ranker(configure(schema, size), candidate, context)
        ranker.load_state_dict(_tensors(weights))
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"weights must be those of a {size} ranker: {reason}") from None
    return ranker


BINS = ("feature", "low", "scale")


def familiarise(table: Buckets, hashes: Array) -> None:
    """Trust the vectors of hashes more, by as many lists as hold them.

    Args:
        table: Its trust is n / (n + 100) after n lists.
        hashes: Each hash once for every list that holds it.

    Examples:
        >>> table = Buckets(rows=10, width=2)
        >>> for _ in range(100):
        ...     familiarise(table, np.array([3]))
        >>> round(float(table.trust[table.place(torch.tensor(3))].item()), 3)
        0.5
    """
    counts = torch.bincount(table.place(torch.from_numpy(hashes)), minlength=table.rows).double()
    counts[0] = 0
    trust = table.trust[:, 0].double()
    known = FAMILIAR * trust / (1 - trust) + counts
    table.trust.copy_((known / (known + FAMILIAR))[:, None])


def seen(examples: Sequence[Example], fed: Mapping[str, Tensor]) -> Tensor:
    """Return which candidates count, (B, C): those that are there and were not cut off.

    What nobody could see was not turned down; to learn that it was would be to learn one's own
    order.
    """
    there = fed["candidate_items"] != 0
    for row, example in zip(there, examples, strict=True):
        if example.shown is not None:
            row[: len(example.shown)] &= torch.from_numpy(example.shown >= 0)
    return there


def _padded(added: Array, size: int) -> Array:
    return np.pad(added, (0, size - len(added)))


def _arrays(ranker: Ranker) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in ranker.state_dict().items()}


def _tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def below(state: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays whose names begin with a prefix, without it.

    Examples:
        >>> list(below({"a.x": np.zeros(1), "b.x": np.ones(1)}, "a."))
        ['x']
    """
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }
