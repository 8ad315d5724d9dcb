"""A log, line by line."""

from __future__ import annotations

import gzip
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrank.edges.log import LogBroken, LogError, LogMissing, records
from streamrank.errors import StreamRankError
from streamrank.events import decode


def write(path: Path, content: bytes, *, packed: bool = False) -> Path:
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def read(path: Path, longest: int = 1_000_000) -> list[tuple[int, bytes]]:
    return [(one.offset, one.value) for one in records(path, "events", longest=longest)]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_each_line_is_a_record_and_its_number_the_offset(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "log", b'{"a":1}\n\n  \r\n{"b":2}\r\n{"c":3}', packed=packed)
    assert read(path) == [(1, b'{"a":1}'), (4, b'{"b":2}'), (5, b'{"c":3}')]
    assert [one.origin for one in records(path, "events")][1] == "events[0]@4"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_an_empty_log_has_no_records(tmp_path: Path, packed: bool) -> None:
    assert read(write(tmp_path / "log", b"", packed=packed)) == []


def test_several_gzip_files_one_after_the_other_are_one_log(tmp_path: Path) -> None:
    path = write(tmp_path / "log.gz", gzip.compress(b"1\n") + gzip.compress(b"2\n"))
    assert [value for _, value in read(path)] == [b"1", b"2"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole(
    tmp_path: Path, packed: bool
) -> None:
    content = b"x" * 5_000_000 + b"\n" + b"y" * 5_000_000 + b"\nnext\n"
    path = write(tmp_path / "log", content, packed=packed)
    assert read(path, longest=1000) == [(1, b"x" * 1001), (2, b"y" * 1001), (3, b"next")]


def test_a_line_of_just_the_longest_length_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "log", b"x" * 1000 + b"\n" + b"y" * 1000)
    assert read(path, longest=1000) == [(1, b"x" * 1000), (2, b"y" * 1000)]


def test_a_line_without_end_takes_no_more_memory_than_is_kept_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "log.gz", b"x" * 50_000_000, packed=True)
    tracemalloc.start()
    try:
        [(_, value)] = read(path, longest=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(value) == 1001
    assert peak < 10_000_000


def test_a_line_that_was_cut_is_refused_for_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "log", b'{"event":"' + b"x" * 2_000_000 + b"\n")
    [record] = records(path, "events", longest=1_000_000)
    with pytest.raises(ValueError, match="record: must have at most 1000000 bytes, got 1000001"):
        decode(record.value)


@pytest.mark.parametrize("keep", [5, 100, -5], ids=["in its head", "in the middle", "at its end"])
def test_a_cut_gzip_is_named_with_its_line(tmp_path: Path, keep: int) -> None:
    whole = gzip.compress(b"".join(b'{"id":"%d"}\n' % n for n in range(1000)))
    path = write(tmp_path / "log.gz", whole[:keep])
    with pytest.raises(LogBroken, match=rf"{path.name}: cannot be read from line \d+ on: "):
        read(path)


def test_a_damaged_gzip_is_named_with_its_line(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"".join(b'{"id":"%d"}\n' % n for n in range(1000))))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(LogBroken, match=r"log\.gz: cannot be read from line \d+ on: "):
        read(write(tmp_path / "log.gz", bytes(whole)))


def test_the_lines_before_the_damage_are_read(tmp_path: Path) -> None:
    whole = gzip.compress(b"first\n") + gzip.compress(b"x" * 1000)[:-8]
    found = records(write(tmp_path / "log.gz", whole), "events")
    assert next(found).value == b"first"
    with pytest.raises(LogBroken, match="from line 2 on"):
        next(found)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogMissing, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(LogMissing, match="cannot be read: Is a directory"):
        read(tmp_path)
    assert issubclass(LogMissing, LogError)
    assert issubclass(LogError, StreamRankError)


def test_how_much_is_read_rises_to_the_size_of_the_file(tmp_path: Path) -> None:
    content = b"".join(b'{"id":"%d"}\n' % (n * 7919) for n in range(50_000))
    path = write(tmp_path / "log.gz", content, packed=True)
    told: list[int] = []
    assert sum(1 for _ in records(path, "events", on_bytes=told.append)) == 50_000
    assert told == sorted(told)
    assert told[-1] == path.stat().st_size


@given(st.lists(st.integers(0, 300_000), max_size=6), st.booleans())
@settings(max_examples=30, deadline=None)
def test_lines_are_the_same_however_long_and_however_packed(
    lengths: list[int], packed: bool
) -> None:
    lines = [bytes([65 + n]) * length for n, length in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "log"), b"\n".join(lines), packed=packed)
        assert [value for _, value in read(path)] == [line for line in lines if line]


def test_giving_up_in_the_middle_closes_the_file(tmp_path: Path) -> None:
    found = records(write(tmp_path / "log", b"1\n2\n"), "events")
    assert next(found).value == b"1"
    found.close()  # type: ignore[attr-defined]
