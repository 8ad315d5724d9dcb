"""Where chaos happens: the three flows, supervised, on a broker and a store of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from streamrank import settings
from streamrank.edges import topics as edges
from streamrank.settings import Secrets, Settings
from tests.services import ROOT, Kafka, Redis, Topics, until

FLOWS = ("features", "rank", "learn")
READY = " runs on "
"""What a flow's log says once it is there."""
PATIENCE = 90.0
"""Seconds that a flow gets to be there again; the machine may be busy."""


@dataclass
class Flow:
    """One flow as a process that is started again whenever it is gone, as a supervisor would."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    stops: list[str] = field(default_factory=list)
    """What it said whenever it ended by itself, which it should never do."""
    _begun: int = 0

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        environment = os.environ | {
            settings.SETTINGS_VARIABLE: str(self.folder / "streamrank.toml"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "streamrank", "run", self.name]
        with self.log.open("ab") as out:
            self._begun = out.tell()
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out
            )

    def said(self) -> str:
        """Return what it wrote since its last start."""
        return self.log.read_bytes()[self._begun :].decode(errors="replace")

    def ready(self) -> bool:
        self.keep_up()
        return READY in self.said()

    def keep_up(self) -> None:
        """Start it again if it ended by itself, and remember that it did."""
        if self.process is not None and self.process.poll() is not None:
            self.stops.append(f"{self.name} ended by itself: {self.said()[-500:]}")
            self.start()

    def kill(self) -> None:
        """End it without any warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, within: float = 60.0) -> tuple[int, float]:
        """Ask it to end; return its exit code and the seconds that it took."""
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within), time.monotonic() - begun


@dataclass
class Scene:
    """A project of its own: settings, topics, services, flows."""

    folder: Path
    kafka: Kafka
    redis: Redis
    known: Settings
    flows: dict[str, Flow]

    @property
    def topics(self) -> Topics:
        return Topics(self.kafka.bootstrap)

    def start(self) -> None:
        for flow in self.flows.values():
            flow.start()
        for flow in self.flows.values():
            until(flow.ready, PATIENCE, f"{flow.name} runs")

    def close(self) -> None:
        for flow in self.flows.values():
            if flow.process is not None:
                flow.process.kill()
                flow.process.wait()
        self.redis.stop(kill=True)
        self.kafka.stop(kill=True)

    def restart_broker(self, *, kill: bool, pause: float) -> None:
        """Let the broker be gone for a while."""
        self.kafka.stop(kill=kill)
        threading.Event().wait(pause)
        self.kafka.start()

    def restart_redis(self, *, pause: float) -> None:
        """Let the store be gone for a while; what it acknowledged, it has on its disk."""
        self.redis.stop(kill=True)
        threading.Event().wait(pause)
        self.redis.start()


def settings_of(folder: Path, kafka: Kafka, redis: Redis, lateness: str) -> Settings:
    """Return the settings of a scene: short windows, so that all ends soon after the load does."""
    return settings.changed(
        Settings(),
        {
            "events": {"interactions": ["view", "click"], "label": "click"},
            "fields": {"item": {"price": "number"}},
            "windows": {"flush": "200ms", "lateness": lateness},
            "rank": {"provider": "cpu", "cache_age": "200ms"},
            "learn": {"label_window": "2s", "idle": "2s", "settle": "50ms", "lateness": lateness},
            "kafka": {
                "bootstrap_servers": kafka.bootstrap,
                "prefix": "chaos-",
                "group": "chaos",
                "fetch_wait": "5ms",
                "partitions": 3,
            },
            "store": {
                "online": "redis",
                "redis": redis.address,
                "path": str(folder / "feast"),
            },
            "state": {"path": str(folder / "state"), "every": "1s"},
            "registry": {"path": str(folder / "registry")},
        },
    )


def prepare(folder: Path, lateness: str = "10m") -> Scene:
    """Start broker and store, and make settings and topics.

    Args:
        folder: Where everything goes.
        lateness: How late an event may be.

    Raises:
        Missing: Apache Kafka or Redis is not installed.
    """
    (folder / "kafka").mkdir(parents=True)
    (folder / "redis").mkdir()
    kafka, redis = Kafka(folder / "kafka"), Redis(folder / "redis", durable=True)
    kafka.start()
    redis.start()
    known = settings_of(folder, kafka, redis, lateness)
    (folder / "streamrank.toml").write_text(settings.to_toml(known))
    edges.create(known, Secrets())
    return Scene(folder, kafka, redis, known, {name: Flow(name, folder) for name in FLOWS})
