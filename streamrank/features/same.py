"""What was worked out of a value is kept for as long as that very object comes again."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Same(Generic[T]):
    """An object as a key: equal to itself alone, and alive for as long as the key is.

    For values that never change and that are large, or have no hash: to look into them would
    cost more than what is kept of them saves.

    Examples:
        >>> one, other = (1000, "a"), (1000, "b")
        >>> Same(one) == Same(one), Same(one) == Same(other)
        (True, False)
    """

    __slots__ = ("it",)

    def __init__(self, it: T) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.it is other.it
