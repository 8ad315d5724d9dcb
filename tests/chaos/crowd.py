"""Who uses the flows while things die: people who ask for lists, look at others, and act."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from tests.chaos.scene import Scene

USERS, ITEMS, LENGTH = 40, 60, 6
AGAIN = 0.05
"""Share of the records that are sent a second time, as producers do that lost an answer."""
MINUTES = 5 * 60_000
"""How long a producer goes on trying while the broker is away."""


@dataclass
class Crowd:
    """A thread that writes events and requests at a steady rate, alike for the same seed."""

    scene: Scene
    seed: int
    rate: float
    users: int = USERS
    room: Callable[[], bool] = lambda: True
    """Whether the flows keep up: else nothing is sent."""
    asked: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._act, daemon=True)
        self._shown: deque[tuple[str, str, int, list[str]]] = deque(maxlen=60)
        self._producer = Producer(
            {
                "bootstrap.servers": self.scene.kafka.bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": MINUTES,
                "linger.ms": 1,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
            }
        )

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop acting, and wait until the broker has everything."""
        self._over.set()
        self._thread.join(30)
        self._producer.flush(60)
        if self.refused or len(self._producer):
            raise AssertionError(f"the load itself was refused: {self.refused[:1]}")

    def _act(self) -> None:
        begun = time.monotonic()
        while not self._over.wait(0.01):
            while self.sent < self.rate * (time.monotonic() - begun) and self.room():
                self._one()
                self._producer.poll(0)
            self._producer.poll(0)

    def _one(self) -> None:
        kind = self._chance.choices(
            ("request", "elsewhere", "click", "view", "search", "item"), (30, 5, 30, 25, 5, 5)
        )[0]
        event = getattr(self, f"_{kind}")()
        if event is None:
            return
        self.sent += 1
        topic = "requests" if event["event"] == "request" else "events"
        for _ in range(2 if self._chance.random() < AGAIN else 1):
            self._producer.produce(
                self.scene.known.topic(topic),
                json.dumps(event).encode(),
                event.get("user") or event["item"],
                on_delivery=self._delivered,
            )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.refused.append(error.str())

    # --- what people do -------------------------------------------------------------------

    def _said(self, event: str, **more: Any) -> dict[str, Any]:
        return {"event": event, "id": f"{event}{self.sent}", "timestamp": _now()} | more

    def _list(self, event: str) -> dict[str, Any]:
        user = f"u{self._chance.randrange(self.users)}"
        items = [f"i{n}" for n in self._chance.sample(range(ITEMS), LENGTH)]
        made = self._said(event, user=user, session="s", items=[{"id": one} for one in items])
        self._shown.append((made["id"], user, made["timestamp"], items))
        return made

    def _request(self) -> dict[str, Any]:
        made = self._list("request")
        self.asked.add(made["id"])
        return made

    def _elsewhere(self) -> dict[str, Any]:
        return self._list("ranking")

    def _click(self) -> dict[str, Any] | None:
        """Click in one of the last lists, soon after it was made by event time."""
        if not self._shown:
            return None
        name, user, at, items = self._chance.choice(self._shown)
        when = at + self._chance.randrange(1, 500)
        clicked = {"user": user, "session": "s", "type": "click", "ranking": name}
        return self._said("interaction", **clicked) | {
            "item": self._chance.choice(items),
            "timestamp": when,
        }

    def _view(self) -> dict[str, Any]:
        user, item = f"u{self._chance.randrange(self.users)}", f"i{self._chance.randrange(ITEMS)}"
        return self._said("interaction", user=user, session="s", type="view", item=item)

    def _search(self) -> dict[str, Any]:
        user = f"u{self._chance.randrange(self.users)}"
        return self._said("interaction", user=user, session="s", type="search")

    def _item(self) -> dict[str, Any]:
        item, price = f"i{self._chance.randrange(ITEMS)}", self._chance.randrange(100)
        return self._said("item", item=item, fields={"price": price})


def _now() -> int:
    return time.time_ns() // 1_000_000
