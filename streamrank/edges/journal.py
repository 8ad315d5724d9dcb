"""What came after a state was written down: appended to a file, read back up to a known length.

A learner's state is megabytes, and a snapshot is due several times a second.  So a whole state is
kept now and then, and what has come since is appended beside it; a token names both.  What lies
beyond the length that a token names was written by a run whose snapshot was not completed: it
comes again, and is cut off.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamrank.edges.checkpoints import CheckpointLost

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Journal:
    """A file of records, each with its length before it.

    Attributes:
        path: The file.

    Examples:
        >>> import tempfile
        >>> journal = Journal(Path(tempfile.mkdtemp(), "journal"))
        >>> at = journal.append(0, [b"one", b"two"])
        >>> list(journal.read(at)), list(journal.read(0))
        ([b'one', b'two'], [])
    """

    path: Path

    def append(self, at: int, records: Iterable[bytes]) -> int:
        """Write records after the first `at` bytes, and return where they end.

        Raises:
            CheckpointLost: They cannot be written, or less than `at` bytes are there.
        """
        content = b"".join(_LENGTH.pack(len(one)) + one for one in records)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "x+b") as file:
                if file.seek(0, os.SEEK_END) < at:
                    raise CheckpointLost(f"{self.path} must hold {at} bytes, got {file.tell()}")
                file.truncate(at)
                file.seek(at)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointLost(f"{self.path} cannot be written: {error}") from error
        return at + len(content)

    def read(self, until: int) -> Iterator[bytes]:
        """Give the records of the first `until` bytes.

        Raises:
            CheckpointLost: They are not there.
        """
        if not until:
            return
        try:
            with self.path.open("rb") as file:
                content = file.read(until)
        except OSError as error:
            raise CheckpointLost(f"{self.path} cannot be read: {error}") from error
        at = 0
        while at < until:
            begin = at + _LENGTH.size
            if begin > len(content):
                raise CheckpointLost(f"{self.path} must hold {until} bytes, got {len(content)}")
            at = begin + _LENGTH.unpack_from(content, at)[0]
            if at > len(content):
                raise CheckpointLost(f"{self.path} must hold {until} bytes, got {len(content)}")
            yield content[begin:at]

    def remove(self) -> None:
        """Take the file away, where there is one."""
        self.path.unlink(missing_ok=True)
