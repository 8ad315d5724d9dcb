"""How long it takes to find candidates in a large catalogue, and in how much memory.

    python tests/benchmarks/retrieval.py --report retrieval.json [--items 1000000] [--threads 1]

The model has weights as they begin: what it costs does not depend on what it knows.  Histories
have 50 steps, all of which are excluded, and 100 items are found, exactly.  `memory_mb` is what
the process gained by the session, its catalogue included, after the runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import torch

from streamrank.model import retrieval
from streamrank.model.sequences import SequenceModel, Shape

STEPS, FOUND = 50, 100


def resident() -> float:
    """Return the memory of this process, MB."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / (1 << 20)


def latency(session: onnxruntime.InferenceSession, items: int, lists: int, seconds: float) -> float:
    """Return the median of what a batch takes, ms."""
    random, times = np.random.default_rng(0), list[float]()
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        history = random.integers(1, items + 1, (lists, STEPS))
        fed = {"items": history, "excluded": history, "k": np.array([FOUND])}
        begun = time.perf_counter()
        session.run(None, fed)
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def main() -> None:
    """Measure, print, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    asked = parser.parse_args()
    torch.manual_seed(0)
    model = SequenceModel(Shape(items=asked.items, width=asked.width, length=STEPS))
    begun = time.perf_counter()
    graph = retrieval.export(model).onnx  # which is checked
    exported, size = time.perf_counter() - begun, len(graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "retrieval.onnx"
        path.write_bytes(graph)
        del model, graph
        before = resident()
        session = retrieval.session_of(path, asked.threads)
    found = {
        f"batch_{lists}_ms": round(latency(session, asked.items, lists, asked.seconds), 2)
        for lists in (1, 8, 32)
    }
    report = {
        "items": asked.items,
        "width": asked.width,
        "threads": asked.threads,
        "export_seconds": round(exported, 1),
        "graph_mb": round(size / (1 << 20)),
        "memory_mb": round(resident() - before),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    } | found
    print(json.dumps(report, indent=2))
    if asked.report:
        asked.report.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
