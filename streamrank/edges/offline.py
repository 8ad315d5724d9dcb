"""The offline log: every row that was written, in append-only Parquet parts.

    <path>/offline/<view>-<layout>/<time>-<worker>-<n>.parquet

Feast's historical retrieval reads such a folder as one table.  A part appears by a rename and is
never touched again (Feast's own way to push rewrites the whole file each time).  Parts of one
folder have one layout, or Feast could not read them: where the configured fields change, a new
folder begins with what the older ones hold.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamrank.edges.store import Row, Values, View
from streamrank.edges.tables import CREATED, EVENT_TIMESTAMP, STAMP, Table, Type, cells

_TYPES: Mapping[Type, pa.DataType] = {
    "number": pa.float64(),
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "numbers": pa.list_(pa.float64()),
    "stamp": pa.int64(),
}
_MOMENT = pa.timestamp("us", tz="UTC")
_EMPTY = "0-layout.parquet"
"""A part without rows: Feast cannot read a folder without parts."""


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def layout(table: Table) -> pa.Schema:
    """Return the columns of a table's parts and their types."""
    return pa.schema(
        [
            (table.entity, pa.string()),
            (EVENT_TIMESTAMP, _MOMENT),
            (CREATED, _MOMENT),
            *((name, _TYPES[kind]) for name, kind in sorted(table.columns.items())),
        ]
    )


def folder(path: Path, table: Table) -> Path:
    """Return where the parts of a table are; another layout has another folder."""
    digest = hashlib.sha256(str(layout(table)).encode()).hexdigest()[:8]
    return path / "offline" / f"{table.view}-{digest}"


def prepare(path: Path, tables: Iterable[Table]) -> None:
    """Make the folders that Feast reads, with what folders of another layout hold."""
    for table in tables:
        here, wanted = folder(path, table), layout(table)
        here.mkdir(parents=True, exist_ok=True)
        if not (here / _EMPTY).exists():
            _put(path, here / _EMPTY, wanted.empty_table())
        for old in sorted(here.parent.glob(f"{table.view}-*/*.parquet")):
            if not (here / old.name).exists():
                _put(path, here / old.name, _carried(pq.read_table(old), wanted))


def _carried(old: pa.Table, wanted: pa.Schema) -> pa.Table:
    """Give rows another layout; a column that was not there, or of another type, is empty."""
    columns = [
        old[column.name]
        if column.name in old.column_names and old.schema.field(column.name).type == column.type
        else pa.nulls(len(old), column.type)
        for column in wanted
    ]
    return pa.table(columns, schema=wanted)


def _repeating(schema: pa.Schema) -> list[str]:
    """Return the columns of words."""
    words = [one.name for one in schema if pa.types.is_string(one.type)]
    lists = [one.name for one in schema if one.type == _TYPES["texts"]]
    return [*words, *(f"{name}.list.element" for name in lists)]


def _put(path: Path, part: Path, table: pa.Table) -> None:
    """Let a part appear whole, or not at all."""
    aside = path / "offline" / ".writing"  # not beside the parts: Feast would read it there
    aside.mkdir(parents=True, exist_ok=True)
    draft = aside / f"{uuid.uuid4().hex}.parquet"
    # Of numbers that hardly repeat a dictionary costs twice the time, and saves nothing.
    pq.write_table(table, draft, use_dictionary=_repeating(table.schema))
    draft.replace(part)


class OfflineLog:
    """Where one process writes its rows, a part for many of them.

    Rows wait until there are `max_rows` of them, or until the first one has waited for `max_age`
    when others come, or `flush`.  What waits is lost with a killed process; the online store has
    it all the same.

    Args:
        path: The store's folder.
        tables: The tables by view; rows of other views are not kept.
        max_rows: How many rows may wait.
        max_age: How long rows may wait.
        now: The clock.
    """

    def __init__(
        self,
        path: Path,
        tables: Mapping[View, Table],
        *,
        max_rows: int = 50_000,
        max_age: timedelta = timedelta(seconds=30),
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._path = path
        self._tables = tables
        self._max_rows = max_rows
        self._max_age = max_age
        self._now = now
        self._worker = f"{os.getpid()}{uuid.uuid4().hex[:8]}"
        self._parts = 0
        self._waiting: list[tuple[Row, datetime]] = []
        self._lock = Lock()
        prepare(path, tables.values())

    def append(self, rows: Sequence[Row]) -> None:
        """Take rows in, and write parts when it is time."""
        now = self._now()
        with self._lock:
            self._waiting += [(row, now) for row in rows if row.view in self._tables]
            if not self._waiting:
                return
            full = len(self._waiting) >= self._max_rows
            if full or now - self._waiting[0][1] >= self._max_age:
                self._write(now)

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            if self._waiting:
                self._write(self._now())

    def _write(self, now: datetime) -> None:
        waiting: dict[View, list[tuple[Row, datetime]]] = {}
        for one in self._waiting:
            waiting.setdefault(one[0].view, []).append(one)
        for view, rows in waiting.items():
            table = self._tables[view]
            name = f"{now:%Y%m%dT%H%M%S%f}-{self._worker}-{self._parts}.parquet"
            _put(self._path, folder(self._path, table) / name, _as_table(table, rows))
            self._parts += 1
        self._waiting.clear()


def _as_table(table: Table, waiting: Sequence[tuple[Row, datetime]]) -> pa.Table:
    schema = layout(table)
    return pa.table(list(_columns(table, schema, waiting)), schema=schema)


def _columns(
    table: Table, schema: pa.Schema, waiting: Sequence[tuple[Row, datetime]]
) -> Iterator[pa.Array]:
    stamps = np.array([row.stamp for row, _ in waiting], np.int64)
    yield pa.array([row.key for row, _ in waiting], pa.string())
    yield pa.array(stamps).cast(_MOMENT)
    yield pa.array([created for _, created in waiting], _MOMENT)
    if not table.fields:  # vectors stay arrays: there are many of them
        columns = {STAMP: pa.array(stamps), "values": _lists([row.values for row, _ in waiting])}
        yield from (columns[column.name] for column in list(schema)[3:])
        return
    records = [cells(table, row) for row, _ in waiting]
    for column in list(schema)[3:]:
        yield pa.array([record[column.name] for record in records], column.type)


def _lists(vectors: Sequence[Values]) -> pa.Array:
    found = [one for one in vectors if isinstance(one, np.ndarray)]
    ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(found)))
