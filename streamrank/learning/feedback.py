"""Which items of a list got the feedback: interactions joined to the lists that they came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from streamrank.events import Interaction
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema


@dataclass
class Feedback:
    """The feedback on each list, as it comes in.

    Attributes:
        schema: Which interaction types are feedback.
        lists: By list and head (0 the label, 1 the conversion), the items that got it.
    """

    schema: Schema
    lists: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)

    def take(self, event: Interaction) -> str | None:
        """Take one interaction in.

        Args:
            event: Any interaction; feedback names the list that it is about.

        Returns:
            The list that it is about, `None` where it is no feedback.

        Examples:
            >>> feedback = Feedback(Schema(interactions=("click",), label="click"))
            >>> feedback.take(Interaction(id="e", timestamp=10**12, user="u", type="click",
            ...                           item="i3", ranking="r1"))
            'r1'
            >>> feedback.clicked("r1")
            frozenset({'i3'})
        """
        kinds = (self.schema.label, self.schema.conversion)
        if event.type not in kinds or event.item is None or event.ranking is None:
            return None
        found = self.lists.setdefault(event.ranking, (set(), set()))
        found[kinds.index(event.type)].add(event.item)
        return event.ranking

    def clicked(self, list_id: str) -> frozenset[str]:
        """Return the items of this list that got the label."""
        return frozenset(self.lists.get(list_id, (set(), set()))[0])

    def labels(self, list_id: str, items: Iterable[str]) -> Array:
        """Return the labels of a list's candidates, float32 (C, heads)."""
        heads = 1 if self.schema.conversion is None else 2
        found = self.lists.get(list_id, (set(), set()))[:heads]
        labels = [[float(item in got) for got in found] for item in items]
        return np.array(labels, np.float32).reshape(-1, heads)
