"""New weights into a graph that is there: an export costs seconds, this milliseconds.

The exporter renames weights, transposes them, folds them and stores equal ones once.  So the
structure is exported once with numbers that are all different, and every number of the graph
tells by its value which number of which weight it is.  What the learner never changes, such as
the edges of the bins, stays in the graph as it is.

A graph that is more than its weights in another order (a product of two that was folded) is
found out, because it does not score as PyTorch does: `Graph.of` refuses it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from streamrank.errors import StreamRankError
from streamrank.features.inputs import Array
from streamrank.model import export
from streamrank.model.ranker import Buckets, Ranker


class NotInjectable(StreamRankError):
    """The graph does not hold the weights as they are, or these are of another structure."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An initialiser that is one weight, as it stands or transposed."""

    weight: str
    transposed: bool


@dataclass(frozen=True, slots=True)
class Numbers:
    """An initialiser whose numbers come from many weights, or from one in another order.

    Attributes:
        places: For each number its place among all small weights, laid end to end; -1 for a
            constant, which stays.
    """

    places: Array


@dataclass
class Graph:
    """A graph, and where in it each weight is.

    Attributes:
        model: The graph, with any weights.
        sources: What each initialiser is made of, by its place in the graph.
        fixed: What never changes, by name, as it is in the graph.
        small: Names of the weights that `Numbers` counts through.
    """

    model: onnx.ModelProto
    sources: Mapping[int, Whole | Numbers]
    fixed: Mapping[str, Array]
    small: tuple[str, ...]

    @classmethod
    def of(cls, ranker: Ranker, exporter: Callable[[Ranker], bytes] = export.to_onnx) -> Graph:
        """Export the structure of a Ranker, and find its weights in it.

        Args:
            ranker: A Ranker in evaluation mode, with any weights.
            exporter: Makes the graph.

        Raises:
            NotInjectable: The graph with its weights does not score as PyTorch does.
        """
        marked = _marked(ranker)
        model = onnx.load_from_string(exporter(marked))
        state = _arrays(marked)
        changing = _changing(ranker)
        small = tuple(name for name in state if name in changing - _tables(ranker))
        graph = cls(
            model=model,
            sources=_sources(model, {name: state[name] for name in changing}, small),
            fixed={name: array for name, array in state.items() if name not in changing},
            small=small,
        )
        graph.verify(ranker)
        return graph

    def with_weights(self, weights: Mapping[str, Array]) -> bytes:
        """Return the graph with other weights.

        Args:
            weights: All that `Ranker.state_dict` names.

        Raises:
            NotInjectable: What the graph holds as constants is another here.
        """
        for name, array in self.fixed.items():
            if not np.array_equal(array, weights[name]):
                raise NotInjectable(f"{name} must be as in the graph, got other values")
        flat = _flat(weights, self.small)
        for place, source in self.sources.items():
            tensor = self.model.graph.initializer[place]
            tensor.raw_data = _filled(tensor, source, weights, flat).tobytes()
        filled: bytes = self.model.SerializeToString()
        return filled

    def verify(self, ranker: Ranker) -> None:
        """Compare the graph, with the Ranker's weights, with the Ranker.

        Raises:
            NotInjectable: They do not score alike.
        """
        batches = [export.random_inputs(ranker.config, *shape) for shape in SHAPES]
        try:
            export.check(self.with_weights(_arrays(ranker)), ranker, batches)
        except export.ExportFailed as error:
            raise NotInjectable(f"graph must hold the weights as they are: {error}") from None


SHAPES = ((2, 3, 7), (1, 0, 1))
"""Lists, steps and candidates at which graph and model are compared."""


def _marked(ranker: Ranker) -> Ranker:
    """Return a copy whose small weights hold each number once, and its tables any."""
    marked = copy.deepcopy(ranker).eval()
    changing, tables = _changing(ranker), _tables(ranker)
    random = np.random.default_rng(0)
    state = marked.state_dict()
    total = sum(state[name].numel() for name in changing - tables)
    # So large that no constant of a graph is among them; in an order that hides no transpose.
    ladder = ((1 + np.arange(total) / max(1, total)) * 2.0**40).astype(np.float32)
    numbers = random.permutation(ladder)
    for name in (name for name in state if name in changing):
        shape, count = tuple(state[name].shape), state[name].numel()
        if name in tables:
            found = random.random(shape, np.float32)
        else:
            found, numbers = numbers[:count].reshape(shape), numbers[count:]
        state[name].copy_(torch.from_numpy(found))
    return marked


def _changing(ranker: Ranker) -> set[str]:
    """Return what learning changes: the weights, and how far the vectors of ids are trusted."""
    weights = {name for name, _ in ranker.named_parameters()}
    return weights | _tables(ranker)


def _tables(ranker: Ranker) -> set[str]:
    """Return the names of what is large: the vectors of ids and words, and their trust."""
    kept = {id(part.table.weight) for part in ranker.modules() if isinstance(part, Buckets)}
    kept |= {id(part.trust) for part in ranker.modules() if isinstance(part, Buckets)}
    return {
        name for name, tensor in ranker.state_dict(keep_vars=True).items() if id(tensor) in kept
    }


def _sources(
    model: onnx.ModelProto, weights: Mapping[str, Array], small: tuple[str, ...]
) -> dict[int, Whole | Numbers]:
    by_content = {array.tobytes() + str(array.shape).encode(): n for n, array in weights.items()}
    flat = _flat(weights, small)
    order = np.argsort(flat)
    found: dict[int, Whole | Numbers] = {}
    for place, tensor in enumerate(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        source = _whole(array, by_content) or _numbers(array, flat, order)
        if source is not None:
            found[place] = source
    return found


def _whole(array: Array, by_content: Mapping[bytes, str]) -> Whole | None:
    for transposed in (False, True):
        turned = np.ascontiguousarray(array.T if transposed else array)
        name = by_content.get(turned.tobytes() + str(turned.shape).encode())
        if name is not None:
            return Whole(name, transposed)
    return None


def _numbers(array: Array, flat: Array, order: Array) -> Numbers | None:
    if not array.size or not len(flat):
        return None
    place = np.searchsorted(flat, array.ravel(), sorter=order).clip(max=len(flat) - 1)
    found = order[place]
    places = np.where(flat[found] == array.ravel(), found, -1)
    return Numbers(places.astype(np.int32)) if (places >= 0).any() else None


def _filled(
    tensor: onnx.TensorProto, source: Whole | Numbers, weights: Mapping[str, Array], flat: Array
) -> Array:
    if isinstance(source, Whole):
        array = weights[source.weight]
        return np.ascontiguousarray(array.T if source.transposed else array)
    kept = numpy_helper.to_array(tensor).ravel()
    return np.asarray(np.where(source.places >= 0, flat[source.places], kept))


def _flat(weights: Mapping[str, Array], names: tuple[str, ...]) -> Array:
    parts = [weights[name].ravel() for name in names]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _arrays(ranker: Ranker) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in ranker.state_dict().items()}
