"""What Feast does when one is not looking, and that it cannot bite here."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from pydantic import SecretStr
from redis import Redis

from streamrank.edges import repository
from streamrank.edges.feast import FeastStore
from streamrank.edges.store import Row, StoreRefused, StoreUnreachable
from streamrank.edges.views import define
from streamrank.features import windows
from streamrank.settings import (
    EventsSection,
    FieldsSection,
    Secrets,
    Settings,
    StoreSection,
    WindowsSection,
)

pytestmark = pytest.mark.filterwarnings(  # of dask, which Feast reads history with
    "ignore:Downcasting object dtype arrays:FutureWarning"
)
ROOT = Path(__file__).parents[2]
NOW = 1_700_000_000_000
SECOND, HOUR = 1000, 3_600_000


def known(path: Path, **sections: object) -> Settings:
    given: dict[str, object] = {
        "fields": FieldsSection(item={"price": "number", "tags": "text_list"}),
        "windows": WindowsSection(ttl=timedelta(hours=1)),
        "store": StoreSection(path=path),
    }
    return Settings(**(given | sections))  # type: ignore[arg-type]


def open_store(path: Path, **sections: object) -> FeastStore:
    return FeastStore(known(path, **sections), Secrets())


def on_redis(path: Path, address: str, password: str | None = None) -> FeastStore:
    store = StoreSection(path=path, online="redis", redis=address)
    secret = SecretStr(password) if password is not None else None
    project = f"p{uuid.uuid4().hex}"
    return FeastStore(known(path, store=store, project=project), Secrets(redis_password=secret))


def feast_of(path: Path) -> FeatureStore:
    return FeatureStore(config=repository.repo_config(known(path), Secrets(), Path()))


def price(key: str, value: float, *, at: int = NOW, revision: int = 0) -> Row:
    return Row("item_fields", key, at, revision, {"price": value})


def in_a_process(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_we_write_feast_itself_reads(tmp_path: Path) -> None:
    open_store(tmp_path).write(
        [
            Row("item_fields", "i1", NOW, 0, {"price": 71.0, "tags": ("beach", "sea")}),
            Row("item_windows", "i1", NOW, 0, np.arange(4.0)),
        ]
    )
    features = ["item_fields:price", "item_fields:tags", "item_windows:values"]
    found = feast_of(tmp_path).get_online_features(features, [{"item": "i1"}, {"item": "i2"}])
    assert found.to_dict() == {
        "item": ["i1", "i2"],
        "price": [71.0, None],
        "tags": [["beach", "sea"], None],
        "values": [[0.0, 1.0, 2.0, 3.0], None],
    }


def test_feast_gives_out_what_is_past_its_ttl_and_the_store_does_not(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write([price("i1", 1.0)])
    found = feast_of(tmp_path).get_online_features(["item_fields:price"], [{"item": "i1"}])
    assert found.to_dict()["price"] == [1.0]  # years old, with a TTL of an hour
    assert store.read("item_fields", ["i1"], NOW + HOUR + 1) == [None]


@pytest.mark.slow
def test_an_event_time_is_kept_to_the_microsecond_in_any_time_zone(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from streamrank.edges.feast import FeastStore
from streamrank.edges.store import Row
from streamrank.settings import *
fields = FieldsSection(item={"price": "number"})
settings = Settings(fields=fields, store=StoreSection(path=Path(sys.argv[1])))
store = FeastStore(settings, Secrets())
if sys.argv[2] == "write":
    store.write([Row("item_fields", "i1", 1698541200123, 7, {"price": 1.0})])
print(store.rows("item_fields", ["i1"])[0].stamp)
"""
    # Two in the morning of the day when clocks go back: local time says it twice.
    wrote = in_a_process(code, str(tmp_path), "write", TZ="Europe/Paris").communicate()
    read = in_a_process(code, str(tmp_path), "read", TZ="America/New_York").communicate()
    assert wrote[0] == read[0] == "1698541200123007\n", wrote[1] + read[1]


def test_what_is_no_longer_known_of_an_item_is_gone_from_feast_too(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write([Row("item_fields", "i1", NOW, 0, {"price": 1.0, "tags": ("a",)})])
    store.write([Row("item_fields", "i1", NOW + 1, 0, {"tags": ()})])
    features = ["item_fields:price", "item_fields:tags"]
    found = feast_of(tmp_path).get_online_features(features, [{"item": "i1"}]).to_dict()
    assert (found["price"], found["tags"]) == ([None], [[]])


def test_a_value_stored_as_another_kind_is_missing(tmp_path: Path) -> None:
    open_store(tmp_path).write([price("i1", 1.0)])
    other = open_store(tmp_path, fields=FieldsSection(item={"price": "category"}))
    assert other.read("item_fields", ["i1"], NOW) == [{}]


def test_fields_may_have_any_name(tmp_path: Path) -> None:
    names = ["item", "values", "event_time", "a b", "a:b", "é", "__x", "a'\"b", "select"]
    kinds = dict.fromkeys(names, "number")
    store = open_store(tmp_path, fields=FieldsSection(item=kinds))
    values = {name: float(n) for n, name in enumerate(names)}
    store.write([Row("item_fields", "i1", NOW, 0, values)])
    assert store.read("item_fields", ["i1"], NOW) == [values]
    store.close()


def test_the_registry_says_what_the_settings_say(tmp_path: Path) -> None:
    open_store(tmp_path)
    feast = feast_of(tmp_path)
    views = {view.name: view for view in feast.list_feature_views()}
    assert set(views) == {"item_windows", "user_windows", "item_next", "item_fields", "popular"}
    assert {field.name for field in views["item_fields"].features} == {
        "price",
        "tags",
        "event_time",
    }
    assert views["item_fields"].ttl == timedelta(hours=1)
    assert [service.name for service in feast.list_feature_services()] == ["ranker"]


def test_starting_again_changes_nothing_in_the_registry(tmp_path: Path) -> None:
    open_store(tmp_path)
    before = feast_of(tmp_path).list_feature_views()
    open_store(tmp_path)
    after = feast_of(tmp_path).list_feature_views()
    assert after == before
    versions = [[view.current_version_number for view in views] for views in (before, after)]
    assert versions[0] == versions[1]


def test_changed_settings_change_the_registry_and_keep_the_values(tmp_path: Path) -> None:
    open_store(tmp_path).write([price("i1", 1.0)])
    more = FieldsSection(item={"price": "number", "title": "text"})
    store = open_store(tmp_path, fields=more)
    assert store.read("item_fields", ["i1"], NOW) == [{"price": 1.0}]
    features = feast_of(tmp_path).get_feature_view("item_fields").features
    assert "title" in {field.name for field in features}


def test_no_request_waits_for_the_registry(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write([price("i1", 1.0)])
    (tmp_path / "registry.db").unlink()
    store.write([price("i2", 2.0)])
    assert store.read("item_fields", ["i1", "i2"], NOW) == [{"price": 1.0}, {"price": 2.0}]


def test_the_registry_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    open_store(tmp_path)
    feast = feast_of(tmp_path)
    with ThreadPoolExecutor() as pool:
        objects = define(known(tmp_path), Path()).objects()
        busy = pool.submit(lambda: [feast.apply(objects) for _ in range(20)])
        while not busy.done():
            assert len(feast_of(tmp_path).list_feature_views()) == 5
        busy.result()


@pytest.mark.slow
def test_processes_that_start_at_once_all_find_everything(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from streamrank.edges.feast import FeastStore
from streamrank.edges.store import Row
from streamrank.settings import *
fields = FieldsSection(item={"price": "number"})
settings = Settings(fields=fields, store=StoreSection(path=Path(sys.argv[1])))
print("imported", flush=True)
sys.stdin.readline()
for n in range(20):
    store = FeastStore(settings, Secrets())
    store.write([Row("item_fields", f"{sys.argv[2]}-{n}", 1700000000000, 0, {"price": 1.0})])
print(len(store.rows("item_fields", [f"{sys.argv[2]}-{n}" for n in range(20)])))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("features", "rank")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "imported\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in ends] == ["20\n", "20\n"], ends


def test_a_reader_is_not_kept_waiting_by_a_writer(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write([price("i1", 1.0)])
    with closing(sqlite3.connect(tmp_path / "online.db", isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("DELETE FROM streamrank_item_fields")
        assert store.read("item_fields", ["i1"], NOW) == [{"price": 1.0}]
        writer.execute("ROLLBACK")


def test_threads_write_and_read_at_once_and_lose_nothing(tmp_path: Path) -> None:
    writer, reader = open_store(tmp_path), open_store(tmp_path)

    def write(worker: int) -> None:
        for n in range(30):
            writer.write([price(f"{worker}-{n}-{m}", float(m)) for m in range(20)])

    def read(worker: int) -> None:
        for n in range(30):
            found = reader.read("item_fields", [f"{worker}-{n}-{m}" for m in range(20)], NOW)
            assert all(values in (None, {"price": float(m)}) for m, values in enumerate(found))

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(job, worker) for job in (write, read) for worker in (0, 1)]
        for job in jobs:
            job.result()
    keys = [f"{w}-{n}-{m}" for w in (0, 1) for n in range(30) for m in range(20)]
    assert None not in reader.read("item_fields", keys, NOW)


def test_a_store_that_others_lock_for_long_is_reported(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "online.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreRefused, match=f"SQLite in {tmp_path} .*: database is locked"):
            store.write([price("i1", 1.0)])
        other.execute("ROLLBACK")
    store.write([price("i1", 1.0)])


def test_a_broken_file_is_reported_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"this is no database, " * 100)
    with pytest.raises(StoreRefused, match=f"SQLite in {tmp_path} .*: file is not a database"):
        open_store(tmp_path)


def test_a_broken_registry_is_reported_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"\xff\xff not a registry")
    with pytest.raises(StoreRefused, match=r"registry\.db must be a registry of Feast"):
        open_store(tmp_path)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreRefused, match=r"must be usable: .*file"):
        open_store(tmp_path / "file" / "feast")


def test_what_was_written_is_in_the_log_after_close(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write([price("i1", 1.0, at=NOW), price("i2", 2.0, at=NOW)])
    store.write([price("i1", 3.0, at=NOW + HOUR // 2, revision=5)])
    store.close()
    found = history(tmp_path, [("i1", NOW), ("i1", NOW + HOUR // 2 + 1), ("i2", NOW + 1)])
    assert found == [1.0, 3.0, 2.0]


def history(path: Path, asked: Sequence[tuple[str, int]]) -> list[float | None]:
    """Ask Feast what was known of the price of these items at these times (ms).

    Feast's file store leaves out the questions that it has no answer to.
    """
    moments = pd.to_datetime([at for _, at in asked], unit="ms", utc=True)
    keys = [key for key, _ in asked]
    entities = pd.DataFrame({"item": keys, "event_timestamp": moments, "place": range(len(asked))})
    job = feast_of(path).get_historical_features(entities, ["item_fields:price"])
    found = job.to_df().set_index("place")["price"].to_dict()
    return [found.get(place) for place in range(len(asked))]


def test_history_never_tells_what_was_not_known_yet(tmp_path: Path) -> None:
    """One item, worth 1 from second 0 and 2 from second 10, with a TTL of an hour.

    second  -1    0    9   10   3610  3611
    price    -    1    1    2     2     -
    """
    store = open_store(tmp_path)
    store.write([price("i1", 2.0, at=NOW + 10 * SECOND)])  # out of order, as late events are
    store.write([price("i1", 1.0, at=NOW)])
    store.flush()
    seconds = [-1, 0, 9, 10, 3610, 3611]
    found = history(tmp_path, [("i1", NOW + second * SECOND) for second in seconds])
    assert found == [None, 1.0, 1.0, 2.0, 2.0, None]


def test_history_reads_windows_of_many_parts(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    schema = known(tmp_path).feature_schema()
    width = windows.width(len(schema.horizons), len(schema.channels))
    for n in range(3):
        store.write([Row("item_windows", "i1", NOW + n, 0, np.full(width, float(n)))])
        store.flush()
    moment = datetime.fromtimestamp((NOW + 1) / 1000, UTC)
    entities = pd.DataFrame({"item": ["i1"], "event_timestamp": [moment]})
    job = feast_of(tmp_path).get_historical_features(entities, ["item_windows:values"])
    assert [list(values) for values in job.to_df()["values"]] == [[1.0] * width]


def test_a_user_keyed_by_session_is_a_key_like_any_other(tmp_path: Path) -> None:
    store = open_store(tmp_path, events=EventsSection(interactions=("click", "buy")))
    keys = ["u1", "s:1", "ключ", "a\0b", "x" * 512]
    store.write([Row("user_windows", key, NOW, 0, np.ones(3)) for key in keys])
    assert None not in store.rows("user_windows", keys)


def refused_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_redis_that_does_not_answer_is_named(tmp_path: Path) -> None:
    address = refused_address()
    with pytest.raises(StoreUnreachable, match=f"Redis at {address} must answer: .*refused"):
        on_redis(tmp_path, address)


def test_a_password_in_the_settings_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="STREAMRANK_REDIS_PASSWORD") as refusal:
        on_redis(tmp_path, "127.0.0.1:6379,password=tiger")
    assert "tiger" not in str(refusal.value)


@pytest.fixture
def redis_with(redis_address: str) -> Iterator[Callable[[str], str]]:
    """Let Redis ask for a password; the address is the same."""
    host, port = redis_address.split(":")
    with closing(Redis(host=host, port=int(port))) as client:

        def ask_for(password: str) -> str:
            client.config_set("requirepass", password)
            client.auth(password)
            return redis_address

        yield ask_for
        client.config_set("requirepass", "")


@pytest.mark.integration
def test_a_correction_within_a_millisecond_reaches_redis(
    tmp_path: Path, redis_address: str
) -> None:
    store = on_redis(tmp_path, redis_address)
    for revision in range(3):
        store.write([price("i1", float(revision), revision=revision)])
    assert store.read("item_fields", ["i1"], NOW) == [{"price": 2.0}]


@pytest.mark.integration
@pytest.mark.parametrize("password", ["tiger", "1234", "null", 'a,b=c "d" \\ é'])
def test_any_password_opens_redis_and_is_written_nowhere(
    tmp_path: Path,
    password: str,
    redis_with: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = redis_with(password)
    store = on_redis(tmp_path, address, password)
    store.write([price("i1", 1.0)])
    store.close()
    assert store.read("item_fields", ["i1"], NOW) == [{"price": 1.0}]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if password.encode() in file.read_bytes()]
    assert password not in caplog.text


@pytest.mark.integration
@pytest.mark.parametrize("password", [None, "lion"])
def test_a_wrong_password_is_refused_and_not_repeated(
    tmp_path: Path, password: str | None, redis_with: Callable[[str], str]
) -> None:
    with pytest.raises(StoreRefused, match="STREAMRANK_REDIS_PASSWORD") as refusal:
        on_redis(tmp_path, redis_with("tiger"), password)
    assert "lion" not in str(refusal.value)
