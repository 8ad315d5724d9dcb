"""One list that waits for its feedback: when it is over, what it got, the example it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from streamrank.events import Interaction
from streamrank.features.inputs import Array
from streamrank.learning.examples import Example
from streamrank.served import Served

Fate = Literal["joined", "corrected", "repeated", "duplicate", "late", "not_in_list"]
"""What became of feedback on a list that is known.

- `joined`: in the example of its list.
- `corrected`: its example had gone out already, and is sent again with this label.
- `repeated`: the item had this label; `duplicate`: by this very event.
- `late`: later than its window allows.
- `not_in_list`: on an item that the list did not show.
"""
LABEL, CONVERSION = 0, 1


@dataclass(frozen=True, slots=True)
class Rules:
    """Which feedback counts, and for how long; times in milliseconds.

    Attributes:
        label: The interaction type that is the label.
        conversion: That of the conversion, where there is one.
        label_window: How long after its list a label may happen.
        conversion_window: How long after it a conversion may.
        idle: A user silent for so long has ended the session.
        settle: How long a list with feedback waits for more of it.
        lateness: How long feedback waits for its list, and a list for what comes late.
        lists: Lists of a user that are kept.
    """

    label: str
    conversion: str | None = None
    label_window: int = 600_000
    conversion_window: int = 259_200_000
    idle: int = 300_000
    settle: int = 1_000
    lateness: int = 600_000
    lists: int = 100

    @property
    def heads(self) -> int:
        """How many labels a candidate has."""
        return 1 if self.conversion is None else 2

    def head(self, event: Interaction) -> int | None:
        """Return which label an interaction is, `None` where it is no feedback."""
        if event.type == self.label:
            return LABEL
        return CONVERSION if event.type == self.conversion else None

    def window(self, head: int) -> int:
        """Return how long after a list this label may happen."""
        return self.label_window if head == LABEL else self.conversion_window

    @property
    def longest(self) -> int:
        """How long after a list anything may happen to it."""
        return max(self.window(head) for head in range(self.heads)) + self.lateness


@dataclass(frozen=True, slots=True)
class Listed:
    """A list with the feedback that it has.

    Attributes:
        served: What the model saw.
        found: By head and item, the event that gave the label.
        fed: When it got the feedback that has not gone out yet, by its user's clock.
        ended: Whether the session that it was made in is over.
        revision: How often its example has gone out.
        origin: The first record of the feedback that has not gone out yet.
    """

    served: Served
    found: Mapping[tuple[int, str], str] = field(default_factory=dict)
    fed: int | None = None
    ended: bool = False
    revision: int = 0
    origin: str | None = None

    @property
    def may_be_unseen(self) -> bool:
        """Whether nobody can tell if it was shown: a re-ranking, until it has feedback."""
        return self.served.source == "trigger" and not self.found

    def due(self, newest: int, rules: Rules) -> int | None:
        """Return when its example goes out, by its user's clock; `None` where nothing waits.

        Args:
            newest: When its user last did something, ms.
            rules: The windows.
        """
        at = self.served.timestamp
        close = at if self.ended else min(at + rules.label_window, max(newest, at) + rules.idle)
        if self.fed is not None:
            return self.fed + rules.settle if self.revision else min(self.fed + rules.settle, close)
        return None if self.revision or self.may_be_unseen else close

    def forgotten(self, rules: Rules) -> int:
        """Return when it is forgotten: without feedback, it needs not wait for a conversion."""
        windows = rules.heads if self.found else 1
        last = max(rules.window(head) for head in range(windows))
        return self.served.timestamp + last + rules.lateness

    def shows(self, item: str) -> bool:
        """Say whether an item was in the list that went out."""
        if item not in self.served.items:
            return False
        shown = self.served.shown
        return shown is None or int(shown[self.served.items.index(item)]) >= 0

    def fits(self, event: Interaction, head: int, rules: Rules) -> bool:
        """Say whether feedback that names no list may be about this one."""
        after = event.timestamp - self.served.timestamp
        in_time = 0 <= after <= rules.window(head)
        return in_time and not self.may_be_unseen and self.shows(event.item or "")

    def take(
        self,
        event: Interaction,
        head: int,
        clock: int,
        rules: Rules,
        origin: str | None = None,
    ) -> tuple[Listed, Fate]:
        """Take feedback in.

        Args:
            event: What happened, on an item.
            head: Which label it is.
            clock: The time by its user's clock.
            rules: The windows.
            origin: The record that it was read from.

        Returns:
            The list after it, and what became of the feedback.
        """
        key = (head, event.item or "")
        if event.timestamp > self.served.timestamp + rules.window(head):
            return self, "late"
        if not self.shows(key[1]):
            return self, "not_in_list"
        if key in self.found:
            return self, "duplicate" if self.found[key] == event.id else "repeated"
        first = self if self.fed is not None else replace(self, fed=clock, origin=origin)
        found = {**self.found, key: event.id}
        return replace(first, found=found), "corrected" if self.revision else "joined"

    def example(self, rules: Rules) -> tuple[Listed, Example]:
        """Return the list after its example went out, and the example."""
        served = self.served
        example = Example(
            served.id,
            served.user,
            served.timestamp,
            dict(served.inputs),
            self._labels(rules),
            items=served.items,
            model=served.model,
            source=served.source,
            scores=served.scores,
            shown=served.shown,
            propensities=served.propensities,
            revision=self.revision,
            origin=self.origin,
        )
        return replace(self, fed=None, origin=None, revision=self.revision + 1), example

    def _labels(self, rules: Rules) -> Array:
        labels = np.zeros((len(self.served.items), rules.heads), np.float32)
        places = {item: place for place, item in enumerate(self.served.items)}
        for head, item in self.found:
            labels[places[item], head] = 1.0
        return labels
