"""The rank flow on Apache Kafka: how many lists, how fast, against the bare model and stock parts.

    python tests/benchmarks/serve.py --report serve.json [--broker HOST:PORT] [--seconds 15]

Broker, load and flow share the machine's cores. Every request has 100 candidates, each with more
than 20 features (`features` says how many), for a user with 50 steps of history; the store holds
windows of all of them, and a small Ranker scores, untrained but with the bins of such lists: it
costs what a trained one does.

- `rankings_per_second`: sustained, with so many requests open that the flow never waits for one.
- `p90_ms_above_broker`, `p99_ms_above_broker`: the round trip at a third of that, at a constant
  rate whatever comes back, less the same quantile of the broker's own: a bare relay in a process
  of its own (confluent-kafka, no flow) copies the same requests from topic to topic at the same
  rate, in the same run.
- `share_of_bare`: `rankings_per_second` over the lists a second of ONNX Runtime's session alone,
  on one core, on the inputs that the flow wrote to `served`, in batches of its best size.
- `times_stock_parts`: over the same load on the flow that one would write first: Bytewax's own
  KafkaSource and KafkaSink, JSON, one Feast read and one session run a request.

Without `--broker` an Apache Kafka is started (`python tests/services.py install`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one
CANDIDATES, ITEMS, USERS, STEPS, OPEN = 100, 2_000, 200, 50, 192
PATIENCE = 90.0
_ID = re.compile(rb'"request":"(r[0-9a-z-]+)"')


def project(folder: Path, broker: str) -> Any:
    """Return the settings of a project of its own."""
    from streamrank import settings
    from streamrank.settings import Settings

    return settings.changed(
        Settings(),
        {
            "events": {"interactions": ["view", "click"], "label": "click"},
            "fields": {"item": {"price": "number"}},
            "windows": {"horizons": ["1d"]},
            "rank": {"provider": "cpu", "triggers": [], "cache_age": "10s"},
            "kafka": {
                "bootstrap_servers": broker,
                "prefix": f"serve-{uuid4().hex[:8]}-",
            },
            "store": {"path": str(folder / "feast")},
            "state": {"path": str(folder / "state"), "every": "10s"},
            "registry": {"path": str(folder / "registry")},
        },
    )


def publish(known: Any) -> bytes:
    """Publish an untrained Ranker; return its graph."""
    from streamrank import deployment
    from streamrank.edges import registry
    from streamrank.model import export
    from streamrank.model.artifact import Exported
    from tests.benchmarks import steps

    ranker = steps.untrained(steps.Lists(CANDIDATES, STEPS))
    config = ranker.config
    graph = export.folded(export.to_onnx(ranker))
    weights = {name: tensor.numpy().copy() for name, tensor in ranker.state_dict().items()}
    probe = export.random_inputs(config, 8, 20, 30)
    made = Exported(graph, weights, config.heads, probe, export.run(ranker, probe))
    registry.publish(
        known.registry.path,
        known.model.name,
        made,
        schema=known.feature_schema(),
        features=deployment.plan_of(known).features,
        now=datetime.now(UTC),
        parent=None,
    )
    return graph


def fill_store(known: Any) -> None:
    """Write windows of all items and users, and the fields of the items."""
    from streamrank.edges.feast import FeastStore
    from streamrank.edges.store import Row, View
    from streamrank.features import windows
    from streamrank.settings import Secrets

    schema, random = known.feature_schema(), np.random.default_rng(2)
    width = windows.width(len(schema.horizons), len(schema.channels))
    at = time.time_ns() // 1_000_000 - 60_000

    def window(view: View, key: str) -> Row:
        values = random.gamma(1.0, 5.0, width)
        values[: 1 + len(schema.channels)] = at
        return Row(view, key, at, 0, values)

    rows = [window("item_windows", f"i{n}") for n in range(ITEMS)]
    rows += [window("user_windows", f"u{n}") for n in range(USERS)]
    rows += [Row("item_fields", f"i{n}", at, 0, {"price": float(n)}) for n in range(ITEMS)]
    store = FeastStore(known, Secrets())
    store.write(rows)
    store.close()


def histories(known: Any) -> list[tuple[str, bytes]]:
    """Return what gives every user 50 steps."""
    from streamrank.events import Interaction

    random, now = np.random.default_rng(3), time.time_ns() // 1_000_000 - 300_000
    return [
        (
            f"u{user}",
            Interaction(
                id=f"e{user}-{step}",
                timestamp=now + 1000 * step,
                user=f"u{user}",
                session=f"s{user}",
                type="view" if step % 4 else "click",
                item=f"i{random.integers(ITEMS)}",
            ).encode(),
        )
        for step in range(STEPS)
        for user in range(USERS)
    ]


class Requests:
    """Requests by number: the lists are drawn before, so that the load costs little."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self._lists = []
        for _ in range(500):
            items = random.choice(ITEMS, CANDIDATES, replace=False)
            listed = [{"id": f"i{i}", "fields": {"price": int(i)}} for i in items]
            self._lists.append(json.dumps(listed, separators=(",", ":")))

    def __call__(self, name: str, number: int) -> tuple[str, bytes]:
        """Return the key and the payload of a request."""
        user, at = number % USERS, time.time_ns() // 1_000_000
        text = (
            f'{{"event":"request","id":"{name}","timestamp":{at},"user":"u{user}",'
            f'"session":"s{user}","items":{self._lists[number % len(self._lists)]}}}'
        )
        return f"u{user}", text.encode()


@dataclass
class Load:
    """Requests to one topic, and their answers on another."""

    broker: str
    source: str
    target: str
    requests: Requests
    sent: dict[bytes, float] = field(default_factory=dict)
    got: dict[bytes, float] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def receive(self) -> None:
        """Note when each answer came, until told to end."""
        from confluent_kafka import Consumer, TopicPartition

        options: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.broker,
            "group.id": f"{self.target}-load",
            "fetch.wait.max.ms": 5,
            "enable.auto.commit": False,
        }
        consumer = Consumer(options)
        parts = consumer.list_topics(self.target, timeout=10).topics[self.target].partitions
        consumer.assign([TopicPartition(self.target, part, 0) for part in parts])
        while not self.ended.is_set():
            first = consumer.poll(0.02)
            for message in [] if first is None else [first, *consumer.consume(500, 0)]:
                found = _ID.search(message.value() or b"") or _REQUEST.search(
                    message.value() or b""
                )
                if message.error() is None and found:
                    self.got.setdefault(found[1], time.perf_counter())
        consumer.close()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive in a thread of its own."""
        thread = threading.Thread(target=self.receive)
        thread.start()
        try:
            yield
        finally:
            self.ended.set()
            thread.join()

    def run(self, name: str, seconds: float, rate: float | None, most: int | None = None) -> None:
        """Send for some time: at a rate, or else so that `OPEN` requests are always open."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.broker, "linger.ms": 0})
        begun = due = time.perf_counter()
        number = 0
        while time.perf_counter() - begun < seconds and (most is None or number < most):
            if rate is None:
                while len(self.sent) - len(self.got) >= OPEN:
                    producer.poll(0.001)
                    if time.perf_counter() - begun > seconds:
                        break
            else:
                due += 1 / rate
                while (left := due - time.perf_counter()) > 0:
                    producer.poll(0)
                    time.sleep(min(left, 0.002))
            key, payload = self.requests(f"r{name}-{number}", number)
            self.sent[f"r{name}-{number}".encode()] = time.perf_counter()
            producer.produce(self.source, payload, key)
            producer.poll(0)
            number += 1
        producer.flush(PATIENCE)

    def wait(self, within: float = PATIENCE) -> None:
        """Wait until all that was sent is answered."""
        deadline = time.perf_counter() + within
        while len(self.got) < len(self.sent):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{len(self.sent) - len(self.got)} requests without an answer")
            time.sleep(0.01)

    def times(self, name: str, after: float = 0.0) -> list[float]:
        """Return the round trips of one run, ms, without those of its first seconds."""
        mine = f"r{name}-".encode()
        own = {key: at for key, at in self.sent.items() if key.startswith(mine)}
        begun = min(own.values()) + after
        return [1000 * (self.got[key] - at) for key, at in own.items() if at >= begun]


_REQUEST = re.compile(rb'"event":"request","id":"(r[0-9a-z-]+)"')


def sustained(load: Load, seconds: float) -> float:
    """Return lists a second while the flow never waits; its first third does not count."""
    begun = time.perf_counter()
    load.run("full", seconds, None)
    start, end = begun + seconds / 3, begun + seconds
    answered = sum(start <= at < end for at in list(load.got.values()))
    load.wait()
    return answered / (end - start)


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Return the round trips' quantiles, ms."""
    cuts = statistics.quantiles(times, n=100)
    return {f"p{share}": round(cuts[share - 1], 2) for share in (50, 90, 99)}


# --- the peers, each a process of its own -----------------------------------------------------


def relay(broker: str, source: str, target: str) -> None:
    """Copy a topic with nothing but the client library: the broker's own round trip."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
    options: dict[str, str | int | float | bool] = {
        "bootstrap.servers": broker,
        "group.id": f"{source}-relay",
        "fetch.wait.max.ms": 5,
    }
    consumer = Consumer(options)
    parts = consumer.list_topics(source, timeout=10).topics[source].partitions
    consumer.assign([TopicPartition(source, part, 0) for part in parts])
    while True:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            producer.produce(target, message.value(), message.key())
        producer.poll(0)


def stock(broker: str, source: str, target: str, folder: str) -> None:
    """Run the flow that one would write first."""
    import bytewax.operators as op
    import onnxruntime
    from bytewax.connectors import kafka
    from bytewax.dataflow import Dataflow
    from bytewax.testing import run_main
    from feast import FeatureStore

    from streamrank.edges import repository
    from streamrank.settings import Secrets

    here = Path(folder)
    known = project(here, broker)
    feast = FeatureStore(config=repository.repo_config(known, Secrets(), Path()))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        (here / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    wanted = ["item_windows:values", "item_fields:price"]
    example = dict(np.load(here / "example.npz"))

    def rank(record: Any) -> Any:
        request = json.loads(record.value)
        ids = [item["id"] for item in request["items"]]
        read = feast.get_online_features(wanted, {"item": ids}).to_dict()
        numbers = example["candidate_numbers"].copy()
        values = np.array([row or [0.0] for row in read["values"]], np.float32)
        numbers[0, :, : values.shape[1]] = values[:, : numbers.shape[2]]
        [scores] = session.run(["scores"], example | {"candidate_numbers": numbers})
        best = np.argsort(-scores[0, :, 0])
        items = [{"id": ids[place], "score": float(scores[0, place, 0])} for place in best]
        answer = {"request": request["id"], "items": items}
        text = json.dumps(answer, separators=(",", ":")).encode()
        return kafka.KafkaSinkMessage(record.key, text)

    flow = Dataflow("stock")
    read = kafka.KafkaSource([broker], [source], add_config={"fetch.wait.max.ms": "5"})
    answers = op.map("rank", op.input("in", flow, read), rank)
    op.output("out", answers, kafka.KafkaSink([broker], target))
    run_main(flow)


@contextmanager
def process(*arguments: str) -> Iterator[None]:
    """Run one of the peers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([sys.executable, __file__, *arguments], cwd=ROOT, env=environment)
    try:
        yield
    finally:
        running.kill()
        running.wait()


def topics(broker: str, *names: str) -> list[str]:
    """Make topics of four partitions."""
    from confluent_kafka.admin import AdminClient, NewTopic

    full = [f"{name}-{uuid4().hex[:8]}" for name in names]
    client = AdminClient({"bootstrap.servers": broker})
    for made in client.create_topics([NewTopic(name, 4, 1) for name in full]).values():
        made.result(30)
    time.sleep(1)
    return full


# --- the model alone --------------------------------------------------------------------------


def seen(broker: str, topic: str, count: int) -> list[dict[str, Any]]:
    """Return the inputs of the last lists that the flow scored."""
    from streamrank.edges import kafka
    from streamrank.events import decode_served

    found: list[bytes] = []
    with kafka.Reader({"bootstrap.servers": broker, "group.id": "bare"}, [topic]) as reader:
        while records := reader.poll(2.0):
            found += [record.value for record in records]
            found = found[-count:]
    return [dict(decode_served(value).inputs) for value in found]


def bare(graph: bytes, lists: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return lists a second of the session alone, by size of batch."""
    from streamrank.edges.onnxruntime import OnnxScorer
    from streamrank.features import inputs

    scorer = OnnxScorer(graph, version="bare", provider="cpu")
    found = {}
    for size in (1, 8, 32):
        feeds = [
            inputs.stack(lists[start : start + size])
            for start in range(0, len(lists) - size + 1, size)
        ]
        scorer.run(feeds[0])
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < 3:
            scorer.run(feeds[done % len(feeds)])
            done += 1
        found[f"batch {size}"] = round(size * done / (time.perf_counter() - begun), 1)
    return found


def measure(address: str | None, seconds: float) -> dict[str, Any]:
    """Run everything, one after the other, on one broker."""
    from streamrank.edges import topics as our_topics
    from streamrank.features import inputs
    from streamrank.settings import Secrets
    from tests.benchmarks import swap

    requests = Requests()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        with swap.a_broker(address, folder / "kafka") as broker:
            known = project(folder, broker)
            our_topics.create(known, Secrets())
            graph = publish(known)
            fill_store(known)
            send(broker, known.topic("events"), histories(known))
            load = Load(broker, known.topic("requests"), known.topic("rankings"), requests)
            with swap.flow(known, folder), load.listening():
                load.run("warm", 60, None, most=2 * OPEN)
                load.wait()
                rate = sustained(load, seconds)
                load.run("third", seconds, rate / 3)
                load.wait()
            flow_times = load.times("third", after=2)
            lists = seen(broker, known.topic("served"), 256)
            source, target = topics(broker, "relay-in", "relay-out")
            echo = Load(broker, source, target, requests)
            with process("--relay", broker, source, target), echo.listening():
                echo.run("warm", 30, 50, most=20)
                echo.wait()
                echo.run("third", seconds, rate / 3)
                echo.wait()
            relay_times = echo.times("third", after=2)
            alone = bare(graph, lists)
            (folder / "model.onnx").write_bytes(graph)
            example: dict[str, Any] = inputs.stack(lists[-1:])
            np.savez(folder / "example.npz", **example)
            source, target = topics(broker, "stock-in", "stock-out")
            plain = Load(broker, source, target, requests)
            with process("--stock", broker, source, target, name), plain.listening():
                plain.run("warm", 30, None, most=20)
                plain.wait()
                stock_rate = sustained(plain, seconds)
    ours, theirs = quantiles(flow_times), quantiles(relay_times)
    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "features": int(lists[-1]["candidate_numbers"].shape[1]),
        "history": int(lists[-1]["history_items"].shape[0]),
        "rankings_per_second": round(rate, 1),
        "p90_ms_above_broker": round(ours["p90"] - theirs["p90"], 2),
        "p99_ms_above_broker": round(ours["p99"] - theirs["p99"], 2),
        "share_of_bare": round(rate / max(alone.values()), 3),
        "times_stock_parts": round(rate / stock_rate, 1),
        "round_trip_ms": {"flow": ours, "broker": theirs},
        "bare_per_second": alone,
        "stock_per_second": round(stock_rate, 1),
    }


def send(broker: str, topic: str, records: Iterable[tuple[str, bytes]]) -> None:
    """Write records of a key and a value, and wait until the broker has them."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker, "linger.ms": 20})
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:  # full: the broker is behind
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(PATIENCE)


def main() -> None:
    """Run the program, or one of its peers."""
    if sys.argv[1:2] == ["--relay"]:
        return relay(*sys.argv[2:5])
    if sys.argv[1:2] == ["--stock"]:
        return stock(*sys.argv[2:6])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--broker", help="host:port of a broker; else one is started")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    given = parser.parse_args()
    report = measure(given.broker, given.seconds)
    print(json.dumps(report, indent=2))
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)
    return None


if __name__ == "__main__":
    main()
