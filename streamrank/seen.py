"""What was seen of a log: counts, spans and samples, never the events themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from streamrank.events import Event, Interaction, Item, Request, Shown, User, Value
from streamrank.features.schema import FieldKind

SAMPLE = 10_000
"""Texts of a field that are looked at."""
_DESCRIBES: Mapping[type, str] = {
    Item: "item",
    User: "user",
    Interaction: "interaction",
    Shown: "context",
    Request: "context",
}


@dataclass
class FieldSeen:
    """The values of one field: how many of which form, and a sample of its texts."""

    forms: Counter[str] = field(default_factory=Counter)
    least: float = float("inf")
    most: float = float("-inf")
    texts: Counter[str] = field(default_factory=Counter)
    sampled: int = 0
    longest: int = 0

    def add(self, value: Value) -> None:
        """Look at a value."""
        if isinstance(value, bool):
            self.forms["yes or no"] += 1
        elif isinstance(value, float):
            self.forms["number"] += 1
            self.least, self.most = min(self.least, value), max(self.most, value)
        elif isinstance(value, str):
            self.forms["text"] += 1
            self._sample(value)
        elif isinstance(value, tuple):
            of_numbers = bool(value) and isinstance(value[0], float)
            self.forms["numbers" if of_numbers else "texts"] += 1

    def _sample(self, text: str) -> None:
        self.longest = max(self.longest, len(text))
        if self.sampled < SAMPLE:
            self.sampled += 1
            self.texts[text[:100]] += 1

    def kind(self) -> tuple[FieldKind | None, str]:
        """Return the kind of this field, `None` where it is of no use, and why."""
        total = self.forms.total()
        if total == 0:
            return None, "no value at all"
        if self.forms["numbers"]:
            return None, f"lists of numbers are not used ({self.forms['numbers']:,} of {total:,})"
        if self.forms["texts"]:
            return "text_list", f"{self.forms['texts']:,} of {total:,} values are lists of texts"
        if self.forms["number"] == total:
            return "number", f"{total:,} values within {self.least:g}..{self.most:g}"
        if self.forms["text"]:
            return self._kind_of_text(total)
        return "category", f"{total:,} values, {self._forms()}"

    def _forms(self) -> str:
        return ", ".join(f"{count:,} {form}" for form, count in self.forms.most_common())

    def _kind_of_text(self, total: int) -> tuple[FieldKind, str]:
        """Tell words of a set from free text: by their number, their length and repetition."""
        different = len(self.texts)
        words = sum(len(text.split()) for text in self.texts) / different
        apart = different / self.sampled
        figures = f"{total:,} values, {different:,} different, {words:.1f} words each"
        if self.forms["text"] < total:
            figures += f" (mixed: {self._forms()})"
        if all(map(_is_number, self.texts)):
            figures += "; numbers as text are names here: send numbers to have them compared"
        seldom_again = words >= 2 and apart > 0.5 and self.sampled >= 20
        if self.longest > 100 or (words > 3 and different > 50) or seldom_again:
            return "text", figures
        return "category", figures


@dataclass
class Seen:
    """What was seen of a log so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    about_lists: Counter[str] = field(default_factory=Counter)
    about_items: Counter[str] = field(default_factory=Counter)
    fields: dict[tuple[str, str], FieldSeen] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    first: int = 2**63
    last: int = 0
    late: int = 0
    longest: int = 0

    @property
    def count(self) -> int:
        """How many events there were."""
        return self.kinds.total()

    @property
    def span(self) -> timedelta:
        """How much time lies between the earliest and the latest event."""
        return timedelta(milliseconds=max(0, self.last - self.first))

    def add(self, event: Event | Request) -> None:
        """Look at an event."""
        self.kinds[event.event] += 1
        self._time(event)
        self._values(_DESCRIBES[type(event)], event.fields)
        if isinstance(event, Interaction):
            self.types[event.type] += 1
            self.about_lists[event.type] += event.ranking is not None
            self.about_items[event.type] += event.item is not None
        elif isinstance(event, (Shown, Request)):
            self.longest = max(self.longest, len(event.items))
            for candidate in event.items:
                self._values("item", candidate.fields)

    def _time(self, event: Event | Request) -> None:
        at, key = event.timestamp, f"{event.event == 'item'}{event.key}"
        self.first, self.last = min(self.first, at), max(self.last, at)
        newest = self.newest.get(key, at)
        self.late = max(self.late, newest - at)
        self.newest[key] = max(newest, at)

    def _values(self, owner: str, fields: Mapping[str, Value]) -> None:
        for name, value in fields.items():
            found = self.fields.get((owner, name))
            if found is None:
                found = self.fields[owner, name] = FieldSeen()
            found.add(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
