"""What C libraries hold in memory: one heap for all threads, so that what is freed serves again.

glibc gives each new thread a heap of its own, up to eight a core, and what is freed in one serves
no other.  A session that is built in one thread, runs in a second and is dropped in a third leaves
a part of itself behind each time: after 50 hot swaps a flow held 70 MB more than with one heap.

What is large is a mapping of its own and goes back when it is freed, until glibc sees one that
does: from then on it keeps what is as large on the heap, where sessions leave holes.

References:
    mallopt(3), on Linux with glibc; elsewhere nothing happens here.
"""

from __future__ import annotations

import ctypes
import platform
import sys

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
"""M_MMAP_THRESHOLD and M_ARENA_MAX of <malloc.h>."""
LARGE = 4 << 20
"""Bytes of what goes back at once: an arena of a session, but no array of a batch."""


def share() -> None:
    """Let threads that start from now on share one heap.

    Examples:
        >>> share()
    """
    _set(_ARENA_MAX, 1)


def give_back() -> None:
    """Give what is large back to the system whenever it is freed.

    It costs time where large arrays come and go, as in training: it is for a flow that swaps.

    Examples:
        >>> give_back()
    """
    _set(_MMAP_THRESHOLD, LARGE)


def _set(option: int, value: int) -> None:
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(option, value)
