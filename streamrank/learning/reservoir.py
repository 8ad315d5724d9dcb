"""What the learner remembers of the past: a sample of all time, or one that fades.

Learning from the newest lists alone forgets the old ones.  A reservoir keeps a fixed number of
them, each one as likely as any other (Vitter's algorithm R), or the newer the likelier.  What it
draws follows from its seed and from how much it has seen, so nothing else needs to be kept to go
on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass
class Reservoir(Generic[T]):
    """A sample of bounded size of all that it was given.

    Attributes:
        size: How many it keeps.
        fading: Whether the past fades: each new one drives out a random old one, so that one of
            age a is still there with probability exp(-a / size).  Else all ages are alike.
        seed: Of all chance.
        seen: How many it was given.
        kept: What it keeps.

    References:
        Vitter, ACM TOMS 1985, "Random sampling with a reservoir" (algorithm R).
        Aggarwal, VLDB 2006, "On biased reservoir sampling in the presence of stream evolution".

    Examples:
        >>> past = Reservoir[str](size=2, seed=1)
        >>> for name in "abcdef":
        ...     past.take(name)
        >>> past.seen, len(past.kept), set(past.draw(5, turn=0)) <= set("abcdef")
        (6, 2, True)
    """

    size: int
    fading: bool = False
    seed: int = 0
    seen: int = 0
    kept: list[T] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a size that keeps nothing."""
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    def take(self, new: T) -> None:
        """Take one in, and forget another where it is full."""
        place = self._place(np.random.default_rng([self.seed, 0, self.seen]))
        self.seen += 1
        if place == len(self.kept):
            self.kept.append(new)
        elif place is not None:
            self.kept[place] = new

    def _place(self, random: np.random.Generator) -> int | None:
        """Say where the next one goes: at the end, over another, or nowhere."""
        if self.fading:
            if random.random() >= len(self.kept) / self.size:
                return len(self.kept)
            return int(random.integers(len(self.kept)))
        if len(self.kept) < self.size:
            return len(self.kept)
        place = int(random.integers(self.seen + 1))
        return place if place < self.size else None

    def draw(self, count: int, *, turn: int) -> list[T]:
        """Return so many of what is kept, none twice; all of it where it has no more.

        Args:
            count: How many.
            turn: The same one draws the same again.
        """
        random = np.random.default_rng([self.seed, 1, turn])
        drawn = random.permutation(len(self.kept))[:count]
        return [self.kept[place] for place in drawn]

    def replace(self, change: Callable[[T], T | None]) -> None:
        """Put something else in the place of those for which `change` returns something."""
        self.kept = [one if (new := change(one)) is None else new for one in self.kept]

    @classmethod
    def resume(
        cls, kept: Sequence[T], *, size: int, fading: bool = False, seed: int = 0, seen: int = 0
    ) -> Reservoir[T]:
        """Go on where another one was: `kept` and `seen` are all of its state."""
        return cls(size=size, fading=fading, seed=seed, seen=seen, kept=list(kept))
