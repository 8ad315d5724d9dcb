"""The peers of `lists.py`: LambdaMART (LightGBM) and logistic regression, on given lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamrank.features import dense
from streamrank.features.inputs import Array, Inputs
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example


@dataclass
class Part:
    """Measured lists, and what could be learned from before the first of them was shown."""

    before: list[Example]
    lists: list[Example] = field(default_factory=list)
    scores: list[Mapping[str, Array]] = field(default_factory=list)  # by system, by list


@dataclass(frozen=True)
class Outcome:
    """What a system made of the measured lists."""

    scores: list[Array]
    seconds: float

    def __add__(self, later: Outcome) -> Outcome:
        """Join what it made of some lists and of later ones."""
        return Outcome(self.scores + later.scores, self.seconds + later.seconds)


# --- what they learn from ----------------------------------------------------------------------


def names_of(schema: Schema) -> list[str]:
    """Name the columns of `table`."""
    return [f.name for f in dense.features(schema) + dense.context_features(schema)]


def simple_names(schema: Schema) -> list[str]:
    """Name the simple features: what anybody would count first, about 30 of them.

    Where the item stands; how lately, how often and in which ways this user touched it, and how
    far it is from what was touched and had the label last; its quantities, as they are and
    against the list's; how popular it is over the longest horizon; what the user's last step
    left: how long ago, and whether this list was shown before.  No tastes across lists, no
    neighbours, no second horizon, no ranks of popularity: those took thought.  `list.same` and
    the offsets are in because without them this peer would be weaker than it has to be.
    """
    types, longest = (*schema.interactions, "other"), f"window.{max(schema.horizons):g}s"
    touches = ("recency", "age", "count", "here", "untouched_rank", *types)
    quantities = ("log", "centred", "rank", "over_least")
    return [
        "list.position",
        *(f"touch.{name}" for name in touches),
        "offset.from_last",
        "offset.from_labelled",
        *(f"{number}.{name}" for number in schema.numbers for name in quantities),
        *(f"{longest}.{name}" for name in ("deeds", "label", "shown", "rate")),
        "session.idle",
        "list.same",
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


def peers(parts: Sequence[Part], schema: Schema, say: Callable[[str], None]) -> dict[str, Outcome]:
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
        say(f"{name}: {found[name].seconds:.0f} s")
    return found
