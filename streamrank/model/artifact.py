"""What a version in the registry is made of, and how a trained Ranker becomes that."""

from __future__ import annotations

from dataclasses import dataclass

from streamrank.features import inputs
from streamrank.features.inputs import Array, Inputs
from streamrank.model import export
from streamrank.model.injection import Graph, NotInjectable
from streamrank.model.ranker import Ranker
from streamrank.model.training import Trained


@dataclass(frozen=True, slots=True)
class Exported:
    """What a version in the registry is made of.

    Attributes:
        onnx: The graph with its weights, `export.folded` where it is to serve.
        weights: The same weights by their names in PyTorch, to go on learning from.
        heads: What each score is of.
        probe: A stacked batch.
        expected: The model's scores of it, (B, C, heads).
        structure: The graph without its weights, as `injection.Graph` encodes it: who learns on
            needs no export.
    """

    onnx: bytes
    weights: dict[str, Array]
    heads: tuple[str, ...]
    probe: Inputs
    expected: Array
    structure: bytes | None = None


def exported(trained: Trained) -> Exported:
    """Export a Ranker, and check that the graph gives its scores.

    Raises:
        ExportFailed: It does not.
    """
    ranker = trained.ranker.eval()
    weights = {name: tensor.numpy().copy() for name, tensor in ranker.state_dict().items()}
    graph, structure = _graph(ranker, weights)
    probe = inputs.stack([example.inputs for example in trained.examples])
    shapes = [export.random_inputs(ranker.config, *shape) for shape in export.SHAPES]
    export.check(graph, ranker, [probe, *shapes])
    expected = export.run(ranker, probe)
    return Exported(graph, weights, ranker.config.heads, probe, expected, structure)


def _graph(ranker: Ranker, weights: dict[str, Array]) -> tuple[bytes, bytes | None]:
    """Return the folded graph, and its structure if weights can be put into that."""
    try:
        graph = Graph.of(ranker)
    except NotInjectable:
        return export.folded(export.to_onnx(ranker)), None
    return export.folded(graph.with_weights(weights)), graph.encode()
