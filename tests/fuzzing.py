"""Records as people send them, and what becomes of them on the way: other bits, bytes, values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from streamrank.events import Candidate, Placed, Ranking
from streamrank.features import inputs
from streamrank.features.inputs import Query, Rows
from streamrank.features.state import UserState
from streamrank.served import Served
from tests.flows import stage

TOPICS = ("events", "requests", "rankings", "served")
WEIRD: tuple[Any, ...] = (
    None, True, "", " ", "\x00", "ü" * 200, "x" * 600, "[red]", "{0}", "../../etc", "a\nb", "🙂",
    0, -1, 1e308, -1e308, 5e-324, 2**63, 10**400, 1.5, float("nan"), float("inf"),
    [], {}, [[]], [None], ["a", 1], {"name": "n", "value": 1}, [{"name": "n", "value": 1e308}],
    "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59", 253_402_300_799_999, 100_000_000_000,
)  # fmt: skip
"""What may stand at any place of a JSON record and seldom should."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A record on its way to a topic, and whether nothing happened to it."""

    topic: str
    key: bytes
    value: bytes
    whole: bool


def records(count: int, now: int, random: Random, share: float = 0.5) -> Iterator[Sent]:
    """Give records for all topics that flows read.

    Args:
        count: How many.
        now: Epoch milliseconds.
        random: Chance.
        share: Of how many something is changed.
    """
    makers: dict[str, Callable[[int, int, Random], bytes]] = {
        "events": event,
        "requests": request,
        "rankings": ranking,
        "served": served,
    }
    for number in range(count):
        topic = random.choices(TOPICS, (4, 4, 1, 1))[0]
        value = makers[topic](number, now, random)
        whole = random.random() >= share
        key = f"u{number % 50}".encode()
        yield Sent(topic, key, value if whole else changed(value, random), whole)


def _person(number: int, now: int) -> dict[str, Any]:
    user = f"u{number % 50}"
    return {"id": f"x{number}", "timestamp": now + number % 1000, "user": user, "session": "s"}


def _items(random: Random, most: int = 8) -> list[dict[str, Any]]:
    chosen = random.sample(range(200), random.randint(1, most))
    return [{"id": f"i{n}", "fields": {"price": n * 1.5, "title": f"item {n}"}} for n in chosen]


def event(number: int, now: int, random: Random) -> bytes:
    """Return an item, a user, an interaction or a list shown elsewhere."""
    made = _person(number, now)
    which = random.random()
    fields = {"price": 7.5, "title": "sea view", "tags": ["a", "b"], "new": True, "sizes": [1, 2]}
    if which < 0.1:
        made |= {"event": "item", "item": f"i{number % 200}", "fields": fields}
        del made["user"], made["session"]
    elif which < 0.2:
        made |= {"event": "user", "fields": {"country": "FR"}}
        del made["session"]
    elif which < 0.8:
        made |= {"event": "interaction", "type": "click", "item": f"i{number % 200}"}
    else:
        made |= {"event": "ranking", "items": _items(random), "fields": {"city": "Paris"}}
    return json.dumps(made).encode()


def request(number: int, now: int, random: Random) -> bytes:
    """Return a wish for a list."""
    more = {"event": "request", "k": 5, "items": _items(random), "fields": {"city": "Paris"}}
    return json.dumps(_person(number, now) | more).encode()


def ranking(number: int, now: int, random: Random) -> bytes:
    """Return a ranked list."""
    items = tuple(Placed(id=one["id"], score=0.5, propensity=1.0) for one in _items(random))
    who = _person(number, now) | {"request": f"x{number}", "items": items, "model": "m"}
    return Ranking(**who, policy="top", features="f", latency_ms=1.0).encode()


def served(number: int, now: int, random: Random) -> bytes:
    """Return what a model saw of a small project's list (`tests.flows.stage`)."""
    who, listed = _person(number, now), _items(random)
    candidates = tuple(Candidate(id=one["id"], fields=one["fields"]) for one in listed)
    asked = Query(
        id=who["id"], user=who["user"], session="s", at=who["timestamp"], source="request",
        request=who["id"], trigger=None, k=None, context={}, candidates=candidates,
        state=UserState(),
    )  # fmt: skip
    return Served(
        id=who["id"], user=who["user"], timestamp=who["timestamp"], model="m", source="request",
        items=tuple(one["id"] for one in listed), features=stage.PLAN.features,
        inputs=inputs.build(stage.PLAN.schema, asked, Rows()),
        scores=np.ones((len(listed), 1), np.float32),
    ).encode()  # fmt: skip


# --- what becomes of them -----------------------------------------------------------------------


def changed(value: bytes, random: Random) -> bytes:
    """Change a record: some bytes, or in every other one of JSON a value."""
    if value[:1] == b"{" and random.random() < 0.5:
        return json.dumps(_otherwise(json.loads(value), random)).encode()
    for _ in range(random.randint(1, 3)):
        value = random.choice(_BYTEWISE)(value, random)
    return value


def _otherwise(value: Any, random: Random) -> Any:
    """Return JSON with one value, somewhere, made a weird one, doubled or left out."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        act = random.random()
        if act < 0.1:
            return {name: one for name, one in value.items() if name != key}
        if act < 0.2:
            return value | {random.choice(["extra", "", "fields", "items", "k"]): _weird(random)}
        return value | {key: _otherwise(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.7:
        index = random.randrange(len(value))
        if random.random() < 0.2:
            return [*value, value[index]]
        return [*value[:index], _otherwise(value[index], random), *value[index + 1 :]]
    return _weird(random)


def _weird(random: Random) -> Any:
    return random.choice(WEIRD)


def _flipped(value: bytes, random: Random) -> bytes:
    found = bytearray(value)
    if found:
        found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def _cut(value: bytes, random: Random) -> bytes:
    return value[: random.randrange(len(value) + 1)]


def _without(value: bytes, random: Random) -> bytes:
    at = random.randrange(len(value) + 1)
    return value[:at] + value[at + random.randint(1, 8) :]


def _within(value: bytes, random: Random) -> bytes:
    at = random.randrange(len(value) + 1)
    return value[:at] + random.randbytes(random.randint(1, 8)) + value[at:]


def _repeated(value: bytes, random: Random) -> bytes:
    at, length = random.randrange(len(value) + 1), random.randint(1, 40)
    return value[:at] + value[at : at + length] * random.choice([2, 50]) + value[at:]


_BYTEWISE = (_flipped, _flipped, _cut, _without, _within, _repeated)
