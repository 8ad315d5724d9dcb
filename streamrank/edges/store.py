"""The door to the feature store: rows in, rows out, in batches.

`MemoryStore` is the twin of `edges.feast.FeastStore`; both pass the same contract test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from streamrank.events import Value
from streamrank.features.inputs import Array

View = Literal["item_windows", "user_windows", "item_fields", "user_fields", "popular"]
Values = Array | Mapping[str, Value]
"""A packed window (`features.windows.pack`) for `*_windows`, else fields by name."""


@dataclass(frozen=True, slots=True)
class Row:
    """The newest values of one entity in one view.

    Attributes:
        view: Which feature view.
        key: Item id, user key, or `"all"` for `popular`.
        at: Event time of the newest event in it, epoch milliseconds.
        revision: Microseconds to add, so that each row of a key is newer than the one before.
        values: What is known.
    """

    view: View
    key: str
    at: int
    revision: int
    values: Values


class FeatureStore(Protocol):
    """Where the features flow writes and the rank flow reads."""

    def write(self, rows: Sequence[Row]) -> None:
        """Keep these rows, each one replacing an older one of its view and key."""

    def read(self, view: View, keys: Sequence[str], at: int) -> list[Values | None]:
        """Return the values by key, `None` where missing or, at `at` (ms), past their TTL."""
