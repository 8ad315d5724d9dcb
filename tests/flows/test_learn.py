"""The whole learn flow, in memory, on one worker and on two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main

from flows import learn, rank
from streamrank import metrics, steps, steps_learning
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.events import decode_served
from streamrank.learning.examples import Example, decode_example
from streamrank.learning.join import Outcome, Rules
from streamrank.learning.parity import Compared, Parity
from streamrank.steps_parity import Again, Watch
from tests.flows import stage
from tests.flows.stage import asked, deed, record, records, shown

Run = Callable[[Dataflow], None]
TWO_WORKERS: Run = partial(cluster_main, addresses=[], proc_id=0, worker_count_per_proc=2)
RULES = Rules(label="click", settle=0)
MINUTE = 60_000
START = datetime.fromtimestamp(stage.NOW / 1000, UTC)


@dataclass
class Notebook:
    """Learns by heart: a learner whose state is which examples it was given."""

    kept: dict[str, list[str]] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)

    def opened(self, token: str | None, parity: Parity, /) -> Notebook:
        return Notebook(self.kept, list(self.kept[token]) if token else [])

    def take(self, examples: Sequence[Example], now: datetime) -> Iterable[object]:
        self.learned += [f"{one.id}#{one.revision}" for one in examples]
        return [tuple(self.learned)] if examples else []

    def due(self) -> datetime | None:
        return None

    def save(self) -> str:
        token = f"state-{len(self.learned)}"
        self.kept[token] = list(self.learned)
        return token


@dataclass
class Out:
    examples: list[Example] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    learned: tuple[str, ...] = ()
    compared: list[Compared] = field(default_factory=list)


@dataclass
class Stage:
    """Runs the learn flow over records, with a clock that moves only when it is told."""

    run: Run
    now: datetime = START
    notebook: Notebook = field(default_factory=Notebook)
    share: float = 1.0

    def through(self, source: Source[Incoming], run: Run | None = None) -> Out:
        examples: list[tuple[str, Outgoing]] = []
        letters: list[tuple[str, Outgoing]] = []
        news: list[object] = []
        flow = learn.build(
            source,
            TestingSink(examples),
            TestingSink(letters),
            TestingSink(news),
            rules=RULES,
            learner=self.notebook.opened,
            watch=Watch(stage.PLAN, share=1.0, hold=0),
            again=Again(lambda version: stage.TouchedFirst()),
            decoders=stage.decoders(),
            reports=frozenset({"served"}),
            share=self.share,
            now=lambda: self.now,
        )
        (run or self.run)(flow)
        return Out(
            [decode_example(outgoing.value) for _, outgoing in examples],
            [outgoing.id for _, outgoing in examples],
            stage.messages(letters),
            Counter(one.name for one in news if isinstance(one, Outcome)),
            max((one for one in news if isinstance(one, tuple)), key=len, default=()),
            [one for one in news if isinstance(one, Compared)],
        )

    def __call__(self, *incoming: Incoming) -> Out:
        return self.through(TestingSource(incoming))


@pytest.fixture(params=[run_main, TWO_WORKERS], ids=["one worker", "two workers"])
def through(request: pytest.FixtureRequest) -> Stage:
    return Stage(request.param)


def served_of(*payloads: dict[str, Any]) -> list[Incoming]:
    """Return what the rank flow writes of these events to topic `served`."""
    served: list[tuple[str, Outgoing]] = []
    flow = rank.build(
        TestingSource(records(*payloads)),
        TestingSink([]),
        TestingSink(served),
        TestingSink([]),
        plan=stage.PLAN,
        store=stage.store(),
        scorer=stage.TouchedFirst(),
        decoders=stage.decoders(),
        reports=frozenset({"requests"}),
        ttl=stage.KNOWN.session.ttl,
    )
    run_main(flow)
    return [record(outgoing.value, n, "served") for n, (_, outgoing) in enumerate(served)]


def click(number: int, item: str, of: str, *, at: int = 1000, **more: Any) -> dict[str, Any]:
    return deed(number, item, at=at, ranking=of, **more)


def test_a_click_on_a_list_that_was_served_becomes_an_example(through: Stage) -> None:
    [list_] = served_of(asked(1, "a", "b", "c"))
    out = through(list_, record(click(1, "b", "q1"), 1))
    [example] = out.examples
    assert (example.id, example.user, example.items) == ("q1", "u", ("a", "b", "c"))
    assert example.labels.T.tolist() == [[0, 1, 0]]
    assert (example.model, example.source) == ("touched-first", "request")
    inputs = decode_served(list_.value).inputs
    for name, array in example.inputs.items():
        np.testing.assert_array_equal(array, inputs[name])
    assert out.names == ["q1#1"]
    assert out.learned == ("q1#0",)
    assert out.outcomes == {"joined": 1, "with_feedback": 1}


def test_a_list_shown_elsewhere_is_learned_from_by_the_same_path(through: Stage) -> None:
    events = records(shown(1, "a", "b"), click(1, "a", "r1"))
    out = through(*served_of(shown(1, "a", "b")), *events)
    [example] = out.examples
    assert (example.source, example.labels.T.tolist()) == ("ranking", [[1, 0]])
    assert example.shown is not None
    assert example.shown.tolist() == [0, 1]


def left_out() -> float:
    return metrics.REGISTRY.get_sample_value("streamrank_lists_left_out_total") or 0.0


def test_of_a_share_of_the_users_all_lists_are_learned_from_and_none_of_the_others() -> None:
    users = [f"u{n}" for n in range(40)]
    asking = [asked(n, "a", "b", user=user) for n, user in enumerate(users)]
    clicking = [click(n, "a", f"q{n}", user=user) for n, user in enumerate(users)]
    before = left_out()
    out = Stage(run_main, share=0.5)(*served_of(*asking), *records(*clicking))
    taken = {user for user in users if steps.is_of_share(user, 0.5)}
    assert 10 < len(taken) < 30
    assert {example.user for example in out.examples} == taken
    assert out.outcomes == {"joined": len(taken), "with_feedback": len(taken)}
    assert left_out() - before == len(users) - len(taken)


def test_a_click_may_be_read_before_its_list(through: Stage) -> None:
    out = through(record(click(1, "b", "q1")), *served_of(asked(1, "a", "b")))
    assert [example.labels.sum() for example in out.examples] == [1]


def test_examples_of_one_list_are_told_apart_by_their_labels_not_by_how_often_they_went_out() -> (
    None
):
    """Work done again after a crash may bring two clicks in one example instead of two."""
    one = Example("r", "u", 0, {}, np.array([[1], [0]], np.float32), items=("a", "b"))
    both = replace(one, labels=np.ones((2, 1), np.float32))
    ids = [steps_learning.example_record(example)[1].id for example in (one, both)]
    assert ids == ["r#1", "r#2"]


def test_the_users_next_visit_closes_a_list_without_feedback(through: Stage) -> None:
    later = deed(2, None, at=MINUTE, session="next", type="view")
    out = through(*served_of(asked(1, "a", "b")), record(later, 9))
    assert [(one.id, one.labels.sum()) for one in out.examples] == [("q1", 0)]
    assert out.outcomes == {"without_feedback": 1}


def test_users_do_not_close_the_lists_of_each_other(through: Stage) -> None:
    other = deed(2, None, at=30 * MINUTE, user="v", type="view")
    assert through(*served_of(asked(1, "a", "b")), record(other, 9)).examples == []


def test_a_record_of_a_list_that_cannot_be_read_is_set_aside_and_the_rest_goes_on(
    through: Stage,
) -> None:
    bad = record(b"\xff no list", 7, "served")
    others = record(b"not json", 8)  # the features flow reports these
    out = through(bad, others, *served_of(asked(1, "a")), record(click(1, "a", "q1"), 9))
    [letter] = out.letters
    assert letter["origin"] == "served[0]@7"
    assert letter["reason"].startswith("served: ")
    assert len(out.examples) == 1


def test_what_was_served_is_built_and_scored_again_and_is_the_same(through: Stage) -> None:
    visit = [asked(1, "a", "b", "c"), *(deed(n, "b", at=n * 2000) for n in range(1, 4))]
    visit += [shown(2, "c", "b", at=9000), deed(9, "c", at=10_000, session="t", type="view")]
    out = through(*records(*visit), *served_of(*visit))
    assert [(one.list_id, one.differing) for one in out.compared if one.list_id[0] != "t"] == [
        ("q1", ()),
        ("r2", ()),
    ]
    assert len(out.compared) == 5
    assert {one.differing for one in out.compared} == {()}
    assert min(one.compared for one in out.compared) > 60


def test_many_users_at_once_each_have_their_own_lists(through: Stage) -> None:
    users: list[dict[str, Any]] = [{"user": f"u{n}", "session": f"s{n}"} for n in range(20)]
    lists = served_of(*(asked(n, "a", "b", **who) for n, who in enumerate(users)))
    clicks = [record(click(n, "b", f"q{n}", **who), n) for n, who in enumerate(users)]
    out = through(*lists[:10], *clicks, *lists[10:])
    assert sorted(out.names, key=str) == sorted(f"q{n}#1" for n in range(20))
    assert sorted(out.learned) == sorted(f"q{n}#0" for n in range(20))
    assert out.outcomes == {"joined": 20, "with_feedback": 20}


def test_after_a_crash_nothing_is_lost_and_the_learner_goes_on_where_its_state_was(
    tmp_path: Path,
) -> None:
    """Stopped after each record in turn, the flow ends as if it had not been."""
    init_db_dir(tmp_path, 1)
    recovery = RecoveryConfig(tmp_path)
    lists = served_of(asked(1, "a", "b"), asked(2, "a", "b", at=MINUTE))
    deeds = [click(1, "a", "q1"), click(2, "b", "q2", at=2 * MINUTE), click(3, "b", "q1")]
    incoming = [lists[0], record(deeds[0], 0), lists[1], *records(*deeds[1:])]
    source: list[Any] = []
    for one in incoming:
        source += [one, TestingSource.ABORT()]
    run = partial(run_main, epoch_interval=timedelta(0), recovery_config=recovery)
    stage_, whole = Stage(run), TestingSource(source)
    names: set[str | None] = set()
    for _ in range(len(incoming) + 1):
        out = stage_.through(whole)
        names |= set(out.names)
    assert names == {"q1#1", "q1#2", "q2#1"}
    newest = max(stage_.notebook.kept.values(), key=len)
    assert sorted(newest) == ["q1#0", "q1#1", "q2#0"]


def test_the_report_counts_what_became_of_lists_and_what_differed() -> None:
    report = steps_learning.Report()
    sink = report.build("report", 0, 1)
    sink.write_batch([Outcome("joined", "q1", "e1"), Outcome("with_feedback", "q1"), ("news",)])
    sink.write_batch([Compared("q1", ("scores",), 70), Compared("q2", (), 70)])
    figures = report.counts.figures()
    assert figures["join"] == {"joined": 1, "with_feedback": 1}
    assert figures["learner"] == {"tuple": 1}
    assert (figures["parity"]["lists"], figures["parity"]["by_name"]) == (2, {"scores": 1})


def test_a_learner_knows_when_it_may_not_publish() -> None:
    notebook, parity = Notebook(), Parity(limit=0.05)
    step = steps_learning.Learning(notebook, parity, lambda: START)
    step.on_batch([Compared(f"r{n}", ("scores",), 70) for n in range(100)])
    assert parity.stopped is not None
    _, kept = step.snapshot()
    assert kept.stopped == parity.stopped
