"""Which steps of a sequence are hidden, in whole spans."""

from __future__ import annotations

import numpy as np

from streamrank.features.inputs import Array


def spans(size: int, share: float, mean: float, random: np.random.Generator) -> Array:
    """Choose the steps to hide: whole spans, whose lengths are geometric.

    A neighbour gives a single hidden item away too easily; a whole span has to be inferred.

    Args:
        size: Length of the sequence.
        share: Of the steps that are hidden, about; at least one step is.
        mean: Mean length of a span.
        random: Chooses.

    Returns:
        Whether each step is hidden, (size,).

    References:
        Joshi et al., TACL 2020, "SpanBERT: improving pre-training by representing and predicting
        spans".
    """
    hidden = np.zeros(size, bool)
    wanted = min(size, max(1, round(share * size)))
    while hidden.sum() < wanted:
        length = min(int(random.geometric(1 / mean)), wanted - int(hidden.sum()))
        start = int(random.integers(size - length + 1))
        hidden[start : start + length] = True
    return hidden
