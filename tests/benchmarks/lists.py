"""StreamRank beside its peers on shown lists, in one run: the same lists, the same features.

    python tests/benchmarks/lists.py --events EVENTS --report lists.json [--ablate]

The log goes through both flows once, as `streamrank replay` does it: the first lists are learned
from, each later one is scored before its own feedback.  What StreamRank saw of every list is
kept, and the peers get just that: LambdaMART (LightGBM) on simple features and tuned on all of
them, logistic regression on all of them.  StreamRank is trained once; a peer is fitted again
before each of `--refits` parts of the measured lists, on the lists before that part with the
feedback that had come by then; `..._frozen` is its first fit, on what StreamRank learned from.

`seconds` is what learning took and scoring the measured lists, without the features, which all
share.  `ahead` is StreamRank's mean lead over a peer on the same lists, with its 95 % bootstrap
interval, drawn by user.  `--ablate` trains StreamRank again without some of what it sees.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightgbm
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamrank import deployment, reading, replay, versions
from streamrank import settings as settings_module
from streamrank.edges.kafka import Incoming
from streamrank.evaluation import intervals, metrics
from streamrank.events import Interaction
from streamrank.features import dense
from streamrank.features.inputs import Array, Inputs
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.learning.feedback import Feedback
from streamrank.model import training
from streamrank.model.ranker import Attention
from streamrank.replay import Gathered, Survey, Train
from streamrank.settings import Settings
from streamrank.steps import Read
from streamrank.steps_ranking import Scored, Scorer

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
class Part:
    """Measured lists, and what could be learned from before the first of them was shown."""

    before: list[Example]
    lists: list[Example] = field(default_factory=list)
    scores: list[Mapping[str, Array]] = field(default_factory=list)  # by system, by list


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
        return self.done

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


# --- the peers --------------------------------------------------------------------------------


def names_of(schema: Schema) -> list[str]:
    """Name the columns of `table`."""
    return [f.name for f in dense.features(schema) + dense.context_features(schema)]


def simple_names(schema: Schema) -> list[str]:
    """Name the simple features: what anybody would count first, about 30 of them.

    Where the item stands; how lately, how often and in which ways this user touched it; its
    quantities as they are and against the list's; how popular it is over the longest horizon;
    whether it was shown before; how much the user has done.  No offsets from what was touched,
    no tastes, no ranks of popularity, no second horizon: those took thought.
    """
    types, longest = (*schema.interactions, "other"), f"window.{max(schema.horizons):g}s"
    touches = ("recency", "is_last", "age", "steps", "count", "here", *types)
    quantities = ("log", "centred", "rank", "over_least")
    return [
        "list.position",
        *(f"touch.{name}" for name in touches),
        *(f"{number}.{name}" for number in schema.numbers for name in quantities),
        *(f"{longest}.{name}" for name in ("deeds", "label", "shown", "rate")),
        "seen.count",
        "session.steps",
        "list.size",
        "list.touched",
    ]


def table(lists: Sequence[Example]) -> Array:
    """Return all dense features, those of the list repeated, (candidates of all lists, F + G)."""
    return np.concatenate([_features(one.inputs) for one in lists])


def _features(inputs: Inputs) -> Array:
    own, shared = inputs["candidate_numbers"], inputs["context_numbers"]
    return np.concatenate([own, np.broadcast_to(shared, (len(own), len(shared)))], axis=1)


Predict = Callable[[Array], Array]
Fit = Callable[[Array, Array, Sequence[int]], Predict]
"""Learn from features (n, F), labels (n,) and the lengths of the lists."""

SHARED = {
    "objective": "lambdarank",
    "learning_rate": 0.03,
    "min_data_in_leaf": 100,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
SIMPLE = SHARED | {"num_leaves": 15, "feature_fraction": 0.6, "num_iterations": 400}
TUNED = SHARED | {
    "num_leaves": 31,
    "feature_fraction": 0.3,
    "lambda_l2": 5.0,
    "lambdarank_norm": False,
    "num_iterations": 500,
}


def lambdamart(parameters: Mapping[str, Any]) -> Fit:
    """Return LightGBM's LambdaMART."""

    def fit(features: Array, labels: Array, sizes: Sequence[int]) -> Predict:
        lists = lightgbm.Dataset(features, labels, group=list(sizes))
        model = lightgbm.train(dict(parameters), lists)
        return lambda given: np.asarray(model.predict(given))

    return fit


def logistic(features: Array, labels: Array, sizes: Sequence[int]) -> Predict:
    """Fit a logistic regression of each candidate's label, on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
    model.fit(features.astype(np.float64), labels)
    return lambda given: np.asarray(model.decision_function(given.astype(np.float64)))


@dataclass(frozen=True)
class Outcome:
    """What a system made of the measured lists."""

    scores: list[Array]
    seconds: float

    def __add__(self, later: Outcome) -> Outcome:
        """Join what it made of some lists and of later ones."""
        return Outcome(self.scores + later.scores, self.seconds + later.seconds)


def peer(fit: Fit, columns: Array, parts: Sequence[Part]) -> tuple[Outcome, Outcome]:
    """Fit a peer before each part; return it fitted again each time, and as it was at first."""
    again, frozen = Outcome([], 0.0), Outcome([], 0.0)
    first: Predict | None = None
    for part in parts:
        begun = time.perf_counter()
        learned = _fitted(fit, columns, part.before)
        seconds = time.perf_counter() - begun
        again += _scored(learned, columns, part.lists, seconds)
        frozen += _scored(first or learned, columns, part.lists, 0.0 if first else seconds)
        first = first or learned
    return again, frozen


def _fitted(fit: Fit, columns: Array, lists: Sequence[Example]) -> Predict:
    labels = np.concatenate([one.labels[:, 0] for one in lists])
    return fit(table(lists)[:, columns], labels, [len(one.labels) for one in lists])


def _scored(predict: Predict, columns: Array, lists: Sequence[Example], seconds: float) -> Outcome:
    begun = time.perf_counter()
    borders = np.cumsum([len(one.labels) for one in lists])[:-1]
    scores = np.split(predict(table(lists)[:, columns]), borders)
    return Outcome(scores, seconds + time.perf_counter() - begun)


def peers(parts: Sequence[Part], schema: Schema, console: Console) -> dict[str, Outcome]:
    """Fit and score every peer."""
    names = names_of(schema)
    everything = np.arange(len(names))
    simple = np.array([names.index(name) for name in simple_names(schema)])
    found: dict[str, Outcome] = {}
    for name, fit, columns in (
        ("lambdamart", lambdamart(SIMPLE), simple),
        ("lambdamart_tuned", lambdamart(TUNED), everything),
        ("logistic", logistic, everything),
    ):
        found[name], found[f"{name}_frozen"] = peer(fit, columns, parts)
        reading.say(console, f"{name}: {found[name].seconds:.0f} s")
    return found


# --- StreamRank without some of it ------------------------------------------------------------

Change = Callable[[Inputs], Inputs]
WITHOUT_ATTENTION = "without candidates' attention"


def ablations(schema: Schema) -> dict[str, Change]:
    """Return, by name, how a list's inputs are changed before the model sees them."""
    groups = {group.name: len(group.features(schema)) for group in dense.GROUPS}
    ends = dict(zip(groups, np.cumsum(list(groups.values())).tolist(), strict=True))
    spans = {name: slice(ends[name] - size, ends[name]) for name, size in groups.items()}
    content = _without(spans["number"])
    return {
        "without history": _no_history,
        WITHOUT_ATTENTION: lambda given: given,
        **{f"without {name} features": _without(span) for name, span in spans.items()},
        "without session features": lambda given: _none(given, "context_numbers"),
        "ids only": lambda given: _none(content(given), "candidate_tokens", "context_tokens"),
        "content only": _no_ids,
    }


def _no_history(given: Inputs) -> Inputs:
    return {n: array[:0] if n.startswith("history") else array for n, array in given.items()}


def _no_ids(given: Inputs) -> Inputs:
    """Give all items the same id; 0 would be no item."""
    return given | {name: np.sign(given[name]) for name in ("candidate_items", "history_items")}


def _without(columns: slice) -> Change:
    def change(given: Inputs) -> Inputs:
        numbers = given["candidate_numbers"].copy()
        numbers[:, columns] = 0
        return given | {"candidate_numbers": numbers}

    return change


def _none(given: Inputs, *names: str) -> Inputs:
    return given | {name: np.zeros_like(given[name]) for name in names}


def ablated(
    name: str, change: Change, parts: Sequence[Part], known: Settings, seed: int
) -> Outcome:
    """Train StreamRank on changed inputs, by its own recipe, and score the measured lists."""
    begun, model = time.perf_counter(), known.model
    changed = [
        [replace(one, inputs=change(one.inputs)) for one in lists]
        for lists in (parts[0].before, [one for part in parts for one in part.lists])
    ]
    with _attention(name != WITHOUT_ATTENTION):
        trained = training.train(
            changed[0],
            known.feature_schema(),
            size=model.size,
            epochs=model.epochs,
            seed=seed,
        )
        scores = [heads[:, 0] for heads in training.scored(trained.ranker, changed[1])]
    return Outcome(scores, time.perf_counter() - begun)


def _attention(wanted: bool) -> AbstractContextManager[Any]:
    """Let candidates look at the history, or find nothing there."""
    if wanted:
        return nullcontext()

    def nothing(self: Attention, candidates: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        width = self.query.out_features
        return candidates.new_zeros(*candidates.shape[:2], width)

    return patch.object(Attention, "forward", nothing)


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
    with tempfile.TemporaryDirectory() as registry:
        known = settings_module.changed(known, {"registry": {"path": registry}})
        with reading.records_of(asked.events, "looking", console) as records:
            found = replay.survey(records, known, datetime.now(UTC))
        train = versions.trainer(known, [], console)
        run = Run(known, found, asked.learn_until, train, asked.refits)
        begun = time.perf_counter()
        with reading.records_of(asked.events, "replaying", console) as records:
            parts = run.run(records)
        replayed = time.perf_counter() - begun - run.seconds
    schema, lists = known.feature_schema(), [one for part in parts for one in part.lists]
    scores = [one for part in parts for one in part.scores]
    ours = Outcome([one[OURS] for one in scores], run.seconds)
    simple = {
        name: Outcome([one[name] for one in scores], 0.0)  # they need no learning
        for name in scores[0]
        if name != OURS
    }
    outcomes = {OURS: ours} | peers(parts, schema, console) | simple
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
    if asked.ablate:
        write(asked.report, report | {"ablation": _ablation(ours, parts, known, console)})


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report; the file is whole whenever it is there."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)


def _ablation(
    whole: Outcome, parts: Sequence[Part], known: Settings, console: Console
) -> dict[str, dict[str, Any]]:
    """Train without each part of what the model sees; print the table."""
    lists = [one for part in parts for one in part.lists]
    outcomes = {OURS: whole}
    for name, change in ablations(known.feature_schema()).items():
        outcomes[name] = ablated(name, change, parts, known, known.model.seed)
        reading.say(console, f"{name}: {outcomes[name].seconds:.0f} s")
    compared = compare(outcomes, lists)
    show(compared, "trained again without", console)
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
    parser.add_argument("--ablate", action="store_true", help="also train without parts of it")
    asked = parser.parse_args()
    measure(asked, Console())


if __name__ == "__main__":
    main()
