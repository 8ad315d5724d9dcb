from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from streamrank.edges import offline
from streamrank.edges.offline import OfflineLog
from streamrank.edges.store import Row
from streamrank.edges.tables import Table, tables_of
from streamrank.features.schema import Schema

NOW = 1_700_000_000_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def fields_table(**kinds: str) -> Table:
    return tables_of(Schema(item=kinds))["item_fields"]  # type: ignore[arg-type]


PRICE = fields_table(price="number")


def price(key: str, value: float, revision: int = 0) -> Row:
    return Row("item_fields", key, NOW, revision, {"price": value})


def parts(path: Path, table: Table) -> list[Path]:
    return sorted(offline.folder(path, table).glob("*.parquet"))


def records(path: Path, table: Table) -> list[dict[str, object]]:
    return [record for part in parts(path, table) for record in pq.read_table(part).to_pylist()]


def test_every_row_is_kept_with_its_exact_event_time(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path, {"item_fields": PRICE}, now=lambda: BEGIN)
    log.append([price("a", 1.0), price("a", 2.0, revision=7)])
    log.flush()
    event = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    times = [(row["event_timestamp"], row["created_timestamp"]) for row in records(tmp_path, PRICE)]
    assert times == [(event, BEGIN), (event + timedelta(microseconds=7), BEGIN)]
    assert [row["price"] for row in records(tmp_path, PRICE)] == [1.0, 2.0]


def test_a_part_is_never_touched_again(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path, {"item_fields": PRICE})
    log.append([price("a", 1.0)])
    log.flush()
    before = {part: (part.stat().st_ino, part.read_bytes()) for part in parts(tmp_path, PRICE)}
    log.append([price("b", 2.0)])
    log.flush()
    assert {part: (part.stat().st_ino, part.read_bytes()) for part in before} == before
    assert len(parts(tmp_path, PRICE)) == len(before) + 1


def test_a_part_is_written_when_enough_rows_wait(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path, {"item_fields": PRICE}, max_rows=2)
    log.append([price("a", 1.0)])
    assert records(tmp_path, PRICE) == []
    log.append([price("b", 1.0)])
    assert len(records(tmp_path, PRICE)) == 2


def test_a_part_is_written_when_the_first_row_has_waited_long_enough(tmp_path: Path) -> None:
    times = iter([BEGIN, BEGIN + timedelta(seconds=9), BEGIN + timedelta(seconds=10)])
    log = OfflineLog(
        tmp_path, {"item_fields": PRICE}, max_age=timedelta(seconds=10), now=lambda: next(times)
    )
    for count in (0, 0, 3):
        log.append([price("a", 1.0)])
        assert len(records(tmp_path, PRICE)) == count


def test_rows_of_a_view_without_a_table_are_left_out(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path, {"item_fields": PRICE})
    log.append([Row("user_fields", "u", NOW, 0, {})])
    log.flush()
    assert records(tmp_path, PRICE) == []


def test_two_logs_of_one_folder_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        log = OfflineLog(tmp_path, {"item_fields": PRICE}, now=lambda: BEGIN)
        log.append([price("a", value)])
        log.flush()
    assert sorted(str(row["price"]) for row in records(tmp_path, PRICE)) == ["1.0", "2.0"]


def test_a_new_layout_begins_with_what_the_old_one_holds(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path, {"item_fields": PRICE})
    log.append([price("a", 1.0)])
    log.flush()
    wider = fields_table(price="number", title="text")
    offline.prepare(tmp_path, [wider])
    assert [(row["item"], row["price"], row["title"]) for row in records(tmp_path, wider)] == [
        ("a", 1.0, None)
    ]


def test_a_field_of_another_kind_begins_empty(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path, {"item_fields": PRICE})
    log.append([price("a", 1.0)])
    log.flush()
    other = fields_table(price="category")
    offline.prepare(tmp_path, [other])
    assert [row["price"] for row in records(tmp_path, other)] == [None]


def test_going_back_to_an_older_layout_doubles_nothing(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path, {"item_fields": PRICE})
    log.append([price("a", 1.0)])
    log.flush()
    for table in (fields_table(price="number", title="text"), PRICE, PRICE):
        offline.prepare(tmp_path, [table])
    assert len(records(tmp_path, PRICE)) == 1


def test_windows_are_one_array(tmp_path: Path) -> None:
    table = tables_of(Schema())["item_windows"]
    log = OfflineLog(tmp_path, {"item_windows": table})
    log.append([Row("item_windows", "a", NOW, 0, np.array([1.0, 2.5]))])
    log.flush()
    assert [row["values"] for row in records(tmp_path, table)] == [[1.0, 2.5]]
