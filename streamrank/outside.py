"""What lessons need of the world: the registry, and what runs its versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from streamrank.features.inputs import Array, Inputs
from streamrank.learning.learned import Learned
from streamrank.model.artifact import Exported


class Scores(Protocol):
    """A version's graph."""

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        """Return scores of shape (C, heads) for each list."""


class Version(Protocol):
    """What the registry says of a version."""

    @property
    def version(self) -> str:
        """Its name."""


class Publisher(Protocol):
    """The hand on the registry: `streamrank.publishing.Publishing`."""

    def current(self) -> str | None:
        """Return the version that serves."""

    def publish(
        self,
        exported: Exported,
        *,
        parent: str | None,
        now: datetime,
        metrics: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
        lists_seen: int = 0,
        learned_until: int | None = None,
        offsets: Mapping[str, int] | None = None,
        learned: Mapping[str, Array] | None = None,
        rejected: str | None = None,
    ) -> Version:
        """Let a version appear; it does not serve yet."""

    def announce(
        self, version: str, reason: str, now: datetime, *, expected: str | None = None
    ) -> None:
        """Let a version serve."""

    def roll_back(self, reason: str, now: datetime) -> str | None:
        """Bar what serves, and return what serves then."""


@dataclass(frozen=True, slots=True)
class Outside:
    """The registry, as lessons see it.

    Attributes:
        publisher: The registry.
        load: A version's graph, by its name.
        weights: A version's weights, by its name.
        build: A graph from its bytes.
        learned_until: The time of the newest list that a version learned from, ms.
        learned: Which lists a version has learned from.
        offsets: Up to where a version has learned from feedback, by `topic[partition]`.
        stopped: Why nothing may be published, `None` where it may.
    """

    publisher: Publisher
    load: Callable[[str], Scores]
    weights: Callable[[str], Mapping[str, Array]]
    build: Callable[[bytes], Scores]
    learned_until: Callable[[str], int | None] = lambda version: None
    learned: Callable[[str], Learned] = lambda version: Learned()
    offsets: Callable[[str], Mapping[str, int]] = lambda version: {}
    stopped: Callable[[], str | None] = lambda: None
