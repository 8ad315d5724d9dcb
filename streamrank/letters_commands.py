"""What `streamrank letters` does: the dead letters by reason, and back to where they came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrank import reading
from streamrank import settings as settings_module
from streamrank.edges import kafka
from streamrank.errors import StreamRankError
from streamrank.events import utc
from streamrank.letters import Letter, Letters, Status, kind
from streamrank.sections import Duration
from streamrank.settings import Secrets
from streamrank.steps import milliseconds

SHOWN = 300
"""Bytes of a payload that a list shows."""
_SPAN: TypeAdapter[Any] = TypeAdapter(Duration)


class NoMoment(StreamRankError):
    """A text says neither how long ago nor when."""


class RefusedAgain(StreamRankError):
    """Letters came back after they were sent once, and are not sent again."""


def since(text: str | None, now: datetime) -> int:
    """Read from when on: a span back from now, or a moment with its zone; epoch milliseconds.

    Raises:
        NoMoment: It is neither.

    Examples:
        >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        >>> utc(since("90m", noon)).isoformat(), since("2026-01-01T12:00:00Z", noon) / 1000
        ('2026-01-01T10:30:00+00:00', 1767268800.0)
    """
    if text is None:
        return 0
    try:
        return milliseconds(now - _SPAN.validate_python(text))
    except (ValidationError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise NoMoment(
            f'--since must be a span as "2h", or ISO 8601 with a time zone, got {text!r}'
        )
    return milliseconds(moment)


@dataclass
class Group:
    """Letters with the same kind of reason."""

    example: Letter
    statuses: Counter[Status] = field(default_factory=Counter)
    topics: Counter[str] = field(default_factory=Counter)
    first: int = 2**63
    last: int = 0

    def take(self, letter: Letter) -> None:
        """Count a letter."""
        self.statuses[letter.status] += 1
        self.topics[letter.origin[0] or letter.message.origin] += 1
        self.first = min(self.first, letter.message.timestamp)
        self.last = max(self.last, letter.message.timestamp)

    def as_report(self) -> dict[str, Any]:
        """Return the group for the JSON report."""
        payload = self.example.message.payload
        return {
            "reason": kind(self.example.message.reason),
            "count": self.statuses.total(),
            **{status: self.statuses[status] for status in _STATUSES},
            "first": utc(self.first).isoformat(),
            "last": utc(self.last).isoformat(),
            "topics": dict(self.topics),
            "example": {
                "letter": self.example.id,
                "reason": self.example.message.reason,
                "origin": self.example.message.origin,
                "bytes": len(payload),
                "payload": payload[:SHOWN].decode(errors="replace"),
            },
        }


_STATUSES: tuple[Status, ...] = ("waiting", "replayed", "returned", "kept")


def listed(
    settings_file: Path | None, from_when: str | None, *, console: Console
) -> dict[str, Any]:
    """Show the letters by reason, and return them as a report.

    Raises:
        StreamRankError: The settings or the topic cannot be read.
    """
    letters = _letters(settings_file)
    groups: dict[str, Group] = {}
    begin = since(from_when, datetime.now(UTC))
    for letter in letters.found(letters.words(), since=begin):
        groups.setdefault(kind(letter.message.reason), Group(letter)).take(letter)
    found = [group.as_report() for group in groups.values()]
    found.sort(key=lambda group: (-group["count"], group["reason"]))
    if found:
        console.print(_table(letters.topic, found))
    else:
        reading.say(console, f"no dead letters in {letters.topic}")
    return {"topic": letters.topic, "letters": sum(one["count"] for one in found), "groups": found}


def replayed(
    settings_file: Path | None, reason: str, from_when: str | None, *, console: Console
) -> dict[str, Any]:
    """Send letters back once, and return how many.

    Raises:
        StreamRankError: There are none, or the broker does not give or take them.
        RefusedAgain: All that is left came back after it was sent once.
    """
    letters, now = _letters(settings_file), datetime.now(UTC)
    counts = letters.replay(reason, since(from_when, now), now)
    report = {
        "reason": reason,
        "sent": counts["waiting"],
        "already_replayed": counts["replayed"],
        "returned": counts["returned"],
        "kept": counts["kept"],
    }
    if counts["waiting"] == 0 and counts["returned"]:
        raise RefusedAgain(
            f"{counts['returned']} letters with {reason!r} came back after they were sent once, "
            "and are not sent again; none waits"
        )
    reading.say(console, _said(report))
    return report


def _said(report: dict[str, Any]) -> str:
    parts = [f"{report['sent']} letters sent back to where they came from"]
    parts += [f"{report['already_replayed']} were before"] if report["already_replayed"] else []
    if report["returned"]:
        parts.append(f"{report['returned']} came back after that and are not sent again")
    if report["kept"]:
        parts.append(f"{report['kept']} are of topics that nothing is sent back to")
    return "; ".join(parts)


def _letters(settings_file: Path | None) -> Letters:
    known = settings_module.load(settings_file)
    return Letters(known, kafka.connection(known.kafka, Secrets()))


def _table(topic: str, groups: list[dict[str, Any]]) -> Table:
    table = Table(
        "reason", "letters", *_STATUSES, "topic", "last", title=f"dead letters in {topic}"
    )
    for group in groups:
        table.add_row(
            Text(group["reason"]),
            str(group["count"]),
            *(str(group[status] or "") for status in _STATUSES),
            Text(", ".join(group["topics"])),
            group["last"][:19],
        )
    return table
