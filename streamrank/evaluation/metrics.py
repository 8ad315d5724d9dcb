"""How good an order is, and how true a probability.

Ties go to the candidate that stands earlier, as in the list that is made of the scores; AUC
alone, which needs no order, counts a tie for half.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def order(scores: Array) -> Array:
    """Return the candidates' places, best first; ties keep their order.

    Raises:
        ValueError: A score is NaN.

    Examples:
        >>> order(np.array([0.1, 0.7, 0.7])).tolist()
        [1, 2, 0]
    """
    if np.isnan(scores).any():
        raise ValueError(f"scores must not be NaN, got {scores}")
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")


def of_list(scores: Array, labels: Array) -> dict[str, float]:
    """Measure the order of one list.

    Args:
        scores: Score of each candidate, shape (C,), higher is better.
        labels: 1 where the candidate got the feedback, else 0, shape (C,).

    Returns:
        `mrr`, one over the rank of the first candidate with feedback; `ndcg@10`; `hit@1`; all
        three 0 where there is none.  `auc`, left out where all labels are the same.

    Raises:
        ValueError: The shapes differ, or a score is NaN.

    Examples:
        >>> of_list(np.array([3.0, 2.0, 1.0]), np.array([0, 1, 0]))
        {'mrr': 0.5, 'ndcg@10': 0.6309297535714575, 'hit@1': 0.0, 'auc': 0.5}
    """
    figures = {
        "mrr": reciprocal_rank(scores, labels),
        "ndcg@10": ndcg(scores, labels, 10),
        "hit@1": hit_rate(scores, labels, 1),
    }
    area = auc(scores, labels)
    return figures if np.isnan(area) else figures | {"auc": area}


def mean(lists: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the lists that have it.

    Examples:
        >>> mean([{"mrr": 1.0, "auc": 0.5}, {"mrr": 0.5}])
        {'mrr': 0.75, 'auc': 0.5}
    """
    values = defaultdict[str, list[float]](list)
    for figures in lists:
        for name, value in figures.items():
            values[name].append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


# --- the order of a list ----------------------------------------------------------------------


def reciprocal_rank(scores: Array, labels: Array) -> float:
    """Return one over the rank of the first candidate with feedback, 0 where there is none."""
    ranked = _ranked(scores, labels) > 0
    return 1.0 / (1.0 + float(np.argmax(ranked))) if ranked.any() else 0.0


def hit_rate(scores: Array, labels: Array, k: int) -> float:
    """Return whether one of the first `k` got the feedback, as 1.0 or 0.0."""
    return float((_ranked(scores, labels)[: _at_least_one(k)] > 0).any())


def ndcg(scores: Array, gains: Array, k: int) -> float:
    """Return the discounted gain of the first `k` over that of the best order.

    The candidate at rank r counts gain / log2(1 + r), so one relevant candidate among
    irrelevant ones gives 1 / log2(1 + its rank).

    Args:
        scores: Score of each candidate, shape (C,).
        gains: What each candidate is worth, shape (C,), none negative; labels will do.
        k: How many ranks count.

    Returns:
        0 to 1; 0 where nothing has a gain.

    Raises:
        ValueError: A gain is negative or no number, a score NaN, or `k` below 1.

    References:
        Järvelin and Kekäläinen, ACM TOIS 2002, "Cumulated gain-based evaluation".

    Examples:
        >>> ndcg(np.array([0.9, 0.5, 0.1]), np.array([0.0, 0.0, 1.0]), 10)
        0.5
    """
    worth = np.asarray(gains, np.float64)
    if not (worth >= 0).all():
        raise ValueError(f"gains must be 0 or more, got {worth.min()}")
    ranked, best = _ranked(scores, worth)[: _at_least_one(k)], -np.sort(-worth)[:k]
    discounts = 1.0 / np.log2(np.arange(2.0, 2.0 + len(ranked)))
    ideal = float(best @ discounts)
    return float(ranked @ discounts) / ideal if ideal > 0 else 0.0


def auc(scores: Array, labels: Array) -> float:
    """Return how often a candidate with feedback scores above one without; a tie counts half.

    Args:
        scores: Of one list, or of many one after the other (the global AUC), shape (n,).
        labels: 1 or 0, shape (n,).

    Returns:
        0 to 1; NaN where all labels are the same.
    """
    positive = _same_shape(scores, labels) > 0
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return float("nan")
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2.0  # ranks from 1, the mean of a tie's
    return float((middle[group][positive].sum() - hits * (hits + 1) / 2.0) / (hits * misses))


def coverage(lists: Iterable[Sequence[Hashable]], catalogue: Collection[Hashable], k: int) -> float:
    """Return the share of the catalogue that is among the first `k` of any list.

    Examples:
        >>> coverage([["a", "b", "c"], ["a", "d"]], {"a", "b", "c", "d"}, k=2)
        0.75
    """
    known = set(catalogue)
    if not known:
        raise ValueError("catalogue must not be empty")
    shown = {item for ranked in lists for item in ranked[: _at_least_one(k)]}
    return len(shown & known) / len(known)


def _ranked(scores: Array, values: Array) -> Array:
    """Return the values in the order of the scores."""
    return _same_shape(scores, values)[order(scores)]


def _same_shape(scores: Array, values: Array) -> Array:
    if np.ndim(scores) != 1 or np.shape(scores) != np.shape(values):
        shapes = f"{np.shape(scores)} and {np.shape(values)}"
        raise ValueError(f"scores and labels must both be of shape (C,), got {shapes}")
    return np.asarray(values)


def _at_least_one(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return k


# --- the truth of a probability ---------------------------------------------------------------


def log_loss(probabilities: Array, labels: Array) -> float:
    """Return the mean negative log likelihood of the labels, nats.

    A probability of 0 or 1 counts as one by a rounding error off it, as in scikit-learn, so
    that one wrong certainty costs 36 and not infinity.
    """
    chance, hit = _probabilities(probabilities, labels)
    tiny = np.finfo(np.float64).eps
    chance = np.clip(chance, tiny, 1.0 - tiny)
    return float(-np.mean(np.where(hit, np.log(chance), np.log1p(-chance))))


def calibration_error(
    probabilities: Array, labels: Array, bins: int = 10, *, equal_mass: bool = False
) -> float:
    """Return the expected calibration error.

    The probabilities go into `bins` bins; the error is the distance between their mean and the
    share of labels, weighted by how many a bin holds.

    Args:
        probabilities: Of each candidate, shape (n,).
        labels: 1 or 0, shape (n,).
        bins: How many bins.
        equal_mass: Bins that hold as many probabilities each, instead of bins as wide: where
            labels are rare, nearly all probabilities are in the first of the wide ones.

    References:
        Naeini, Cooper and Hauskrecht, AAAI 2015, "Obtaining well calibrated probabilities".

    Examples:
        >>> calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.array([0, 0, 0, 1]))
        0.0
    """
    chance, hit = _probabilities(probabilities, labels)
    edges = np.linspace(0.0, 1.0, _at_least_one(bins) + 1)
    edges = (np.percentile(chance, 100.0 * edges) if equal_mass else edges)[1:-1]
    place = np.searchsorted(edges, chance, side="left")
    gaps = np.bincount(place, weights=chance - hit, minlength=bins)
    return float(np.abs(gaps).sum() / len(chance))


def calibration_ratio(probabilities: Array, labels: Array) -> float:
    """Return how many labels were expected over how many there were; NaN where there are none.

    Examples:
        >>> calibration_ratio(np.array([0.5, 0.25, 0.25]), np.array([1, 0, 1]))
        0.5
    """
    chance, hit = _probabilities(probabilities, labels)
    return float(chance.sum() / hit.sum()) if hit.any() else float("nan")


def sigmoid(scores: Array) -> Array:
    """Return the probabilities that log-odds stand for.

    Examples:
        >>> sigmoid(np.array([0.0, -1000.0])).tolist()
        [0.5, 0.0]
    """
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(scores, np.float64))))


def of_probabilities(scores: Array, labels: Array) -> dict[str, float]:
    """Measure log-odds over many lists at once.

    Args:
        scores: Log-odds of every candidate of every list, shape (n,).
        labels: 1 where the candidate got the feedback, else 0, shape (n,).

    Returns:
        `log_loss`; `calibration_error` over ten bins that hold as many candidates each;
        `calibration_ratio`, labels expected over labels found, and `global_auc`, both left out
        where all labels are the same.

    Examples:
        >>> found = of_probabilities(np.array([0.0, 0.0]), np.array([1, 0]))
        >>> found["calibration_ratio"], found["global_auc"]
        (1.0, 0.5)
    """
    chance = sigmoid(scores)
    figures = {
        "log_loss": log_loss(chance, labels),
        "calibration_error": calibration_error(chance, labels, equal_mass=True),
    }
    area = auc(scores, labels)
    if np.isnan(area):
        return figures
    return figures | {"calibration_ratio": calibration_ratio(chance, labels), "global_auc": area}


def _probabilities(probabilities: Array, labels: Array) -> tuple[Array, Array]:
    hit = _same_shape(probabilities, labels) > 0
    chance = np.asarray(probabilities, np.float64)
    if not len(chance):
        raise ValueError("probabilities must not be empty")
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError(f"probabilities must be within 0..1, got {chance.min()}..{chance.max()}")
    return chance, hit
