"""What each thread has of its own, also where Python does not know the thread again.

`threading.local` belongs to what Python keeps of a thread, not to the thread.  Bytewax's workers
are threads of Rust wherever a flow has more than one process or thread: they enter Python at each
step and leave it again, Python forgets them, and with them all that `threading.local` held.  What
should be made once was made for every batch.

References:
    Python, "Thread State and the Global Interpreter Lock", `PyGILState_Release`.
"""

from __future__ import annotations

from threading import get_ident
from typing import Generic, TypeVar

T = TypeVar("T")


class ByThread(Generic[T]):
    """A value for each thread, kept until the thread sets another.

    It is found by the operating system's name of the thread, which a later one gets when the
    thread has ended: that one finds what was left behind, and nobody else does.

    Examples:
        >>> from threading import Thread
        >>> own, found = ByThread[str](), []
        >>> own.set("mine")
        >>> other = Thread(target=lambda: found.append(own.get()))
        >>> other.start(); other.join()
        >>> own.get(), found
        ('mine', [None])
    """

    def __init__(self) -> None:
        self._values: dict[int, T] = {}

    def get(self) -> T | None:
        """Return what this thread has, `None` where it has set nothing."""
        return self._values.get(get_ident())

    def set(self, value: T) -> None:
        """Let this thread have a value."""
        self._values[get_ident()] = value
