"""How fast lists are scored, beside the bare ONNX Runtime session on the same inputs.

    python tests/benchmarks/scoring.py --report scoring.json [--size small] [--threads 1]

The model is the Ranker with weights as they begin: what it costs does not depend on what it
knows.  Lists have 100 candidates and 50 steps of history.  `session` runs what is already
stacked, with ONNX Runtime's own settings but the threads; `scorer` starts from the single lists,
as the flow does: it stacks, runs, checks and cuts.  `mixed` are lists of 2 to 300 candidates,
`padded` the same in one run, each as long as the longest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from streamrank.edges.onnxruntime import OnnxScorer
from streamrank.features import inputs
from streamrank.features.inputs import Inputs
from streamrank.features.schema import Schema
from streamrank.model import export
from streamrank.model.ranker import Configuration, Ranker, configure, fit_bins

CANDIDATES, STEPS, SECONDS = 100, 50, 4.0
SCHEMA = Schema(item={"price": "number", "title": "text", "tags": "text_list"})


def a_list(config: Configuration, candidates: int) -> Inputs:
    """Return the inputs of one list."""
    batch = export.random_inputs(config, 1, STEPS, candidates)
    return {name: array[0] for name, array in batch.items()}


def untrained(config: Configuration) -> Ranker:
    """Return a Ranker of random weights, with as many bins as a trained one has."""
    random = np.random.default_rng(0)
    numbers, context = (random.normal(size=(500, n)) for n in (config.numbers, config.context))
    return Ranker(config, fit_bins(numbers, config.bins), fit_bins(context, config.bins))


def latency(calls: Sequence[Callable[[], object]], lists: int) -> list[dict[str, float]]:
    """Time calls in turn, so that a busy machine slows all of them alike."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + SECONDS * len(calls)
    while time.perf_counter() < end:
        for call, own in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            own.append(1000 * (time.perf_counter() - begin))
    return [_figures(own, lists) for own in times]


def _figures(times: list[float], lists: int) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {
        "p50_ms": round(cuts[49], 3),
        "p90_ms": round(cuts[89], 3),
        "p99_ms": round(cuts[98], 3),
        "lists_per_second": round(1000 * lists / cuts[49]),
    }


def bare(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session as it comes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def compare(graph: bytes, config: Configuration, threads: int) -> dict[str, dict[str, float]]:
    """Measure the scorer and the session."""
    scorer = OnnxScorer(graph, version="benchmark", provider="cpu", threads=threads)
    session = bare(graph, threads)
    found: dict[str, dict[str, float]] = {}
    for lists in (1, 32):
        batch = [a_list(config, CANDIDATES)] * lists
        feed = inputs.stack(batch)
        names = (f"session, batch {lists}", f"scorer, batch {lists}")
        calls = (lambda: session.run(["scores"], feed), lambda: scorer.score(batch))  # noqa: B023
        found |= dict(zip(names, latency(calls, lists), strict=True))
    sizes = np.random.default_rng(0).integers(2, 301, size=32)
    mixed = [a_list(config, int(size)) for size in sizes]
    calls = (lambda: session.run(["scores"], inputs.stack(mixed)), lambda: scorer.score(mixed))
    found |= dict(zip(("padded, batch 32", "mixed, batch 32"), latency(calls, 32), strict=True))
    return found


def main() -> None:
    """Measure, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--size", choices=["small", "base", "large"], default="small")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.manual_seed(0)
    config = configure(SCHEMA, asked.size)
    graph = export.to_onnx(untrained(config).eval())
    found = compare(graph, config, asked.threads)
    print(f"{asked.size}, {CANDIDATES} candidates, {STEPS} steps, {asked.threads} thread(s)")
    print(f"{'':20}" + "".join(f"{name:>18}" for name in next(iter(found.values()))))
    for name, row in found.items():
        print(f"{name:20}" + "".join(f"{value:18,.3f}" for value in row.values()))
    if asked.report:
        machine = {"processor": platform.machine(), "cores": os.cpu_count()}
        about = {"size": asked.size, "threads": asked.threads, "machine": machine}
        asked.report.write_text(json.dumps(about | {"scoring": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
