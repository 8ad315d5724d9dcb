"""What the tests of the flows share: a small project, its events, and a scorer without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrank import deployment, settings
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.edges.store import MemoryStore
from streamrank.features.inputs import Array, Inputs, features
from streamrank.settings import Settings
from streamrank.steps import Decoder

NOW = 1_700_000_000_000
KNOWN = settings.changed(
    Settings(),
    {
        "events": {"interactions": ["view", "click"], "label": "click"},
        "fields": {
            "item": {"price": "number", "title": "text"},
            "user": {"country": "category"},
            "context": {"city": "category"},
        },
        "windows": {"lateness": "10m"},
        "rank": {"k": 10, "trigger_every": "1s"},
    },
)
PLAN = deployment.plan_of(KNOWN)


class TouchedFirst:
    """Scores by how recently an item was touched: a stand-in that reacts to a click."""

    version = "touched-first"

    def __init__(self) -> None:
        names = [feature.name for feature in features(PLAN.schema)]
        self._column = names.index("touch.recency")

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        return [
            np.asarray(inputs["candidate_numbers"][:, [self._column]], np.float32)
            for inputs in batch
        ]


def decoders() -> Mapping[str, Decoder]:
    return deployment.decoders_of(KNOWN, "events", "requests", "rankings", "served")


def store() -> MemoryStore:
    return MemoryStore(PLAN.schema, KNOWN.windows.ttl)


def record(payload: bytes | dict[str, Any], offset: int = 0, topic: str = "events") -> Incoming:
    value = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Incoming(topic, 0, offset, value, received=float(NOW))


def records(*payloads: bytes | dict[str, Any], topic: str = "events") -> list[Incoming]:
    return [record(payload, offset, topic) for offset, payload in enumerate(payloads)]


def messages(written: Sequence[tuple[str, Outgoing]]) -> list[dict[str, Any]]:
    return [json.loads(outgoing.value) for _, outgoing in written]


def deed(number: int, item: str | None = "a", *, at: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "event": "interaction",
        "id": f"e{number}",
        "timestamp": NOW + at,
        "user": "u",
        "session": "s",
        "type": "click",
        "item": item,
    } | more


def asked(number: int, *items: str, at: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "event": "request",
        "id": f"q{number}",
        "timestamp": NOW + at,
        "user": "u",
        "session": "s",
        "items": [{"id": item} for item in items],
    } | more


def shown(number: int, *items: str, at: int = 0, **more: Any) -> dict[str, Any]:
    return asked(number, *items, at=at) | {"event": "ranking", "id": f"r{number}"} | more
