"""Which version serves, told over a topic or found in the registry."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streamrank.edges import registry
from streamrank.edges.announcements import Announcer, Listener
from streamrank.edges.broker import EmbeddedBroker
from streamrank.edges.kafka import DeliveryFailed, TopicMissing
from streamrank.edges.registry import Manifest
from streamrank.features.schema import Schema
from tests.graphs import WEIGHTS, a_model
from tests.services import Kafka, Topics, free_port, until

NOW = datetime.now(UTC) - timedelta(minutes=10)
FAR = timedelta(hours=1)


def publish(root: Path, factor: float = 1.0, **more: Any) -> Manifest:
    given: dict[str, Any] = {"schema": Schema(), "features": "f1", "now": NOW} | more
    return registry.publish(root, "ranker", a_model(WEIGHTS * factor), **given)


def say(topics: Topics, topic: str, one: Manifest, at: datetime, **more: str) -> None:
    said = {"name": "ranker", "version": one.version, "digest": one.digest, "reason": "won"} | more
    with Announcer(topics.connection, topic) as announcer:
        announcer.announce(at=at, **said)


@contextmanager
def heard(
    topics: Topics, topic: str, root: Path, poll: timedelta = FAR
) -> Iterator[list[tuple[str, str]]]:
    """What a listener passes on."""
    words: list[tuple[str, str]] = []
    follow = lambda version, reason: words.append((version, reason))  # noqa: E731
    with Listener(topics.connection, topic, root, "ranker", follow, poll=poll):
        yield words


def test_an_announcement_is_heard_at_once(embedded: Topics, tmp_path: Path) -> None:
    topic, first, second = embedded.new("models"), publish(tmp_path), publish(tmp_path, 2.0)
    with heard(embedded, topic, tmp_path) as words:
        say(embedded, topic, first, NOW + timedelta(seconds=1))
        until(lambda: bool(words), 20, "the first is heard")
        say(embedded, topic, second, NOW + timedelta(seconds=2), reason="rolled forward")
        until(lambda: words[-1] == (second.version, "rolled forward"), 20, "the second is heard")


def test_who_starts_late_hears_the_last_word_alone(embedded: Topics, tmp_path: Path) -> None:
    topic, first, second = embedded.new("models"), publish(tmp_path), publish(tmp_path, 2.0)
    registry.point(tmp_path, "ranker", first.version, "rolled back", NOW + timedelta(seconds=3))
    say(embedded, topic, second, NOW + timedelta(seconds=1))
    say(embedded, topic, first, NOW + timedelta(seconds=3), reason="rolled back")
    with heard(embedded, topic, tmp_path) as words:
        until(lambda: bool(words), 20, "the last word is heard")
        say(embedded, topic, second, NOW + timedelta(seconds=4), reason="again")
        until(lambda: len(words) == 2, 20, "the next word is heard")
    assert words == [(first.version, "rolled back"), (second.version, "again")]


def test_a_pointer_that_was_moved_without_a_broker_outweighs_an_older_announcement(
    embedded: Topics, tmp_path: Path
) -> None:
    topic, first, second = embedded.new("models"), publish(tmp_path), publish(tmp_path, 2.0)
    say(embedded, topic, second, NOW + timedelta(seconds=1))
    with heard(embedded, topic, tmp_path, timedelta(seconds=0.2)) as words:
        until(lambda: bool(words), 20, "what was announced is heard")
        registry.point(tmp_path, "ranker", first.version, "by hand", NOW + timedelta(seconds=2))
        until(lambda: words[-1] == (first.version, "by hand"), 20, "the pointer is seen")


def test_where_no_broker_answers_the_registry_is_polled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = Topics(f"127.0.0.1:{free_port()}")
    first, second = publish(tmp_path), publish(tmp_path, 2.0)
    with heard(nobody, "models", tmp_path, timedelta(seconds=0.2)) as words:
        until(lambda: words == [(second.version, "the newest version that may serve")], 20, "start")
        registry.rollback(tmp_path, "ranker", first.version, now=NOW, reason="clicks fell")
        until(lambda: words[-1] == (first.version, "clicks fell"), 30, "the roll-back is seen")
        until(lambda: "the registry is polled every 0.2 s" in caplog.text, 20, "it says so")
    assert caplog.text.count("no Kafka broker answers") == 1


def test_a_topic_that_appears_later_is_heard(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path, 2.0)
    registry.point(tmp_path, "ranker", first.version, "it serves", NOW)
    with EmbeddedBroker() as broker:
        topics = Topics(broker.bootstrap, embedded=True)
        with heard(topics, "models", tmp_path, timedelta(seconds=0.2)) as words:
            until(lambda: bool(words), 20, "the registry is seen")
            broker.create(["models"])
            say(topics, "models", second, NOW + timedelta(seconds=1))
            until(lambda: words[-1] == (second.version, "won"), 20, "the topic is heard")


def test_announcements_that_are_none_or_of_another_graph_are_refused_and_counted(
    embedded: Topics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic, first = embedded.new("models"), publish(tmp_path)
    other = publish(tmp_path, 2.0, rejected="worse")
    embedded.write(topic, [b"not json", b""], key="ranker")
    say(embedded, topic, other, NOW + timedelta(seconds=1), digest=first.digest)
    embedded.write(topic, [b"not json either"], key="another model")
    words: list[str] = []
    with Listener(
        embedded.connection, topic, tmp_path, "ranker", lambda one, _: words.append(one), poll=FAR
    ) as listener:
        until(lambda: listener.refused == 2, 20, "both are refused")
        assert words == [first.version]
    assert f"the digest of {other.version} must be {other.digest}" in caplog.text
    assert f"announcement {topic}[" in caplog.text


def test_a_word_dated_ahead_of_the_clock_does_not_outlive_the_next_one(
    embedded: Topics, tmp_path: Path
) -> None:
    topic, first, second = embedded.new("models"), publish(tmp_path), publish(tmp_path, 2.0)
    with heard(embedded, topic, tmp_path) as words:
        until(
            lambda: words[-1:] == [(second.version, words[0][1])] if words else False, 20, "start"
        )
        say(embedded, topic, first, datetime.now(UTC) + timedelta(days=900))
        until(lambda: words[-1][0] == first.version, 20, "it is followed")
        say(embedded, topic, second, datetime.now(UTC) + timedelta(seconds=1))
        until(lambda: words[-1][0] == second.version, 20, "and so is the next one")


def test_a_listener_survives_what_follows_it(
    embedded: Topics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic, first, second = embedded.new("models"), publish(tmp_path), publish(tmp_path, 2.0)
    words: list[str] = []

    def follow(version: str, reason: str) -> None:
        words.append(version)
        raise MemoryError("no room")

    with Listener(embedded.connection, topic, tmp_path, "ranker", follow, poll=FAR):
        until(lambda: words == [second.version], 20, "the registry is seen")
        say(embedded, topic, first, datetime.now(UTC))
        until(lambda: words[-1] == first.version, 20, "the listener goes on")
    [record, *_] = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert f"model ranker: {second.version} could not be followed" in record.message


def test_a_topic_that_is_missing_is_not_made_by_announcing(embedded: Topics) -> None:
    with pytest.raises(TopicMissing, match="no topic models-nowhere"):
        Announcer(embedded.connection, "models-nowhere")


# --- on Apache Kafka --------------------------------------------------------------------------


@pytest.mark.integration
def test_on_a_compacted_topic_a_late_worker_finds_the_announced_version(
    topics: Topics, tmp_path: Path
) -> None:
    topic = topics.new(
        "models", 1, cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.01"
    )
    published = [publish(tmp_path, 1.0 + number) for number in range(5)]
    for number, one in enumerate(published):
        say(topics, topic, one, NOW + timedelta(seconds=number))
    registry.point(tmp_path, "ranker", published[0].version, "long ago", NOW - timedelta(days=1))
    with heard(topics, topic, tmp_path) as words:
        until(lambda: bool(words) and words[-1][0] == published[4].version, 30, "the last one")
        before = len(words)
        say(topics, topic, published[2], NOW + timedelta(seconds=9), reason="rolled back")
        until(lambda: len(words) > before, 10, "the roll-back is heard")
    assert words[-1] == (published[2].version, "rolled back")


@pytest.mark.integration
@pytest.mark.slow
def test_while_the_broker_is_away_the_registry_is_followed_and_then_the_topic_again(
    private_kafka: Kafka, tmp_path: Path
) -> None:
    topics = Topics(private_kafka.bootstrap)
    topic, root = topics.new("models", 1), tmp_path / f"registry-{uuid.uuid4().hex[:4]}"
    first, second, third = (publish(root, 1.0 + number) for number in range(3))
    with heard(topics, topic, root, timedelta(seconds=0.5)) as words:
        say(topics, topic, first, NOW + timedelta(seconds=1))
        until(lambda: bool(words) and words[-1][0] == first.version, 30, "the topic is heard")
        announcer = Announcer(topics.connection, topic)
        private_kafka.stop(kill=True)
        registry.point(root, "ranker", second.version, "by hand", NOW + timedelta(seconds=2))
        with pytest.raises(DeliveryFailed, match="the broker did not take a record"):
            announcer.announce("ranker", second.version, second.digest, "by hand", NOW)
        until(lambda: words[-1] == (second.version, "by hand"), 30, "the registry is seen")
        private_kafka.start()
        say(topics, topic, third, NOW + timedelta(seconds=3), reason="learned")
        until(lambda: words[-1] == (third.version, "learned"), 60, "the topic is heard again")
