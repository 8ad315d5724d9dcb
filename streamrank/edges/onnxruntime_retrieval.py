"""ONNX Runtime: candidates out of the whole catalogue, for batches of users at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from streamrank.edges.onnxruntime import ModelRefused, RuntimeEdgeError, one_line, options_of
from streamrank.features.trails import Trail, history
from streamrank.features.view import Array

OUTPUTS = ["found", "scores"]
_NEEDED = frozenset({"items", "excluded", "k"})
_MOST_USERS = 64
"""Users in one run: it bounds the memory of the scores, a part of the catalogue at a time."""


class RetrievalFailed(RuntimeEdgeError):
    """The graph could not find items: inputs of another shape, no memory."""


class OnnxRetrieval:
    """A catalogue and what finds items in it, in one session on the CPU, which threads may share.

    What a user touched is not found again: it is a candidate anyway, and would take the place of
    an item that is not.

    Args:
        onnx: A graph as `model.retrieval.export` makes it.
        items: The ids of its items, from 1 on.
        threads: Threads of the session.

    Raises:
        ModelRefused: The graph cannot be run.
    """

    def __init__(self, onnx: bytes, items: Sequence[str], *, threads: int = 1) -> None:
        self.items = items
        self._places = {item: place for place, item in enumerate(items, 1)}
        self._session = _session(onnx, threads)
        self._typed = "types" in {one.name for one in self._session.get_inputs()}

    def find(self, trails: Sequence[Trail], count: int) -> list[list[str]]:
        """Find the items that these users may want next, best first, at most `count` for each.

        Who touched nothing that the catalogue has, gets nothing: what is popular says more.

        Raises:
            RetrievalFailed: The graph cannot be run over them.
        """
        found: list[list[str]] = [[] for _ in trails]
        histories = [self._history(trail) for trail in trails]
        known = [place for place, one in enumerate(histories) if len(one["items"])]
        for start in range(0, len(known), _MOST_USERS):
            some = known[start : start + _MOST_USERS]
            rows, _ = self.run(self._fed([histories[place] for place in some], count))
            for place, row in zip(some, rows.tolist(), strict=True):
                found[place] = [self.items[item - 1] for item in row if item]
        return found

    def run(self, fed: Mapping[str, Array]) -> tuple[Array, Array]:
        """Run the graph once; return `found` and `scores`, (B, K) each."""
        try:
            found, scores = self._session.run(OUTPUTS, dict(fed))
        except Exception as error:  # ONNX Runtime's own derive from Exception alone
            shapes = {name: array.shape for name, array in fed.items()}
            raise RetrievalFailed(f"retrieval: {one_line(error)}, inputs {shapes}") from error
        return np.asarray(found), np.asarray(scores)

    def _history(self, trail: Trail) -> dict[str, Array]:
        places = [self._places.get(item, 0) for item in trail.items]
        return history(np.array(places, np.int64), np.array(trail.types, np.int64))

    def _fed(self, histories: Sequence[Mapping[str, Array]], count: int) -> dict[str, Array]:
        longest = max(len(one["items"]) for one in histories)
        names = ("items", "types") if self._typed else ("items",)
        fed = {name: np.zeros((len(histories), longest), np.int64) for name in names}
        for row, one in enumerate(histories):
            for name in names:
                fed[name][row, longest - len(one[name]) :] = one[name]
        return fed | {"excluded": fed["items"], "k": np.array([count])}


def _session(onnx: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = options_of(threads)
    # Packed weights are a second copy; the catalogue is looked up in the first all the same.
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own derive from Exception alone
        rule = "retrieval must be an ONNX graph that runs here"
        raise ModelRefused(f"{rule}: {one_line(error)}") from error
    inputs = {one.name for one in session.get_inputs()}
    outputs = {one.name for one in session.get_outputs()}
    if not (inputs >= _NEEDED and outputs >= set(OUTPUTS)):
        rule = f"retrieval must take {sorted(_NEEDED)} and give {OUTPUTS}"
        raise ModelRefused(f"{rule}, got {sorted(inputs)} and {sorted(outputs)}")
    return session
