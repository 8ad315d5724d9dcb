"""What the learner does to the registry: versions published or rejected, and who is told.

The pointer is moved first and then announced: a worker that does not hear the topic sees the
pointer when it looks.  A pointer that somebody else moved in between is theirs (a roll-back by
hand wins over a new version).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from streamrank.edges import registry
from streamrank.edges.kafka_errors import KafkaError
from streamrank.edges.registry import Exported, Manifest
from streamrank.features.inputs import Array, digest
from streamrank.features.schema import Schema

log = logging.getLogger(__name__)


class Announces(Protocol):
    """Tells everybody which version serves: `edges.announcements.Announcer`."""

    def announce(self, name: str, version: str, digest: str, reason: str, at: datetime) -> None:
        """Tell it; raises `KafkaError` where the broker does not take it."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """The learner's hand on the registry.

    Attributes:
        root: The registry.
        name: The model.
        schema: What its features are made of.
        announcer: Who tells it; `None` where nobody listens.
        keep: How many of the newest versions stay; `None` for all.
        max_age: How old they may get that do not serve; `None` for any age.
    """

    root: str | Path
    name: str
    schema: Schema
    announcer: Announces | None = None
    keep: int | None = None
    max_age: timedelta | None = None

    def current(self) -> str | None:
        """Return the version that serves, also where somebody else chose it."""
        return registry.current(self.root, self.name)

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
    ) -> Manifest:
        """Let a version appear in the registry; it does not serve yet. The oldest may go.

        Args:
            exported: What learning made.
            parent: The version that it learned on from.
            now: The time.
            metrics: How it did.
            gate: The gate's figures and reason.
            lists_seen: Lists that it learned from.
            learned_until: The time of the newest of them, ms.
            offsets: Up to where it has learned from feedback, by `topic[partition]`.
            learned: Which lists it has learned from, as `Learned.arrays` returns them.
            rejected: Why it must not serve, if it must not.

        Raises:
            RegistryError: The version is refused, or the registry cannot be written.
        """
        manifest = registry.publish(
            self.root,
            self.name,
            exported,
            schema=self.schema,
            features=digest(self.schema),
            now=now,
            metrics=metrics,
            parent=parent,
            gate=gate,
            rejected=rejected,
            lists_seen=lists_seen,
            learned_until=learned_until,
            offsets=offsets,
            learned=learned,
        )
        self._retain(manifest, now)
        return manifest

    def _retain(self, manifest: Manifest, now: datetime) -> None:
        if self.keep is None:
            return
        try:
            registry.retain(
                self.root,
                self.name,
                keep=self.keep,
                now=now,
                max_age=self.max_age,
                serving=[manifest.version],
            )
        except registry.RegistryError as error:  # the version is there; the next one tries again
            log.warning("old versions of %s stay for now: %s", self.name, error)

    def announce(
        self, version: str, reason: str, now: datetime, *, expected: str | None = None
    ) -> None:
        """Let a version serve, and tell everybody.

        Args:
            version: Which one.
            reason: Why.
            now: The time.
            expected: What serves so far, as the learner believes; `None` for nothing.

        Raises:
            PointerMoved: Another one serves by now: the learner has to go on from that.
            VersionBarred: It was rejected or barred.
        """
        # Where nobody has chosen yet the newest version serves, so this one may already.
        before = version if self.current() == version else expected
        registry.point(self.root, self.name, version, reason, now, expected=before)
        self._tell(version, reason, now)

    def roll_back(self, reason: str, now: datetime) -> str | None:
        """Bar the version that serves, let its nearest good ancestor serve, and tell everybody.

        Returns:
            The version that serves now.

        Raises:
            VersionBarred: No ancestor is left that may serve.
        """
        registry.rollback(self.root, self.name, reason=reason, now=now, bar=True)
        version = self.current()
        if version is not None:
            self._tell(version, reason, now)
        return version

    def _tell(self, version: str, reason: str, now: datetime) -> None:
        if self.announcer is None:
            return
        manifest = registry.manifest(self.root, self.name, version)
        try:
            self.announcer.announce(self.name, version, manifest.digest, reason, now)
        except KafkaError as error:  # who listens sees the pointer when it looks
            log.warning("%s serves, and the announcement was not taken: %s", version, error)
