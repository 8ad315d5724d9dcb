"""Candidates out of the whole catalogue, by one ONNX graph: a history in, the best items out.

    items, types, gaps ── encoder ── what is looked for ─┬─ part of the catalogue ─ top ─┐
    excluded ────────────────────────────────────────────┼─ part of the catalogue ─ top ─┼─ best k
    k ───────────────────────────────────────────────────┴─ ...                           ─┘

The search is exact.  The catalogue's vectors are in the graph once, in parts, for both ends: the
scores of a part are all that is in memory at a time, and of each part the best `k` and as many
as are excluded are enough.  Items that came after training join by their content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from streamrank.features.inputs import Array
from streamrank.model.export import TOLERANCE, ExportFailed, forget_origin, quiet
from streamrank.model.sequences import SequenceModel, Shape

PART = 1 << 17
"""Items that are scored at once."""
LARGEST = 1 << 28
"""Numbers of a catalogue, at most: what a graph in one piece bears, with room to spare."""
HISTORIES = ((1, 1), (1, 7), (3, 2), (2, 60))
"""Sequences and steps at which graph and model are compared."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What finds candidates.

    Attributes:
        onnx: The graph: `items` (B, H) padded at the front with 0, `types` and `gaps` of the same
            shape where the model has them, `excluded` (B, E), 0 for nothing, and `k` (1,), to
            `found` (B, K) and `scores` (B, K), best first.  K is k, or less where the catalogue
            is smaller; where too few items are left `found` is 0.
        items: Size of the catalogue; items are 1..items.
    """

    onnx: bytes
    items: int


def export(
    model: SequenceModel, *, newer: Array | None = None, part: int = PART, checked: bool = True
) -> Retrieval:
    """Export the encoder with its catalogue, and check it against PyTorch.

    Args:
        model: What has learned.
        newer: Vectors of items that came later, (M, D), as `vectors_by_content` makes them; they
            are the items N + 1..N + M, in histories as well.
        part: Items that are scored at once.
        checked: Whether to compare; a benchmark of random weights need not.

    Raises:
        ExportFailed: Graph and model differ.
        ValueError: The catalogue is too large for one graph, or `newer` has another width.
    """
    vectors = _catalogue(model, newer)
    graph = _assemble(_encoder(model), vectors, model.shape, part)
    if checked:
        check(graph, model, vectors)
    return Retrieval(graph, len(vectors))


def _catalogue(model: SequenceModel, newer: Array | None) -> Array:
    """Return the vectors of the items 1..N, (N, D)."""
    known = model.items.weight.detach().numpy()[1:]
    if newer is not None and newer.shape[1:] != known.shape[1:]:
        raise ValueError(f"newer vectors must be {known.shape[1]} wide, got {newer.shape}")
    vectors = known if newer is None else np.concatenate([known, newer.astype(np.float32)])
    if vectors.size > LARGEST:
        raise ValueError(f"a catalogue must have at most {LARGEST} numbers, got {vectors.shape}")
    return vectors


def vectors_by_content(
    content: Array, vectors: Array, newer: Array, *, ridge: float = 1.0
) -> Array:
    """Return vectors for items that nobody has touched, from what is known of them.

    The linear map from content to vectors that fits the items known best (ridge regression).

    Args:
        content: Of the items that were learned, (N, F).
        vectors: What was learned, (N, D).
        newer: Content of the new ones, (M, F).
        ridge: How much the map is drawn towards giving all items the mean vector.

    Examples:
        >>> content = np.array([[0.0], [1.0], [2.0]])
        >>> vectors_by_content(content, 2 * content, np.array([[3.0]]), ridge=0.0).round(6).tolist()
        [[6.0]]
    """
    middle, centre = content.mean(0), vectors.mean(0)
    known = content - middle
    penalty = ridge * np.eye(known.shape[1])
    slope = np.linalg.lstsq(known.T @ known + penalty, known.T @ (vectors - centre), rcond=None)[0]
    found: Array = (newer - middle) @ slope + centre
    return found


class _Encoder(nn.Module):
    """Vectors of the steps' items in, what the user looks for out, (B, D)."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, vectors: Tensor, items: Tensor, types: Tensor | None, gaps: Tensor | None
    ) -> Tensor:
        steps = self.model.steps(vectors, types, gaps)
        return self.model.encode(steps, items > 0)[:, -1]


def _encoder(model: SequenceModel) -> onnx.ModelProto:
    """Return the encoder's graph, without the catalogue."""
    fed = fed_like(model.shape, 2, 3)
    tensors = {name: torch.from_numpy(array) for name, array in fed.items()}
    vectors = torch.zeros(2, 3, model.shape.width)
    given = {"vectors": vectors, "items": None, "types": None, "gaps": None} | tensors
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with quiet():
        program = torch.onnx.export(
            _Encoder(model).eval(),
            kwargs=given,
            dynamo=True,
            dynamic_shapes={n: None if v is None else free for n, v in given.items()},
            input_names=["vectors", *tensors],
            output_names=["looked_for"],
            verbose=False,
        )
    if program is None:
        raise ExportFailed("torch.onnx.export must return a program, got None")
    forget_origin(program.model)
    return program.model_proto


def _assemble(encoder: onnx.ModelProto, vectors: Array, shape: Shape, part: int) -> bytes:
    """Put the catalogue at both ends of the encoder."""
    parts = {start: vectors[start : start + part] for start in range(0, len(vectors), part)}
    built = _Nodes()
    for start, rows in parts.items():
        built.constant(f"catalogue_{start}", rows)
    built.look_up(parts)
    built.nodes += encoder.graph.node
    built.search(parts)
    whole, names = TensorProto.INT64, ["items", "excluded"] + ["types"] * (shape.types > 0)
    ends = [helper.make_tensor_value_info(name, whole, ["B", f"{name}_length"]) for name in names]
    if shape.times:
        ends.append(helper.make_tensor_value_info("gaps", TensorProto.FLOAT, ["B", "gaps_length"]))
    ends.append(helper.make_tensor_value_info("k", whole, [1]))
    graph = helper.make_graph(
        built.nodes,
        "retrieval",
        ends,
        [
            helper.make_tensor_value_info("found", whole, ["B", "K"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "K"]),
        ],
        [*built.constants, *encoder.graph.initializer],
    )
    opsets = [one for one in encoder.opset_import if one.domain == ""]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=encoder.ir_version)
    made.functions.extend(encoder.functions)
    encoded: bytes = made.SerializeToString()
    return encoded


class _Nodes:
    """Nodes and constants of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes = list[onnx.NodeProto]()
        self.constants = list[onnx.TensorProto]()

    def constant(self, name: str, values: object, kind: type = np.int64) -> str:
        """Keep an array under a name, which is returned; lists are of integers."""
        array = values if isinstance(values, np.ndarray) else np.array(values, kind)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"own.{name}"))
        return f"own.{name}"

    def call(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; return its first output."""
        given = outputs or (f"own.{kind}_{len(self.nodes)}",)
        self.nodes.append(helper.make_node(kind, list(inputs), list(given), **attributes))
        return given[0]

    def look_up(self, parts: Mapping[int, Array]) -> None:
        """`items` -> `vectors`, each from the part that has it; padding is zero."""
        self.constant("one", [1])
        self.constant("last", [-1])
        nothing = self.constant("nothing", np.zeros(1, np.float32))
        rows = self.call("Sub", ["items", "own.one"])
        found = []
        for start, values in parts.items():
            low = self.constant(f"low_{start}", [start])
            end = self.constant(f"end_{start}", [len(values)])
            zero = self.constant(f"zero_{start}", [0])
            row = self.call("Sub", [rows, low])
            above = self.call("GreaterOrEqual", [row, zero])
            inside = self.call("And", [above, self.call("Less", [row, end])])
            safe = self.call("Where", [inside, row, zero])
            taken = self.call("Gather", [f"own.catalogue_{start}", safe], axis=0)
            shown = self.call("Unsqueeze", [inside, "own.last"])
            found.append(self.call("Where", [shown, taken, nothing]))
        self.call("Sum", found, "vectors")

    def search(self, parts: Mapping[int, Array]) -> None:
        """`looked_for`, `excluded`, `k` -> `found`, `scores`."""
        # ONNX Runtime's sums over nothing are wrong: there is always one, which excludes no item.
        newest = self.call(
            "Slice", ["items", "own.last", self.constant("ends", [1 << 62]), "own.one"]
        )
        nobody = self.call("Sub", [newest, newest])
        excluded = self.call("Concat", ["excluded", nobody], axis=1)
        lengths = self.call("Shape", [excluded], start=1)
        wanted = self.call("Add", ["k", lengths])
        scores, places = [], []
        for start, values in parts.items():
            first = self.constant(f"first_{start}", [start + 1])
            size = self.constant(f"size_{start}", [len(values)])
            score = self.call("Gemm", ["looked_for", f"own.catalogue_{start}"], transB=1)
            count = self.call("Min", [wanted, size])
            top, place = f"own.top_{start}", f"own.place_{start}"
            self.call("TopK", [score, count], top, place)
            scores.append(top)
            places.append(self.call("Add", [place, first]))
        score = self.call("Concat", scores, axis=1)  # (B, parts x (k + E))
        items = self.call("Concat", places, axis=1)
        gone = self._among(items, excluded)
        worst = self.constant("worst", np.array([-np.inf], np.float32))
        score = self.call("Where", [gone, worst, score])
        count = self.call("Min", ["k", self.call("Shape", [score], start=1)])
        self.call("TopK", [score, count], "scores", "own.best")
        best = self.call("GatherElements", [items, "own.best"], axis=1)
        left = self.call("Greater", ["scores", worst])
        self.call("Where", [left, best, self.constant("none", [0])], "found")

    def _among(self, items: str, excluded: str) -> str:
        """Return which of some items (B, M) are excluded (B, E)."""
        each = self.call("Unsqueeze", [items, "own.last"])  # (B, M, 1)
        out = self.call("Unsqueeze", [excluded, "own.one"])  # (B, 1, E)
        same = self.call("Cast", [self.call("Equal", [each, out])], to=TensorProto.INT32)
        hits = self.call("ReduceSum", [same, "own.last"], keepdims=0)
        return self.call("Cast", [hits], to=TensorProto.BOOL)


# --- as PyTorch does it -----------------------------------------------------------------------


def check(graph: bytes, model: SequenceModel, vectors: Array) -> None:
    """Compare the graph with the model, on random histories with and without exclusions.

    Raises:
        ExportFailed: Items are found that the model would not find, or scores differ.
    """
    session = session_of(graph)
    for lists, steps in HISTORIES:
        fed = fed_like(model.shape, lists, steps, items=len(vectors))
        for excluded in (np.zeros((lists, 0), np.int64), fed["items"]):
            k = np.array([min(10, len(vectors))])
            found, scores = session.run(None, fed | {"excluded": excluded, "k": k})
            compare(found, scores, reference(model, vectors, fed, excluded))


def compare(found: Array, scores: Array, wanted: Array) -> None:
    """Hold what was found against the scores of all items, (B, N), -inf for excluded ones.

    Raises:
        ExportFailed: A better item was left out, or a score is not its item's.
    """
    best = -np.sort(-wanted, 1)[:, : found.shape[1]]
    own = np.take_along_axis(wanted, np.maximum(found, 1) - 1, 1)
    left = np.isfinite(best)
    tolerance = TOLERANCE * max(1.0, float(np.abs(best[left]).max(initial=0.0)))
    if ((found > 0) != left).any():
        raise ExportFailed(f"items must be found where any are left, got {found.tolist()}")
    for name, values in (("scores", scores), ("items", own)):
        apart = float(np.abs(values[left] - best[left]).max(initial=0.0))
        if not apart <= tolerance:
            raise ExportFailed(f"{name} must be the best within {tolerance}, got {apart} apart")


def reference(
    model: SequenceModel, vectors: Array, fed: Mapping[str, Array], excluded: Array
) -> Array:
    """Return the scores of all items by PyTorch, (B, N), -inf for excluded ones."""
    table = np.concatenate([np.zeros_like(vectors[:1]), vectors])
    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in fed.items()}
        items = tensors.pop("items")
        steps = model.steps(
            torch.from_numpy(table)[items], tensors.get("types"), tensors.get("gaps")
        )
        states = model.encode(steps, items > 0)[:, -1].numpy()
    scores: Array = states @ table.T
    np.put_along_axis(scores, excluded, -np.inf, 1)
    return scores[:, 1:]


def fed_like(shape: Shape, lists: int, steps: int, items: int = 0) -> dict[str, Array]:
    """Return random histories, padded at the front but for the last."""
    random = np.random.default_rng([lists, steps])
    padded = np.arange(steps) >= np.arange(lists)[::-1, None] % steps
    fed: dict[str, Array] = {
        "items": random.integers(1, 1 + (items or shape.items), (lists, steps)) * padded
    }
    if shape.types:
        fed["types"] = random.integers(1, 1 + shape.types, (lists, steps)) * padded
    if shape.times:
        fed["gaps"] = (random.exponential(4, (lists, steps)) * padded).astype(np.float32)
    return fed


def session_of(graph: bytes | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return a session; one of a file keeps one copy of the catalogue, else the bytes stay too."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Packed weights are a second copy; the catalogue is looked up in the first all the same.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
