"""Features as one would write them first: a list at a time, a candidate at a time, by name.

What `streamrank.features` computes for many lists at once is compared with this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from streamrank.features.dense_touches import NEAR
from streamrank.features.schema import Schema
from streamrank.features.state import Step
from streamrank.features.view import LOOKED, Query, Rows

Columns = dict[str, list[float]]


def columns(schema: Schema, query: Query, rows: Rows) -> Columns:
    """Return features of each candidate, by name."""
    found = _touches(schema, query) | _offsets(schema, query) | _seen(query)
    for name in schema.numbers:
        found |= _number(schema, query, rows, name)
    return found


def signed_log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def _of(query: Query, item: str) -> list[Step]:
    return [step for step in reversed(query.state.steps) if step.item == item]


def _ranks(query: Query, label: str | None = None) -> dict[str, int]:
    """Return how many different items were touched (with the label) since each."""
    steps = reversed(query.state.steps)
    items = dict.fromkeys(s.item for s in steps if s.item and label in (None, s.type))
    return {item: rank for rank, item in enumerate(items)}


def _here(query: Query, item: str) -> int:
    return sum(step.count for step in _of(query, item) if step.session == query.session)


def _touches(schema: Schema, query: Query) -> Columns:
    rank, labelled = _ranks(query), _ranks(query, schema.label)
    ids = [candidate.id for candidate in query.candidates]
    among = [item for item in rank if item in ids]
    everywhere = sum(_here(query, item) for item in rank)
    steps = list(reversed(query.state.steps))
    names = [f"touch.{n}" for n in ("recency", "recency_in_list", "label_recency", "is_last")]
    names += [f"touch.{n}" for n in ("steps", "count", "here", "share", "run", "looked")]
    names += ["touch.count_rank", "touch.untouched_rank", "touch.view", "touch.last.view"]
    found: Columns = {name: [] for name in names}
    untouched = 0
    for item in ids:
        own = _of(query, item)
        untouched += not own
        here = _here(query, item)
        more = sum(_here(query, other) > here for other in among)
        looked = 0
        for step in own:
            place = next(n for n, one in enumerate(steps) if one is step)
            following = steps[place - 1].first if place else query.at
            looked += min(max(0, following - step.first), LOOKED)
        values = [
            1 / (1 + rank[item]) if own else 0.0,
            1 / (1 + among.index(item)) if own else 0.0,
            1 / (1 + labelled[item]) if item in labelled else 0.0,
            float(own != [] and rank[item] == 0),
            1 / (1 + next(n for n, one in enumerate(steps) if one is own[0])) if own else 0.0,
            math.log1p(sum(step.count for step in own)),
            math.log1p(here),
            here / max(1, everywhere) if own else 0.0,
            math.log1p(own[0].count) if own else 0.0,
            math.log1p(looked / 1000),
            1 / (1 + more) if here else 0.0,
            0.0 if own else math.log1p(untouched),
            math.log1p(sum(step.count for step in own if step.type == "view")),
            float(own != [] and own[0].type == "view"),
        ]
        for name, value in zip(names, values, strict=True):
            found[name].append(value)
    return found


def _offsets(schema: Schema, query: Query) -> Columns:
    ids = [candidate.id for candidate in query.candidates]
    last = [ids.index(item) for item in _ranks(query) if item in ids]
    labelled = [ids.index(item) for item in _ranks(query, schema.label) if item in ids]
    habit = [s.place for s in query.state.steps if s.place >= 0 and s.type == schema.label]

    def after(places: Sequence[int]) -> list[float]:
        return [float(n - places[0]) if places else 0.0 for n in range(len(ids))]

    found = {
        "offset.from_last": list(map(signed_log, after(last))),
        "offset.from_labelled": list(map(signed_log, after(labelled))),
        "offset.from_highest": list(map(signed_log, after([min(last)] if last else []))),
        "offset.from_lowest": list(map(signed_log, after([max(last)] if last else []))),
        "offset.nearest": [
            1 / (1 + min([abs(n - p) for p in last if p != n], default=math.inf))
            for n in range(len(ids))
        ],
        "offset.touched_above": [math.log1p(sum(p < n for p in last)) for n in range(len(ids))],
        "offset.as_labelled": [
            1 / (1 + abs(n - sum(habit) / len(habit))) if habit else 0.0 for n in range(len(ids))
        ],
    }
    for near in NEAR:
        found[f"offset.last{near:+}"] = [float(n == near) for n in after(last)]
        found[f"offset.labelled{near:+}"] = [float(n == near) for n in after(labelled)]
    return found


def _seen(query: Query) -> Columns:
    state = query.state
    lists = [list(one) for one in state.earlier]
    if state.current and state.current.id != query.request:
        lists.append([candidate.id for candidate in state.current.candidates])
    last = lists[-1] if lists else []
    ids = [candidate.id for candidate in query.candidates]
    count = [math.log1p(sum(item in one for one in lists)) for item in ids]
    pairs = list(enumerate(ids))
    return {
        "seen.count": count,
        "seen.untouched": [0.0 if _of(query, i) else n for i, n in zip(ids, count, strict=True)],
        "seen.last_list": [float(item in last) for item in ids],
        "seen.risen": [signed_log(last.index(i) - n) if i in last else 0.0 for n, i in pairs],
    }


def _number(schema: Schema, query: Query, rows: Rows, name: str) -> Columns:
    known = rows.item_fields or [{}] * len(query.candidates)
    merged = [{**old, **c.fields} for old, c in zip(known, query.candidates, strict=True)]
    values = [float(v) if isinstance(v := own.get(name), (int, float)) else None for own in merged]
    there = [value for value in values if value is not None]
    logs = [None if value is None else signed_log(value) for value in values]
    ids = [candidate.id for candidate in query.candidates]
    touched = [logs[ids.index(item)] for item in _ranks(query) if item in ids]
    seen = [one for one in touched if one is not None]
    tastes = [n for step in query.state.steps for n in step.numbers if n.name == name]
    mean = sum(seen) / len(seen) if seen else None
    taste = sum(signed_log(n.value) for n in tastes) / len(tastes) if tastes else None
    least = min(map(signed_log, there), default=None)

    def over(reference: float | None) -> list[float]:
        return [0.0 if one is None or reference is None else one - reference for one in logs]

    before = list(enumerate(values))
    return {
        f"{name}.log": [one or 0.0 for one in logs],
        f"{name}.over_least": over(least),
        f"{name}.over_touched": over(mean),
        f"{name}.over_taste": over(taste),
        f"{name}.over_last": over(touched[0] if touched else None),
        f"{name}.over_before": [
            0.0 if n == 0 or one is None or logs[n - 1] is None else one - (logs[n - 1] or 0.0)
            for n, one in enumerate(logs)
        ],
        f"{name}.least_so_far": [
            float(v is not None and not any(o is not None and o < v for o in values[:n]))
            for n, v in before
        ],
        f"{name}.less_before": [
            sum(o is not None and v is not None and o < v for o in values[:n]) / max(1, n)
            for n, v in before
        ],
        f"{name}.unknown": [float(v is None) for v in values],
    }
