from collections.abc import Sequence

import numpy as np
import pytest

from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.model import training
from streamrank.model.distillation import Teacher, averaged, out_of_fold, remembered, softened
from streamrank.model.training import Recipe
from tests.lists import NOW, example, query

SCHEMA = Schema(interactions=("view", "click"), label="click")


def labelled(*labels: float, name: str = "r1") -> Example:
    return Example(name, "u1", 0, {}, np.array(labels, np.float32)[:, None])


def shares(*chances: float) -> Array:
    return np.asarray(np.log(chances))[:, None]


def test_labels_are_mixed_with_what_the_teacher_thinks() -> None:
    """By hand: .75 of (1, 0, 0) and .25 of (.2, .6, .2)."""
    [soft] = softened([labelled(1, 0, 0)], [shares(0.2, 0.6, 0.2)], share=0.25)
    assert soft.labels[:, 0] == pytest.approx([0.8, 0.15, 0.05])


def test_the_total_of_the_labels_stays() -> None:
    [two, none] = softened(
        [labelled(1, 1, 0), labelled(0, 0, 0)], [shares(0.1, 0.2, 0.7), shares(0.4, 0.5, 0.1)]
    )
    assert two.labels.sum() == pytest.approx(2)
    assert not none.labels.any()


def test_without_a_share_labels_stay_as_they_are() -> None:
    [same] = softened([labelled(0, 1)], [shares(0.9, 0.1)], share=0.0)
    assert same.labels[:, 0].tolist() == [0, 1]


def test_a_high_temperature_evens_out() -> None:
    """By hand: chances of 1 to 4 become 1 to 2 at the temperature 2."""
    [soft] = softened([labelled(0, 1)], [shares(0.2, 0.8)], share=1.0, temperature=2.0)
    assert soft.labels[:, 0] == pytest.approx([1 / 3, 2 / 3])


def test_each_list_is_judged_by_teachers_that_have_not_seen_it() -> None:
    lists = [labelled(1, 0, name=f"r{n}") for n in range(7)]

    def teach(seen: Sequence[Example]) -> Teacher:
        known = {one.id for one in seen}

        def teacher(asked: Sequence[Example]) -> list[Array]:
            assert not known & {one.id for one in asked}
            return [np.full((2, 1), float(one.id[1:])) for one in asked]

        return teacher

    found = out_of_fold(lists, teach, folds=3)
    assert [scores[0, 0] for scores in found] == list(range(7))


@pytest.mark.parametrize(
    ("share", "temperature", "message"),
    [(1.1, 1.0, "share must be within 0..1, got 1.1"), (0.5, 0.0, "temperature must be above 0")],
)
def test_what_makes_no_sense_is_refused(share: float, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        softened([labelled(1, 0)], [shares(0.5, 0.5)], share=share, temperature=temperature)
    with pytest.raises(ValueError, match="must be a teacher"):
        averaged([])
    with pytest.raises(ValueError, match=r"folds must be within 2\.\.1"):
        out_of_fold([labelled(1, 0)], lambda seen: averaged([]))


@pytest.mark.slow
def test_a_student_learns_what_only_the_teacher_knows() -> None:
    """The labels are by chance; the teacher prefers the first place, and so does the student."""
    random = np.random.default_rng(0)
    lists = []
    for n in range(400):
        shown = [f"i{k}" for k in random.permutation(30)[:5]]
        asked = query(shown, at=NOW + n, name=f"r{n}")
        lists.append(example(SCHEMA, asked, shown[random.integers(5)]))
    teacher = remembered(lists, [shares(0.8, 0.05, 0.05, 0.05, 0.05) for _ in lists])
    trained = training.train(
        lists,
        SCHEMA,
        recipe=Recipe(epochs=3),
        taught=lambda some: softened(some, teacher(some), share=0.9),
    )
    best = [scores[:, 0].argmax() for scores in training.scored(trained.ranker, lists)]
    assert np.mean(np.array(best) == 0) > 0.9
