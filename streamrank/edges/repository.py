"""Where Feast keeps what: one answer for the flows and for people who work with Feast.

    <store.path>/registry.db     what is defined
    <store.path>/online.db       the newest values (SQLite), or Redis
    <store.path>/offline/        every value that was written (`edges.offline`)

The flows ask `repo_config`.  `feature_repo/feature_store.yaml` names the two classes at the end
of this module, which ask the same settings: there is nothing to keep in step by hand, and no
password in a file.

A relative path in the settings is relative to the project's folder: where the flows are started,
and where `streamrank.toml` is.  Feast's commands are started elsewhere (`feast apply` goes to
`feature_repo/` by itself), so for them `located` looks for that folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import RepoConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStoreConfig
from feast.infra.registry.registry_store import RegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig, load_repo_config
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from streamrank import settings
from streamrank.edges import offline
from streamrank.edges.store import StoreRefused
from streamrank.edges.tables import tables_of
from streamrank.settings import Secrets, Settings

SETTINGS_FILE = "streamrank.toml"
_YAML = Path("feature_repo/feature_store.yaml")
WAIT = timedelta(seconds=5)
"""Within what Redis must answer."""


def located() -> tuple[Settings, Path]:
    """Find the project from wherever Feast was started, and read its settings.

    The project's folder is the nearest one, from here upwards, with a `streamrank.toml` or a
    `feature_repo`; else the one of the file that $STREAMRANK_SETTINGS names.

    Returns:
        The settings and the project's folder.

    Raises:
        StoreRefused: There is no project.
    """
    named = os.environ.get(settings.SETTINGS_VARIABLE)
    root = _project(Path.cwd()) or (Path(named).resolve().parent if named else None)
    if root is None:
        raise StoreRefused(
            f"Feast must be started in a folder with {SETTINGS_FILE} or {_YAML}, or below one, "
            f"or ${settings.SETTINGS_VARIABLE} must name the settings; got {Path.cwd()}"
        )
    file = root / (named or SETTINGS_FILE)
    return settings.load(file if named or file.exists() else None), root


def _project(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        if (folder / SETTINGS_FILE).exists() or (folder / _YAML).exists():
            return folder
    return None


def store_path(known: Settings, root: Path) -> Path:
    """Return the folder of the store's files."""
    return (root / known.store.path).resolve()


def repo_config(
    known: Settings, secrets: Secrets, root: Path, wait: timedelta = WAIT
) -> RepoConfig:
    """Return Feast's configuration: what it would read from `feature_store.yaml`."""
    return RepoConfig(
        project=known.project,
        provider="local",
        registry=RegistryConfig(
            registry_store_type=f"{__name__}.{SettingsRegistryStore.__name__}",
            path=str(store_path(known, root) / "registry.db"),
            cache_ttl_seconds=0,  # never refreshed, so never in the way of a request
        ),
        online_store=online_config(known, secrets, root, wait),
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
    )


def online_config(known: Settings, secrets: Secrets, root: Path, wait: timedelta = WAIT) -> Any:
    """Return Feast's configuration of the online store.

    Raises:
        StoreRefused: The settings hold a password.
    """
    if known.store.online == "sqlite":
        return SqliteOnlineStoreConfig(path=str(store_path(known, root) / "online.db"))
    from feast.infra.online_stores.redis import RedisOnlineStoreConfig

    return RedisOnlineStoreConfig(connection_string=_redis_address(known, secrets, wait))


def _redis_address(known: Settings, secrets: Secrets, wait: timedelta) -> str:
    address = known.store.redis
    if "password=" in address:
        raise StoreRefused(
            f"store.redis must be host:port, with the password in STREAMRANK_REDIS_PASSWORD, "
            f"got a password at {address.partition(',')[0]}"
        )
    options = [
        address,
        f"socket_timeout={wait.total_seconds():g}",
        f"socket_connect_timeout={wait.total_seconds():g}",
        "retry=null",  # by default it tries for seconds before it says that nobody answers
    ]
    if secrets.redis_password is not None:
        # Feast splits the options at commas and reads JSON: "1234" is a number without quotes.
        quoted = json.dumps(secrets.redis_password.get_secret_value()).replace(",", "\\u002c")
        options.append(f"password={quoted}")
    return ",".join(options)


def prepare(known: Settings, root: Path) -> None:
    """Make the folders that Feast expects, and an SQLite file that many may use at once."""
    path = store_path(known, root)
    path.mkdir(parents=True, exist_ok=True)
    offline.prepare(path, tables_of(known.feature_schema()).values())
    if known.store.online == "sqlite":
        with closing(sqlite3.connect(path / "online.db", timeout=30)) as connection:
            # Kept in the file: readers and the writer no longer wait for each other.
            connection.execute("PRAGMA journal_mode=WAL")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let one process at a time change what is defined in this folder."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_project(known: Settings, file: Path) -> None:
    """Make sure that `feature_store.yaml` names the project of the settings.

    Raises:
        StoreRefused: It names another one, under which nobody would find anything.
    """
    named = load_repo_config(file.parent, file).project
    if named != known.project:
        raise StoreRefused(f"project in {file} must be {known.project!r}, got {named!r}")


class SettingsOnlineStoreConfig:
    """What `type: streamrank.edges.repository.SettingsOnlineStore` means: SQLite or Redis.

    Feast reads it from the settings instead of from its own file; what it gets is one of its own.
    """

    def __new__(cls, **_: object) -> Any:
        """Return the configuration of the store that the settings name."""
        known, root = located()
        return online_config(known, Secrets(), root)


class SettingsRegistryStore(RegistryStore):
    """Feast's registry as a file that is always whole.

    Feast's own way empties the file before it writes it: whoever reads meanwhile sees nothing.

    Args:
        config: With the path of the file; without one, where the settings say.
        repo_path: Not needed.
    """

    def __init__(self, config: RegistryConfig, repo_path: Path | None) -> None:
        known_path = config.path or store_path(*located()) / "registry.db"
        self._file = Path(known_path)

    def get_registry_proto(self) -> Registry:
        """Return what the file holds.

        Raises:
            FileNotFoundError: There is none yet.
            StoreRefused: The file is broken.
        """
        registry, content = Registry(), self._file.read_bytes()
        try:
            registry.ParseFromString(content)
        except DecodeError as error:
            raise StoreRefused(f"{self._file} must be a registry of Feast: {error}") from error
        return registry

    def update_registry_proto(self, registry_proto: Registry) -> None:
        """Replace the file."""
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.GetCurrentTime()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_name(f".registry-{uuid.uuid4().hex}")
        draft.write_bytes(registry_proto.SerializeToString())
        draft.replace(self._file)

    def teardown(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)
