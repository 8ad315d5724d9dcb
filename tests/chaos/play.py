"""A play in which things die: who, in which order, when; and what came of it."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any

from streamrank.edges.feast import FeastStore
from streamrank.settings import Secrets
from tests.chaos.crowd import Crowd
from tests.chaos.scene import PATIENCE, Flow, Scene
from tests.chaos.verdict import Judge, Verdict
from tests.services import until

SETTLED = 120.0
"""Seconds in which everything that was asked for must be there once nothing dies any more."""


@dataclass(frozen=True)
class Plan:
    """How much dies."""

    kills: int
    broker_restarts: int
    redis_restarts: int
    seed: int
    rate: float = 60.0
    """Records a second."""
    longest: float = 3.0
    """Seconds after a flow is there, or a service is back, in which the next one dies."""

    def acts(self, chance: random.Random) -> list[str]:
        """Return who dies, in order; never a service twice in a row, where that can be."""
        acts = ["broker"] * self.broker_restarts + ["redis"] * self.redis_restarts
        acts += [("features", "rank", "learn")[number % 3] for number in range(self.kills)]
        chance.shuffle(acts)
        return acts


@dataclass(frozen=True)
class Outcome:
    """What a play showed."""

    plan: Plan
    verdict: Verdict
    requests: int
    records: int
    stopped_by_themselves: list[str]
    exits: dict[str, tuple[int, float]]
    seconds: float

    @property
    def good(self) -> bool:
        orderly = all(code == 0 for code, _ in self.exits.values())
        return self.verdict.good and not self.stopped_by_themselves and orderly

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        found = self.verdict
        return {
            "kills": self.plan.kills,
            "broker_restarts": self.plan.broker_restarts,
            "redis_restarts": self.plan.redis_restarts,
            "seed": self.plan.seed,
            "requests": self.requests,
            "records": self.records,
            "unanswered": len(found.unanswered),
            "duplicated": len(found.duplicated),
            "events_miscounted": found.events_miscounted,
            "examples_lost": len(found.examples_lost),
            "dead_letters": len(found.dead_letters),
            "stopped_by_themselves": len(self.stopped_by_themselves),
            "stop_seconds": {name: round(took, 2) for name, (_, took) in self.exits.items()},
            "seconds": round(self.seconds, 1),
        }


def play(scene: Scene, plan: Plan) -> Outcome:
    """Let things die under load, then let the flows finish and stop, and judge what is there."""
    begun, chance = time.monotonic(), random.Random(plan.seed)
    scene.start()
    crowd = Crowd(scene, plan.seed, plan.rate)
    crowd.begin()
    for act in plan.acts(chance):
        _act(scene, act, chance, plan.longest)
    for flow in scene.flows.values():
        until(flow.ready, PATIENCE, f"{flow.name} runs")
    crowd.end()
    store = FeastStore(scene.known, Secrets())
    judge = Judge(scene.known, scene.topics, store)
    _settle(scene, judge, crowd.asked)
    exits = {name: flow.stop() for name, flow in scene.flows.items()}
    verdict = judge.verdict(crowd.asked)
    store.close()
    stops = [stop for flow in scene.flows.values() for stop in flow.stops]
    seconds = time.monotonic() - begun
    return Outcome(plan, verdict, len(crowd.asked), crowd.sent, stops, exits, seconds)


def _act(scene: Scene, act: str, chance: random.Random, longest: float) -> None:
    pause = chance.uniform(0.2, longest)
    if act == "broker":
        scene.restart_broker(kill=chance.random() < 0.5, pause=pause)
    elif act == "redis":
        scene.restart_redis(pause=pause)
    else:
        _kill(scene.flows[act], pause)


def _kill(flow: Flow, pause: float) -> None:
    until(flow.ready, PATIENCE, f"{flow.name} runs")
    threading.Event().wait(pause)  # a random moment of its work, or of its start
    flow.keep_up()
    flow.kill()
    flow.start()


def _settle(scene: Scene, judge: Judge, asked: set[str]) -> None:
    """Wait until all is as it must be; after that long, the verdict says what is not."""
    deadline = time.monotonic() + SETTLED
    while not judge.verdict(asked).good and time.monotonic() < deadline:
        for flow in scene.flows.values():
            flow.keep_up()
        threading.Event().wait(1.0)
