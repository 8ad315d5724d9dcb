"""ONNX Runtime: whole batches of lists through one session.

    RuntimeEdgeError
    ├── ModelRefused      the bytes are no graph that this edge can run
    ├── ProviderMissing   the GPU that was asked for cannot be had
    └── ScoringFailed     the graph could not score a batch: inputs of another shape, no memory

The provider is what the session really uses: ONNX Runtime falls back to the CPU without an
error, and lists CUDA as available on machines without a GPU.  CUDA has not been tried on a real
GPU by the tests, only its absence.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
import onnxruntime

from streamrank.errors import StreamRankError
from streamrank.features import inputs
from streamrank.features.inputs import Array, Inputs
from streamrank.features.trails import Finder, Trail

log = logging.getLogger(__name__)

Provider = Literal["auto", "cpu", "cuda"]
OUTPUT = "scores"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SLOWER = ["SkipLayerNormFusion"]
"""Fusions that are slower on a CPU than what they fuse."""
_SMALLEST_CLASS = 32
_MOST_CELLS = {"cpu": 1_024, "cuda": 4_096}
"""Candidates in one run, padding included: it bounds the memory of the activations, and on a CPU
more of them would not stay in its caches from one node to the next."""


class RuntimeEdgeError(StreamRankError):
    """Something is wrong with a model or with what runs it."""


class ModelRefused(RuntimeEdgeError):
    """The bytes are no graph that this edge can run."""


class ProviderMissing(RuntimeEdgeError):
    """The GPU that was asked for cannot be had; the text says what is missing."""


class ScoringFailed(RuntimeEdgeError):
    """The graph could not score a batch."""


class AsShown:
    """No model: the scores fall with the incoming place, so that lists keep their order.

    Examples:
        >>> AsShown().score([{"candidate_items": np.array([7, 8])}])[0].tolist()
        [[0.0], [-1.0]]
    """

    version = ""
    provider = "none"

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        """Return scores of shape (C, 1) for each list."""
        return [_incoming(len(one["candidate_items"]), 1) for one in batch]


class OnnxScorer:
    """A model in one ONNX Runtime session, which threads may share.

    A list whose scores are not all finite keeps its incoming order, is logged and counted in
    `unscored`: an error would stop the flow for one bad row.

    Args:
        onnx: A graph with inputs named as `features.inputs.stack` names them (those which it
            needs), and one output `scores`, float32 (lists, candidates, heads).
        version: Which version this is.
        provider: Where to run: "cuda" insists on the GPU, "auto" takes it if it can be had.
        threads: Threads of the session.

    Attributes:
        retrieval: What finds candidates beside it, where its version has something.
        provider: Where it really runs: "cpu" or "cuda".
        heads: Scores of one candidate.
        unscored: Lists so far that got no finite scores.

    Raises:
        ModelRefused: The graph cannot be run.
        ProviderMissing: "cuda" was asked for and is not to be had.
    """

    def __init__(
        self, onnx: bytes, *, version: str, provider: Provider = "auto", threads: int = 1
    ) -> None:
        self.version = version
        self.retrieval: Finder | None = None
        self.unscored = 0
        self._lock = Lock()
        self._session = _session(onnx, provider, threads)
        self.provider = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        self._inputs = [one.name for one in self._session.get_inputs()]
        self.heads = _heads(self._session)

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        """Return scores of shape (C, heads) for each list, higher is better.

        Lists of like size run together, so that a long one does not pad the short ones out.
        A list without candidates gets shape (0, heads).

        Raises:
            ScoringFailed: The inputs do not fit the graph, or the memory is not enough.
        """
        sizes = [len(one["candidate_items"]) for one in batch]
        found = [_incoming(size, self.heads) for size in sizes]
        for group in groups(sizes, _MOST_CELLS[self.provider]):
            scores = self.run(inputs.stack([batch[place] for place in group]))
            for place, padded in zip(group, scores, strict=True):
                own = padded[: sizes[place]]
                if np.isfinite(own).all():
                    found[place] = own.copy()  # a view would keep the whole batch alive
                else:
                    self._count_unscored()
        return found

    def find(self, trails: Sequence[Trail], count: int) -> list[list[str]]:
        """Find candidates for users, as `retrieval` does; none where there is no such thing."""
        return (
            [[] for _ in trails] if self.retrieval is None else self.retrieval.find(trails, count)
        )

    def run(self, stacked: Inputs) -> Array:
        """Run the graph once over what `features.inputs.stack` returned, padding and all."""
        try:
            feed = {name: stacked[name] for name in self._inputs}
            [scores] = self._session.run([OUTPUT], feed)
        except KeyError as error:
            raise ScoringFailed(f"model {self.version}: there is no input {error}") from None
        except Exception as error:  # ONNX Runtime's own derive from Exception alone
            shapes = {name: stacked[name].shape for name in self._inputs}
            reason = f"{one_line(error)}, inputs {shapes}"
            raise ScoringFailed(f"model {self.version}: {reason}") from error
        return np.asarray(scores)

    def _count_unscored(self) -> None:
        with self._lock:
            self.unscored += 1
            count = self.unscored
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: loud, but no flood
            log.error(
                "model %s: scores must be finite; %d lists so far kept their incoming order",
                self.version,
                count,
            )


def groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Say which lists to run together.

    Lists of up to 32 candidates share their runs, then those of up to 64, 128 and so on: what is
    padded at most doubles the work.

    Args:
        sizes: Candidates of each list.
        most: Candidates of a run at most, padding included; but a longer list is one.

    Returns:
        Places of the lists by run; lists without candidates are in none.

    Examples:
        >>> groups([10, 1000, 0, 12], most=1_024)
        [[0, 3], [1]]
    """
    classes = defaultdict[int, list[int]](list)
    for place, size in enumerate(sizes):
        if size:
            classes[max(_SMALLEST_CLASS, 1 << (size - 1).bit_length())].append(place)
    return [
        places[start : start + step]
        for longest, places in sorted(classes.items())
        for step in [max(1, most // longest)]
        for start in range(0, len(places), step)
    ]


def _incoming(size: int, heads: int) -> Array:
    falling = np.arange(0, -size, -1, dtype=np.float32)
    return np.repeat(falling[:, None], heads, axis=1)


# --- the session ------------------------------------------------------------------------------


def _session(onnx: bytes, provider: Provider, threads: int) -> onnxruntime.InferenceSession:
    """Build the session on the provider that was asked for."""
    if provider == "cpu":
        return _built(onnx, threads, [_CPU])
    missing = _no_gpu()
    if not missing:
        # TF32 would round the scores to three digits, too few for the registry's probe.
        _libraries()
        session = _built(onnx, threads, [(_CUDA, {"use_tf32": "0"}), _CPU])
        if _CUDA in session.get_providers():
            return session
        missing = cuda_missing() or "onnxruntime did not take it; its own log line says why"
    if provider == "cuda":
        raise ProviderMissing(
            f"rank.provider is cuda, and CUDA cannot be used: {cuda_missing() or missing}. "
            "Install what is missing, or set rank.provider to auto or cpu"
        )
    _say_fallback(missing)
    return _built(onnx, threads, [_CPU])


def _built(
    onnx: bytes, threads: int, providers: list[str | tuple[str, dict[str, str]]]
) -> onnxruntime.InferenceSession:
    options = options_of(threads)
    try:
        session = onnxruntime.InferenceSession(
            onnx,
            options,
            providers=providers,
            disabled_optimizers=_SLOWER if providers == [_CPU] else None,
        )
    except Exception as error:  # ONNX Runtime's own derive from Exception alone
        rule = "model must be an ONNX graph that runs here"
        raise ModelRefused(f"{rule}: {one_line(error)}") from error
    session.disable_fallback()  # or an error on the GPU goes on, silently, on the CPU
    return session


def options_of(threads: int) -> onnxruntime.SessionOptions:
    """Return what every session here is built with, so many threads wide."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin between two runs take the cores from the flow, and from other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # it remembers a plan for every shape that ever came
    return options


def one_line(error: Exception) -> str:
    """Return what an error says; ONNX Runtime's own say it on several lines."""
    return " ".join(str(error).split())


def _heads(session: onnxruntime.InferenceSession) -> int:
    outputs = {one.name: one for one in session.get_outputs()}
    if OUTPUT not in outputs:
        raise ModelRefused(f"model must have an output {OUTPUT!r}, got {sorted(outputs)}")
    shape, kind = outputs[OUTPUT].shape, outputs[OUTPUT].type
    if len(shape) != 3 or not isinstance(shape[2], int) or kind != "tensor(float)":
        rule = "float32 (lists, candidates, heads) with a fixed number of heads"
        raise ModelRefused(f"model's {OUTPUT!r} must be {rule}, got {kind} {shape}")
    return shape[2]


# --- the GPU ----------------------------------------------------------------------------------


def cuda_missing() -> str:
    """Say what keeps CUDA from being used here, as far as can be known without a session.

    Returns:
        What is missing, `""` if nothing is.
    """
    return "; ".join(filter(None, [_no_gpu(), *_libraries()]))


@lru_cache(maxsize=1)
def _no_gpu() -> str:
    """Say why no session here can have a GPU, `""` where one may."""
    if _CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without it (onnxruntime-gpu has it)"
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"the NVIDIA driver ({name}) is not installed"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return "" if count.value else f"the NVIDIA driver finds no GPU (status {status})"


@lru_cache(maxsize=1)
def _libraries() -> tuple[str, ...]:
    """Load CUDA's libraries from where pip installs them; say which could not be loaded."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return ()
    said = io.StringIO()  # it prints, and stdout belongs to the program's results
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    failed = [line for line in said.getvalue().splitlines() if line.startswith("Failed")]
    return tuple(dict.fromkeys(failed))


@lru_cache(maxsize=1)
def _say_fallback(missing: str) -> None:
    """Log it, once a process."""
    log.warning("no CUDA here, the model runs on the CPU: %s", missing)
