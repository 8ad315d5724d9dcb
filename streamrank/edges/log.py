"""A log of events: JSON lines, plain or gzip, in the order in which things happened."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streamrank.edges.kafka import Incoming
from streamrank.errors import StreamRankError

LONGEST = 100_000_000
"""Bytes of a line that are kept: as much as any setting lets a record have."""
_GZIP = b"\x1f\x8b"
_BETWEEN_REPORTS = 1_000  # lines
_CHUNK = 1 << 17  # bytes
_Readable = io.BufferedReader | gzip.GzipFile


class LogError(StreamRankError):
    """A log cannot be read."""


class LogMissing(LogError):
    """There is no such log, or it is no file, or it may not be read."""


class LogBroken(LogError):
    """A log stops being readable at some line: the compressed data are cut or damaged."""


def records(
    path: Path,
    topic: str,
    *,
    on_bytes: Callable[[int], object] | None = None,
    longest: int = LONGEST,
) -> Iterator[Incoming]:
    """Read a log line by line, as if each were a record of a topic.

    Line n is offset n of partition 0, so that a dead letter names it; blank lines are left out.

    Args:
        path: The log; that it is gzip is seen in its first bytes, whatever its name.
        topic: The topic of the records.
        on_bytes: Is told now and then how many bytes of the file are read.
        longest: A longer line is cut to one byte more, so that it is refused as too large.

    Raises:
        LogMissing: There is no such file.
        LogBroken: The compressed data are cut or damaged; it names the line.
    """
    with _opened(path) as (file, text):
        number = 0
        for number, line in enumerate(_lines(path, text, longest), start=1):
            value = line.rstrip(b"\r")[: longest + 1]
            if value and not value.isspace():
                yield Incoming(topic, 0, number, value)
            if on_bytes and number % _BETWEEN_REPORTS == 0:
                on_bytes(file.tell())
        if on_bytes:
            on_bytes(file.tell())


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedReader, _Readable]]:
    """Open a log: the file as it lies on the disk, and its text."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise LogMissing(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        why = getattr(error, "strerror", None) or error
        raise LogMissing(f"{path} cannot be read: {why}") from None
    with file:
        if file.peek(2)[:2] != _GZIP:
            yield file, file
            return
        with gzip.GzipFile(fileobj=file) as text:
            yield file, text


def _lines(path: Path, text: _Readable, longest: int) -> Iterator[bytes]:
    """Split a text into lines; whatever comes before a damaged place is given first."""
    number, line = 1, bytearray()
    try:
        while chunk := text.read1(_CHUNK):
            end, *others = chunk.split(b"\n")
            line += end[: max(0, longest + 1 - len(line))]
            for following in others:
                yield bytes(line)
                number, line = number + 1, bytearray(following)
    except (EOFError, zlib.error, OSError) as error:  # OSError: gzip's checksum and header too
        raise LogBroken(f"{path}: cannot be read from line {number} on: {error}") from None
    if line:
        yield bytes(line)
