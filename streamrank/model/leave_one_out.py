"""How well a sequence model finds the item that came next, out of the whole catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from streamrank.features.inputs import Array
from streamrank.model.sequences import SequenceModel


def ranks(
    model: SequenceModel,
    histories: Sequence[Mapping[str, Array]],
    wanted: Array,
    *,
    again: bool = False,
    batch: int = 128,
) -> Array:
    """Return the rank of each wanted item after its history, from 1.

    Args:
        model: Ranks the whole catalogue.
        histories: What came before, each at least one step.
        wanted: What came next.
        again: Whether what came before is in the running as well, since it may come again.
        batch: Histories at once.
    """
    found = np.zeros(len(histories), np.int64)
    order = np.argsort([len(one["items"]) for one in histories], kind="stable")
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            part = [histories[row] for row in rows]
            states = model(**padded(part, model.shape.length))[:, -1]
            scores = (states @ model.items.weight.T).numpy()
            seen = [one["items"][:0] if again else one["items"] for one in part]
            found[rows] = [rank_of(*one) for one in zip(scores, wanted[rows], seen, strict=True)]
    return found


def padded(histories: Sequence[Mapping[str, Array]], length: int) -> dict[str, torch.Tensor]:
    """Return the newest steps of sequences, padded at the front."""
    longest = min(length, max(len(one["items"]) for one in histories))
    fed = {n: np.zeros((len(histories), longest), a.dtype) for n, a in histories[0].items()}
    for row, history in enumerate(histories):
        for name, values in history.items():
            newest = values[-longest:]
            fed[name][row, longest - len(newest) :] = newest
    return {name: torch.from_numpy(values) for name, values in fed.items()}


def rank_of(scores: Array, wanted: int, seen: Array) -> int:
    """Return the rank of the wanted item among those not seen; ties go to the lower index.

    Args:
        scores: Of each item, (N + 1,); the first is padding's.
        wanted: The item.
        seen: Items that are out of the running, the wanted one excepted.

    Examples:
        >>> rank_of(np.array([9.0, 0.5, 0.9, 0.7, 0.5]), wanted=4, seen=np.array([2]))
        3
    """
    running = scores.copy()
    running[0] = -np.inf
    running[seen] = -np.inf
    better = running > scores[wanted]
    level = running[:wanted] == scores[wanted]
    better[wanted] = False
    return 1 + int(better.sum()) + int(level.sum())


def figures(ranks: Array) -> dict[str, float]:
    """Return the mean NDCG@10 and HR@10 of one wanted item each.

    Examples:
        >>> figures(np.array([1, 3, 11, 50]))
        {'ndcg@10': 0.375, 'hr@10': 0.5}
    """
    within = ranks <= 10
    return {
        "ndcg@10": float((within / np.log2(1 + ranks)).mean()),
        "hr@10": float(within.mean()),
    }
