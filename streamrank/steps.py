"""The first and the last steps of every flow: bytes to events, and what could not be used.

What lies between is in `steps_features` and `steps_ranking`.  The flows wire these functions;
`lane` calls them one after the other.  There is no second way from an event to a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zlib import crc32

from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.events import DeadLetter, Event, Ranking, Request, Served
from streamrank.features.schema import Schema
from streamrank.features.state import Rules


def milliseconds(moment: datetime) -> int:
    """Return a moment as epoch milliseconds."""
    return round(moment.timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the steps need to know, read once from the settings."""

    schema: Schema
    features: str
    rules: Rules
    triggers: frozenset[str]
    trigger_every: int  # ms
    k: int
    popular: int
    found: int = 0  # items to find for a request without any; 0: nobody is asked for them


Message = Event | Request | Ranking | Served
Decoder = Callable[[bytes], Message]


@dataclass(frozen=True, slots=True)
class Read:
    """An event and the record that it was read from."""

    event: Message
    record: Incoming


def decode(
    decoders: Mapping[str, Decoder], records: Iterable[Incoming], now: datetime, ahead: timedelta
) -> Iterator[Read | DeadLetter]:
    """Read records; what cannot be read, or is dated in the future, becomes a dead letter.

    Args:
        decoders: How each topic's payload is read; raises ValueError with the reason.
        records: Records of the topics in `decoders`.
        now: The time.
        ahead: How far in the future an event may be dated.
    """
    latest = milliseconds(now + ahead)
    for record in records:
        try:
            event = decoders[record.topic](record.value)
            if event.timestamp > latest:
                raise ValueError(
                    f"{event.event}.timestamp: must be at most {ahead} ahead of the clock, "
                    f"got {event.timestamp}"
                )
            yield Read(event, record)
        except ValueError as error:
            yield dead_letter(record, str(error), now)


def is_of_share(user: str, share: float) -> bool:
    """Say whether a user is of a share of them; who is of one is of every larger one.

    Examples:
        >>> is_of_share("u1", 1.0), is_of_share("u1", 0.0)
        (True, False)
    """
    return crc32(user.encode()) < share * 2**32


def dead_letter(record: Incoming, reason: str, now: datetime) -> DeadLetter:
    """Return the dead letter of a record."""
    return DeadLetter(
        reason=reason,
        origin=record.origin,
        payload=record.value,
        timestamp=milliseconds(now),
        key=record.key,
        letter=record.letter,
    )


def letter_record(letter: DeadLetter) -> tuple[str, Outgoing]:
    """Return the record of a dead letter, keyed by where it came from."""
    return letter.origin, Outgoing(letter.origin, letter.encode(), letter.origin)
