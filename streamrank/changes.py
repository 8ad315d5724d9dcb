"""One list before and after a deed: what a demo shows of a ranking that reacts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streamrank.events import Event, Interaction, Ranking, Request


@dataclass(frozen=True, slots=True)
class Change:
    """What a deed did to a list.

    Attributes:
        deed: What was done, in words.
        before: The first items of the list, as people read them.
        after: The same once the deed was known.
    """

    deed: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def moved(self) -> int:
        """How many of the first places hold another item than before."""
        return sum(old != new for old, new in zip(self.before, self.after, strict=True))


@dataclass
class Changes:
    """Follows lists and deeds, and keeps the changes that are worth a look.

    Args:
        name: What people call an item.
        top: How many places are shown.
        keep: How many lists and deeds are remembered.
        hold: Seconds for which a change stays, so that it can be read.

    Attributes:
        last: The change to look at now.
        most: Of the changes by a deed on an item, the one that moved the most places.
    """

    name: Callable[[str], str] = str
    top: int = 8
    keep: int = 5_000
    hold: float = 5.0
    last: Change | None = None
    most: Change | None = None
    _since: float = field(default=float("-inf"))
    _orders: OrderedDict[str, list[str]] = field(default_factory=OrderedDict)
    _deeds: OrderedDict[str, Interaction] = field(default_factory=OrderedDict)

    def sent(self, event: Event | Request | None) -> None:
        """Note what somebody did."""
        if isinstance(event, Interaction):
            self._deeds[event.id] = event
            if len(self._deeds) > self.keep:
                self._deeds.popitem(last=False)

    def ranked(self, ranking: Ranking, now: float) -> None:
        """Note a list, at `now` (s): of a request, or that list once more after a deed."""
        order = [placed.id for placed in ranking.items]
        before = self._orders.pop(ranking.request, None)
        self._orders[ranking.request] = order
        if len(self._orders) > self.keep:
            self._orders.popitem(last=False)
        deed = self._deeds.get(ranking.trigger or "")
        if before and deed and before[: self.top] != order[: self.top]:
            self._keep(self._change(deed, before, order), deed, now)

    def _keep(self, change: Change, deed: Interaction, now: float) -> None:
        if now - self._since >= self.hold:
            self.last, self._since = change, now
        if deed.item is not None and (self.most is None or change.moved > self.most.moved):
            self.most = change

    def _change(self, deed: Interaction, before: Sequence[str], after: Sequence[str]) -> Change:
        about = self.name(deed.item) if deed.item else ", ".join(map(str, deed.fields.values()))
        return Change(
            f"{deed.type} {about}".strip(),
            tuple(self.name(item) for item in before[: self.top]),
            tuple(self.name(item) for item in after[: self.top]),
        )
