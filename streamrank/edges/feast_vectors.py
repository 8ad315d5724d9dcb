"""Vectors into Feast's SQLite store, many at a time, as the rows that Feast itself would write.

Feast makes five objects for each row and asks SQLite two questions; what is written here is byte
for byte the same (`tests/edges/test_feast_vectors.py`), from the memory of the vector, in one
statement.  That also leaves alone what is not newer, which Feast's does not: in the column that
Feast fills with a value as text stands the stamp.

References:
    Protocol Buffers, "Encoding", https://protobuf.dev/programming-guides/encoding/.
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
from feast.protos.feast.types.Value_pb2 import DoubleList, Value

from streamrank.edges.store import Row
from streamrank.edges.tables import STAMP, Table
from streamrank.features.inputs import Array

VALUES = "values"
CACHE = 64
"""Megabytes of the file that are kept in memory: SQLite's own two are read over and over."""
_COLUMNS = {"entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts"}


class Vectors:
    """Writes the rows of views whose values are one vector.

    Args:
        path: The SQLite file, as Feast made it.
        project: Whose tables.
        tables: The tables of the views.
    """

    def __init__(self, path: Path, project: str, tables: Sequence[Table]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA cache_size={-1024 * CACHE}")
        self._known = {
            table.view: (_statement(f"{project}_{table.view}"), keys(table.entity))
            for table in tables
            if self._fits(f"{project}_{table.view}", table)
        }

    def _fits(self, name: str, table: Table) -> bool:
        """Say whether Feast's table and keys look as expected; its own way is there otherwise."""
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
        statement, key = self._known[table.view]
        made = _seconds(int(created.timestamp()))
        written = [
            (key(row.key), vector(row.values), stamp(at), str(at), _seconds(at // 1_000_000), made)
            for row, at in ((row, row.stamp) for row in rows)
            if isinstance(row.values, np.ndarray)
        ]
        written.sort()  # neighbours are on one page
        with _transaction(self._connection):
            self._connection.executemany(statement, written)

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


def vector(values: Array) -> bytes:
    """Return a vector as the bytes of Feast's `Value`.

    The numbers come last in it, as they lie in memory, after what depends on their count alone.

    Examples:
        >>> vector(np.ones(1)) == Value(double_list_val=DoubleList(val=[1.0])).SerializeToString()
        True
    """
    content: bytes = values.astype(_DOUBLE, copy=False).tobytes()
    return _before(len(values)) + content


@lru_cache(maxsize=1_000)
def _before(count: int) -> bytes:
    whole: bytes = Value(double_list_val=DoubleList(val=[0.0] * count)).SerializeToString()
    return whole[: len(whole) - _DOUBLE.itemsize * count]


_DOUBLE = np.dtype("<f8")


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


def _statement(name: str) -> str:
    return _NEWER.substitute(table=_quoted(name), values=VALUES, stamp=STAMP)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
