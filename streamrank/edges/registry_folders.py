"""Folders that appear whole or not at all, on a disk or in a bucket.

On a disk a folder is written aside and renamed.  A bucket has no rename: there a folder counts
once it holds its `MARK`, which is written last and only where there is none yet.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

MARK = "manifest.json"
"""The file that makes a folder whole."""
_DRAFT, _GONE = ".draft-", ".gone-"
_CREATING = Lock()
"""fsspec's own stores in memory look and then create: between two threads that is two steps."""


class Folders(Protocol):
    """Where whole folders of files are; both kinds raise `OSError` as the disk does."""

    def names(self) -> list[str]:
        """Return the whole folders, sorted by name."""

    def last(self) -> str | None:
        """Return the whole folder whose name sorts last, with as few questions as that takes."""

    def read(self, folder: str, file: str) -> bytes:
        """Return a file's content."""

    def put(self, folder: str, files: Mapping[str, bytes], same: Mapping[str, str] = {}) -> None:
        """Let a folder appear with these files, `MARK` among them.

        Args:
            folder: Its name.
            files: What its files hold.
            same: Files that another folder has too, with the folder's name.

        Raises:
            FileNotFoundError: That folder has no such file.
            FileExistsError: There is such a folder.
        """

    def remove(self, folder: str) -> None:
        """Let a folder vanish at once; its files may take longer."""

    def sweep(self, before: str) -> None:
        """Remove what writers left when they died.

        Args:
            before: Whatever was begun under a name that sorts before this one.
        """


def folders(root: str | Path, name: str) -> Folders:
    """Open the folders below `root/name`.

    Args:
        root: A path, or any address that fsspec knows (`s3://bucket/models`).
        name: The folder that holds them; it need not exist.

    Raises:
        ValueError: Nobody knows this kind of address.
        ImportError: The package that knows it is not installed.
    """
    system, path = fsspec.url_to_fs(str(root))
    if isinstance(system, LocalFileSystem):
        return DiskFolders(Path(path) / name)
    return BucketFolders(system, f"{path.rstrip('/')}/{name}")


class DiskFolders:
    """Folders on a disk, each one there by one rename.

    Args:
        path: Where they are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """Where they are."""
        return self._path

    def names(self) -> list[str]:
        """Return the whole folders, sorted by name."""
        found = (mark.parent.name for mark in self._path.glob(f"*/{MARK}"))
        return sorted(name for name in found if not name.startswith("."))

    def last(self) -> str | None:
        """Return the whole folder whose name sorts last."""
        return max(self.names(), default=None)

    def read(self, folder: str, file: str) -> bytes:
        """Return a file's content."""
        return (self._path / folder / file).read_bytes()

    def put(self, folder: str, files: Mapping[str, bytes], same: Mapping[str, str] = {}) -> None:
        """Let a folder appear with these files; what is the same costs no room."""
        draft = self._path / f"{_DRAFT}{folder}-{uuid.uuid4().hex[:8]}"
        draft.mkdir(parents=True)
        try:
            for name, content in files.items():
                _write(draft / name, content)
            for name, other in same.items():
                _link(self._path / other / name, draft / name)
            _sync(draft)
            if (self._path / folder).exists():
                raise FileExistsError(f"{self._path / folder} exists")
            draft.rename(self._path / folder)  # fails where somebody else's came in between
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
                raise FileExistsError(f"{self._path / folder} exists") from error
            raise
        _sync(self._path)

    def remove(self, folder: str) -> None:
        """Let a folder vanish at once, by a rename."""
        gone = self._path / f"{_GONE}{folder}-{uuid.uuid4().hex[:8]}"
        (self._path / folder).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self, before: str) -> None:
        """Remove what writers left when they died."""
        for path in self._path.glob(f"{_DRAFT}*"):
            if path.name.removeprefix(_DRAFT) < before:
                shutil.rmtree(path, ignore_errors=True)
        for path in self._path.glob(f"{_GONE}*"):
            shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())  # or a power cut leaves the name without the content


def _link(old: Path, new: Path) -> None:
    """Give a file one more name; where the disk cannot, copy it."""
    try:
        os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:
        _write(new, old.read_bytes())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BucketFolders:
    """Folders in a store without rename, each one there once its mark is.

    Args:
        system: fsspec's file system.
        path: Where they are in it.
    """

    def __init__(self, system: Any, path: str) -> None:
        self._system = system
        self._path = path

    def names(self) -> list[str]:
        """Return the whole folders, sorted by name."""
        return [name for name in self._all() if self._whole(name)]

    def last(self) -> str | None:
        """Return the whole folder whose name sorts last."""
        return next((name for name in reversed(self._all()) if self._whole(name)), None)

    def read(self, folder: str, file: str) -> bytes:
        """Return a file's content."""
        return bytes(self._system.cat_file(self._file(folder, file)))

    def put(self, folder: str, files: Mapping[str, bytes], same: Mapping[str, str] = {}) -> None:
        """Let a folder appear with these files, the mark last."""
        if self._whole(folder):
            raise FileExistsError(f"{self._path}/{folder} exists")
        for name, content in files.items():
            if name != MARK:
                self._system.pipe_file(self._file(folder, name), content)
        for name, other in same.items():
            self._system.cp_file(self._file(other, name), self._file(folder, name))
        with _CREATING:
            self._system.pipe_file(self._file(folder, MARK), files[MARK], mode="create")

    def remove(self, folder: str) -> None:
        """Let a folder vanish at once, by its mark."""
        self._system.rm_file(self._file(folder, MARK))
        self._system.rm(f"{self._path}/{folder}", recursive=True)

    def sweep(self, before: str) -> None:
        """Remove what writers left when they died."""
        whole = set(self.names())
        for name in self._all():
            if name not in whole and name < before:
                self._system.rm(f"{self._path}/{name}", recursive=True)

    def _all(self) -> list[str]:
        self._system.invalidate_cache()  # others write here too
        try:
            found = self._system.ls(self._path, detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in found
            if entry["type"] == "directory"
        )

    def _whole(self, folder: str) -> bool:
        return bool(self._system.exists(self._file(folder, MARK)))

    def _file(self, folder: str, file: str) -> str:
        return f"{self._path}/{folder}/{file}"
