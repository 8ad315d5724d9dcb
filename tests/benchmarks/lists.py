"""StreamRank beside its peers on shown lists, in one run: the same lists, the same features.

    python tests/benchmarks/lists.py --events EVENTS --report lists.json [--ablate [NAME …]]
        [--distil SIZE]

The log goes through both flows once, as `streamrank replay` does it: the first lists are learned
from, each later one is scored before its own feedback.  What StreamRank saw of every list is
kept, and the peers get just that: LambdaMART (LightGBM) on simple features and tuned on all of
them, logistic regression on all of them.  StreamRank is trained once; a peer is fitted again
before each of `--refits` parts of the measured lists, on the lists before that part with the
feedback that had come by then; `..._frozen` is its first fit, on what StreamRank learned from.

`seconds` is what learning took and scoring the measured lists, without the features, which all
share.  `ahead` is StreamRank's mean lead over a peer on the same lists, with its 95 % bootstrap
interval, drawn by user.  `--ablate` trains StreamRank again without some of what it sees, and with
pre-training, or without that where the settings have it: all of it, or what is named.  `--distil`
trains a larger one, and StreamRank again with what such larger ones, which have not learned from
the list in question, think of its candidates.
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
from typing import Any, get_args

import lightgbm
import numpy as np
from rich.console import Console
from rich.table import Table

from streamrank import deployment, reading, replay, versions
from streamrank import settings as settings_module
from streamrank.edges.kafka import Incoming
from streamrank.evaluation import intervals, metrics
from streamrank.events import Interaction
from streamrank.features.inputs import Array, Inputs
from streamrank.learning.examples import Example
from streamrank.learning.feedback import Feedback
from streamrank.model.ranker import Size
from streamrank.replay import Gathered, Survey, Train
from streamrank.settings import Settings
from streamrank.steps import Read
from streamrank.steps_ranking import Scored, Scorer
from tests.benchmarks.lists_ablation import ablated, ablations
from tests.benchmarks.lists_distillation import distilled
from tests.benchmarks.lists_peers import Outcome, Part, names_of, peers, simple_names

METRICS = ("mrr", "ndcg@10")
OURS = "streamrank"

# --- the lists, as StreamRank saw them --------------------------------------------------------


@dataclass
class Timed:
    """A scorer, and the seconds that it took."""

    scorer: Scorer
    seconds: float = 0.0

    @property
    def version(self) -> str:
        return self.scorer.version

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        begun = time.perf_counter()
        scores = self.scorer.score(batch)
        self.seconds += time.perf_counter() - begun
        return scores


@dataclass
class Run:
    """One replay, which keeps every list.

    Args:
        known: The settings.
        found: What the log holds.
        learn_until: Share of the labelled lists that may be learned from.
        train: Makes StreamRank's scorer, once.
        parts: Into how many parts the measured lists are cut.
    """

    known: Settings
    found: Survey
    learn_until: float
    train: Train
    parts: int
    done: list[Part] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, records: Iterable[Incoming]) -> list[Part]:
        """Take the log in; return the measured lists, part by part."""
        first, self._measured = self.found.split(self.learn_until)
        later = self.found.labelled[len(first) :]
        starts = {str(part[0]) for part in np.array_split(later, self.parts) if len(part)}
        scorer = deployment.scorer_of(self.known)
        self._lane = replay.lane_of(self.known, scorer, datetime.now(UTC))
        self._gathered = Gathered(Feedback(self.known.feature_schema()))
        for record in records:
            read = self._lane.read(record)
            if isinstance(read, Read):
                if read.event.id in starts:
                    starts.discard(read.event.id)
                    self._begin_part()
                self._take(read)
        if isinstance(self._lane.scorer, Timed):
            self.seconds += self._lane.scorer.seconds
        return [part for part in self.done if part.lists]

    def _begin_part(self) -> None:
        self.done.append(Part(self._gathered.examples()))
        if len(self.done) == 1:
            begun = time.perf_counter()
            self._lane.scorer = Timed(self.train(self.done[0].before))
            self.seconds += time.perf_counter() - begun

    def _take(self, read: Read) -> None:
        scored = [one for one in self._lane.take(read) if one.query.source != "trigger"]
        if isinstance(read.event, Interaction):
            self._gathered.feedback.take(read.event)
        for one in scored:
            if one.query.id in self.found.clicked:
                self._gathered.lists[one.query.id] = one
            if one.query.id in self._measured:
                self._measure(one)

    def _measure(self, one: Scored) -> None:
        query, lane = one.query, self._lane
        clicked = self.found.clicked[query.id]
        labels = np.array([[item in clicked] for item in replay.ids_of(query)], np.float32)
        simple = replay.simple_orders(query, lane.store, lane.plan.schema)
        self.done[-1].lists.append(Example(query.id, query.user, query.at, one.inputs, labels))
        self.done[-1].scores.append({OURS: one.scores[:, 0]} | simple)


# --- the report -------------------------------------------------------------------------------


def compare(outcomes: Mapping[str, Outcome], lists: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """Measure every system, and StreamRank's lead over each."""
    users = [one.user for one in lists]
    figures = {
        name: [
            metrics.of_list(scores, one.labels[:, 0])
            for scores, one in zip(outcome.scores, lists, strict=True)
        ]
        for name, outcome in outcomes.items()
    }

    def lead(name: str, metric: str) -> dict[str, float]:
        both = (np.array([one[metric] for one in figures[who]]) for who in (OURS, name))
        return intervals.paired(*both, groups=users)._asdict()

    return {
        name: {metric: metrics.mean(figures[name])[metric] for metric in METRICS}
        | {"seconds": round(outcome.seconds, 1)}
        | ({} if name == OURS else {"ahead": {metric: lead(name, metric) for metric in METRICS}})
        for name, outcome in outcomes.items()
    }


def show(systems: Mapping[str, Mapping[str, Any]], title: str, console: Console) -> None:
    """Print a table of systems."""
    leads = (f"{OURS} ahead, {metric}" for metric in METRICS)
    rows = Table("", *METRICS, "seconds", *leads, title=title)
    for name, system in systems.items():
        cells = [*(f"{system[metric]:.4f}" for metric in METRICS), f"{system['seconds']:.0f}"]
        for lead in system.get("ahead", {}).values():
            cells.append(f"{lead['mean']:+.4f} ({lead['low']:+.4f} to {lead['high']:+.4f})")
        rows.add_row(name, *cells, style="bold" if name == OURS else None)
    console.print(rows)


def measure(asked: argparse.Namespace, console: Console) -> None:
    """Replay, fit the peers, print and report."""
    known = reading.settings_for(asked.settings, asked.events, console)
    for name in asked.ablate or ():
        if name not in (names := ablations(known)):
            raise SystemExit(f"--ablate must name some of {', '.join(names)}, got {name!r}")
    with tempfile.TemporaryDirectory() as registry:
        known = settings_module.changed(known, {"registry": {"path": registry}})
        with reading.records_of(asked.events, "looking", console) as records:
            found = replay.survey(records, known, datetime.now(UTC))
        train = versions.trainer(known, [], console)
        run = Run(known, found, asked.learn_until, train, asked.refits)
        begun = time.perf_counter()
        with reading.records_of(asked.events, "replaying", console) as records:
            parts = run.run(records)
        if not parts:
            raise SystemExit(f"no list of {asked.events} is left to be measured")
        replayed = time.perf_counter() - begun - run.seconds
    schema, lists = known.feature_schema(), [one for part in parts for one in part.lists]
    scores = [one for part in parts for one in part.scores]
    ours = Outcome([one[OURS] for one in scores], run.seconds)
    simple = {
        name: Outcome([one[name] for one in scores], 0.0)  # they need no learning
        for name in scores[0]
        if name != OURS
    }
    fitted = {} if asked.no_peers else peers(parts, schema, lambda line: reading.say(console, line))
    outcomes = {OURS: ours} | fitted | simple
    report: dict[str, Any] = compare(outcomes, lists)
    show(report, f"{len(lists)} measured lists", console)
    report |= {
        "lists": {"learned": len(parts[0].before), "measured": len(lists)},
        "features": {"lambdamart": simple_names(schema), "others": len(names_of(schema))},
        "learn_until": asked.learn_until,
        "refits": len(parts),
        "replay_seconds": round(replayed, 1),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "lightgbm": lightgbm.__version__,
    }
    write(asked.report, report)
    if asked.ablate is not None:
        report |= {"ablation": _ablation(ours, parts, known, asked.ablate, console)}
        write(asked.report, report)
    if asked.distil is not None:
        report |= {"distillation": _distillation(ours, parts, known, asked.distil, console)}
        write(asked.report, report)


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report; the file is whole whenever it is there."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)


def _ablation(
    whole: Outcome,
    parts: Sequence[Part],
    known: Settings,
    wanted: Sequence[str],
    console: Console,
) -> dict[str, dict[str, Any]]:
    """Train without each part of it, or without those that are wanted; print the table."""
    lists = [one for part in parts for one in part.lists]
    outcomes = {OURS: whole}
    for name, change in ablations(known).items():
        if wanted and name not in wanted:
            continue
        outcomes[name] = ablated(name, change, parts, known, known.model.seed)
        reading.say(console, f"{name}: {outcomes[name].seconds:.0f} s")
    return _compared(outcomes, lists, "trained again", console)


def _distillation(
    whole: Outcome, parts: Sequence[Part], known: Settings, size: Size, console: Console
) -> dict[str, dict[str, Any]]:
    """Train a larger one and one taught by such; print the table."""
    outcomes = {OURS: whole}
    for name, outcome in distilled(parts, known, size):
        outcomes[name] = outcome
        reading.say(console, f"{name}: {outcome.seconds:.0f} s")
    lists = [one for part in parts for one in part.lists]
    return _compared(outcomes, lists, f"distilled from {size}", console)


def _compared(
    outcomes: Mapping[str, Outcome], lists: Sequence[Example], title: str, console: Console
) -> dict[str, dict[str, Any]]:
    compared = compare(outcomes, lists)
    show(compared, title, console)
    return {name: system for name, system in compared.items() if name != OURS}


def main() -> None:
    """Measure, print and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--events", type=Path, required=True, help="a log, as for streamrank replay"
    )
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--settings", type=Path, help="settings file; else as streamrank replay")
    parser.add_argument("--learn-until", type=float, default=0.7, metavar="SHARE")
    parser.add_argument("--refits", type=int, default=10, help="how often peers are fitted")
    parser.add_argument("--no-peers", action="store_true", help="simple orders alone beside it")
    parser.add_argument(
        "--ablate",
        nargs="*",
        metavar="NAME",
        help='also train without parts of it, all or those named, such as "with pre-training"',
    )
    parser.add_argument(
        "--distil",
        choices=get_args(Size),
        help="also train one of this size, and StreamRank again, taught by it",
    )
    asked = parser.parse_args()
    measure(asked, Console())


if __name__ == "__main__":
    main()
