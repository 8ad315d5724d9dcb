"""Vectors in Feast's SQLite store: the same bytes as Feast's own, and never an older one."""

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
from feast.protos.feast.types.Value_pb2 import DoubleList, Value
from hypothesis import given
from hypothesis import strategies as st

from streamrank.edges import feast_vectors, repository
from streamrank.edges.feast import FeastStore
from streamrank.edges.feast_vectors import Vectors
from streamrank.edges.store import Row
from streamrank.edges.tables import tables_of
from streamrank.settings import Secrets, Settings, StoreSection

NOW = 1_700_000_000_000
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = tables_of(Settings().feature_schema())


@given(st.lists(st.floats(), max_size=200))
def test_a_vector_is_written_as_feast_writes_it(values: list[float]) -> None:
    expected = Value(double_list_val=DoubleList(val=values)).SerializeToString()
    assert feast_vectors.vector(np.array(values, np.float64)) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_key_is_written_as_feast_writes_it(key: str) -> None:
    entity = EntityKey(join_keys=["user"], entity_values=[Value(string_val=key)])
    assert feast_vectors.keys("user")(key) == serialize_entity_key(entity, 3)


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


def test_what_is_not_newer_is_left_alone_within_a_batch_and_between_two(path: Path) -> None:
    table = TABLES["user_windows"]
    with closing(Vectors(path / "online.db", "streamrank", [table])) as vectors:
        assert table in vectors
        for at, revision in ((NOW, 1), (NOW, 0), (NOW, 1), (NOW - 1, 999)):
            value = np.full(2, at + revision / 1000)
            vectors.write(table, [Row("user_windows", "u", at, revision, value)], MOMENT)
        first = list(rows_in(path, "streamrank_user_windows"))
        vectors.write(table, [Row("user_windows", "u", NOW, 2, np.zeros(2))], MOMENT)
        second = list(rows_in(path, "streamrank_user_windows"))
    assert [row[1] for row in first] == [
        feast_vectors.stamp(NOW * 1000 + 1),
        feast_vectors.vector(np.full(2, NOW + 0.001)),
    ]
    assert [row[1] for row in second] == [
        feast_vectors.stamp(NOW * 1000 + 2),
        feast_vectors.vector(np.zeros(2)),
    ]


@pytest.mark.parametrize("stamps", [(99, 100), (10**14, 10**15), (10**15 - 1, 10**17)])
def test_a_longer_stamp_is_a_newer_one(path: Path, stamps: tuple[int, int]) -> None:
    table = TABLES["item_windows"]
    with closing(Vectors(path / "online.db", "streamrank", [table])) as vectors:
        for at in (*stamps, stamps[0]):
            row = Row("item_windows", f"of {stamps}", at // 1000, at % 1000, np.zeros(1))
            vectors.write(table, [row], MOMENT)
        found = {row[1] for row in rows_in(path, "streamrank_item_windows")}
    assert feast_vectors.stamp(stamps[1]) in found
    assert feast_vectors.stamp(stamps[0]) not in found


def test_a_table_that_looks_otherwise_is_left_to_feast(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection:
        connection.execute("CREATE TABLE streamrank_item_windows (entity_key BLOB, value BLOB)")
    with closing(Vectors(tmp_path / "online.db", "streamrank", [*TABLES.values()])) as vectors:
        assert TABLES["item_windows"] not in vectors
