"""Dead letters: which there are, by reason, and sent back once to where they came from.

A letter goes back to the topic and the partition that its `origin` names, with its key and with
its own place as the header `letter`.  What fails again comes back with that mark and is not sent
a second time.  So that a crash of `replay` sends none twice and forgets none, it writes into the
letters' own partition (`events.Replayed`) which ones it is about to send and where their origins
end, sends them, and writes that they are sent; whoever finds the first word without the second
looks in the origins, from there on, which of them arrived.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from streamrank.edges import kafka_letters
from streamrank.edges.kafka import Connection, Incoming
from streamrank.edges.kafka_letters import ANY, Marked, Sender, Where
from streamrank.errors import StreamRankError
from streamrank.events import DeadLetter, Replayed, decode_set_aside
from streamrank.settings import Settings
from streamrank.steps import milliseconds

Place = tuple[int, int]
"""Partition and offset among the dead letters."""
Status = Literal["waiting", "replayed", "returned", "kept"]
SENT_BACK = ("events", "requests", "served")
"""Topics that letters go back to; what an application reads would reach it a second time."""
MOST = 500
MOST_BYTES = 16 * 2**20
"""What is under way between two words on what was sent: records, and bytes of them."""
_ORIGIN = re.compile(r"(?P<topic>.+)\[(?P<partition>\d{1,9})\]@(?P<offset>\d{1,19})")


class NoSuchLetters(StreamRankError):
    """No dead letter has such a reason."""


def kind(reason: str) -> str:
    """Return what a reason has in common with others of its kind: all but the values.

    Examples:
        >>> kind("request.items.17.id: must have at least 1 character, got ''")
        'request.items.*.id: must have at least 1 character'
        >>> kind("request: items must not hold 'i1' twice, got {'id': 'q1'}")
        'request: items must not hold … twice'
    """
    rule = reason.partition(", got ")[0]
    return re.sub(r"\.\d+(?=[.:])", ".*", re.sub(r"'[^']*'", "…", rule))


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, where it lies and what became of it."""

    place: Place
    id: str
    message: DeadLetter
    status: Status

    @property
    def origin(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the record that it was."""
        found = _ORIGIN.fullmatch(self.message.origin)
        return (found["topic"], int(found[2]), int(found[3])) if found else ("", ANY, 0)


@dataclass
class Words:
    """What was said of letters: which were sent back, and which somebody was about to send."""

    done: set[Place] = field(default_factory=set)
    planned: dict[Place, dict[Where, int]] = field(default_factory=dict)

    def take(self, partition: int, word: Replayed) -> None:
        """Take a word in; of two plans for a letter the first knows where to look."""
        places = [(partition, offset) for offset in word.letters]
        if word.done:
            self.done.update(places)
            return
        ends = {_where(name): end for name, end in word.ends.items()}
        for place in places:
            known = self.planned.get(place, {})
            self.planned[place] = ends | {w: min(end, ends.get(w, end)) for w, end in known.items()}

    def unfinished(self) -> dict[Where, int]:
        """Return from where on the origins must be looked through for what was sent."""
        begin: dict[Where, int] = {}
        for place, ends in self.planned.items():
            if place not in self.done:
                begin |= {where: min(end, begin.get(where, end)) for where, end in ends.items()}
        return begin


def _where(name: str) -> Where:
    topic, _, index = name.removesuffix("]").rpartition("[")
    return topic, int(index)


@dataclass(frozen=True)
class Letters:
    """The dead letters of a project.

    Args:
        known: The settings.
        connection: librdkafka's settings.
    """

    known: Settings
    connection: Connection

    @property
    def topic(self) -> str:
        """Where they are."""
        return self.known.topic("dead-letters")

    def records(self) -> Iterator[tuple[Incoming, DeadLetter | Replayed]]:
        """Read the topic to its end; what is neither a letter nor a word on some is left out.

        Raises:
            KafkaError: The topic is not there, or cannot be read.
        """
        count = kafka_letters.partitions(self.connection, [self.topic])[self.topic]
        begin = {(self.topic, index): 0 for index in range(count)}
        for record in kafka_letters.to_the_end(self.connection, begin):
            try:
                yield record, decode_set_aside(record.value)
            except ValueError:
                continue

    def words(self) -> Words:
        """Return what was sent back already, also by somebody who died before saying so.

        Raises:
            KafkaError: A topic is not there, or cannot be read.
        """
        words = Words()
        for record, message in self.records():
            if isinstance(message, Replayed):
                words.take(record.partition, message)
        begin = words.unfinished()
        if begin:
            arrived = kafka_letters.to_the_end(self.connection, begin)
            sent = {record.letter for record in arrived if record.letter is not None}
            words.done |= {place for place in words.planned if self.id(place) in sent}
        return words

    def id(self, place: Place) -> str:
        """Return a letter's name, which is its place."""
        return f"{self.topic}[{place[0]}]@{place[1]}"

    def found(self, words: Words, reason: str = "", since: int = 0) -> Iterator[Letter]:
        """Read the letters with a text in the kind of their reason, from a time on.

        Args:
            words: What was said of them.
            reason: A part of the reason's kind.
            since: When they were set aside at the earliest, epoch milliseconds.
        """
        for record, message in self.records():
            if not isinstance(message, DeadLetter) or message.timestamp < since:
                continue
            if reason in kind(message.reason):
                place = record.partition, record.offset
                yield Letter(place, self.id(place), message, self._status(place, message, words))

    def _status(self, place: Place, message: DeadLetter, words: Words) -> Status:
        if message.letter is not None:
            return "returned"
        if place in words.done:
            return "replayed"
        topic = message.origin.rpartition("[")[0]
        back = {self.known.topic(name) for name in SENT_BACK}
        return "waiting" if topic in back and _ORIGIN.fullmatch(message.origin) else "kept"

    def replay(self, reason: str, since: int, now: datetime) -> Counter[Status]:
        """Send back, once, the letters that wait.

        Args:
            reason: A part of the reason's kind.
            since: When they were set aside at the earliest, epoch milliseconds.
            now: The time.

        Returns:
            How many letters there are by status, as it was; those that waited are sent.

        Raises:
            NoSuchLetters: There is none with such a reason.
            KafkaError: The broker does not give or take them; a second call sends the rest.
        """
        words = self.words()
        counts: Counter[Status] = Counter()
        with Sender(self.connection) as sender:
            self._finish(sender, words, now)
            for batch in batches(self._counted(self.found(words, reason, since), counts)):
                self._send(sender, batch, now)
        if not counts:
            raise NoSuchLetters(
                f"no dead letter in {self.topic} has {reason!r} in its reason "
                "(streamrank letters list)"
            )
        return counts

    def _counted(self, found: Iterable[Letter], counts: Counter[Status]) -> Iterator[Letter]:
        for letter in found:
            counts[letter.status] += 1
            if letter.status == "waiting":
                yield letter

    def _finish(self, sender: Sender, words: Words, now: datetime) -> None:
        """Say that it was sent what somebody sent who died before saying so."""
        self._say(sender, [place for place in words.planned if place in words.done], now, done=True)

    def _send(self, sender: Sender, batch: list[Letter], now: datetime) -> None:
        batch.sort(key=lambda letter: letter.origin)
        counts = kafka_letters.partitions(
            self.connection, {topic for topic, _, _ in (one.origin for one in batch)}
        )
        # A key may by now belong to any partition, where the topic was cut otherwise before.
        origins = {one.origin[0] for one in batch}
        places = [(topic, index) for topic in origins for index in range(counts[topic])]
        ends = kafka_letters.ends(self.connection, places)
        letters = [letter.place for letter in batch]
        self._say(sender, letters, now, done=False, ends=ends)
        sender.send(_marked(letter, counts) for letter in batch)
        self._say(sender, letters, now, done=True)

    def _say(
        self,
        sender: Sender,
        places: Iterable[Place],
        now: datetime,
        *,
        done: bool,
        ends: Mapping[Where, int] = {},
    ) -> None:
        offsets = defaultdict(list)
        for partition, offset in places:
            offsets[partition].append(offset)
        named = {f"{topic}[{index}]": end for (topic, index), end in ends.items()}
        sender.send(
            Marked(self.topic, partition, None, _word(done, letters, named, now))
            for partition, letters in offsets.items()
        )


def _word(done: bool, letters: list[int], ends: dict[str, int], now: datetime) -> bytes:
    timestamp = milliseconds(now)
    return Replayed(done=done, letters=tuple(letters), ends=ends, timestamp=timestamp).encode()


def _marked(letter: Letter, counts: Mapping[str, int]) -> Marked:
    topic, index, _ = letter.origin
    partition = index if index < counts[topic] else ANY
    return Marked(topic, partition, letter.message.key, letter.message.payload, letter.id)


def batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """Gather letters into batches of bounded number and size."""
    batch: list[Letter] = []
    size = 0
    for letter in letters:
        batch.append(letter)
        size += len(letter.message.payload)
        if len(batch) >= MOST or size >= MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
