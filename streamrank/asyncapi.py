"""The topics for the teams that use them: an AsyncAPI document, made from the messages.

    python -m streamrank.asyncapi > infra/asyncapi.yaml

Of each topic: the schema of its records, what their key is, and an example.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from streamrank import __version__
from streamrank.events import (
    Announcement,
    Candidate,
    DeadLetter,
    Interaction,
    Item,
    Placed,
    Ranking,
    Replayed,
    Request,
    Shown,
    User,
)

AT = 1_541_548_939_000


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic of JSON messages."""

    topic: str
    meaning: str
    key: str
    direction: str  # of the application: it sends or it receives
    examples: tuple[Any, ...]


_ITEMS = (Candidate(id="i3", fields={"price": 71.0}), Candidate(id="i9", fields={"price": 64.0}))
CHANNELS = (
    Channel(
        "events",
        "What people do, and what is to be known of items and users.",
        "the user's id, or the session's where no user is known; of an item, the item's id",
        "send",
        (
            Item(id="e1", timestamp=AT, item="i3", fields={"title": "Sea view", "price": 71.0}),
            User(id="e2", timestamp=AT, user="u1", fields={"country": "FR"}),
            Interaction(id="e3", timestamp=AT, user="u1", session="s1", type="click", item="i3"),
            Shown(id="r1", timestamp=AT, user="u1", session="s1", items=_ITEMS),
        ),
    ),
    Channel(
        "requests",
        "Wishes for a ranked list.",
        "the user's id, or the session's where no user is known",
        "send",
        (Request(id="q1", timestamp=AT, user="u1", session="s1", k=10, items=_ITEMS),),
    ),
    Channel(
        "rankings",
        "Ranked lists, best first: answers to requests, and lists ranked again after a deed.",
        "the user's id, or the session's where no user is known",
        "receive",
        (
            Ranking(
                id="q1",
                timestamp=AT,
                user="u1",
                session="s1",
                request="q1",
                items=(
                    Placed(id="i9", score=0.7, propensity=1.0),
                    Placed(id="i3", score=0.2, propensity=1.0),
                ),
                model="20260101T000000-0123abcd",
                policy="greedy",
                features="0123456789abcdef",
                latency_ms=4.2,
            ),
        ),
    ),
    Channel(
        "dead-letters",
        "Records that could not be used: why, where they came from, and what they were.",
        "where the record came from",
        "receive",
        (
            DeadLetter(
                reason="event: Invalid JSON", origin="events[0]@7", payload=b"{", timestamp=AT
            ),
            Replayed(done=True, letters=(7,), timestamp=AT),
        ),
    ),
    Channel(
        "models",
        "Which version serves now; compacted.",
        "the model's name",
        "receive",
        (
            Announcement(
                name="ranker",
                version="20260101T000000-0123abcd",
                timestamp=AT,
                digest="0" * 64,
                reason="better on the last 50 lists",
            ),
        ),
    ),
)
BINARY: Mapping[str, tuple[str, str]] = {
    "served": ("what the model saw of each list (safetensors)", "the user's id"),
    "examples": ("shown lists with their labels (safetensors)", "the ranking's id"),
}


def document() -> dict[str, Any]:
    """Return the document.

    Examples:
        >>> document()["channels"]["requests"]["bindings"]["kafka"]["topic"]
        'requests'
    """
    models: list[type[BaseModel]] = [type(one) for c in CHANNELS for one in c.examples]
    template = "#/components/schemas/{model}"
    _, found = models_json_schema([(one, "validation") for one in models], ref_template=template)
    channels = {channel.topic: _channel(channel) for channel in CHANNELS}
    binary = {topic: _binary(topic, *said) for topic, said in BINARY.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "StreamRank",
            "version": __version__,
            "description": "Topics of StreamRank; `kafka.prefix` stands before every name.",
        },
        "defaultContentType": "application/json",
        "channels": channels | binary,
        "operations": {
            f"{channel.direction}-{channel.topic}": {
                "action": channel.direction,
                "channel": {"$ref": f"#/channels/{channel.topic}"},
            }
            for channel in CHANNELS
        },
        "components": {"schemas": found["$defs"]},
    }


def _channel(channel: Channel) -> dict[str, Any]:
    messages = {}
    for example in channel.examples:
        payload = example.model_dump(mode="json", exclude_none=True)
        messages[type(example).__name__] = {
            "payload": {"$ref": f"#/components/schemas/{type(example).__name__}"},
            "bindings": {"kafka": {"key": {"type": "string", "description": channel.key}}},
            "examples": [{"payload": payload}],
        }
    return {
        "address": channel.topic,
        "description": channel.meaning,
        "messages": messages,
        "bindings": {"kafka": {"topic": channel.topic}},
    }


def _binary(topic: str, meaning: str, key: str) -> dict[str, Any]:
    message = {
        "contentType": "application/octet-stream",
        "bindings": {"kafka": {"key": {"type": "string", "description": key}}},
    }
    return {
        "address": topic,
        "description": f"Of StreamRank itself: {meaning}.",
        "messages": {topic: message},
        "bindings": {"kafka": {"topic": topic}},
    }


def text() -> str:
    """Return the document as YAML."""
    head = "# Made from the messages by `python -m streamrank.asyncapi`: change those, not this.\n"
    return head + yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    sys.stdout.write(text())
