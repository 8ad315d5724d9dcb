"""What was appended comes back up to the length that is named, and no further."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.edges.checkpoints import CheckpointLost
from streamrank.edges.journal import Journal


@given(st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=6))
def test_every_length_that_was_named_gives_what_had_been_appended_by_then(
    turns: list[list[bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "journal"))
        at, named, so_far = 0, [(0, list[bytes]())], list[bytes]()
        for records in turns:
            at = journal.append(at, records)
            so_far = [*so_far, *records]
            named.append((at, so_far))
        for length, records in named:
            assert list(journal.read(length)) == records


def test_what_a_run_wrote_beyond_its_last_snapshot_is_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    at = journal.append(0, [b"kept"])
    journal.append(at, [b"never named"])
    end = journal.append(at, [b"instead"])
    assert list(journal.read(end)) == [b"kept", b"instead"]
    assert (tmp_path / "journal").stat().st_size == end


def test_a_file_that_lost_its_end_is_found_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    at = journal.append(0, [b"one", b"two"])
    for left in range(at):
        journal.path.write_bytes(journal.path.read_bytes()[:at][:left] or b"")
        with pytest.raises(CheckpointLost, match=f"must hold {at} bytes"):
            list(journal.read(at))
        with pytest.raises(CheckpointLost, match=f"must hold {at} bytes"):
            journal.append(at, [b"three"])
        journal.path.unlink()
        assert Journal(journal.path).append(0, [b"one", b"two"]) == at


def test_a_file_that_is_gone_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointLost, match="cannot be read"):
        list(Journal(tmp_path / "journal").read(8))
