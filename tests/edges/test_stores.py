"""The contract of a row store, which every one of them keeps."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from streamrank.edges.cache import CachedStore
from streamrank.edges.feast import FeastStore
from streamrank.edges.store import MemoryStore, Row, RowStore, Values, View
from streamrank.features import windows
from streamrank.settings import FieldsSection, Secrets, Settings, StoreSection, WindowsSection

NOW = 1_700_000_000_000
TTL = timedelta(hours=1)
FIELDS = FieldsSection(
    item={"price": "number", "kind": "category", "title": "text", "tags": "text_list"},
    user={"country": "category"},
)
SCHEMA = Settings(fields=FIELDS).feature_schema()
WIDTH = windows.width(len(SCHEMA.horizons), len(SCHEMA.channels))


def settings_with(**store: object) -> Settings:
    return Settings(
        project=f"p{uuid.uuid4().hex}",  # tests share one Redis
        fields=FIELDS,
        windows=WindowsSection(ttl=TTL),
        store=StoreSection(**store),
    )


def memory(_: pytest.FixtureRequest, __: Path) -> RowStore:
    return MemoryStore(SCHEMA, TTL)


def cached(request: pytest.FixtureRequest, path: Path) -> RowStore:
    return CachedStore(memory(request, path), max_rows=100, max_age=timedelta(seconds=1))


def sqlite(_: pytest.FixtureRequest, path: Path) -> RowStore:
    return FeastStore(settings_with(path=path), Secrets())


def redis(request: pytest.FixtureRequest, path: Path) -> RowStore:
    address = request.getfixturevalue("redis_address")
    return FeastStore(settings_with(path=path, online="redis", redis=address), Secrets())


@pytest.fixture(
    scope="module",
    params=[memory, cached, sqlite, pytest.param(redis, marks=pytest.mark.integration)],
    ids=lambda make: make.__name__,
)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RowStore:
    make: Callable[[pytest.FixtureRequest, Path], RowStore] = request.param
    return make(request, tmp_path_factory.mktemp("store"))


@pytest.fixture
def key() -> str:
    """A key that no other test has written."""
    return uuid.uuid4().hex


def price(key: str, value: float, *, at: int = NOW, revision: int = 0) -> Row:
    return Row("item_fields", key, at, revision, {"price": value})


def prices(store: RowStore, *keys: str, at: int = NOW) -> list[Values | None]:
    return store.read("item_fields", keys, at)


def test_what_was_never_written_is_missing(store: RowStore, key: str) -> None:
    assert prices(store, key) == [None]
    assert store.rows("item_windows", [key]) == [None]


def test_nothing_is_asked_for_and_nothing_comes_back(store: RowStore) -> None:
    assert prices(store) == []
    store.write([])


def test_values_come_back_in_the_order_of_the_keys_however_often_asked(
    store: RowStore, key: str
) -> None:
    store.write([price(key + "a", 1.0), price(key + "b", 2.0)])
    found = prices(store, key + "b", key, key + "a", key + "b")
    assert found == [{"price": 2.0}, None, {"price": 1.0}, {"price": 2.0}]


def test_a_batch_reads_as_one_by_one(store: RowStore, key: str) -> None:
    keys = [f"{key}-{n}" for n in range(2_500)]  # more than one batch of the store
    store.write([price(key, float(n)) for n, key in enumerate(keys)])
    assert prices(store, *keys[::100]) == [prices(store, key)[0] for key in keys[::100]]
    assert prices(store, *keys) == [{"price": float(n)} for n in range(2_500)]


def test_a_newer_row_replaces_an_older_one_whole(store: RowStore, key: str) -> None:
    store.write([Row("item_fields", key, NOW, 0, {"price": 1.0, "title": "sea view"})])
    store.write([price(key, 2.0, at=NOW + 1)])
    assert prices(store, key) == [{"price": 2.0}]


@pytest.mark.parametrize("at", [NOW - 1, NOW - 3_600_000])
def test_an_older_row_changes_nothing(store: RowStore, key: str, at: int) -> None:
    store.write([price(key, 1.0)])
    store.write([price(key, 2.0, at=at)])
    assert prices(store, key) == [{"price": 1.0}]


def test_a_correction_within_the_same_millisecond_counts(store: RowStore, key: str) -> None:
    for revision in range(3):
        store.write([price(key, float(revision), revision=revision)])
    assert prices(store, key) == [{"price": 2.0}]


def test_the_same_stamp_twice_keeps_the_first(store: RowStore, key: str) -> None:
    store.write([price(key, 1.0)])
    store.write([price(key, 2.0)])
    assert prices(store, key) == [{"price": 1.0}]


def test_of_one_batch_the_newest_row_stays_in_any_order(store: RowStore, key: str) -> None:
    rows = [price(key, float(n), revision=n) for n in (1, 3, 0, 2)]
    store.write(rows)
    assert prices(store, key) == [{"price": 3.0}]


def test_a_value_older_than_its_ttl_is_missing_to_the_millisecond(
    store: RowStore, key: str
) -> None:
    store.write([price(key, 1.0)])
    last = NOW + 3_600_000
    assert prices(store, key, at=last) == [{"price": 1.0}]
    assert prices(store, key, at=last + 1) == [None]


def test_a_row_is_given_out_however_old(store: RowStore, key: str) -> None:
    store.write([price(key, 1.0, at=10**12, revision=7)])
    [row] = store.rows("item_fields", [key])
    assert row is not None
    assert row.stamp == 10**15 + 7


def test_views_of_one_entity_do_not_touch_each_other(store: RowStore, key: str) -> None:
    store.write([price(key, 1.0), Row("item_windows", key, NOW, 0, np.ones(WIDTH))])
    store.write([Row("item_windows", key, NOW + 1, 0, np.zeros(WIDTH))])
    assert prices(store, key) == [{"price": 1.0}]
    assert store.read("user_windows", [key], NOW) == [None]


def test_a_field_that_is_not_configured_is_reported_and_not_kept(
    store: RowStore, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.write([Row("item_fields", key, NOW, 0, {"price": 1.0, key: "x"})])
    assert prices(store, key) == [{"price": 1.0}]
    assert f"item_fields: field {key!r} is not configured, and not stored" in caplog.messages


def test_a_window_must_be_a_vector(store: RowStore, key: str) -> None:
    with pytest.raises(ValueError, match=r"item_windows of .* must be a vector, got"):
        store.write([Row("item_windows", key, NOW, 0, {"price": 1.0})])


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.floats(allow_nan=False)
fields: st.SearchStrategy[Values] = st.fixed_dictionaries(
    {},
    optional={
        "price": number,
        "kind": text,
        "title": text,
        "tags": st.lists(text, max_size=3).map(tuple),
    },
)
vectors: st.SearchStrategy[Values] = st.lists(number, min_size=WIDTH, max_size=WIDTH).map(np.array)
views: list[tuple[View, st.SearchStrategy[Values]]] = [
    ("item_fields", fields),
    ("user_fields", st.fixed_dictionaries({}, optional={"country": text})),
    ("popular", st.fixed_dictionaries({"items": st.lists(text, max_size=4).map(tuple)})),
    ("item_windows", vectors),
    ("user_windows", vectors),
]


@pytest.mark.parametrize(("view", "values"), views, ids=[view for view, _ in views])
@examples(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_row_comes_back_as_it_was_written(
    store: RowStore, view: View, values: st.SearchStrategy[Values], data: st.DataObject
) -> None:
    key = uuid.uuid4().hex + data.draw(text)
    at, revision = data.draw(st.integers(10**11, 4 * 10**12)), data.draw(st.integers(0, 999))
    wrote = Row(view, key, at, revision, data.draw(values))
    store.write([wrote])
    [row] = store.rows(view, [key])
    assert row is not None
    assert (row.view, row.key, row.at, row.revision) == (view, key, at, revision)
    np.testing.assert_equal(row.values, wrote.values)
