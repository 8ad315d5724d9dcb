"""Long lists made short for learning: some of the candidates nobody chose, each counted for more.

What is learned on average is what the whole list would teach: a candidate that was kept with
probability q stands for 1 / q of its kind, so log(1 / q) is added to its score while learning.
In a softmax over the list that gives the whole list's denominator on average; in a logistic loss
it corrects the log-odds, up to the square of a probability that is small in a long list.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streamrank.features.inputs import Array
from streamrank.learning.examples import Example

RUN = 25
"""Candidates that are kept or left out together: how far apart two of them stand in the list is
something that the model sees, and it stays true within a run."""


def shortened(example: Example, limit: int, random: np.random.Generator) -> tuple[Example, Array]:
    """Return a list of about `limit` candidates, and what to add to their scores.

    Args:
        example: A list of any length.
        limit: A list that is no longer stays as it is.
        random: Draws the runs.

    Returns:
        The list with its inputs and labels alone, and float32 (candidates,).  The runs that hold
        a label are kept, as far as the limit goes; the others are drawn.

    References:
        Jean, Cho, Memisevic, Bengio, ACL 2015, "On using very large target vocabulary for neural
        machine translation" (a softmax over a sample).
        He et al., ADKDD 2014, "Practical lessons from predicting clicks on ads at Facebook"
        (negative downsampling and its correction).
    """
    size = len(example.labels)
    if size <= limit:
        return example, np.zeros(size, np.float32)
    most = max(2, limit // RUN)
    run = np.arange(size) // RUN
    chosen = np.unique(run[example.labels.any(axis=1)])
    if len(chosen) >= most:
        chosen = random.permutation(chosen)[: most - 1]
    rest = np.setdiff1d(np.arange(run[-1] + 1), chosen)
    drawn = random.permutation(rest)[: most - len(chosen)]
    kept = np.flatnonzero(np.isin(run, np.concatenate([chosen, drawn])))
    added = np.where(np.isin(run[kept], drawn), np.log(len(rest) / len(drawn)), 0.0)
    return _only(example, kept), added.astype(np.float32)


def _only(example: Example, kept: Array) -> Example:
    """Return a list of some of its candidates, which keep their order."""
    inputs = {
        name: array[kept] if name.startswith("candidate") else array
        for name, array in example.inputs.items()
    }
    # 1 + place of each step's item in the list, 0 where it is not in it (any more).
    places = np.zeros(1 + len(example.labels), np.int64)
    places[1 + kept] = 1 + np.arange(len(kept))
    inputs["history_places"] = places[example.inputs["history_places"]]
    shown = None if example.shown is None else example.shown[kept]
    return dataclasses.replace(
        example,
        inputs=inputs,
        labels=example.labels[kept],
        items=(),
        scores=None,
        shown=shown,
        propensities=None,
    )
