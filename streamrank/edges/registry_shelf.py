"""A model's place in the registry: its versions by name, and their manifests."""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streamrank.edges import registry_manifest
from streamrank.edges.registry_errors import (
    NameRefused,
    RegistryUnusable,
    VersionMissing,
    VersionRefused,
)
from streamrank.edges.registry_folders import MARK, Folders, folders
from streamrank.edges.registry_manifest import VERSION, Manifest

log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def shelf(root: str | Path, name: str, *below: str) -> Folders:
    """Open the folders of a model, or those of one kind below them.

    Raises:
        NameRefused: The name could lead out of the registry.
        RegistryUnusable: Nobody knows this kind of address.
    """
    if not _NAME.fullmatch(name):
        raise NameRefused(f"model name must be of letters, digits, _ and -, got {name!r}")
    try:
        return folders(root, "/".join([name, *below]))
    except (ValueError, ImportError) as error:
        raise RegistryUnusable(f"registry {root} cannot be opened: {error}") from None


@contextmanager
def usable(root: str | Path) -> Iterator[None]:
    """Let what the disk says be an error of ours that names the registry."""
    try:
        yield
    except OSError as error:
        raise RegistryUnusable(f"registry {root} cannot be used: {error}") from error


def version_names(shelf: Folders) -> list[str]:
    """Return the names of all versions, the oldest first."""
    return [name for name in shelf.names() if VERSION.fullmatch(name)]


def manifest_of(shelf: Folders, name: str, version: str) -> Manifest:
    """Read what a version is.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: Its manifest is not as it must be.
    """
    if not VERSION.fullmatch(version):
        raise NameRefused(f"version must be like 20260102T030405000000Z-0123abcd, got {version!r}")
    try:
        text = shelf.read(version, MARK)
    except (FileNotFoundError, NotADirectoryError):
        raise VersionMissing(f"there is no version {version} of {name}") from None
    found = registry_manifest.read(version, text)
    if found.name != name:
        raise VersionRefused(version, MARK, f"must be of {name}", found.name)
    return found


def readable(shelf: Folders, name: str, version: str) -> Manifest | None:
    """Read what a version is; `None` where that cannot be read, and the log says so."""
    try:
        return manifest_of(shelf, name, version)
    except VersionMissing:  # removed since it was listed
        return None
    except VersionRefused as error:
        log.error("%s", error)
        return None


def reader(shelf: Folders, version: str) -> Callable[[str], bytes]:
    """Return what reads a file of a version."""
    return lambda file: shelf.read(version, file)


def who() -> str:
    """Return how this process signs: user, machine, process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # in a container a number may have no name
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{user}@{socket.gethostname()} process {os.getpid()}"
