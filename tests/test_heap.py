"""Threads share one heap, and what is large goes back at once, where that was asked for."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, sys, threading
from streamrank import heap

if sys.argv[1] == "shared":
    heap.share()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together = threading.Barrier(4)
threads = [
    threading.Thread(target=lambda: (together.wait(), libc.malloc(100_000), together.wait()))
    for _ in range(4)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""


LARGE = """
import ctypes, sys
from streamrank import heap

if sys.argv[1] == "back":
    heap.give_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(f"field{place}", ctypes.c_int) for place in range(10)]

libc.mallinfo.restype = Info
before = libc.mallinfo().field4  # bytes of mappings
libc.free(libc.malloc(2 * heap.LARGE))
kept = libc.malloc(2 * heap.LARGE)
print(libc.mallinfo().field4 - before > heap.LARGE)
"""


def heaps(kind: str) -> int:
    command = [sys.executable, "-c", COUNT, kind]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return said.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has several heaps")
def test_threads_share_one_heap_where_it_was_asked_for() -> None:
    own, shared = heaps("own"), heaps("shared")

    assert own > 1
    assert shared == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone keeps it")
@pytest.mark.parametrize(("kind", "mapped"), [("kept", "False"), ("back", "True")])
def test_what_is_large_is_a_mapping_of_its_own_also_after_one_was_freed(
    kind: str, mapped: str
) -> None:
    command = [sys.executable, "-c", LARGE, kind]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.strip() == mapped
