"""From a trained Ranker to ONNX: dynamic lists, steps and candidates, equal to PyTorch.

Every export is checked, on random inputs and on the shapes that break graphs; one that differs
is never handed out.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import torch

from streamrank.errors import StreamRankError
from streamrank.features import inputs
from streamrank.features.inputs import Array, Inputs
from streamrank.model.ranker import Configuration, Ranker

if TYPE_CHECKING:
    from onnxscript import ir

TOLERANCE = 1e-4
OPSET = 23
"""The first that knows attention as one node."""
SHAPES = ((1, 0, 1), (1, 0, 1000), (2, 3, 7), (3, 50, 25), (1, 1, 2), (1, 50, 1000))
"""Lists, steps and candidates at which graph and model are compared."""


class ExportFailed(StreamRankError):
    """The graph does not do what the model does; the text says where."""


def to_onnx(ranker: Ranker) -> bytes:
    """Return the graph, with names as in `features.inputs.stack` and the output `scores`.

    It holds each weight as the Ranker does, for `injection`; `folded` is what is published.
    """
    example = {n: torch.from_numpy(a) for n, a in random_inputs(ranker.config, 2, 3, 5).items()}
    dynamic = {name: _axes(name) for name in example}
    with quiet():
        program = torch.onnx.export(
            ranker,
            kwargs=example,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(example),
            output_names=["scores"],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
        if program is None:
            raise ExportFailed("torch.onnx.export must return a program, got None")
        _simplify(program.model, ranker.state_dict().keys())
    encoded: bytes = program.model_proto.SerializeToString()
    return encoded


def folded(graph: bytes) -> bytes:
    """Return the same graph with its constants folded: transposed weights, trusted vectors.

    ONNX Runtime builds a session of it sooner, which is what a hot swap costs a flow that serves.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


def _simplify(model: ir.Model, weights: Set[str]) -> None:
    """Fold constants, but no weights, and leave out what only tells shapes or origin.

    The graph then holds each weight as the Ranker does, and by its name; what follows from
    weights alone, `folded` works out.
    """
    # Seconds, which whoever has a structure to put weights into is spared.
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript import optimizer

    def folds(node: ir.Node) -> bool | None:
        """Say no, or leave it to the optimizer."""
        return False if any(one and one.name in weights for one in node.inputs) else None

    optimizer.optimize_ir(model, should_fold=folds)
    for node in list(model.graph):
        if node.op_type == "Reshape":
            _reshape_by_constants(model, node)
    RemoveUnusedNodesPass()(model)
    forget_origin(model)


def forget_origin(model: ir.Model) -> None:
    """Leave out what the exporter notes of each node: lines of our files, paths of this machine."""
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None


def _reshape_by_constants(model: ir.Model, node: ir.Node) -> None:
    """Say "as before" and "the rest" for computed sizes; two that undo each other go."""
    from onnxscript import ir

    given, made = node.inputs[0], node.outputs[0]
    if given is None or given.shape is None or made.shape is None:
        return
    before = given.producer()
    if before is not None and before.op_type == "Reshape":
        first = before.inputs[0]
        if first is not None and first.shape == made.shape:
            made.replace_all_uses_with(first)
            return
    sizes = [
        size if isinstance(size, int) else 0 if given.shape[place : place + 1] == (size,) else -1
        for place, size in enumerate(made.shape)
    ]
    if sizes.count(-1) <= 1 and 0 not in made.shape:
        name = f"sizes_{node.name}"
        constant = ir.Value(name=name, const_value=ir.tensor(np.array(sizes, np.int64), name=name))
        model.graph.register_initializer(constant)
        node.replace_input_with(1, constant)
        node.attributes.pop("allowzero", None)  # so that 0 means "as before"


def _axes(name: str) -> dict[int, object]:
    free = torch.export.Dim.DYNAMIC
    if name == "context_numbers":
        return {0: free}
    return {0: free, 1: free, 2: free} if name == "candidate_tokens" else {0: free, 1: free}


def check(graph: bytes, ranker: Ranker, batches: list[Inputs]) -> None:
    """Compare the graph with the model.

    Raises:
        ExportFailed: They differ by more than 1e-4, or the graph does not run.
    """
    for batch, found in zip(batches, _scores(graph, batches), strict=True):
        wanted = run(ranker, batch)
        sizes = {name: array.shape for name, array in batch.items()}
        if found.shape != wanted.shape or not np.isfinite(found).all():
            raise ExportFailed(f"scores must be finite and {wanted.shape}, got {found.shape}")
        apart = float(np.abs(found - wanted).max(initial=0.0))
        if apart > TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0))):
            raise ExportFailed(
                f"graph and model must agree within {TOLERANCE}, got {apart} at {sizes}"
            )


def _scores(graph: bytes, batches: list[Inputs]) -> list[Array]:
    try:
        session = session_of(graph)
        return [np.asarray(session.run(["scores"], batch)[0]) for batch in batches]
    except Exception as error:  # ONNX Runtime's own derive from Exception alone
        raise ExportFailed(f"graph must run: {' '.join(str(error).split())}") from error


def run(ranker: Ranker, batch: Inputs) -> Array:
    """Return the model's scores of a stacked batch, by PyTorch."""
    with torch.no_grad():
        scores: Array = ranker(**{n: torch.from_numpy(a) for n, a in batch.items()}).numpy()
    return scores


def random_inputs(config: Configuration, lists: int, steps: int, candidates: int) -> Inputs:
    """Return inputs of any shape, with ids and words that nobody has seen.

    With no steps, the history is what `stack` makes of an empty one: a single padded step.
    """
    random = np.random.default_rng([lists, steps, candidates])
    history = (lists, max(1, steps))

    def hashes(*shape: int) -> Array:
        return random.integers(1, 2**63 - 1, shape)

    made = {
        "history_items": hashes(*history),
        "history_types": random.integers(1, config.types, history),
        "history_places": random.integers(0, candidates + 1, history),
        "history_values": hashes(*history),
        "history_numbers": random.exponential(4, (*history, inputs.STEP_NUMBERS)),
        "candidate_items": hashes(lists, candidates),
        "candidate_tokens": hashes(lists, candidates, inputs.TOKENS),
        "candidate_numbers": random.normal(0, 3, (lists, candidates, config.numbers)),
        "context_tokens": hashes(lists, inputs.TOKENS),
        "context_numbers": random.normal(0, 3, (lists, config.context)),
    }
    if not steps:
        made = {n: a * (0 if n.startswith("history") else 1) for n, a in made.items()}
    return {n: a if a.dtype == np.int64 else a.astype(np.float32) for n, a in made.items()}


def session_of(graph: bytes) -> onnxruntime.InferenceSession:
    """Return a session on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter says of libraries that are not here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
