"""The learner's hand on the registry: what serves, what does not, and who is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streamrank.edges import registry
from streamrank.edges.kafka_errors import DeliveryFailed
from streamrank.features.inputs import digest
from streamrank.features.schema import Schema
from streamrank.publishing import Publishing
from tests import graphs

SCHEMA = Schema(interactions=("click", "buy"), label="click", conversion="buy")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Words:
    """Keeps what was announced; or is a broker that is away."""

    away: bool = False
    said: list[tuple[str, str, str]] = field(default_factory=list)

    def announce(self, name: str, version: str, digest: str, reason: str, at: datetime) -> None:
        if self.away:
            raise DeliveryFailed("nobody answers")
        self.said.append((version, digest, reason))


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def hand(tmp_path: Path, words: Words) -> Publishing:
    return Publishing(tmp_path, "ranker", SCHEMA, words)


def published(hand: Publishing, number: int, parent: str | None = None) -> str:
    """Publish a version of its own, and let it serve."""
    model = graphs.a_model(graphs.WEIGHTS * number)
    now = NOW + timedelta(minutes=number)
    version = hand.publish(model, parent=parent, now=now, lists_seen=number).version
    hand.announce(version, "better", now, expected=parent)
    return version


def test_a_version_serves_when_it_is_announced_and_everybody_is_told(
    hand: Publishing, words: Words
) -> None:
    first = published(hand, 1)
    second = published(hand, 2, first)
    assert hand.current() == second
    assert [(version, reason) for version, _, reason in words.said] == [
        (first, "better"),
        (second, "better"),
    ]
    found = registry.manifest(hand.root, hand.name, second)
    assert (found.parent, found.features, found.lists_seen) == (first, digest(SCHEMA), 2)
    assert words.said[1][1] == found.digest


def test_a_rejected_version_is_kept_with_its_reason_and_cannot_serve(
    hand: Publishing, words: Words
) -> None:
    first = published(hand, 1)
    model = graphs.a_model(graphs.WEIGHTS * 3)
    worse = hand.publish(model, parent=first, now=NOW + timedelta(hours=1), rejected="worse")
    with pytest.raises(registry.VersionBarred, match="worse"):
        hand.announce(worse.version, "by mistake", NOW, expected=first)
    assert (hand.current(), len(words.said)) == (first, 1)


def test_a_version_that_somebody_else_rolled_back_is_not_overtaken(
    hand: Publishing, words: Words
) -> None:
    first = published(hand, 1)
    second = published(hand, 2, first)
    later = NOW + timedelta(hours=1)
    registry.rollback(hand.root, hand.name, reason="by hand", now=later)
    model = graphs.a_model(graphs.WEIGHTS * 4)
    third = hand.publish(model, parent=second, now=later)
    with pytest.raises(registry.PointerMoved):
        hand.announce(third.version, "better", later, expected=second)
    assert (hand.current(), len(words.said)) == (first, 2)


def test_a_roll_back_goes_to_the_parent_and_is_told(hand: Publishing, words: Words) -> None:
    first = published(hand, 1)
    second = published(hand, 2, first)
    assert hand.roll_back("live quality fell", NOW + timedelta(hours=1)) == first
    assert words.said[-1][::2] == (first, "live quality fell")
    assert second in registry.barred(hand.root, hand.name)


def test_a_broker_that_is_away_does_not_keep_a_version_from_serving(
    hand: Publishing, words: Words
) -> None:
    words.away = True
    version = published(hand, 1)
    assert hand.current() == version
