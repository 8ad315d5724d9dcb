"""What a record of `served` must hold before anybody learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from streamrank.features import logged
from streamrank.features.inputs import Array
from streamrank.served import Served, decode_served
from tests import fuzzing
from tests.flows import stage

READ = logged.reader(stage.PLAN.schema)


def good() -> Served:
    return decode_served(fuzzing.served(7, stage.NOW, Random(1)))


def test_what_the_rank_flow_writes_is_read() -> None:
    assert READ(good().encode()).id == good().id


def test_the_inputs_of_other_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"served\.features: must be .* got 'older'"):
        READ(replace(good(), features="older").encode())


CHANGES: list[tuple[str, Callable[[Array], Array], str]] = [
    ("candidate_numbers", lambda a: a[:, 1:], "must be float32 of shape"),
    ("candidate_numbers", lambda a: a[1:], "must be float32 of shape"),
    ("candidate_numbers", lambda a: a.astype(np.float64), "must be float32 of shape"),
    ("candidate_numbers", lambda a: a * np.nan, "must be finite numbers"),
    ("candidate_items", lambda a: a[None], "must be int64 of shape"),
    ("context_numbers", lambda a: a[:0], "must be float32 of shape"),
    ("context_tokens", lambda a: np.zeros(10_000, np.int64), "must have at most 16 words"),
    ("history_items", lambda a: np.zeros(9, np.int64), "must hold one history"),
    ("history_numbers", lambda a: np.zeros((0, 5), np.float32), r"shape \(any, 4\)"),
]


@pytest.mark.parametrize(("name", "change", "said"), CHANGES)
def test_an_array_of_another_shape_or_kind_is_refused_by_name(
    name: str, change: Callable[[Array], Array], said: str
) -> None:
    one = good()
    inputs = {**one.inputs, name: change(one.inputs[name])}
    with pytest.raises(ValueError, match=said):
        READ(replace(one, inputs=inputs).encode())


def test_a_history_longer_than_the_settings_is_refused() -> None:
    one, steps = good(), stage.KNOWN.session.history + 1
    longer = {
        name: np.zeros((steps, *array.shape[1:]), array.dtype) if "history" in name else array
        for name, array in one.inputs.items()
    }
    with pytest.raises(ValueError, match="one history of at most 50 steps"):
        READ(replace(one, inputs=longer).encode())


def test_a_missing_array_and_one_too_many_are_refused() -> None:
    one = good()
    fewer = {name: array for name, array in one.inputs.items() if name != "context_numbers"}
    for inputs in (fewer, {**one.inputs, "extra": np.zeros(1)}):
        with pytest.raises(ValueError, match="differs in"):
            READ(replace(one, inputs=inputs).encode())


def test_scores_that_are_no_numbers_are_refused() -> None:
    one = good()
    with pytest.raises(ValueError, match=r"served\.scores: must be finite"):
        READ(replace(one, scores=one.scores * np.inf).encode())
