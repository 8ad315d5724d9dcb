"""Scores in, ranked list out."""

from __future__ import annotations

import hashlib

import numpy as np

from streamrank.events import Placed, Ranking
from streamrank.features.inputs import Array, Query


def order(scores: Array) -> Array:
    """Return the places of candidates, best first; ties keep the incoming order.

    Args:
        scores: Relevance of each candidate, shape (C,).

    Examples:
        >>> order(np.array([0.1, 0.7, 0.7])).tolist()
        [1, 2, 0]
    """
    return np.asarray(np.argsort(-scores, kind="stable"))


def trigger_id(list_id: str, event_id: str) -> str:
    """Return the id of the ranking that an interaction causes.

    The same cause has the same id after a restart too: what was written once is not written
    again.  It is as long as an id may be, whatever the two ids are.

    Examples:
        >>> trigger_id("r1", "e7") == trigger_id("r1", "e7") != trigger_id("r1", "e8")
        True
    """
    cause = f"{len(list_id)}:{list_id}{event_id}".encode("utf-8", "surrogatepass")
    return f"t-{hashlib.blake2b(cause, digest_size=16).hexdigest()}"


def to_ranked(
    query: Query,
    scores: Array,
    *,
    model: str,
    features: str,
    latency_ms: float,
    k: int,
    policy: str,
    degraded: bool = False,
) -> Ranking:
    """Turn the scores of a query's candidates into the list for the application.

    Args:
        query: What was asked.
        scores: Scores in incoming order, shape (C, heads); the first head decides.
        model: The version that scored.
        features: Hash of the features that it saw.
        latency_ms: Milliseconds since the cause arrived.
        k: How many to give where the query does not say.
        policy: How the order was chosen from the scores; both of ours leave nothing to chance,
            so every propensity is 1.
        degraded: Whether the feature store did not answer.

    Returns:
        The ranked list; its `id` is the request's own, or for a trigger one of its own.
    """
    best = order(scores[:, 0])[: query.k or k]
    listed, found = query.candidates, zip(best.tolist(), scores[best, 0].tolist(), strict=True)
    # Without validation: all of it was validated when it came in, and a scorer's scores are finite.
    return Ranking.model_construct(
        id=query.id,
        timestamp=query.at,
        user=query.user if query.session is None else _named_user(query),
        session=query.session,
        tenant=None,
        request=query.request,
        trigger=query.trigger,
        fields=dict(query.context),
        items=tuple([Placed(listed[place].id, score, 1.0) for place, score in found]),
        model=model,
        policy=policy,
        features=features,
        latency_ms=round(latency_ms, 3),
        degraded=True if degraded else None,
    )


def _named_user(query: Query) -> str | None:
    """Return the user, unless the session stood in for one who is not known."""
    return None if query.user == query.session else query.user
