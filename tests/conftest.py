"""Fixtures that start real services, once a session and only when a test asks for one.

A service that is not installed skips its tests and says how to get it; with
STREAMRANK_REQUIRE_SERVICES=1 it fails them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from streamrank.edges.broker import EmbeddedBroker
from streamrank.edges.kafka import STOPPING
from tests.services import Kafka, Link, Missing, Redis, Topics, free_port

# How long an example takes says how busy the machine is, and nothing of what is tested.
hypothesis_settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("busy")

# A shell ignores Ctrl-C for what it runs in the background, and so would every program that a test
# starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

S = TypeVar("S", Kafka, Redis)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take long: the short ones then fill both workers to the end."""
    marks = {item.path: 0 for item in items}
    for item in items:
        marks[item.path] += any(item.iter_markers("slow")) or any(item.iter_markers("integration"))
    items.sort(key=lambda item: not marks[item.path])


def _started(make: Callable[[], S]) -> S:
    try:
        service = make()
    except Missing as missing:
        if os.environ.get("STREAMRANK_REQUIRE_SERVICES") == "1":
            pytest.fail(f"STREAMRANK_REQUIRE_SERVICES=1 and {missing}")
        pytest.skip(str(missing))
    service.start()
    return service


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an Apache Kafka that all tests share: use names of your own (`topics`)."""
    kafka = _started(lambda: Kafka(tmp_path_factory.mktemp("kafka")))
    yield kafka.bootstrap
    kafka.stop()


@pytest.fixture
def private_kafka(tmp_path: Path) -> Iterator[Kafka]:
    """An Apache Kafka of one test, which may stop it and start it again."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    kafka = _started(lambda: Kafka(folder))
    yield kafka
    kafka.stop(kill=True)


@pytest.fixture
def linked_kafka(tmp_path: Path) -> Iterator[tuple[Kafka, Link]]:
    """An Apache Kafka of one test, and the link on which its clients come."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    port = free_port()
    link = Link(port)
    listener = f"advertised.listeners=PLAINTEXT://127.0.0.1:{link.port}\n"
    kafka = _started(lambda: Kafka(folder, port=port, more=listener))
    yield kafka, link
    kafka.stop(kill=True)
    link.close()


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:port` of a Redis that all tests share."""
    redis = _started(lambda: Redis(tmp_path_factory.mktemp("redis")))
    yield redis.address
    redis.stop()


@pytest.fixture(scope="session")
def topics(kafka_bootstrap: str) -> Topics:
    """Makes topics of one's own on the shared Apache Kafka, writes and reads them."""
    return Topics(kafka_bootstrap)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Topics]:
    """The same on an embedded broker: quick, and no proof of delivery."""
    with EmbeddedBroker() as broker:
        yield Topics(broker.bootstrap, embedded=True)


@pytest.fixture
def stopping() -> Iterator[Callable[[], None]]:
    """What a signal does to the sources of this process; undone after the test."""
    yield STOPPING.set
    STOPPING.clear()
