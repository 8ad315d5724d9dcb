"""How fast lists are scored: each size and format, the scorer, and what formats cost in quality.

    python tests/benchmarks/scoring.py --report scoring.json [--events EVENTS] [--size small]

Lists have 100 candidates and 50 steps of history.

`formats` times sessions on what is already stacked, in turn, on one core without spinning, in
batches of 1 and 32; figures are milliseconds a list.  The models have weights as they begin, and
the bins that fit the lists of simulated shoppers: a feature that is one of two numbers has one.
fp16 is for a GPU, and not run where there is none.

`scorer` compares ONNX Runtime's session as it comes with the scorer, which starts from the single
lists, as the flow does: it stacks, runs, checks and cuts.  `mixed` are lists of 2 to 300
candidates, `padded` the same in one run, each as long as the longest.

`quality` trains a small model on the first part of a log, and ranks the rest of it with every
format: EVENTS, or else simulated shoppers.  Intervals are of the difference to float32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console

from streamrank import infer, reading, replay
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown, OnnxScorer, ProviderMissing
from streamrank.features import inputs
from streamrank.features.inputs import Inputs
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.model import compression, export, training
from streamrank.model.ranker import SIZES, Configuration, Size, configure
from streamrank.simulate import World
from streamrank.steps_ranking import Scorer
from tests.benchmarks import steps
from tests.benchmarks.lists import Run

CANDIDATES, STEPS, SECONDS, LISTS = 100, 50, 4.0, 4_000
UNTIL = 1_700_000_000_000


def a_list(config: Configuration, candidates: int) -> Inputs:
    """Return the inputs of one list."""
    batch = export.random_inputs(config, 1, STEPS, candidates)
    return {name: array[0] for name, array in batch.items()}


@cache
def shown() -> tuple[Schema, Sequence[Inputs]]:
    """Return what some lists of simulated shoppers are made of, and their inputs."""
    past = list(World(seed=0).history(300, until=UNTIL))
    known = infer.infer(past).settings
    records = [Incoming(replay.TOPIC, 0, n, event.encode()) for n, event in enumerate(past)]
    lane = replay.lane_of(known, AsShown(), datetime.now(UTC))
    return known.feature_schema(), [one.inputs for one in replay.gather(lane, records, known)]


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
        "least_ms": round(min(times), 3),
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


def formats(graph: bytes, batches: Sequence[Inputs]) -> dict[str, bytes]:
    """Return a graph in every format for a CPU."""
    return {
        "fp32": graph,
        "int8_bins": compression.int8_bins(graph),
        "int8_dynamic": compression.int8_dynamic(graph),
        "int8_static": compression.int8_static(graph, batches),
    }


def sizes(names: Sequence[Size], threads: int) -> dict[str, Any]:
    """Time every size in every format."""
    found: dict[str, Any] = {}
    for size in names:
        config = configure(shown()[0], size)
        graph = export.to_onnx(steps.fitted(config, shown()[1]))
        graphs = formats(graph, [export.random_inputs(config, 1, STEPS, CANDIDATES)])
        scorers = {
            name: OnnxScorer(one, version=name, provider="cpu", threads=threads)
            for name, one in graphs.items()
        }
        gpu = _on_gpu(graph)
        found[size] = {name: {} for name in scorers} | {"fp16": "not run" if gpu is None else {}}
        scorers |= {} if gpu is None else {"fp16": gpu}
        for lists in (1, 32):
            feed = inputs.stack([a_list(config, CANDIDATES)] * lists)
            calls = [lambda s=s, f=feed: s.run(f) for s in scorers.values()]
            for name, row in zip(scorers, latency(calls, lists), strict=True):
                each = {key: round(row[key] / lists, 4) for key in ("least_ms", "p50_ms", "p90_ms")}
                found[size][name][f"batch {lists}"] = each
    return found


def _on_gpu(graph: bytes) -> OnnxScorer | None:
    try:
        return OnnxScorer(compression.fp16(graph), version="fp16", provider="cuda")
    except ProviderMissing:
        return None


# --- quality ----------------------------------------------------------------------------------


def simulated(folder: Path) -> Path:
    """Write a log of simulated shoppers."""
    log = folder / "events.jsonl"
    history = World(seed=0).history(LISTS, until=UNTIL)
    log.write_bytes(b"".join(event.encode() + b"\n" for event in history))
    return log


def quality(events: Path, console: Console) -> dict[str, Any]:
    """Train on the first part of a log; say how every format ranks the rest."""
    known = reading.settings_for(None, events, console)
    graphs: dict[str, bytes] = {}

    def train(examples: list[Example]) -> Scorer:
        trained = training.train(examples, known.feature_schema(), epochs=known.model.epochs)
        graph = export.to_onnx(trained.ranker.eval())
        batches = [inputs.stack([one.inputs]) for one in examples[-200:]]
        graphs.update(formats(graph, batches) | {"fp16": compression.fp16(graph)})
        return OnnxScorer(graph, version="benchmark", provider="cpu")

    with reading.records_of(events, "looking", console) as records:
        found = replay.survey(records, known, datetime.now(UTC))
    with reading.records_of(events, "replaying", console) as records:
        parts = Run(known, found, 0.7, train, 1).run(records)
    lists = [one for part in parts for one in part.lists]
    compared = {
        name: compression.compared(graphs["fp32"], graph, lists) for name, graph in graphs.items()
    }
    return {"lists": len(lists)} | {
        name: {"apart": one.apart, "ndcg@10": one.ndcg._asdict(), "mrr": one.mrr._asdict()}
        for name, one in compared.items()
    }


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print what was measured."""
    for size, rows in found["formats"].items():
        for name, row in rows.items():
            console.print(f"{size:6} {name:13} {row}", highlight=False)
    for name, row in found["scorer"].items():
        console.print(f"scorer {name:18} {row}", highlight=False)
    for name, row in found.get("quality", {}).items():
        console.print(f"quality {name:13} {row}", highlight=False)


def main() -> None:
    """Measure, print, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--size", choices=list(SIZES), action="append", help="else all of them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--events", type=Path, help="log for the quality; else it is simulated")
    parser.add_argument("--no-quality", action="store_true", help="measure speed alone")
    asked = parser.parse_args()
    torch.manual_seed(0)
    console = Console()
    config = configure(shown()[0], (asked.size or ["small"])[0])
    found: dict[str, Any] = {
        "threads": asked.threads,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "formats": sizes(asked.size or list(SIZES), asked.threads),
        "scorer": compare(export.to_onnx(steps.fitted(config, shown()[1])), config, asked.threads),
    }
    if not asked.no_quality:
        with tempfile.TemporaryDirectory() as folder:
            found["quality"] = quality(asked.events or simulated(Path(folder)), console)
    show(found, console)
    if asked.report:
        asked.report.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
