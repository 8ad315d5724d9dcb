"""The ablation of `lists.py`: StreamRank trained again without a part of it, or with one more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from streamrank.features import dense
from streamrank.features.inputs import Inputs
from streamrank.model import training
from streamrank.model.ranker import Attention
from streamrank.settings import Settings
from tests.benchmarks.lists_peers import Outcome, Part

Change = Callable[[Inputs], Inputs]
WITHOUT_ATTENTION = "without candidates' attention"
WITHOUT_PRETRAINING, WITH_PRETRAINING = "without pre-training", "with pre-training"


def ablations(known: Settings) -> dict[str, Change]:
    """Return, by name, how a list's inputs are changed before the model sees them."""
    schema, pretrained = known.feature_schema(), known.model.start == "pretrained"
    groups = {group.name: len(group.features(schema)) for group in dense.GROUPS}
    ends = dict(zip(groups, np.cumsum(list(groups.values())).tolist(), strict=True))
    spans = {name: slice(ends[name] - size, ends[name]) for name, size in groups.items()}
    content = _without(spans["number"])
    return {
        WITHOUT_PRETRAINING if pretrained else WITH_PRETRAINING: lambda given: given,
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
    pretrain = name == WITH_PRETRAINING or (
        model.start == "pretrained" and name != WITHOUT_PRETRAINING
    )
    with _attention(name != WITHOUT_ATTENTION):
        trained = training.train(
            changed[0],
            known.feature_schema(),
            size=model.size,
            recipe=training.Recipe(epochs=model.epochs, pretrain=pretrain),
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
