"""The peers of the sequence benchmark: popularity, and models of the library `implicit`.

They know which items a user has had, not in which order.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import CosineRecommender
from scipy.sparse import csr_matrix

from streamrank.features.inputs import Array
from streamrank.model.leave_one_out import figures

TOP = 10
Tops = Callable[[csr_matrix], Array]
"""Fits the items that users have had, (U, N); returns the best ten others of each, (U, 10)."""


def popularity(had: csr_matrix) -> Array:
    """Rank by how many users have had an item."""
    counts = np.asarray(had.sum(0)).ravel()
    order = np.argsort(-counts, kind="stable")
    tops = np.zeros((had.shape[0], TOP), np.int64)
    for user, row in enumerate(tops):
        own = had.indices[had.indptr[user] : had.indptr[user + 1]]
        first = order[: TOP + len(own)]
        row[:] = first[~np.isin(first, own)][:TOP]
    return tops


def library(make: Callable[[], Any], had: csr_matrix) -> Array:
    """Rank by a model of `implicit`."""
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of matrices that it makes itself
        model.fit(had, show_progress=False)
    users = np.arange(had.shape[0])
    tops: Array = model.recommend(users, had, N=TOP, filter_already_liked_items=True)[0]
    return tops


def settings(seed: int) -> dict[str, dict[str, Tops]]:
    """Return what each peer can be set to."""
    single = {"num_threads": 1}
    return {
        "popularity": {"": popularity},
        "item-kNN": {
            f"neighbours={k}": partial(library, partial(CosineRecommender, K=k, **single))
            for k in (20, 100, 500)
        },
        "ALS": {
            f"alpha={alpha}": partial(
                library,
                partial(AlternatingLeastSquares, 64, alpha=alpha, random_state=seed, **single),
            )
            for alpha in (1.0, 5.0, 20.0)
        },
        "BPR": {
            f"iterations={count}": partial(
                library,
                partial(
                    BayesianPersonalizedRanking,
                    64,
                    learning_rate=0.05,
                    iterations=count,
                    random_state=seed,
                    **single,
                ),
            )
            for count in (50, 150)
        },
    }


def matrix(sequences: Sequence[Array], dropped: int, items: int) -> csr_matrix:
    """Return which of `items` items each user has had before the last `dropped`, (U, N)."""
    kept = [np.unique(one[: len(one) - dropped] - 1) for one in sequences]
    ends = np.cumsum([0, *map(len, kept)])
    columns = np.concatenate(kept).astype(np.int32)
    shape = (len(sequences), items)
    return csr_matrix((np.ones(len(columns), np.float32), columns, ends), shape=shape)


def places(tops: Array, wanted: Array) -> Array:
    """Return the rank of each user's wanted item among the ten, 11 where it is not."""
    hit = tops == wanted[:, None]
    return np.where(hit.any(1), 1 + hit.argmax(1), TOP + 1)


def measured(
    sequences: Sequence[Array], items: int, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Choose each peer's setting by the last item but one, and measure it by the last."""
    for name, tops in settings(seed).items():
        yield name, _measured(tops, sequences, items)


def _measured(tops: Mapping[str, Tops], sequences: Sequence[Array], items: int) -> dict[str, Any]:
    begun = time.monotonic()
    last, before = (np.array([one[-n] for one in sequences]) - 1 for n in (1, 2))
    had = matrix(sequences, 2, items)
    tried = {name: figures(places(fit(had), before)) for name, fit in tops.items()}
    best = max(tried, key=lambda name: tried[name]["ndcg@10"])
    found = figures(places(tops[best](matrix(sequences, 1, items)), last))
    seconds = round(time.monotonic() - begun, 1)
    return found | {"setting": best, "validation": tried[best], "seconds": seconds}
