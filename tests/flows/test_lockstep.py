"""Both flows, event by event on stores in memory, give the very lists that a replay gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.testing import TestingSink, run_main

from flows import features, rank
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.lane import Lane
from streamrank.served import Served, decode_served
from streamrank.steps import Read
from streamrank.steps_ranking import Scored, to_served
from tests.flows import stage
from tests.flows.stage import asked, deed, record, shown

PATIENCE = 30.0


@dataclass
class Turns:
    """Lets one of several flows go on at a time, in a fixed order."""

    names: Sequence[str]
    turn: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, name: str) -> None:
        with self.changed:
            mine = self.names.index(name)
            assert self.changed.wait_for(lambda: self.turn % len(self.names) == mine, PATIENCE)

    def done(self) -> None:
        with self.changed:
            self.turn += 1
            self.changed.notify_all()


@dataclass
class Part(StatelessSourcePartition[Incoming]):
    """A record in one epoch, nothing in the two after it, and then it is another flow's turn.

    Bytewax asks for a batch while the epoch before may still be under way, but never two.
    """

    name: str
    records: Iterator[Incoming]
    turns: Turns
    answers: Callable[[], list[Incoming]]
    since: int = 2
    first: bool = True

    def next_batch(self) -> list[Incoming]:
        self.since += 1
        if self.since <= 2:
            return []
        if self.since == 3 and not self.first:
            self.turns.done()
        self.since, self.first = 0, False
        self.turns.wait(self.name)
        following = next(self.records, None)
        if following is None:
            self.turns.done()
            raise StopIteration
        return [following, *self.answers()]


@dataclass
class InTurn(DynamicSource[Incoming]):
    name: str
    records: Sequence[Incoming]
    turns: Turns
    answers: Callable[[], list[Incoming]] = list
    """What else is there by then."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Part:
        return Part(self.name, iter(self.records), self.turns, self.answers)


def log_of_shoppers(seed: int = 0) -> list[Incoming]:
    """Four users, twelve items, everything that can happen, some of it twice or late."""
    random = np.random.default_rng(seed)
    payloads = []
    for number in range(150):
        user, at = f"u{random.integers(4)}", int(number * 700 - random.integers(0, 3) * 400)
        items = [f"i{item}" for item in random.permutation(12)[: random.integers(1, 6)]]
        who = {"user": user, "session": f"s-{user}"}
        kind = random.choice(["deed", "shown", "asked", "item", "user", "again", "bad"])
        if kind == "deed":
            payloads.append(deed(number, items[0], at=at, **who))
        elif kind == "shown":
            payloads.append(shown(number, *items, at=at, **who))
        elif kind == "asked":
            payloads.append(asked(number, *items, at=at, **who))
        elif kind == "again" and payloads:
            payloads.append(payloads[-1])
        elif kind == "bad":
            payloads.append(deed(number, "", at=at, **who))
        else:
            payloads.append(described(kind, number, items[0], user, at, float(random.integers(90))))
    return [record(payload, offset) for offset, payload in enumerate(payloads)]


def described(
    kind: str, number: int, item: str, user: str, at: int, price: float
) -> dict[str, object]:
    event = {"id": f"d{number}", "timestamp": stage.NOW + at}
    if kind == "user":
        return event | {"event": "user", "user": user, "fields": {"country": "FR"}}
    fields = {"price": price, "title": f"item at {price}"}
    return event | {"event": "item", "item": item, "fields": fields}


def by_the_flows(records: list[Incoming]) -> list[Served]:
    """Run both flows in turn: the rank flow takes each event before the features flow does."""
    store, turns = stage.store(), Turns(("rank", "features"))
    served, rankings = list[tuple[str, Outgoing]](), list[tuple[str, Outgoing]]()

    def answers() -> list[Incoming]:
        news = [record(outgoing.value, 0, "rankings") for _, outgoing in rankings]
        rankings.clear()
        return news

    ranking = rank.build(
        InTurn("rank", records, turns),
        TestingSink(rankings),
        TestingSink(served),
        TestingSink([]),
        plan=stage.PLAN,
        store=store,
        scorer=stage.TouchedFirst(),
        decoders=stage.decoders(),
        reports=frozenset(),
        ttl=stage.KNOWN.session.ttl,
    )
    counting = features.build(
        InTurn("features", records, turns, answers),
        TestingSink([]),
        plan=stage.PLAN,
        store=store,
        decoders=stage.decoders(),
        ttl=stage.KNOWN.windows.ttl,
        flush=timedelta(0),
    )
    other = threading.Thread(target=run_main, args=(counting,), kwargs={"epoch_interval": EACH})
    other.start()
    run_main(ranking, epoch_interval=EACH)
    other.join(PATIENCE)
    return [decode_served(outgoing.value) for _, outgoing in served]


EACH = timedelta(0)


def by_the_replay(records: list[Incoming]) -> list[Served]:
    lane = Lane(
        stage.PLAN,
        stage.TouchedFirst(),
        stage.store(),
        stage.decoders(),
        session_ttl=stage.KNOWN.session.ttl,
        windows_ttl=stage.KNOWN.windows.ttl,
        now=datetime.now(UTC),
    )
    scored: list[Scored] = []
    for one in records:
        read = lane.read(one)
        if isinstance(read, Read):
            scored += lane.take(read)
    return [to_served(stage.PLAN, one) for one in scored]


def test_the_flows_and_a_replay_see_and_say_the_same() -> None:
    records = log_of_shoppers()
    flows, replay = by_the_flows(records), by_the_replay(records)
    assert len(flows) > 60
    assert [one.id for one in flows] == [one.id for one in replay]
    for live, replayed in zip(flows, replay, strict=True):
        assert (live.items, live.source, live.user) == (
            replayed.items,
            replayed.source,
            replayed.user,
        )
        np.testing.assert_array_equal(live.scores, replayed.scores)
        assert live.inputs.keys() == replayed.inputs.keys()
        for name, array in live.inputs.items():
            np.testing.assert_array_equal(array, replayed.inputs[name], err_msg=name)
