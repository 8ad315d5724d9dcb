"""Rows in Feast's SQLite store: as Feast itself writes and reads them, and never an older one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from feast import FeatureStore
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import DoubleList, StringList, Value
from hypothesis import given
from hypothesis import strategies as st

from streamrank.edges import feast_sqlite, feast_values, repository
from streamrank.edges.feast import FeastStore
from streamrank.edges.feast_sqlite import SqliteRows
from streamrank.edges.store import Row, View
from streamrank.edges.tables import tables_of
from streamrank.settings import FieldsSection, Secrets, Settings, StoreSection

NOW = 1_700_000_000_000
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = tables_of(Settings().feature_schema())


@given(st.lists(st.floats(), max_size=200))
def test_a_vector_is_written_as_feast_writes_it(values: list[float]) -> None:
    expected = Value(double_list_val=DoubleList(val=values)).SerializeToString()
    assert feast_values.bytes_of(np.array(values, np.float64)) == expected


@given(st.lists(st.floats(allow_nan=False), max_size=200))
def test_a_vector_that_feast_wrote_is_read(values: list[float]) -> None:
    content = Value(double_list_val=DoubleList(val=values)).SerializeToString()
    found = feast_values.cell_from("numbers", content)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == values


@pytest.mark.parametrize("value", [Value(), Value(double_val=1.0), Value(string_val="x" * 14)])
def test_what_was_stored_as_something_else_is_no_vector(value: Value) -> None:
    assert feast_values.cell_from("numbers", value.SerializeToString()) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_key_is_written_as_feast_writes_it(key: str) -> None:
    entity = EntityKey(join_keys=["user"], entity_values=[Value(string_val=key)])
    assert feast_sqlite.keys("user")(key) == serialize_entity_key(entity, 3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which Feast has made its tables."""
    path = tmp_path_factory.mktemp("feast")
    FeastStore(Settings(store=StoreSection(path=path)), Secrets()).close()
    return path


def rows_in(path: Path, table: str) -> Iterator[tuple[object, ...]]:
    with closing(sqlite3.connect(path / "online.db")) as connection:
        wanted = "feature_name, value, event_ts, created_ts"
        question = f"SELECT {wanted} FROM {table} ORDER BY entity_key, 1"  # noqa: S608
        yield from connection.execute(question)


def test_a_row_is_what_feast_itself_would_have_put_there(
    tmp_path: Path,
) -> None:
    row = Row("item_windows", "i1", NOW, 7, np.arange(5.0))
    known = Settings(store=StoreSection(path=tmp_path))
    ours = FeastStore(known, Secrets(), now=lambda: MOMENT)
    ours.write([row])
    feast = FeatureStore(config=repository.repo_config(known, Secrets(), Path()))
    [before] = [list(rows_in(tmp_path, "streamrank_item_windows"))]
    entity = EntityKey(join_keys=["item"], entity_values=[Value(string_val="i1")])
    features = {
        "values": Value(double_list_val=DoubleList(val=range(5))),
        "event_time": Value(int64_val=row.stamp),
    }
    at = datetime.fromtimestamp(row.stamp / 1e6, UTC)
    view = feast.get_feature_view("item_windows")
    feast.provider.online_write_batch(feast.config, view, [(entity, features, at, MOMENT)], None)
    assert before == list(rows_in(tmp_path, "streamrank_item_windows"))
    assert len(before) == 2


def test_a_row_that_feast_itself_put_there_is_read(tmp_path: Path) -> None:
    known = Settings(
        store=StoreSection(path=tmp_path),
        fields=FieldsSection(item={"price": "number", "title": "text", "tags": "text_list"}),
    )
    ours = FeastStore(known, Secrets(), now=lambda: MOMENT)
    feast = FeatureStore(config=repository.repo_config(known, Secrets(), Path()))
    written: dict[View, list[dict[str, Value]]] = {
        "item_windows": [
            {"values": Value(double_list_val=DoubleList(val=range(n)))} for n in (0, 1, 15, 16, 300)
        ],
        "item_fields": [
            {"price": Value(double_val=1.5), "title": Value(string_val="ä")},
            {"price": Value(), "tags": Value(string_list_val=StringList(val=["a", "b"]))},
            {"price": Value(string_val="of older settings"), "title": Value()},
        ],
    }
    for view, rows in written.items():
        feast.provider.online_write_batch(
            feast.config,
            feast.get_feature_view(view),
            [
                (
                    EntityKey(join_keys=["item"], entity_values=[Value(string_val=f"i{n}")]),
                    {**values, "event_time": Value(int64_val=NOW * 1000 + n)},
                    MOMENT,
                    MOMENT,
                )
                for n, values in enumerate(rows)
            ],
            None,
        )
    vectors = ours.rows("item_windows", ["i0", "i1", "i2", "i3", "i4"])
    assert [[*row.values] for row in vectors if row] == [[*range(n)] for n in (0, 1, 15, 16, 300)]
    assert [row.stamp for row in vectors if row] == [NOW * 1000 + n for n in range(5)]
    fields = ours.rows("item_fields", ["i1", "i0", "i2", "nobody", "i1"])
    assert [row and row.values for row in fields] == [
        {"tags": ("a", "b")},
        {"price": 1.5, "title": "ä"},
        {},
        None,
        {"tags": ("a", "b")},
    ]


def test_what_is_not_newer_is_left_alone_within_a_batch_and_between_two(path: Path) -> None:
    table = TABLES["user_windows"]
    with closing(SqliteRows(path / "online.db", "streamrank", [table])) as vectors:
        assert table in vectors
        for at, revision in ((NOW, 1), (NOW, 0), (NOW, 1), (NOW - 1, 999)):
            value = np.full(2, at + revision / 1000)
            vectors.write(table, [Row("user_windows", "u", at, revision, value)], MOMENT)
        first = list(rows_in(path, "streamrank_user_windows"))
        vectors.write(table, [Row("user_windows", "u", NOW, 2, np.zeros(2))], MOMENT)
        second = list(rows_in(path, "streamrank_user_windows"))
    assert [row[1] for row in first] == [
        feast_sqlite.stamp(NOW * 1000 + 1),
        feast_values.bytes_of(np.full(2, NOW + 0.001)),
    ]
    assert [row[1] for row in second] == [
        feast_sqlite.stamp(NOW * 1000 + 2),
        feast_values.bytes_of(np.zeros(2)),
    ]


@pytest.mark.parametrize("stamps", [(99, 100), (10**14, 10**15), (10**15 - 1, 10**17)])
def test_a_longer_stamp_is_a_newer_one(path: Path, stamps: tuple[int, int]) -> None:
    table = TABLES["item_windows"]
    with closing(SqliteRows(path / "online.db", "streamrank", [table])) as vectors:
        for at in (*stamps, stamps[0]):
            row = Row("item_windows", f"of {stamps}", at // 1000, at % 1000, np.zeros(1))
            vectors.write(table, [row], MOMENT)
        found = {row[1] for row in rows_in(path, "streamrank_item_windows")}
    assert feast_sqlite.stamp(stamps[1]) in found
    assert feast_sqlite.stamp(stamps[0]) not in found


def test_a_table_that_looks_otherwise_is_left_to_feast(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection:
        connection.execute("CREATE TABLE streamrank_item_windows (entity_key BLOB, value BLOB)")
    with closing(SqliteRows(tmp_path / "online.db", "streamrank", [*TABLES.values()])) as vectors:
        assert TABLES["item_windows"] not in vectors
