"""New weights into a graph that is there: an export costs seconds, this milliseconds.

`export.to_onnx` leaves every weight in the graph under its name in PyTorch and as it stands there,
so that the structure is exported once and takes any weights.  It travels with a version, and a
learner that goes on from that needs no exporter at all.

What the learner never changes, such as the edges of the bins, stays in the structure.  A graph
that is more than its weights by name (one was folded, renamed or turned) is found out, because it
does not score as PyTorch does: it is refused when it is made and when it is read again.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from streamrank.errors import StreamRankError
from streamrank.features.inputs import Array
from streamrank.model import export
from streamrank.model.ranker import Buckets, Ranker

SHAPES = ((2, 3, 7), (1, 0, 1))
"""Lists, steps and candidates at which graph and model are compared."""
FIXED = "streamrank.fixed."
"""Before the name of what must be as in the graph, among the graph's properties: its SHA-256."""


class NotInjectable(StreamRankError):
    """The graph does not take the weights as they are, or these are of another structure."""


@dataclass
class Graph:
    """A graph that takes weights by their names.

    Attributes:
        model: The graph, with any weights.
        changing: Names of what it takes; some of it may be of no use to the graph.
    """

    model: onnx.ModelProto
    changing: frozenset[str]

    @classmethod
    def of(cls, ranker: Ranker, exporter: Callable[[Ranker], bytes] = export.to_onnx) -> Graph:
        """Export the structure of a Ranker.

        Args:
            ranker: A Ranker in evaluation mode, with any weights.
            exporter: Makes the graph.

        Raises:
            NotInjectable: The graph with its weights does not score as PyTorch does.
        """
        changing = _changing(ranker)
        model = onnx.load_from_string(exporter(_distinct(ranker)))
        for name, array in _arrays(ranker).items():
            if name not in changing:
                model.metadata_props.add(key=FIXED + name, value=_digest(array))
        graph = cls(model, frozenset(changing))
        graph.verify(ranker)
        return graph

    @classmethod
    def decode(cls, encoded: bytes, ranker: Ranker) -> Graph:
        """Read what `encode` wrote, for weights like those of a Ranker.

        Raises:
            NotInjectable: It is no graph, or does not score as the Ranker does.
        """
        try:
            model = onnx.load_from_string(encoded)
        except DecodeError as error:
            raise NotInjectable(f"structure must be an ONNX model: {error}") from None
        graph = cls(model, frozenset(_changing(ranker)))
        graph.verify(ranker)
        return graph

    def encode(self) -> bytes:
        """Return the graph without the weights that it takes."""
        bare = copy.deepcopy(self.model)
        for tensor in bare.graph.initializer:
            if tensor.name in self.changing:
                tensor.ClearField("raw_data")
        encoded: bytes = bare.SerializeToString()
        return encoded

    def with_weights(self, weights: Mapping[str, Array]) -> bytes:
        """Return the graph with other weights.

        Args:
            weights: All that `Ranker.state_dict` names.

        Raises:
            NotInjectable: What the graph holds as constants is another here, or a weight has
                another shape.
        """
        for prop in self.model.metadata_props:
            name = prop.key.removeprefix(FIXED)
            if name != prop.key and (name not in weights or _digest(weights[name]) != prop.value):
                raise NotInjectable(f"{name} must be as in the graph, got other values")
        for tensor in self.model.graph.initializer:
            if tensor.name in self.changing:
                array = weights[tensor.name]
                if array.shape != tuple(tensor.dims):
                    rule = f"{tensor.name} must have the graph's shape {tuple(tensor.dims)}"
                    raise NotInjectable(f"{rule}, got {array.shape}")
                tensor.raw_data = np.ascontiguousarray(array, np.float32).tobytes()
        filled: bytes = self.model.SerializeToString()
        return filled

    def verify(self, ranker: Ranker) -> None:
        """Compare the graph, with the Ranker's weights, with the Ranker.

        Raises:
            NotInjectable: They do not score alike.
        """
        batches = [export.random_inputs(ranker.config, *shape) for shape in SHAPES]
        graph = self.with_weights(_arrays(ranker))
        try:
            export.check(graph, ranker, batches)
        except export.ExportFailed as error:
            raise NotInjectable(f"graph must take the weights as they are: {error}") from None


def _distinct(ranker: Ranker) -> Ranker:
    """Return a copy whose weights are all different: an exporter stores equal ones once."""
    distinct = copy.deepcopy(ranker).eval()
    random = np.random.default_rng(0)
    changing = _changing(ranker)
    for name, weight in distinct.state_dict().items():
        if name in changing:
            weight.copy_(torch.from_numpy(random.random(tuple(weight.shape), np.float32)))
    return distinct


def _changing(ranker: Ranker) -> set[str]:
    """Return what learning changes: the weights, and how far the vectors of ids are trusted."""
    trusted = {id(part.trust) for part in ranker.modules() if isinstance(part, Buckets)}
    state = ranker.state_dict(keep_vars=True)
    weights = {name for name, _ in ranker.named_parameters()}
    return weights | {name for name, tensor in state.items() if id(tensor) in trusted}


def _digest(array: Array) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _arrays(ranker: Ranker) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in ranker.state_dict().items()}
