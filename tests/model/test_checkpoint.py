"""An interrupted training costs seconds, and ends as if nothing had happened."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from streamrank.learning.examples import Example
from streamrank.model import training
from streamrank.model.checkpoint import Checkpoint, digest
from streamrank.model.course import Course
from streamrank.model.ranker import Ranker, configure
from streamrank.model.training import Progress, Recipe, Trained
from tests.model.test_training import CONVERTING, SCHEMA, sequences, shoppers

LISTS = sequences(60)
HOW = Recipe(epochs=2, batch=16)


class Interrupted(Exception):
    """Somebody pressed Ctrl-C."""


def same(one: Ranker, two: Ranker) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def trained(path: Path | None, *, until: int | None = None, lists: Sequence[Example] = LISTS,
            how: Recipe = HOW) -> Trained:  # fmt: skip
    """Train, and be interrupted after so many lists."""

    def on_progress(now: Progress) -> None:
        if until is not None and now.done >= until:
            raise Interrupted

    return training.train(
        lists, SCHEMA, recipe=how, seed=3, checkpoint_file=path, on_progress=on_progress
    )


@pytest.fixture(scope="module")
def whole() -> Trained:
    return trained(None)


@pytest.mark.parametrize("steps", [1, 4, 5, 7])
def test_a_course_goes_on_from_any_step_to_the_same_weights(steps: int) -> None:
    """Four steps an epoch; the lists of two kinds, so that both heads are in it."""
    lists = shoppers(100)
    begun = Course(configure(CONVERTING), lists, HOW, seed=5)
    states = {}
    begun.on_step = lambda lists, figures: states.update(
        {begun.steps: {name: value.clone() for name, value in begun.state().items()}}
    )
    *_, expected = begun.run(2)
    torch.rand(7)  # whatever else went on in between
    again = Course(configure(CONVERTING), lists, HOW, seed=6)  # its fresh weights do not matter
    again.seed = 5
    again.resume(states[steps])
    *_, found = again.run(2)
    assert (again.steps, begun.steps, begun.batches) == (8, 8, 4)
    assert same(found, expected)


@pytest.mark.parametrize("until", [60, 102, 130])
def test_an_interrupted_training_goes_on_to_the_same_end(
    until: int, whole: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """51 lists twice to choose, 60 once or twice to learn: within both, and between them."""
    path = tmp_path / "deep" / "training.safetensors"
    with pytest.raises(Interrupted):
        trained(path, until=until)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    with caplog.at_level(logging.INFO, "streamrank"):
        found = trained(path)
    assert f"training goes on from {path}" in caplog.text
    assert same(found.ranker, whole.ranker)
    assert (found.metrics, found.epochs, found.systems) == (
        *(whole.metrics, whole.epochs, whole.systems),
    )


def test_a_training_that_went_on_does_not_count_twice_what_was_done(tmp_path: Path) -> None:
    path, told = tmp_path / "t.safetensors", list[Progress]()
    with pytest.raises(Interrupted):
        trained(path, until=60)
    training.train(LISTS, SCHEMA, recipe=HOW, seed=3, checkpoint_file=path, on_progress=told.append)
    assert told[0].done > 51
    assert told[-1].done == told[-1].total


@pytest.mark.parametrize("change", ["lists", "settings"])
def test_a_checkpoint_of_anything_else_is_left_and_it_is_said(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(Interrupted):
        trained(path, until=110)
    lists, how = LISTS, HOW
    if change == "lists":
        lists = [*LISTS[:-1], dataclasses.replace(LISTS[-1], user="somebody else")]
    else:
        how = dataclasses.replace(HOW, rate=3e-3)
    found = trained(path, lists=lists, how=how)
    assert f"{path} is of other lists or settings: training starts anew" in caplog.text
    assert same(found.ranker, trained(None, lists=lists, how=how).ranker)


def test_a_checkpoint_that_cannot_be_read_is_left_and_it_is_said(
    tmp_path: Path, whole: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"\x80\x04nonsense that is no safetensors")
    assert same(trained(path).ranker, whole.ranker)
    assert f"{path} cannot be read" in caplog.text


def test_a_state_of_another_course_is_refused() -> None:
    course = Course(configure(SCHEMA), LISTS, HOW, seed=0)
    other = Course(configure(CONVERTING), shoppers(20), HOW, seed=0)
    with pytest.raises(ValueError, match="the state must be of this course"):
        course.resume(other.state())


def test_what_it_is_of_is_everything_that_weights_follow_from() -> None:
    example = LISTS[0]
    labels = np.flip(example.labels).copy()
    inputs = {**example.inputs, "candidate_numbers": example.inputs["candidate_numbers"] + 1}
    others = [
        digest([dataclasses.replace(example, labels=labels)], 1),
        digest([dataclasses.replace(example, inputs=inputs)], 1),
        digest([dataclasses.replace(example, at=0)], 1),
        digest([example, example], 1),
        digest([example], 2),
    ]
    assert len({digest([example], 1), *others}) == 6
    assert digest([example], 1) == digest([dataclasses.replace(example)], 1)


def test_it_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "t.safetensors"
    state = {"x": torch.arange(3), "y": torch.ones(2, 2).t()}
    Checkpoint(path, "this").save(state)
    found = Checkpoint(path, "this").load()
    assert found is not None
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in state.items()
    }
    assert Checkpoint(path, "that").load() is None
    assert Checkpoint(tmp_path / "none", "this").load() is None
    save_file({"x": state["x"]}, path)  # without a word on what it is of
    assert Checkpoint(path, "this").load() is None
    assert not Checkpoint(path, "this", every=100.0).due()
    assert Checkpoint(path, "this", every=0.0).due()
