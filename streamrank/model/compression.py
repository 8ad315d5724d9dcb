"""Smaller numbers in the graph, and what they cost in quality.

    whole          float32, with what follows from weights alone worked out
    int8_bins      the product over the bins, which is most of a small model's work, in 8 bits
    int8_dynamic   every product with a weight in 8 bits, scaled as each batch needs it
    int8_static    the same, scaled once by what examples need
    fp16           half precision, for a GPU

Each takes a graph as `export.to_onnx` returns it and returns another that takes and gives the
same.  None is offered by the settings: which one is faster, and whether it ranks as well, differs
between machines and models, and `tests/benchmarks/scoring.py` measures it before anybody serves
it.  `compared` says whether scores and ranking quality are kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.transformers import float16

from streamrank.errors import StreamRankError
from streamrank.evaluation import metrics
from streamrank.evaluation.intervals import Interval, paired
from streamrank.features import inputs
from streamrank.features.inputs import Array, Inputs
from streamrank.learning.examples import Example
from streamrank.model.export import folded, session_of

DENSE = "dense.weight"
"""The weight of the product over the bins."""
LEVELS = 255
"""Steps in 8 bits between the beginning and the end of a bin."""
MIDDLE = 128
"""What stands for a weight of 0.  Weights have no sign: without VNNI, processors add two products
of signed ones in 16 bits, and cut the sum off without a word."""
CONTRIB = "com.microsoft"


class NotCompressible(StreamRankError):
    """The graph is none of a Ranker as `export.to_onnx` makes it."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What a compressed graph does to the scores of the label's head.

    Attributes:
        apart: Largest difference of a score.
        ndcg: Difference in NDCG@10, compressed less whole, with its interval.
        mrr: The same in MRR.
    """

    apart: float
    ndcg: Interval
    mrr: Interval


def int8_bins(graph: bytes) -> bytes:
    """Return the graph with its product over the bins in 8 bits.

    How far a number reaches into a bin becomes one of 256 steps: to cut off below 0 and above 1,
    to scale and to round is one node then.  A head's weights are rounded to 255 steps.

    Raises:
        NotCompressible: There is no such product.
    """
    model = onnx.load_from_string(folded(graph))
    product = _product(model)
    clip = _maker(model, product.input[1])
    scaled = _maker(model, clip.input[0])
    shifted, widths = scaled.input[0], _constant(model, scaled.input[1]).ravel()
    weight = _constant(model, DENSE)  # (outputs, K)
    steps = np.abs(weight).max(1).clip(min=1e-12) / 127  # (outputs,)
    rounded = (np.round(weight / steps[:, None]) + MIDDLE).astype(np.uint8).T.copy()
    constants = {
        "bins.step": (1 / (LEVELS * widths)).astype(np.float32),
        "bins.zero": np.zeros(len(widths), np.uint8),
        "bins.weight": rounded,
        "bins.none": np.array(0, np.uint8),
        "bins.middle": np.array(MIDDLE, np.uint8),
        "bins.level": np.array(1 / LEVELS, np.float32),
        "bins.steps": steps.astype(np.float32),
    }
    found = [
        helper.make_node(
            "QuantizeLinear", [shifted, "bins.step", "bins.zero"], ["bins.reach"], axis=1
        ),
        helper.make_node("Transpose", ["bins.reach"], ["bins.turned"], perm=[0, 2, 1]),
        helper.make_node(
            "MatMulIntegerToFloat",
            [f"bins.{n}" for n in ("turned", "weight", "level", "steps", "none", "middle")],
            ["bins.product"],
            domain=CONTRIB,
        ),
        helper.make_node("Transpose", ["bins.product"], [product.output[0]], perm=[0, 2, 1]),
    ]
    return _replaced(model, [scaled, clip, product], found, constants)


def int8_dynamic(graph: bytes) -> bytes:
    """Return the graph with products of 8 bits, scaled by each batch's largest numbers.

    Raises:
        NotCompressible: The graph is none of a Ranker.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            _turned(graph),
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QUInt8,
        )
        return path.read_bytes()


def int8_static(graph: bytes, batches: Sequence[Inputs]) -> bytes:
    """Return the graph with products of 8 bits, scaled by the largest numbers in examples.

    Args:
        graph: As `export.to_onnx` returns it.
        batches: What `features.inputs.stack` returns, at least one.

    Raises:
        NotCompressible: The graph is none of a Ranker.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            _turned(graph),
            path,
            _Batches(batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
            per_channel=True,
        )
        return path.read_bytes()


def fp16(graph: bytes) -> bytes:
    """Return the graph in half precision; it takes and gives float32 as before.

    The bins stay whole: half precision tells numbers apart by a thousandth, which is more than
    the width of a narrow bin.
    """
    model = onnx.load_from_string(folded(graph))
    clips = {node.input[0] for node in model.graph.node if node.op_type == "Clip"}
    scaled = clips | _before(model, clips)
    kept = [n for n in model.graph.node if n.op_type == "Clip" or set(n.output) & scaled]
    for node in kept:
        _own_constants(model, node)
    converted = float16.convert_float_to_float16(
        model, keep_io_types=True, node_block_list=[node.name for node in kept]
    )
    encoded: bytes = converted.SerializeToString()
    return encoded


def compared(graph: bytes, compressed: bytes, examples: Sequence[Example]) -> Compared:
    """Compare the scores and the ranking quality of two graphs.

    Args:
        graph: The whole one.
        compressed: The other.
        examples: Lists with labels, at least one.
    """
    found = [_scores(one, examples) for one in (graph, compressed)]
    each = [
        [
            metrics.of_list(scores, one.labels[:, 0])
            for scores, one in zip(lists, examples, strict=True)
        ]
        for lists in found
    ]
    ndcg, mrr = (
        paired(np.array([m[name] for m in each[1]]), np.array([m[name] for m in each[0]]))
        for name in ("ndcg@10", "mrr")
    )
    apart = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(*found, strict=True))
    return Compared(apart, ndcg, mrr)


def _scores(graph: bytes, examples: Sequence[Example]) -> list[Array]:
    session = session_of(graph)
    known = {one.name for one in session.get_inputs()}
    found = []
    for one in examples:
        stacked = inputs.stack([one.inputs])
        feed = {name: array for name, array in stacked.items() if name in known}
        found.append(np.asarray(session.run(["scores"], feed)[0])[0, :, 0])
    return found


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Sequence[Inputs]) -> None:
        self._left: Iterator[Inputs] = iter(batches)

    def get_next(self) -> Inputs | None:
        return next(self._left, None)


# --- the graph --------------------------------------------------------------------------------


def _turned(graph: bytes) -> onnx.ModelProto:
    """Return the graph with the weight of the bins on the right, where quantizers look for it."""
    model = onnx.load_from_string(folded(graph))
    del model.graph.value_info[:]  # shapes of before the folding
    product = _product(model)
    found = [
        helper.make_node("Transpose", [product.input[1]], ["bins.turned"], perm=[0, 2, 1]),
        helper.make_node(
            "MatMul", ["bins.turned", "bins.weight"], ["bins.product"], name="bins.matmul"
        ),
        helper.make_node("Transpose", ["bins.product"], [product.output[0]], perm=[0, 2, 1]),
    ]
    constants = {"bins.weight": _constant(model, DENSE).T.copy()}
    return onnx.load_from_string(_replaced(model, [product], found, constants))


def _product(model: onnx.ModelProto) -> onnx.NodeProto:
    found: list[onnx.NodeProto] = [
        n for n in model.graph.node if n.op_type == "MatMul" and n.input[0] == DENSE
    ]
    if len(found) != 1:
        raise NotCompressible(f"graph must have one product with {DENSE}, got {len(found)}")
    return found[0]


def _maker(model: onnx.ModelProto, value: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if value in node.output)
    return found


def _before(model: onnx.ModelProto, values: set[str]) -> set[str]:
    """Return what the values are made of, one node further back."""
    return {one for node in model.graph.node if values & set(node.output) for one in node.input}


def _own_constants(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Give a node copies of its constants: the converter fails over those that are shared."""
    constants = {one.name: one for one in model.graph.initializer}
    for place, name in enumerate(node.input):
        if name in constants:
            node.input[place] = f"{name}.{node.name}"
            copy = numpy_helper.from_array(_constant(model, name), node.input[place])
            model.graph.initializer.append(copy)


def _constant(model: onnx.ModelProto, name: str) -> Array:
    [found] = [one for one in model.graph.initializer if one.name == name]
    return np.asarray(numpy_helper.to_array(found))


def _replaced(
    model: onnx.ModelProto,
    old: Sequence[onnx.NodeProto],
    new: Sequence[onnx.NodeProto],
    constants: dict[str, Array],
) -> bytes:
    """Put nodes in the place of the last of others."""
    names = [one.output[0] for one in old]
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.output[0] == names[-1]:
            nodes += new
        elif node.output[0] not in names:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [one for one in model.graph.initializer if one.name != DENSE]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    if all(one.domain != CONTRIB for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    encoded: bytes = model.SerializeToString()
    return encoded
