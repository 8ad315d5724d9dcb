"""The next item out of the whole catalogue, beside peers and published figures.

    python tests/benchmarks/sequences.py --data FILE --report sequences.json [--recipe long]

FILE has sequences in order, plain or gzip, as SASRec has them (`user item` a line) or as S3-Rec
(`user item item ...` a line); which one it is shows.  Leave-one-out: the last item of a user
tests, all items of the catalogue are ranked but those that the user has had.  Of some users,
drawn by chance (`judged` of the recipe), the last item but one is held out, and chooses the
epoch; of all others it teaches like the rest.  The test items are ranked once, at the end, by the
weights of that epoch.  Whether a published run learned from the last item but one is not always
said.

Peers in the same run: popularity, and from `implicit` the cosine between items, ALS and BPR.
What they can be set to is chosen by the last items but one of all users; then they are fitted
again with those.  `seconds` is what learning took, validation included, `peak_memory_mb` the
process's highest until the test; a figure's `error` is its standard error over users.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from streamrank.features.inputs import Array
from streamrank.model import candidates
from streamrank.model.leave_one_out import figures, ranks
from streamrank.model.sequence_training import Learned, Progress, Recipe, learn
from streamrank.model.sequences import Shape
from tests.benchmarks import sequences_peers

Setting = tuple[dict[str, Any], Recipe]
SETTINGS: dict[str, Setting] = {
    "long": ({"length": 200, **candidates.OF_LONG}, replace(candidates.FROM_LONG, epochs=100)),
    "short": ({"length": 50, **candidates.OF_SHORT}, replace(candidates.FROM_SHORT, patience=8)),
}
"""For sequences of 20 items and more in the mean, and for shorter ones."""

PUBLISHED = {
    (6040, 3416, 999_611): {
        "SASRec+ (3,000 negatives)": (0.1857, 0.3159),
        "SASRec+ (full softmax)": (0.1821, 0.3152),
        "gSASRec": (0.1726, 0.3003),
        "BERT4Rec": (0.1537, 0.2843),
        "SASRec (BCE)": (0.1341, 0.2500),
    },
    (22_363, 12_101, 198_502): {
        "SASRec (sampled softmax)": (0.0531, 0.0921),
        "DuoRec": (0.0443, 0.0845),
        "S3-Rec": (0.0327, 0.0647),
        "SASRec": (0.0318, 0.0605),
    },
}
"""NDCG@10 and HR@10 by users, items and interactions of the file: MovieLens-1M, Amazon Beauty."""


def read(path: Path) -> list[Array]:
    """Return the sequence of each user, items from 1, none left out.

    Raises:
        ValueError: A line is neither form, or a number is not one.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as lines:
        rows = [list(map(int, line.split())) for line in lines if line.strip()]
    if not rows or min(map(len, rows)) < 2:
        raise ValueError(f"{path}: a line must be a user and items, got {min(rows, default=[])}")
    sequences: dict[int, list[int]] = {}
    for user, *items in rows:  # of one item each, SASRec's form
        sequences.setdefault(user, []).extend(items)
    _, numbered = np.unique(np.concatenate(list(sequences.values())), return_inverse=True)
    cuts = np.cumsum([len(items) for items in sequences.values()])[:-1]
    return np.split(numbered.astype(np.int64) + 1, cuts)


def histories(sequences: Sequence[Array], dropped: int) -> list[dict[str, Array]]:
    """Return all but the last items, as the model takes them."""
    return [{"items": items[: len(items) - dropped]} for items in sequences]


def trained(sequences: Sequence[Array], setting: Setting, seed: int, logs: Path | None) -> Learned:
    """Learn from all but the test items."""
    shape, recipe = setting
    catalogue = max(int(items.max()) for items in sequences)
    return learn(
        histories(sequences, 1),
        Shape(items=catalogue, **shape),
        recipe=recipe,
        seed=seed,
        logs=logs,
        on_progress=Shown(),
    )


class Shown:
    """Prints a line an epoch."""

    def __init__(self) -> None:
        self.epoch, self.begun = 0, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if progress.share >= 1 and progress.epoch > self.epoch:
            self.epoch, spent = progress.epoch, time.monotonic() - self.begun
            print(
                f"epoch {self.epoch} of at most {progress.epochs}: loss {progress.loss:.3f}, best "
                f"NDCG@10 in validation {progress.best:.4f}, {spent:.0f} s",
                flush=True,
            )


def with_errors(places: Array) -> dict[str, float]:
    """Return the figures of ranks, each with its standard error over users."""
    gains = (places <= 10) / np.log2(1 + places)
    errors = {"ndcg@10": gains, "hr@10": (places <= 10).astype(float)}
    spread = {f"{n}_error": float(v.std() / len(v) ** 0.5) for n, v in errors.items()}
    return figures(places) | spread


def measured(sequences: Sequence[Array], setting: Setting, seed: int, logs: Path | None) -> Any:
    """Learn, and rank the test items once."""
    learned = trained(sequences, setting, seed, logs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wanted = np.array([items[-1] for items in sequences])
    found = with_errors(ranks(learned.model, histories(sequences, 1), wanted))
    return found | {
        "seconds": round(learned.seconds, 1),
        "peak_memory_mb": round(peak),
        "validation": dict(learned.metrics),
        "epochs": learned.epochs,
        "curve": [dict(one) for one in learned.curve],
        "shape": asdict(learned.model.shape),
        "recipe": {n: v for n, v in asdict(setting[1]).items() if v != float("inf")},
        "seed": seed,
    }


def compare(
    sequences: Sequence[Array], setting: Setting, asked: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Give the report as soon as our own figures are known, and again with each peer's."""
    report = measured(sequences, setting, asked.seed, asked.logs)
    items = report["shape"]["items"]
    size = (len(sequences), items, sum(map(len, sequences)))
    report |= {
        "peers": {},
        "published": {
            name: {"ndcg@10": ndcg, "hr@10": hits}
            for name, (ndcg, hits) in PUBLISHED.get(size, {}).items()
        },
        "data": dict(zip(("users", "items", "interactions"), size, strict=True)),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }
    yield report
    if not asked.no_peers:
        for name, found in sequences_peers.measured(sequences, items, asked.seed):
            report["peers"][name] = found
            yield report


def shown(report: dict[str, Any]) -> Table:
    """Return the report as a table."""
    table = Table("", "NDCG@10", "HR@10", "seconds")
    for name, row in {"StreamRank": report, **report["peers"]}.items():
        seconds = f"{row['seconds']:,.0f}"
        table.add_row(name, f"{row['ndcg@10']:.4f}", f"{row['hr@10']:.4f}", seconds)
    for name, row in report["published"].items():
        table.add_row(f"published: {name}", f"{row['ndcg@10']:.4f}", f"{row['hr@10']:.4f}", "")
    return table


def settings_of(asked: argparse.Namespace, sequences: Sequence[Array]) -> Setting:
    """Return the settings that fit sequences of this length, with what was asked for instead."""
    mean = sum(map(len, sequences)) / len(sequences)
    shape, recipe = SETTINGS[asked.recipe or ("long" if mean >= 20 else "short")]
    limits = {"epochs": asked.epochs, "seconds": asked.seconds}
    return shape, replace(recipe, **{n: v for n, v in limits.items() if v is not None})


def main() -> None:
    """Measure, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="the sequences")
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--recipe", choices=list(SETTINGS), help="instead of by mean length")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--seconds", type=float, help="of learning, about, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, help="folder for TensorBoard")
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads())
    sequences = read(asked.data)
    for report in compare(sequences, settings_of(asked, sequences), asked):
        Console().print(shown(report))
        if asked.report:
            asked.report.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
