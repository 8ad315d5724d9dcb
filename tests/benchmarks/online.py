"""What learning on is worth: the same model frozen, and updated N times over the measured lists.

    python tests/benchmarks/online.py --report online.json [--trivago EVENTS] [--ml-1m FOLDER]

The protocol is that of Monolith: a model is trained on the first lists of a log; then every later
list is predicted before it is learned from.  Frozen, the model stays; updated N times, it learns
after each N-th part of the measured lists from those whose feedback had come by then, with the
learner, the recipe and the memory of the learn flow.  Features, which know the newest counts in
any case, are the same for all.

AUC is over all candidates of all measured lists, NDCG@10 list by list.  `ahead` is the difference
to frozen on the same lists, with 95 % bootstrap intervals, drawn by user.

References:
    Liu et al., 2022, "Monolith: real time recommendation system with collisionless embedding
    table", section 4.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from streamrank import deployment, reading, replay, steps_ranking, study
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown
from streamrank.evaluation import metrics
from streamrank.evaluation.ahead import Compared, ahead
from streamrank.events import Interaction, Shown
from streamrank.features.inputs import Array
from streamrank.learning.examples import Example
from streamrank.learning.feedback import Feedback
from streamrank.learning.joins import Joins
from streamrank.model import training
from streamrank.model.learner import Learner
from streamrank.replay import Gathered, Survey
from streamrank.settings import Settings
from streamrank.steps import Read
from tests.benchmarks.online_logs import write_movielens

FROZEN = "frozen"

# --- the lists, in order ----------------------------------------------------------------------


@dataclass
class Stream:
    """A log on its way: what may be learned from at first, then predictions and lessons in turn.

    Attributes:
        first: Lists with feedback before the first measured one.
        order: Lists to predict, and examples that are ready to be learned from, as they come.
    """

    known: Settings
    found: Survey
    learn_until: float
    first: list[Example] = field(default_factory=list)
    order: list[tuple[bool, Example]] = field(default_factory=list)

    def run(self, records: Iterable[Incoming]) -> None:
        """Take the log in."""
        learned, measured = self.found.split(self.learn_until)
        lane = replay.lane_of(self.known, AsShown(), datetime.now(UTC))
        gathered = Gathered(Feedback(self.known.feature_schema()))
        joins, at = Joins(deployment.join_rules(self.known)), 0
        for record in records:
            read = lane.read(record)
            if not isinstance(read, Read):
                continue
            at = max(at, read.event.timestamp)
            if read.event.id in measured and not self.first:
                self.first = gathered.examples()
            if isinstance(read.event, Interaction) and not self.first:
                gathered.feedback.take(read.event)
            ready: list[object] = []
            for one in lane.take(read):
                if one.query.source == "trigger":
                    continue
                if one.query.id in learned:
                    gathered.lists[one.query.id] = one
                if one.query.id in measured:
                    ids = replay.ids_of(one.query)
                    clicked = self.found.clicked[one.query.id]
                    labels = np.array([[item in clicked] for item in ids], np.float32)
                    query = one.query
                    self.order.append(
                        (True, Example(query.id, query.user, query.at, one.inputs, labels))
                    )
                    ready += joins.take(steps_ranking.to_served(lane.plan, one), at)
            if isinstance(read.event, (Interaction, Shown)):
                ready += joins.take(read.event, at)
            self.order += [(False, one) for one in ready if isinstance(one, Example)]


# --- frozen, and updated ----------------------------------------------------------------------


def predicted(
    order: Sequence[tuple[bool, Example]], learner: Learner, updates: int
) -> tuple[list[Array], float]:
    """Predict every measured list, and learn `updates` times in between.

    Returns:
        The scores of each list, (C,), and the seconds that learning took.
    """
    total = sum(measured for measured, _ in order)
    borders = np.linspace(0, total, updates + 1).round().astype(int)[1:-1].tolist()
    scores: list[Array] = []
    waiting: list[Example] = []
    unscored: list[Example] = []
    seconds, done = 0.0, 0
    for measured, example in order:
        if not measured:
            waiting.append(example)
            continue
        while borders and done >= borders[0]:
            borders.pop(0)
            scores += learner.scored(unscored)
            begun, unscored = time.perf_counter(), []
            batch = learner.recipe.batch
            for part in (waiting[n : n + batch] for n in range(0, len(waiting), batch)):
                learner.update(part)
            waiting = []
            seconds += time.perf_counter() - begun
        unscored.append(example)
        done += 1
    scores += learner.scored(unscored)
    return [one[:, 0] for one in scores], seconds


# --- figures ----------------------------------------------------------------------------------


def figures(
    scores: Mapping[str, Sequence[Array]], lists: Sequence[Example]
) -> dict[str, dict[str, Any]]:
    """Return AUC and NDCG@10 of every system, and how far each is ahead of the frozen one."""
    labels = [one.labels[:, 0] for one in lists]
    users = [one.user for one in lists]
    report: dict[str, dict[str, Any]] = {}
    for name, own in scores.items():
        ndcg = [metrics.ndcg(one, liked, 10) for one, liked in zip(own, labels, strict=True)]
        area = metrics.auc(np.concatenate(own), np.concatenate(labels))
        report[name] = {"auc": area, "ndcg@10": float(np.mean(ndcg))}
        if name != FROZEN:
            leads = ahead([*map(Compared, users, own, scores[FROZEN], labels)])
            report[name]["ahead"] = {
                "auc": leads["global_auc"]._asdict(),
                "ndcg@10": leads["ndcg@10"]._asdict(),
            }
    return report


def measure(log: Path, name: str, asked: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train on the first lists of a log, and predict the rest frozen and updated."""
    known = reading.settings_for(None, log, console)
    with reading.records_of(log, f"{name}: looking", console) as records:
        found = replay.survey(records, known, datetime.now(UTC))
    stream = Stream(known, found, asked.learn_until)
    with reading.records_of(log, f"{name}: replaying", console) as records:
        stream.run(records)
    begun = time.perf_counter()
    trained = training.train(
        stream.first, known.feature_schema(), size=known.model.size, epochs=asked.epochs
    )
    weights = {n: tensor.numpy() for n, tensor in trained.ranker.state_dict().items()}
    seconds = {"training": round(time.perf_counter() - begun, 1)}
    reading.say(console, f"{name}: trained on {len(stream.first)} lists")
    scores: dict[str, list[Array]] = {}
    for updates in (0, *asked.updates):
        learner = Learner.begin(
            weights, known.feature_schema(), known.model.size, 0, study.recipe_of(known)
        )
        for example in stream.first:
            learner.memory.take(example)
        label = str(updates) if updates else FROZEN
        scores[label], took = predicted(stream.order, learner, max(1, updates))
        seconds[label] = round(took, 1)
    lists = [example for measured, example in stream.order if measured]
    report = figures(scores, lists)
    show(report, f"{name}: {len(lists)} measured lists", console)
    return report | {
        "lists": {"learned": len(stream.first), "measured": len(lists)},
        "users": len({one.user for one in lists}),
        "seconds": seconds,
    }


def show(report: Mapping[str, Mapping[str, Any]], title: str, console: Console) -> None:
    """Print a table."""
    rows = Table("updates", "AUC", "NDCG@10", "AUC ahead", "NDCG@10 ahead", title=title)
    for name, system in report.items():
        leads = [
            f"{lead['mean']:+.4f} ({lead['low']:+.4f} to {lead['high']:+.4f})"
            for lead in system.get("ahead", {}).values()
        ]
        rows.add_row(name, f"{system['auc']:.4f}", f"{system['ndcg@10']:.4f}", *leads)
    console.print(rows)


def main() -> None:
    """Measure, print and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--trivago", type=Path, help="its log, as for streamrank replay")
    parser.add_argument("--ml-1m", type=Path, help="the folder of MovieLens-1M with its times")
    parser.add_argument("--users", type=int, default=1200, help="of MovieLens, drawn by chance")
    parser.add_argument("--learn-until", type=float, default=0.7, metavar="SHARE")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--updates", type=int, nargs="+", default=[10, 50, 100])
    asked = parser.parse_args()
    console, report = Console(), dict[str, Any]()
    if asked.trivago:
        report["trivago"] = measure(asked.trivago, "trivago", asked, console)
    if asked.ml_1m:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "movielens.jsonl")
            lists = write_movielens(asked.ml_1m, log, asked.users)
            reading.say(console, f"ml-1m: {lists} lists of {asked.users} users")
            report["ml-1m"] = measure(log, "ml-1m", asked, console)
    if not report:
        parser.error("name at least one log: --trivago, --ml-1m")
    report["machine"] = f"{os.cpu_count()} CPUs, {platform.machine()}"
    draft = asked.report.with_name(asked.report.name + ".part")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(asked.report)


if __name__ == "__main__":
    main()
