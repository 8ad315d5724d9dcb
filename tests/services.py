"""The real services that integration tests run against: Apache Kafka and Redis, on loopback.

    python tests/services.py install     # fetch Kafka's jars into .cache/kafka/libs (Java, Maven)
    python tests/services.py kafka       # a broker for a person, until Ctrl-C

Each service runs on free ports and keeps its data in a folder of its own.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

ROOT = Path(__file__).parents[1]
POM = Path(__file__).with_name("pom.xml")
LIBRARIES = ROOT / ".cache" / "kafka" / "libs"
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
PATIENCE = 60.0
"""Seconds that a service gets to answer after its start."""


class Missing(Exception):
    """A service is not installed; the text says how to get it."""


class NotStarted(Exception):
    """A service is installed and did not come up; the text holds the end of its log."""


def install() -> None:
    """Fetch Apache Kafka from Maven Central; a second call takes seconds."""
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    subprocess.run(
        ["mvn", "-q", "-B", "-f", str(POM), *goal, f"-DoutputDirectory={LIBRARIES}"], check=True
    )


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(condition: Callable[[], bool], within: float, what: str) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It did not come true in time.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:.0f} s")
        time.sleep(0.02)


class Link:
    """A way to a port that can lose what comes back on it."""

    def __init__(self, target: int) -> None:
        self.losing = threading.Event()
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._run(self._accept)

    def close(self) -> None:
        """Let nobody in any more."""
        self._server.close()

    @staticmethod
    def _run(what: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=what, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._run(self._carry, client, target, None)
            self._run(self._carry, target, client, self.losing)

    @staticmethod
    def _carry(
        source: socket.socket, target: socket.socket, losing: threading.Event | None
    ) -> None:
        with source, suppress(OSError):
            while taken := source.recv(65536):
                if losing is None or not losing.is_set():
                    target.sendall(taken)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@dataclass
class _Service:
    """A process that is started, asked until it answers, and stopped."""

    folder: Path
    name: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def launch(self, command: list[str], answers: Callable[[], bool]) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        deadline = time.monotonic() + PATIENCE
        while not answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                end = self.log.read_text(errors="replace")[-2000:]
                raise NotStarted(f"{self.name} did not start:\n{end}")
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """End the process; `kill` gives it no time to say good-bye."""
        if self.process is None:
            return
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


SERVER_PROPERTIES = """
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={folder}/data
auto.create.topics.enable={auto_create}
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
"""


@dataclass
class Kafka(_Service):
    """Apache Kafka: broker and controller in one process."""

    name: str = "kafka"
    auto_create: bool = True
    """As brokers come out of the box: a careless client makes topics by asking for them."""
    more: str = ""
    """Properties that stand after the usual ones, and instead of them."""
    formatting: tuple[str, ...] = ()
    """More words for StorageTool, as the first users."""
    client: dict[str, str | int | float | bool] = field(default_factory=dict)
    """What a client needs beside the address to be let in."""
    port: int = 0
    """Where it listens; 0 for a port that is free."""

    def __post_init__(self) -> None:
        if shutil.which("java") is None or not any(LIBRARIES.glob("kafka_2.13-*.jar")):
            raise Missing(
                "Apache Kafka is not installed: with Java 17 and Maven, "
                "run `python tests/services.py install`"
            )
        self.port, controller = self.port or free_port(), free_port()
        properties = (SERVER_PROPERTIES + self.more).format(
            port=self.port,
            controller=controller,
            folder=self.folder,
            auto_create=str(self.auto_create).lower(),
        )
        (self.folder / "server.properties").write_text(properties)
        words = ("format", "--standalone", "-t", CLUSTER_ID, *self.formatting, "-c")
        self._java("kafka.tools.StorageTool", *words)

    @property
    def bootstrap(self) -> str:
        """Address for `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, or start again on the same data."""
        command = ["java", "-Xmx512m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += ["-cp", f"{LIBRARIES}/*", "kafka.Kafka", "server.properties"]
        self.launch(command, self._answers)

    def _java(self, *arguments: str) -> None:
        command = ["java", "-cp", f"{LIBRARIES}/*", *arguments, "server.properties"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, check=False)
        if done.returncode:
            raise NotStarted(f"{arguments[0]} failed:\n{done.stdout.decode()[-2000:]}")

    def _answers(self) -> bool:
        client = AdminClient(self.client | {"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False


@dataclass
class Redis(_Service):
    """A Redis server; a `durable` one has on its disk whatever it acknowledged."""

    name: str = "redis"
    durable: bool = False

    def __post_init__(self) -> None:
        if shutil.which("redis-server") is None:
            raise Missing("Redis is not installed: `apt-get install redis-server`")
        self.port = free_port()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port)]
        kept = "yes" if self.durable else "no"
        self.launch([*command, "--save", "", "--appendonly", kept], self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@dataclass
class Topics:
    """Topics with names of their own on a broker: made, written and read."""

    bootstrap: str
    embedded: bool = False

    @property
    def connection(self) -> dict[str, str | int]:
        """librdkafka's settings for it."""
        return {"bootstrap.servers": self.bootstrap, "message.timeout.ms": 30_000}

    def new(self, name: str = "topic", partitions: int = 4, **config: str) -> str:
        """Make a topic; keys of `config` are the broker's, with `_` for `.`."""
        full = f"{name}-{uuid4().hex[:8]}"
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})
        if self.embedded:
            client.list_topics(full, timeout=10)
            return full
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(full, partitions, 1, config=dotted)
        client.create_topics([topic])[full].result(30)
        until(lambda: full in client.list_topics(timeout=10).topics, 10, f"{full} appears")
        return full

    def configure(self, topic: str, key: str, value: str) -> None:
        """Change a setting of a topic."""
        entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})
        client.incremental_alter_configs([resource])[resource].result(20)

    def write(
        self, topic: str, values: Iterable[bytes], *, partition: int = -1, key: str | None = None
    ) -> None:
        """Write records and wait until all are acknowledged."""
        refused: list[str] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                refused.append(error.str())

        producer = Producer(self.connection | {"log_level": 2, "linger.ms": 1})
        for value in values:
            while True:
                try:
                    producer.produce(topic, value, key, partition, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        producer.flush(30)
        if refused:
            raise AssertionError(f"{len(refused)} records refused: {refused[0]}")

    def read(self, topic: str, count: int | None = None, within: float = 20.0) -> list[Message]:
        """Read a topic from its start: `count` records at least, or what is there now."""
        consumer = Consumer(
            self.connection | {"group.id": uuid4().hex, "log_level": 2, "fetch.wait.max.ms": 5}
        )
        ends = {}
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            ends[partition] = _span(consumer, TopicPartition(topic, partition))
        consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in ends.items()])
        wanted = sum(high - low for low, high in ends.values()) if count is None else count
        found: list[Message] = []
        deadline = time.monotonic() + within
        while len(found) < wanted and time.monotonic() < deadline:
            found += [one for one in consumer.consume(1000, 0.05) if one.error() is None]
        consumer.close()
        return found

    def values(self, topic: str, count: int | None = None, within: float = 20.0) -> list[bytes]:
        """Return what `read` finds, as payloads."""
        return [message.value() or b"" for message in self.read(topic, count, within)]

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """Return the offset that a group committed, -1 or less for none."""
        consumer = Consumer(self.connection | {"group.id": group, "log_level": 2})
        [found] = consumer.committed([TopicPartition(topic, partition)], timeout=10)
        consumer.close()
        return found.offset


def _span(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """Return the first and the next offset; a topic just made has no leader for a moment."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=10) or (0, 0)
        except KafkaException as error:
            leaderless = error.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION
            passing = error.args[0].retriable() or leaderless
            if not passing or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


USUAL = 9092
"""Where the default settings look for a broker."""


def for_a_person() -> None:
    """Run a broker until Ctrl-C, at the usual port where nobody listens; what it holds goes too."""
    with socket.socket() as asked:
        taken = asked.connect_ex(("127.0.0.1", USUAL)) == 0
    ends = {signal.SIGINT, signal.SIGTERM}
    with tempfile.TemporaryDirectory() as folder:
        kafka = Kafka(Path(folder), port=0 if taken else USUAL)
        kafka.start()
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        sys.stdout.write(f"Apache Kafka at {kafka.bootstrap}; Ctrl-C ends it\n")
        sys.stdout.flush()
        try:
            signal.sigwait(ends)
        finally:
            kafka.stop()


if __name__ == "__main__":
    commands = {"install": install, "kafka": for_a_person}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    try:
        commands[sys.argv[1]]()
    except Missing as missing:
        sys.exit(str(missing))
