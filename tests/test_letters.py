"""Dead letters: what there is, and back once to where it came from, whatever dies between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from bytewax.testing import TestingSink, TestingSource, run_main
from rich.console import Console

from flows import rank
from streamrank import deployment, letters_commands, settings, steps
from streamrank.edges import kafka, kafka_letters
from streamrank.edges.broker import EmbeddedBroker
from streamrank.edges.kafka import Incoming, Outgoing, Reader
from streamrank.edges.kafka_letters import Marked, Sender
from streamrank.errors import StreamRankError
from streamrank.events import DeadLetter, Replayed, decode_letter
from streamrank.letters import Letters, NoSuchLetters, batches, kind
from streamrank.settings import Secrets, Settings
from tests.flows import stage
from tests.services import ROOT

NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)
AT = steps.milliseconds(NOW)
TOO_MANY = "request.items: must hold at most 2 candidates, got 3"
LISTED = stage.asked(1, "a", "b", "c")


@dataclass
class Project:
    """Topics of one's own on an embedded broker, and the rank flow's work done on them."""

    known: Settings
    done: int = field(default=0)

    @property
    def letters(self) -> Letters:
        return Letters(self.known, kafka.connection(self.known.kafka, Secrets()))

    def sender(self) -> Sender:
        return Sender(self.letters.connection)

    def topic(self, name: str) -> list[Incoming]:
        full = self.known.topic(name)
        begin = {(full, index): 0 for index in range(4)}
        return list(kafka_letters.to_the_end(self.letters.connection, begin))

    def set_aside(self, *found: DeadLetter, partition: int = 0) -> None:
        dead = self.known.topic("dead-letters")
        with self.sender() as sender:
            sender.send(Marked(dead, partition, b"k", letter.encode()) for letter in found)

    def letter(self, number: int = 0, reason: str = TOO_MANY, **more: object) -> DeadLetter:
        given = {"topic": "requests", "payload": b"%d" % number, "timestamp": AT} | more
        origin = f"{self.known.topic(str(given.pop('topic')))}[0]@{number}"
        return DeadLetter.model_validate({"reason": reason, "origin": origin, "key": b"u"} | given)

    def flow(self, candidates: int) -> list[str]:
        """Run the rank flow over the requests that are new; give back the ids answered."""
        known = settings.changed(self.known, {"events": {"max_candidates": candidates}})
        requests, rankings, letters = known.topic("requests"), [], []  # type: ignore[var-annotated]
        records = self.topic("requests")
        flow = rank.build(
            TestingSource(records[self.done :]),
            TestingSink(rankings),
            TestingSink([]),
            TestingSink(letters),
            plan=stage.PLAN,
            store=stage.store(),
            scorer=stage.TouchedFirst(),
            decoders=deployment.decoders_of(known, "requests"),
            reports=frozenset({requests}),
            ttl=timedelta(days=1),
            now=lambda: NOW,
        )
        self.done = len(records)
        run_main(flow)
        with self.sender() as sender:
            dead = known.topic("dead-letters")
            sender.send(Marked(dead, 0, one.key.encode(), one.value) for _, one in letters)
        return [message["id"] for message in stage.messages(rankings)]


@pytest.fixture
def project() -> Iterator[Project]:
    names = ["events", "requests", "rankings", "dead-letters"]
    with EmbeddedBroker(names) as broker:
        yield Project(
            settings.changed(stage.KNOWN, {"kafka": {"bootstrap_servers": broker.bootstrap}})
        )


def request(project: Project, number: int, *items: str) -> None:
    value = json.dumps(stage.asked(number, *items)).encode()
    with project.sender() as sender:
        sender.send([Marked(project.known.topic("requests"), 0, b"u", value)])


def test_a_letter_that_the_settings_mend_is_answered_after_it_was_sent_back(
    project: Project,
) -> None:
    request(project, 1, "a", "b", "c")
    assert project.flow(candidates=2) == []
    assert project.letters.replay("must hold at most", 0, NOW) == {"waiting": 1}
    assert project.flow(candidates=3) == ["q1"]
    [first, again] = project.topic("requests")
    assert (again.value, again.key, again.partition) == (first.value, b"u", 0)
    assert (first.letter, again.letter) == (None, "dead-letters[0]@0")


def test_a_letter_that_is_still_bad_comes_back_marked_and_is_not_sent_again(
    project: Project,
) -> None:
    request(project, 1, "a", "b", "c")
    project.flow(candidates=2)
    project.letters.replay("", 0, NOW)
    assert project.flow(candidates=2) == []
    messages = [message for _, message in project.letters.records()]
    [_, back] = [message for message in messages if isinstance(message, DeadLetter)]
    assert back.letter == "dead-letters[0]@0"
    for _ in range(2):
        assert project.letters.replay("", 0, NOW) == {"replayed": 1, "returned": 1}
    assert len(project.topic("requests")) == 2


def test_only_what_has_the_reason_and_is_new_enough_goes_back(project: Project) -> None:
    project.set_aside(
        project.letter(1),
        project.letter(2, timestamp=AT - 1),
        project.letter(3, "request.id: Field required, got {'event': 'request'}"),
    )
    project.letters.replay("candidates", AT, NOW)
    assert [record.value for record in project.topic("requests")] == [b"1"]
    project.letters.replay("", 0, NOW)
    assert [record.value for record in project.topic("requests")] == [b"1", b"2", b"3"]


def test_nothing_goes_to_a_topic_that_applications_read_or_that_is_not_ours(
    project: Project,
) -> None:
    strange = project.letter(1).model_copy(update={"origin": "payroll[0]@1"})
    nowhere = project.letter(1).model_copy(update={"origin": "events"})
    project.set_aside(strange, nowhere, project.letter(2, topic="rankings"))
    assert project.letters.replay("", 0, NOW) == {"kept": 3}
    assert project.topic("rankings") == []


def test_an_unknown_reason_is_an_error_that_names_it(project: Project) -> None:
    project.set_aside(project.letter())
    with pytest.raises(NoSuchLetters, match="no dead letter in dead-letters has 'colour' in"):
        project.letters.replay("colour", 0, NOW)


@pytest.mark.parametrize("arrived", [0, 1, 3])
def test_a_crash_between_the_words_sends_none_twice_and_forgets_none(
    project: Project, arrived: int
) -> None:
    """Three letters were planned; the process died after so many of them had arrived."""
    project.set_aside(*(project.letter(number) for number in range(3)))
    plan = Replayed(done=False, letters=(0, 1, 2), ends={"requests[0]": 0}, timestamp=AT)
    with project.sender() as sender:
        sender.send([Marked("dead-letters", 0, None, plan.encode())])
        for number in range(arrived):
            name = f"dead-letters[0]@{number}"
            sender.send([Marked("requests", 0, b"u", b"%d" % number, name)])
    left = {"waiting": 3 - arrived, "replayed": arrived}
    assert project.letters.replay("", 0, NOW) == {name: n for name, n in left.items() if n}
    assert sorted(record.value for record in project.topic("requests")) == [b"0", b"1", b"2"]
    assert project.letters.replay("", 0, NOW) == {"replayed": 3}


def test_letters_go_back_in_the_order_of_their_origin(project: Project) -> None:
    for number in (2, 0, 1):
        project.set_aside(project.letter(number), partition=number)
    project.letters.replay("", 0, NOW)
    assert [record.value for record in project.topic("requests")] == [b"0", b"1", b"2"]


def test_batches_are_bounded_in_number_and_in_size(project: Project) -> None:
    project.set_aside(*(project.letter(n, payload=b"x" * 300_000) for n in range(8)))
    letters = list(project.letters.found(project.letters.words()))
    assert [len(batch) for batch in batches(letters * 70)] == [56] * 10


def test_the_list_groups_by_reason_and_says_what_became_of_them(
    project: Project, tmp_path: Path
) -> None:
    path = tmp_path / "streamrank.toml"
    path.write_text(settings.to_toml(project.known))
    project.set_aside(
        project.letter(1),
        project.letter(2, TOO_MANY.replace("got 3", "got 77"), timestamp=AT + 1000),
        project.letter(3, "event: Invalid JSON", payload=b"\xff" * 1000, topic="events"),
    )
    console = Console(stderr=True)
    letters_commands.replayed(path, "at most", str(NOW), console=console)
    found = letters_commands.listed(path, None, console=console)
    assert found["letters"] == 3
    many, unread = found["groups"]
    assert many["reason"] == "request.items: must hold at most 2 candidates"
    assert (many["count"], many["replayed"], many["waiting"]) == (2, 2, 0)
    assert (many["first"], many["last"]) == (
        "2026-11-25T08:00:00+00:00",
        "2026-11-25T08:00:01+00:00",
    )
    assert many["topics"] == {"requests": 2}
    assert many["example"]["origin"] == "requests[0]@1"
    assert (unread["waiting"], unread["topics"]) == (1, {"events": 1})
    assert unread["example"]["bytes"] == 1000
    assert len(unread["example"]["payload"]) == letters_commands.SHOWN


def test_what_came_back_is_refused_aloud(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "streamrank.toml"
    path.write_text(settings.to_toml(project.known))
    project.set_aside(project.letter(1, letter="dead-letters[0]@0"))
    replay = partial(letters_commands.replayed, path, "at most", None)
    with pytest.raises(letters_commands.RefusedAgain, match=r"1 letters .* are not sent again"):
        replay(console=Console(stderr=True))


def test_a_wrong_word_for_since_is_wrong_usage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamrank", "letters", "list", "--since", "yesterday"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "yesterday" in done.stderr


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01T00:00:00", "-1h", "9" * 30 + "d"])
def test_since_wants_a_span_or_a_moment_with_its_zone(text: str) -> None:
    with pytest.raises(StreamRankError, match="--since must be a span"):
        letters_commands.since(text, NOW)


def test_a_letter_without_key_or_mark_is_what_it_was_before_there_were_any() -> None:
    old = b'{"event":"dead_letter","reason":"r","origin":"events[0]@1","payload":"eA==",'
    letter = decode_letter(old + b'"timestamp":1541548939000}')
    assert (letter.key, letter.letter, letter.payload) == (None, None, b"x")


def test_a_record_keeps_its_mark_and_its_key_in_the_dead_letter() -> None:
    record = Incoming("events", 0, 7, b"{", b"\xffkey", 0.0, "dead-letters[1]@2")
    letter = decode_letter(steps.dead_letter(record, "bad", NOW).encode())
    assert (letter.key, letter.letter) == (b"\xffkey", "dead-letters[1]@2")


def test_kinds_leave_out_what_differs_from_letter_to_letter() -> None:
    assert kind("user.fields.n: must be a finite number, got nan") == kind(
        "user.fields.n: must be a finite number, got inf"
    )
    assert kind("request.items.3.id: too long") == kind("request.items.14.id: too long")


def test_outgoing_letters_name_themselves_by_their_origin(project: Project) -> None:
    key, record = steps.letter_record(project.letter(5))
    assert record == Outgoing("requests[0]@5", record.value, "requests[0]@5")
    assert key == "requests[0]@5"
    with Reader(project.letters.connection, ["requests"]) as reader:
        assert reader.poll(0.0) == []
