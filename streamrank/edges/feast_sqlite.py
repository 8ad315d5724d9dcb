"""Rows in and out of Feast's SQLite store, many at a time, without an object for each value.

Feast makes five objects for each row that it writes and asks SQLite two questions; a vector is
written here byte for byte the same, from its memory, in one statement.  That also leaves alone
what is not newer, which Feast's does not: in the column that Feast fills with a value as text
stands the stamp.  What is read is what Feast reads, of all views.  Both are compared with Feast's
own in `tests/edges/test_feast_sqlite.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from string import Template

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from streamrank.edges.feast_values import bytes_of, cell_from
from streamrank.edges.store import Row
from streamrank.edges.tables import STAMP, Cell, Table, row

VALUES = "values"
CACHE = 64
"""Megabytes of the file that are kept in memory: SQLite's own two are read over and over."""
_COLUMNS = {"entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts"}


class SqliteRows:
    """Writes the rows of views whose values are one vector, and reads those of all views.

    Tables and keys that do not look as expected are left to Feast's own way: no such view is `in`.

    Args:
        path: The SQLite file, as Feast made it.
        project: Whose tables.
        tables: The tables of the views.
    """

    def __init__(self, path: Path, project: str, tables: Sequence[Table]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA cache_size={-1024 * CACHE}")
        self._known = {
            table.view: (f"{project}_{table.view}", keys(table.entity))
            for table in tables
            if self._fits(f"{project}_{table.view}", table)
        }

    def _fits(self, name: str, table: Table) -> bool:
        columns = {
            row[1] for row in self._connection.execute(f"PRAGMA table_info({_quoted(name)})")
        }
        key = EntityKey(join_keys=[table.entity], entity_values=[Value(string_val="é")])
        same: bool = serialize_entity_key(key, 3) == keys(table.entity)("é")
        return columns >= _COLUMNS and same

    def __contains__(self, table: Table) -> bool:
        return table.view in self._known

    def write(self, table: Table, rows: Sequence[Row], created: datetime) -> None:
        """Keep rows of one view, all of them or none, each where it is newer than what is there."""
        name, key = self._known[table.view]
        made = _seconds(int(created.timestamp()))
        written = [
            (
                key(row.key),
                bytes_of(row.values),
                stamp(at),
                str(at),
                _seconds(at // 1_000_000),
                made,
            )
            for row, at in ((row, row.stamp) for row in rows)
            if isinstance(row.values, np.ndarray)
        ]
        written.sort()  # neighbours are on one page
        with _transaction(self._connection):
            self._connection.executemany(_newer(name), written)

    def read(self, table: Table, names: Sequence[str]) -> list[Row | None]:
        """Return the rows by key, `None` where there is none."""
        name, key = self._known[table.view]
        kinds = table.columns
        asked = {key(one): one for one in names}
        question = f"{_rows_of(name)} ({', '.join('?' * len(asked))})"
        found: dict[str, dict[str, Cell]] = {}
        # all at once: who still reads keeps others from writing
        for entity, column, value in self._connection.execute(question, [*asked]).fetchall():
            if column in kinds:
                cells = found.setdefault(asked[entity], {})
                cells[column] = cell_from(kinds[column], value)
        return [None if one not in found else row(table, one, found[one]) for one in names]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


# --- as Feast writes them ---------------------------------------------------------------------


def keys(entity: str) -> Callable[[str], bytes]:
    r"""Return how the keys of an entity become bytes.

    Examples:
        >>> keys("item")("i1")[-10:]
        b'\x02\x00\x00\x00\x02\x00\x00\x00i1'
    """
    first = serialize_entity_key(
        EntityKey(join_keys=[entity], entity_values=[Value(string_val="")]), 3
    )
    begin = first[:-4]  # all but the length of the key

    def key(name: str) -> bytes:
        content = name.encode()
        return begin + len(content).to_bytes(4, "little") + content

    return key


def stamp(value: int) -> bytes:
    """Return a number as the bytes of Feast's `Value`."""
    return bytes(Value(int64_val=value).SerializeToString())


@lru_cache(maxsize=10_000)
def _seconds(moment: int) -> int:
    """Return what Feast's SQLite store keeps of a time: whole seconds, as if UTC were local."""
    return int(datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).timestamp())


# --- in SQLite --------------------------------------------------------------------------------


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_NEWER = Template("""
    INSERT INTO $table AS known
        (entity_key, feature_name, value, value_text, event_ts, created_ts)
    VALUES (?1, '$values', ?2, ?4, ?5, ?6), (?1, '$stamp', ?3, ?4, ?5, ?6)
    ON CONFLICT (entity_key, feature_name) DO UPDATE SET
        value = excluded.value, value_text = excluded.value_text,
        event_ts = excluded.event_ts, created_ts = excluded.created_ts
    WHERE known.value_text IS NULL
        OR CAST(excluded.value_text AS INTEGER) > CAST(known.value_text AS INTEGER)
""")


@lru_cache(maxsize=100)
def _newer(name: str) -> str:
    return _NEWER.substitute(table=_quoted(name), values=VALUES, stamp=STAMP)


@lru_cache(maxsize=100)
def _rows_of(name: str) -> str:
    wanted = "entity_key, feature_name, value"
    return f"SELECT {wanted} FROM {_quoted(name)} WHERE entity_key IN"  # noqa: S608  # nosec B608


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
