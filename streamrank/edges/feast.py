"""Feast behind the store's door: the online store, and beside it the append-only log.

Values go in and out by `Provider.online_write_batch` and `Provider.online_read`, the interface
that Feast's own `write_to_online_store` and `get_online_features` stand on, with the feature
views at hand: no data frames, no registry in the way of a request.  Everything is stored as
Feast stores it, so its own calls read the same values.  A window is one array, not one feature
for each of its counts.  `tests/benchmarks/feast.py` compares the ways in one run.

What Feast leaves open is closed here:

- It makes five objects for a row, and a row is two questions to SQLite: vectors go in as bytes, by
  one, and all rows come out so (`edges.feast_sqlite`).
- Its SQLite store keeps whole seconds and lets an older row replace a newer one: the time is a
  column of its own, in microseconds, and what is not newer is not written.
- It hands out values however old: readers go through `fresh`.
- It takes any column without a word: rows are brought to the configured fields (`conform`).
- It applies definitions without a lock: whoever starts first applies them, the others wait.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TypeVar

from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisUnreachable
from redis.exceptions import TimeoutError as RedisTimeout

from streamrank.edges import repository, tables
from streamrank.edges.feast_sqlite import SqliteRows
from streamrank.edges.feast_values import cell_of, value_of
from streamrank.edges.offline import OfflineLog, utc_now
from streamrank.edges.store import (
    Row,
    StoreRefused,
    StoreUnreachable,
    Values,
    View,
    conform,
    fresh,
    kinds_of,
    newest,
)
from streamrank.edges.tables import Cell, Table
from streamrank.edges.views import define
from streamrank.settings import Secrets, Settings

log = logging.getLogger(__name__)
BATCH = 1_000
"""How many rows go to the online store at once; SQLite takes 32,766 keys in one question."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
T = TypeVar("T")
_Features = dict[str, Value]
_Written = tuple[EntityKey, _Features, datetime, datetime | None]


class FeastStore:
    """A feature store on Feast, in SQLite or in Redis.

    It applies its definitions itself.  Threads may share it, and processes its files.

    Args:
        settings: The fields, the store and its folder.
        secrets: The password of Redis.
        root: What a relative `store.path` is relative to.
        wait: Within what Redis must answer.
        now: The clock.
        patient: Whether Redis may be away while the store is opened.

    Raises:
        StoreUnreachable: The store does not answer.
        StoreRefused: It answers, and says no.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        *,
        root: Path = Path(),
        wait: timedelta = repository.WAIT,
        now: Callable[[], datetime] = utc_now,
        patient: bool = False,
    ) -> None:
        schema = settings.feature_schema()
        path = repository.store_path(settings, root)
        redis = settings.store.online == "redis"
        self.ttl = settings.windows.ttl
        self.degraded = False  # it answers, or raises
        self._name = f"Redis at {settings.store.redis}" if redis else f"SQLite in {path}"
        self._keeps_order = redis
        self._kinds = kinds_of(schema)
        self._tables = tables.tables_of(schema)
        self._lock = Lock()
        self._now = now
        defined = define(settings, root)
        self._views = defined.views
        with self._mapped():
            self._config = repository.repo_config(settings, secrets, root, wait)
            feast = FeatureStore(config=self._config)
            with repository.held(path):
                repository.prepare(settings, root)
                feast.apply(defined.objects())
            self._provider = feast.provider
            self._log = OfflineLog(path, self._tables, now=now)
            self._sqlite: SqliteRows | None = None
            if not redis:
                self._sqlite = SqliteRows(
                    path / "online.db", settings.project, [*self._tables.values()]
                )
        try:
            self.rows("popular", ["all"])  # what does not work should not work from the start
        except StoreUnreachable as error:
            if not patient:
                raise
            log.warning("%s; begun without it", error)

    def write(self, rows: Sequence[Row]) -> None:
        """Keep these rows, each one replacing an older one of its view and key."""
        kept = [conform(row, self._kinds) for row in newest(rows)]
        by_view: dict[View, list[Row]] = {}
        for row in kept:
            by_view.setdefault(row.view, []).append(row)
        for view, rows in by_view.items():
            if (table := self._tables.get(view)) is not None:
                with self._mapped(), self._lock:
                    self._keep(table, rows)
        with self._mapped():
            self._log.append(kept)

    def read(self, view: View, keys: Sequence[str], at: int) -> list[Values | None]:
        """Return the values by key, `None` where missing or, at `at` (ms), past their TTL."""
        return fresh(self.rows(view, keys), at, self.ttl)

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        """Return the newest rows by key, however old, `None` where there is none."""
        table = self._tables.get(view)
        if table is None:
            return [None] * len(keys)
        found: list[Row | None] = []
        for batch in _batches(keys):
            with self._mapped(), self._lock:
                found += self._get(table, batch)
        return found

    def flush(self) -> None:
        """Write what the offline log still holds back."""
        with self._mapped():
            self._log.flush()

    def close(self) -> None:
        """Write what is held back; the store is not used after this."""
        self.flush()
        if self._sqlite is not None:
            self._sqlite.close()

    def _keep(self, table: Table, rows: Sequence[Row]) -> None:
        if self._sqlite is not None and table in self._sqlite and not table.fields:
            self._sqlite.write(table, rows, self._now())
            return
        for batch in _batches(rows):
            self._put(table, batch)

    def _put(self, table: Table, rows: Sequence[Row]) -> None:
        if not self._keeps_order:
            known = self._get(table, [row.key for row in rows])
            pairs = zip(rows, known, strict=True)
            rows = [row for row, old in pairs if old is None or old.stamp < row.stamp]
        if rows:
            created = self._now()
            data: list[_Written] = [
                (_entity(table, row.key), _features(table, row), _moment(row), created)
                for row in rows
            ]
            self._provider.online_write_batch(self._config, self._views[table.view], data, None)

    def _get(self, table: Table, keys: Sequence[str]) -> list[Row | None]:
        if self._sqlite is not None and table in self._sqlite:
            return self._sqlite.read(table, keys)
        found = self._provider.online_read(
            self._config,
            self._views[table.view],
            [_entity(table, key) for key in keys],
            list(table.columns),
        )
        return [
            None if features is None else tables.row(table, key, _cells(table, features))
            for key, (_, features) in zip(keys, found, strict=True)
        ]

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn the libraries' errors into those of `edges.store`."""
        try:
            yield
        except AuthenticationError as error:
            hint = "set STREAMRANK_REDIS_PASSWORD"
            raise StoreRefused(f"{self._name} must let us in: {error} ({hint})") from error
        except (RedisUnreachable, RedisTimeout) as error:
            raise StoreUnreachable(f"{self._name} must answer: {error}") from error
        except (RedisError, sqlite3.Error, OSError) as error:
            raise StoreRefused(f"{self._name} must be usable: {error}") from error


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), BATCH):
        yield values[start : start + BATCH]


def _entity(table: Table, key: str) -> EntityKey:
    return EntityKey(join_keys=[table.entity], entity_values=[Value(string_val=key)])


def _moment(row: Row) -> datetime:
    return _EPOCH + timedelta(microseconds=row.stamp)


def _features(table: Table, row: Row) -> dict[str, Value]:
    """Return every column, so that a value that is no longer known goes too."""
    return {
        name: value_of(table.columns[name], cell) for name, cell in tables.cells(table, row).items()
    }


def _cells(table: Table, features: _Features) -> dict[str, Cell]:
    return {
        name: cell_of(kind, features[name])
        for name, kind in table.columns.items()
        if name in features
    }
