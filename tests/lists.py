"""Small lists to rank, for the tests of inputs and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamrank.events import Candidate, Value
from streamrank.features import inputs
from streamrank.features.inputs import Query, Rows
from streamrank.features.schema import Schema
from streamrank.features.state import Step, UserState
from streamrank.learning.examples import Example

NOW = 1_700_000_000_000


def query(
    items: Sequence[str] | Mapping[str, Mapping[str, Value]],
    user: UserState | None = None,
    *,
    at: int = NOW,
    name: str = "r1",
    context: Mapping[str, Value] | None = None,
) -> Query:
    """Return a list to score: item ids, or their fields by id."""
    fields = items if isinstance(items, Mapping) else {item: {} for item in items}
    return Query(
        id=name,
        user="u1",
        session="s1",
        at=at,
        source="request",
        request=name,
        trigger=None,
        k=None,
        context=context or {},
        candidates=tuple(Candidate(id=item, fields=dict(f)) for item, f in fields.items()),
        state=user or UserState(),
    )


def step(kind: str, item: str | None, ago: float, count: int = 1, session: str = "s1") -> Step:
    """Return a deed that happened `ago` seconds before NOW."""
    at = NOW - round(1000 * ago)
    return Step(kind, item, session, at, at, count)


def example(
    schema: Schema, asked: Query, *clicked: str, rows: Rows | None = None, bought: str = ""
) -> Example:
    """Return a list with its feedback."""
    got = [[float(c.id in clicked), float(c.id == bought)] for c in asked.candidates]
    heads = 1 if schema.conversion is None else 2
    built = inputs.build(schema, asked, rows or Rows())
    return Example(asked.id, asked.user, asked.at, built, np.array(got, np.float32)[:, :heads])
