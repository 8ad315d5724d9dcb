"""A state is there whole or not at all, and the last few are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamrank.edges.checkpoints import STATE, CheckpointLost, Checkpoints

ARRAYS = {"weights": np.arange(6.0).reshape(2, 3), "counts": np.array([1, 2])}
WORDS = {"version": "v1", "barred": ["v0"]}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    token = Checkpoints(tmp_path).put(3, ARRAYS, WORDS)
    arrays, words = Checkpoints(tmp_path).get(token)
    assert words == WORDS
    assert arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(ARRAYS[name], array) for name, array in arrays.items())


def test_the_same_state_written_again_after_a_crash_is_the_same(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    assert kept.put(3, ARRAYS, WORDS) == kept.put(3, ARRAYS, WORDS)
    assert len(kept.tokens()) == 1


def test_the_last_few_are_kept_in_the_order_of_their_turns(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    tokens = [kept.put(turn, ARRAYS, WORDS) for turn in (8, 9, 10)]
    assert kept.tokens() == tokens[1:]
    with pytest.raises(CheckpointLost, match="there is no state"):
        kept.get(tokens[0])


def test_what_was_written_last_stays_also_where_the_learner_went_back(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    for turn in (10, 11):
        kept.put(turn, ARRAYS, {"turn": turn})
    tokens = [kept.put(turn, ARRAYS, {"again": n}) for n, turn in enumerate((3, 3, 3, 4))]
    assert kept.tokens() == sorted(tokens)[-2:] == tokens[-2:]
    assert kept.get(tokens[-1])[1] == {"again": 3}


def test_tokens_sort_by_their_number_however_long_it_gets(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    tokens = [kept.put(turn, ARRAYS, {"turn": turn}) for turn in (10**12 - 1, 10**12, 10**12 + 1)]
    assert kept.tokens() == tokens[1:]


def test_keeping_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("left", [0, 10, 100])
def test_a_torn_file_is_found_out(tmp_path: Path, left: int) -> None:
    kept = Checkpoints(tmp_path)
    token = kept.put(1, ARRAYS, WORDS)
    path = tmp_path / "learner" / token / STATE
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointLost, match="must hash to its token"):
        kept.get(token)


def test_words_that_were_changed_are_found_out(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    token = kept.put(1, ARRAYS, WORDS)
    path = tmp_path / "learner" / token / "manifest.json"
    path.write_text(path.read_text().replace("v1", "v2"))
    with pytest.raises(CheckpointLost, match="must hash to its token"):
        kept.get(token)


def test_what_a_dying_writer_left_is_no_state_and_swept_away(tmp_path: Path) -> None:
    draft = tmp_path / "learner" / ".draft-000000000001-abc-12345678"
    draft.mkdir(parents=True)
    (draft / STATE).write_bytes(b"half")
    kept = Checkpoints(tmp_path)
    assert kept.tokens() == []
    kept.put(2, ARRAYS, WORDS)
    assert not draft.exists()


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointLost, match="cannot be written"):
        Checkpoints(tmp_path / "file").put(1, ARRAYS, WORDS)
