"""One learner for each model: the second one refuses to start.

On a disk the lock is one of the operating system (`flock` on `learner.lock`), which ends with
the process that holds it, however that ends.  In a bucket it is a lease,

    <root>/<name>/learner/<number>/manifest.json

each beat of its holder's heart being the next number, which only one process can write.  Who
misses its beats for the length of the lease has lost the lock, and hears so; the clocks of the
machines must agree to well within it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict

from streamrank.edges.registry_errors import LearnerRunning, LockLost
from streamrank.edges.registry_folders import MARK, DiskFolders, Folders
from streamrank.edges.registry_shelf import shelf, usable, who

LEASE = timedelta(seconds=30)
"""How long a bucket's lock outlives a learner that died."""
FILE, _FOLDER = "learner.lock", "learner"
Clock = Callable[[], datetime]


class Lock(Protocol):
    """The right to be the learner of a model."""

    def check(self) -> None:
        """Do nothing while it is held.

        Raises:
            LockLost: Somebody else has it by now.
        """


def _utc_now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def learner_lock(
    root: str | Path,
    name: str,
    *,
    by: str | None = None,
    lease: timedelta = LEASE,
    clock: Clock = _utc_now,
) -> Iterator[Lock]:
    """Be the one learner of a model, as long as the block runs.

    Args:
        root: The registry.
        name: The model.
        by: How this learner calls itself; else user, machine and process.
        lease: In a bucket: after how long without a beat others may take over.
        clock: The time.

    Raises:
        LearnerRunning: There is one.
        RegistryUnusable: The lock cannot be written.
    """
    me, place = by or who(), shelf(root, name)
    if isinstance(place, DiskFolders) and sys.platform != "win32":
        with _on_disk(root, name, place.path, me) as lock:
            yield lock
    else:
        with _in_bucket(root, name, me, lease, clock) as lock:
            yield lock


def _refused(name: str, holder: str) -> LearnerRunning:
    return LearnerRunning(
        f"a learner of {name} runs already ({holder}): two would overwrite each other's work; "
        "stop that one first"
    )


# --- on a disk --------------------------------------------------------------------------------


class _Flock:
    def check(self) -> None:
        """The system takes it from nobody who lives."""


@contextmanager
def _on_disk(root: str | Path, name: str, folder: Path, me: str) -> Iterator[Lock]:
    with usable(root):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with usable(root):
            if not _flock(file):
                holder = os.pread(file, 1000, 0).decode(errors="replace").strip()
                raise _refused(name, holder or "it does not say which")
            os.ftruncate(file, 0)
            os.pwrite(file, f"{me}\n".encode(), 0)
        yield _Flock()
    finally:
        os.close(file)


def _flock(file: int) -> bool:
    import fcntl  # not on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- in a bucket ------------------------------------------------------------------------------


class Beat(BaseModel):
    """Who holds the lock, and until when unless the heart beats again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    holder: str
    until: AwareDatetime


class _Lease:
    def __init__(self, beats: Folders, name: str, me: str, lease: timedelta, clock: Clock) -> None:
        self._beats, self._name, self._me = beats, name, me
        self._lease, self._clock = lease, clock
        self._number, self._until = 0, clock()
        self._ended = threading.Event()

    def take(self) -> None:
        last = self._beats.last()
        beat = None if last is None else _beat(self._beats, last)
        if beat is not None and beat.until > self._clock():
            raise _refused(self._name, beat.holder)
        if not self._write(int(last or 0) + 1, self._clock() + self._lease):
            raise _refused(self._name, "it started at the same moment")

    def check(self) -> None:
        if self._clock() >= self._until:
            raise LockLost(
                f"the lock of {self._name}'s learner was not renewed within "
                f"{self._lease.total_seconds():g} s, or was taken over: this learner must stop"
            )

    def keep(self) -> None:
        """Renew it three times a lease, until it is given back or lost."""
        while not self._ended.wait(self._lease.total_seconds() / 3):
            with suppress(OSError):  # the next beat may get through
                if not self._write(self._number + 1, self._clock() + self._lease):
                    self._until = self._clock()
                    return

    def give_back(self, keeper: threading.Thread) -> None:
        self._ended.set()
        keeper.join()
        if self._clock() < self._until:
            with suppress(OSError):  # then it runs out by itself
                self._write(self._number + 1, self._clock())

    def _write(self, number: int, until: datetime) -> bool:
        beat = Beat(holder=self._me, until=until).model_dump_json().encode()
        try:
            self._beats.put(f"{number:012d}", {MARK: beat})
        except FileExistsError:
            return False
        self._number, self._until = number, until
        for old in self._beats.names():
            if int(old) < number:
                with suppress(OSError):  # somebody else removes it too
                    self._beats.remove(old)
        return True


def _beat(beats: Folders, number: str) -> Beat | None:
    try:
        return Beat.model_validate_json(beats.read(number, MARK))
    except FileNotFoundError:  # the next one has taken its place
        return None


@contextmanager
def _in_bucket(
    root: str | Path, name: str, me: str, lease: timedelta, clock: Clock
) -> Iterator[Lock]:
    held = _Lease(shelf(root, name, _FOLDER), name, me, lease, clock)
    with usable(root):
        held.take()
    keeper = threading.Thread(target=held.keep, name=f"{name}-learner-lock", daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        held.give_back(keeper)
