"""Whatever arrives: each bad record among the dead letters, each good one answered, flows alive."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import features, learn, rank
from streamrank import steps
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.events import DeadLetter
from streamrank.learning.join import Rules
from streamrank.steps_parity import Again, Watch
from tests import fuzzing
from tests.flows import stage
from tests.flows.test_learn import Notebook

NOW = datetime.fromtimestamp(stage.NOW / 1000, UTC)
AHEAD = timedelta(hours=1)


def incoming(count: int, seed: int, share: float = 0.5) -> list[Incoming]:
    sent = fuzzing.records(count, stage.NOW, Random(seed), share)
    return [
        Incoming(one.topic, 0, number, one.value, one.key, float(stage.NOW))
        for number, one in enumerate(sent)
    ]


def sorted_out(records: Iterable[Incoming]) -> tuple[list[steps.Read], list[DeadLetter]]:
    """Read records one by one: what is good, and what is not."""
    found = list(steps.decode(stage.decoders(), records, NOW, AHEAD))
    return (
        [one for one in found if isinstance(one, steps.Read)],
        [one for one in found if isinstance(one, DeadLetter)],
    )


def of(records: Iterable[Incoming], *topics: str) -> list[Incoming]:
    return [record for record in records if record.topic in topics]


def origins(letters: Iterable[tuple[str, Outgoing]]) -> set[str]:
    return {origin for origin, _ in letters}


def test_what_nobody_touched_is_read_and_what_is_not_read_has_a_short_reason() -> None:
    good, _ = sorted_out(incoming(300, seed=1, share=0))
    assert len(good) == 300
    good, bad = sorted_out(incoming(6_000, seed=2, share=1))
    assert len(good) + len(bad) == 6_000
    assert len(bad) > 3_000
    assert all(0 < len(letter.reason) < 1_000 for letter in bad)


@settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_any_change_of_a_record_makes_an_event_or_a_letter_that_holds_it(seed: int) -> None:
    records = incoming(10, seed, share=1)
    good, bad = sorted_out(records)
    held = {one.record.origin: one.record.value for one in good}
    held |= {letter.origin: letter.payload for letter in bad}
    assert held == {record.origin: record.value for record in records}


@pytest.mark.parametrize("seed", [3, 4])
def test_the_rank_flow_answers_the_good_and_sets_aside_the_bad(seed: int) -> None:
    records = of(incoming(900, seed), "events", "requests")
    good, bad = sorted_out(of(records, "requests"))
    rankings: list[tuple[str, Outgoing]] = []
    letters: list[tuple[str, Outgoing]] = []
    flow = rank.build(
        TestingSource(records, batch_size=50),
        TestingSink(rankings),
        TestingSink([]),
        TestingSink(letters),
        plan=stage.PLAN,
        store=stage.store(),
        scorer=stage.TouchedFirst(),
        decoders=stage.decoders(),
        reports=frozenset({"requests"}),
        ttl=stage.KNOWN.session.ttl,
        now=lambda: NOW,
    )
    run_main(flow)
    assert origins(letters) == {letter.origin for letter in bad}
    assert {one.event.id for one in good} <= ids(rankings)


def ids(written: Iterable[tuple[str, Outgoing]]) -> set[Any]:
    return {message["id"] for message in stage.messages(list(written))}


@pytest.mark.parametrize("seed", [5, 6])
def test_the_features_flow_sets_aside_the_bad_and_what_is_too_late(seed: int) -> None:
    records = of(incoming(900, seed), "events", "rankings")
    _, bad = sorted_out(records)
    letters: list[tuple[str, Outgoing]] = []
    flow = features.build(
        TestingSource(records, batch_size=50),
        TestingSink(letters),
        plan=stage.PLAN,
        store=stage.store(),
        decoders=stage.decoders(),
        ttl=stage.KNOWN.windows.ttl,
        flush=timedelta(seconds=1),
        now=lambda: NOW,
    )
    run_main(flow)
    others = origins(letters) - {letter.origin for letter in bad}
    assert origins(letters) >= {letter.origin for letter in bad}
    late = {m["origin"] for m in stage.messages(letters) if m["reason"].endswith("too late")}
    assert others == late


@pytest.mark.parametrize("seed", [7, 8])
def test_the_learn_flow_sets_aside_the_bad(seed: int) -> None:
    records = of(incoming(900, seed), "events", "requests", "served")
    _, bad = sorted_out(of(records, "served"))
    letters: list[tuple[str, Outgoing]] = []
    flow = learn.build(
        TestingSource(records, batch_size=50),
        TestingSink([]),
        TestingSink(letters),
        TestingSink([]),
        rules=Rules(label="click", settle=0),
        learner=Notebook().opened,
        watch=Watch(stage.PLAN, share=1.0, hold=0),
        again=Again(lambda version: stage.TouchedFirst()),
        decoders=stage.decoders(),
        reports=frozenset({"served"}),
        now=lambda: NOW,
    )
    run_main(flow)
    assert origins(letters) == {letter.origin for letter in bad}
