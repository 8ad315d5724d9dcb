"""What chaos did to the data: what went out, held against what straight counting gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrank.edges.kafka_connection import ID_HEADER
from streamrank.edges.store import FeatureStore, View
from streamrank.features import windows
from streamrank.learning.examples import decode_example
from streamrank.served import decode_served
from streamrank.settings import Settings
from tests.services import Topics

Totals = dict[tuple[View, str], Counter[str]]


@dataclass(frozen=True)
class Verdict:
    """What is wrong; nothing, where all lists are empty."""

    unanswered: list[str]
    duplicated: list[str]
    miscounted: dict[tuple[View, str], str]
    events_miscounted: int
    examples_lost: list[str]
    dead_letters: list[str]

    @property
    def good(self) -> bool:
        wrong = (self.unanswered, self.duplicated, self.miscounted)
        return not any((*wrong, self.examples_lost, self.dead_letters))


@dataclass
class Judge:
    """Reads the topics as a plain consumer does, and the store as anybody does."""

    known: Settings
    topics: Topics
    store: FeatureStore

    def verdict(self, asked: set[str]) -> Verdict:
        """Hold what is there now against what was asked for and what happened."""
        rankings = self._json("rankings")
        answered = Counter(one["id"] for one in rankings)
        served = [decode_served(value) for value in self._values("served")]
        examples = self.topics.read(self.known.topic("examples"))
        names = Counter(_id(message.headers()) for message in examples)
        clicked, events = dict[str, set[str]](), self._json("events")
        for event in events:
            if event.get("type") == "click":
                clicked.setdefault(event["ranking"], set()).add(event["item"])
        expected = {one.id: clicked.get(one.id, set()) for one in served if one.source != "trigger"}
        found = _labelled(message.value() or b"" for message in examples)
        miscounted, off = self._miscounted(totals_of(events, rankings))
        return Verdict(
            unanswered=sorted(asked - set(answered)),
            duplicated=[
                *_twice("rankings", answered),
                *_twice("served", Counter(one.id for one in served)),
                *_twice("examples", names),
            ],
            miscounted=miscounted,
            events_miscounted=off,
            examples_lost=sorted(
                name for name, labels in expected.items() if found.get(name) != labels
            )
            + sorted(asked - {one.id for one in served}),
            dead_letters=[letter["reason"] for letter in self._json("dead-letters")],
        )

    def _values(self, name: str) -> list[bytes]:
        return self.topics.values(self.known.topic(name))

    def _json(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(value) for value in self._values(name)]

    def _miscounted(self, expected: Totals) -> tuple[dict[tuple[View, str], str], int]:
        schema, wrong, off = self.known.feature_schema(), dict[tuple[View, str], str](), 0
        for (view, key), counts in expected.items():
            values = self.store.read(view, [key], 0)[0]
            have = Counter[str]()
            if isinstance(values, np.ndarray):
                window = windows.unpack(values, len(schema.horizons), len(schema.channels))
                pairs = zip(schema.channels, window.totals, strict=True)
                have = Counter({channel: int(count) for channel, count in pairs if count})
            if have != counts:
                wrong[view, key] = f"{dict(have)} in the store, {dict(counts)} in the log"
                off += sum(((have - counts) + (counts - have)).values())
        return wrong, off


def totals_of(events: Iterable[dict[str, Any]], rankings: Iterable[dict[str, Any]]) -> Totals:
    """Count users and items straight from the log, each id once."""
    once = {one["id"]: one for one in events} | {
        one["id"]: one for one in rankings if one.get("trigger") is None
    }
    totals: Totals = {}
    for event in once.values():
        if event["event"] == "interaction":
            channel = event["type"] if event["type"] in ("view", "click") else "other"
            touched = [event["item"]] if "item" in event else []
        elif event["event"] == "ranking":
            channel, touched = "impression", [one["id"] for one in event["items"]]
        else:
            continue
        totals.setdefault(("user_windows", event["user"]), Counter())[channel] += 1
        for item in touched:
            totals.setdefault(("item_windows", item), Counter())[channel] += 1
    return totals


def _labelled(payloads: Iterable[bytes]) -> dict[str, set[str]]:
    """Return the labelled items of each list: of its example with the most of them."""
    found: dict[str, set[str]] = {}
    for one in map(decode_example, payloads):
        got = {item for item, hit in zip(one.items, one.labels[:, 0], strict=True) if hit}
        found[one.id] = max(got, found.get(one.id, set()), key=len)
    return found


def _twice(topic: str, counts: Counter[str]) -> list[str]:
    return [f"{topic}: {name} {count} times" for name, count in counts.items() if count > 1]


def _id(headers: Any) -> str:
    return bytes(dict(headers or [])[ID_HEADER]).decode()
