"""A replay is honest: a list is ranked before its feedback, and what is measured taught nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank import infer, replay
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown
from streamrank.edges.store import Row
from streamrank.events import Event, Interaction, Ranking, Shown
from streamrank.features import inputs, windows
from streamrank.features.inputs import Array, Inputs
from streamrank.features.state import UserState
from streamrank.learning.examples import Example
from streamrank.replay import Replay, Survey
from streamrank.simulate import Size, World
from streamrank.steps_ranking import Scorer
from tests import lists
from tests.flows import stage

NOW = lists.NOW
TIME = datetime(2026, 1, 1, tzinfo=UTC)
WORLD = World(seed=8, size=Size(items=15, shoppers=4, candidates=6))
LOG: list[Event] = list(WORLD.history(60, NOW, timedelta(hours=2)))
KNOWN = infer.infer(LOG).settings
LISTS = [event.id for event in LOG if isinstance(event, Shown)]
Scores = dict[str, list[tuple[str, float]]]


class OfAllInputs:
    """Scores by everything that the model sees, so that nothing can change unseen."""

    version = "all"

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        return [self._one(one) for one in batch]

    def _one(self, one: Inputs) -> Array:
        count = len(one["candidate_items"])
        total = np.zeros(count)
        for place, (name, values) in enumerate(sorted(one.items()), 1):
            numbers = np.asarray(values, np.float64)
            known = np.where(np.isfinite(numbers), numbers, 0.5)
            if name.startswith("candidate"):
                total += np.cos(place + known.reshape(count, -1)).sum(axis=1)
            else:
                total += np.cos(place + known).sum()
        return total[:, None]


def records(events: Sequence[Event]) -> list[Incoming]:
    return [Incoming(replay.TOPIC, 0, number, one.encode()) for number, one in enumerate(events)]


def surveyed(events: Sequence[Event] = LOG) -> Survey:
    return replay.survey(records(events), KNOWN, TIME)


def scores_of_lists(events: Sequence[Event]) -> Scores:
    """Return the scores of each shown list, by item, as a replay gives them."""
    found: Scores = {}

    def keep(ranking: Ranking) -> None:
        if ranking.trigger is None:
            found[ranking.request] = [(placed.id, placed.score) for placed in ranking.items]

    lane = replay.lane_of(KNOWN, OfAllInputs(), TIME)
    Replay(KNOWN, surveyed(events), 1.0, lane, on_ranking=keep).run(records(events))
    return found


NOTHING = surveyed([])
SCORES = scores_of_lists(LOG)


# --- what a log holds ---------------------------------------------------------------------------


def test_a_survey_counts_lists_and_the_clicks_on_their_own_items() -> None:
    """Of three lists one is clicked on, one only on an item that it does not have."""
    click = {"timestamp": NOW, "user": "u", "type": "click"}
    events: list[Event] = [Shown.model_validate(stage.shown(n, "a", "b")) for n in range(3)]
    events += [
        Interaction(id="e1", item="b", ranking="r0", **click),
        Interaction(id="e2", item="x", ranking="r1", **click),
        Interaction(id="e3", item="a", ranking="r9", **click),
    ]
    found = replay.survey(
        [*records(events), Incoming(replay.TOPIC, 0, 9, b"nonsense")], stage.KNOWN, TIME
    )
    assert (found.events, found.shown, found.labelled) == (6, 3, ("r0",))
    assert found.clicked == {"r0": frozenset("b")}


@pytest.mark.parametrize(
    ("part", "count", "border"),
    [(0.7, 90, 63), (0.7, 10, 7), (0.5, 3, 1), (0.0, 5, 0), (1.0, 5, 5), (0.7, 0, 0)],
)
def test_a_split_is_in_time_and_as_large_as_it_was_asked_for(
    part: float, count: int, border: int
) -> None:
    """0.7 * 90 is 62.99… in floating point, and still 63 lists."""
    labelled = tuple(f"r{number}" for number in range(count))
    first, rest = replace(NOTHING, labelled=labelled).split(part)
    assert first == frozenset(labelled[:border])
    assert rest == frozenset(labelled[border:])


@given(part=st.floats(0, 1), count=st.integers(0, 200))
def test_a_split_leaves_nothing_out_and_takes_nothing_twice(part: float, count: int) -> None:
    labelled = tuple(map(str, range(count)))
    first, rest = replace(NOTHING, labelled=labelled).split(part)
    assert first | rest == frozenset(labelled)
    assert not first & rest
    assert max(map(int, first), default=-1) < min(map(int, rest), default=count)


# --- the orders that need no model ----------------------------------------------------------------


def test_the_simple_orders_by_hand() -> None:
    """Touched c, then b, long before a step on no item; a has 3 deeds, d 5, b many impressions."""
    schema, store = stage.PLAN.schema, stage.store()
    hour = np.array(schema.horizons)
    for item, channel, times in (("a", "view", 3), ("d", "click", 5), ("b", "impression", 9)):
        window = windows.empty(len(schema.horizons), len(schema.channels))
        for _ in range(times):
            window = windows.count(window, schema.channels.index(channel), NOW, hour)
        store.write([Row("item_windows", item, NOW, 0, windows.pack(window))])
    steps = (
        lists.step("view", "c", ago=90),
        lists.step("view", "b", ago=60),
        lists.step("search", None, ago=30),
    )
    query = lists.query("abcd", UserState(steps=steps))
    found = replay.simple_orders(query, store, schema)
    orders = {name: "".join(np.array(list("abcd"))[_order(s)]) for name, s in found.items()}
    assert orders == {"as_shown": "abcd", "recently_touched": "bcad", "popularity": "dabc"}


def test_of_what_nobody_knows_every_simple_order_is_the_incoming_one() -> None:
    found = replay.simple_orders(lists.query("abc"), stage.store(), stage.PLAN.schema)
    assert all(_order(scores).tolist() == [0, 1, 2] for scores in found.values())


def _order(scores: Array) -> Array:
    return np.argsort(-scores, kind="stable")


# --- before its feedback --------------------------------------------------------------------------


def without_feedback(after: Sequence[Event]) -> list[Event]:
    return [event for event in after if not isinstance(event, Interaction)]


def backwards(after: Sequence[Event]) -> list[Event]:
    deeds = iter([one for one in after if isinstance(one, Interaction)][::-1])
    return [next(deeds) if isinstance(one, Interaction) else one for one in after]


def of_other_items(after: Sequence[Event]) -> list[Event]:
    return [
        one.model_copy(update={"item": "i0"}) if isinstance(one, Interaction) else one
        for one in after
    ]


@pytest.mark.parametrize("change", [without_feedback, backwards, of_other_items])
@pytest.mark.parametrize("number", [0, 7, 30, 59])
def test_whatever_comes_after_a_list_does_not_change_its_scores(
    number: int, change: Callable[[Sequence[Event]], list[Event]]
) -> None:
    place = next(n for n, event in enumerate(LOG) if event.id == LISTS[number]) + 1
    changed = scores_of_lists([*LOG[:place], *change(LOG[place:])])
    known = {name: SCORES[name] for name in LISTS[: number + 1]}
    assert {name: changed[name] for name in known} == known


def test_what_came_before_a_list_does_change_its_scores() -> None:
    """Else the test above would prove nothing."""
    silent = scores_of_lists(without_feedback(LOG))
    assert silent[LISTS[0]] == SCORES[LISTS[0]]
    assert sum(silent[name] != SCORES[name] for name in LISTS) > len(LISTS) // 2


def test_a_list_is_ranked_before_its_own_impressions() -> None:
    """The first list of all is ranked as if nothing had ever happened, though it counts itself."""
    click = stage.deed(1, "b", at=1_000, ranking="r1")
    log = stage.records(stage.shown(1, "a", "b"), click, topic=replay.TOPIC)
    lane = replay.lane_of(stage.KNOWN, AsShown(), TIME)
    [example] = replay.gather(lane, log, stage.KNOWN, frozenset({"r1"}))
    expected = inputs.build(stage.PLAN.schema, lists.query("ab", name="r1"), inputs.Rows())
    for name, values in example.inputs.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    impression = stage.PLAN.schema.channels.index("impression")
    for window in lane.store.read("item_windows", ["a", "b"], NOW):
        assert np.asarray(window)[1 + impression] == 1


# --- learned from and measured ------------------------------------------------------------------


def test_examples_are_those_of_the_given_lists_that_got_feedback() -> None:
    found = surveyed()
    wanted = frozenset(LISTS[:40])
    lane = replay.lane_of(KNOWN, AsShown(), TIME)
    examples = replay.gather(lane, records(LOG), KNOWN, wanted)
    assert [one.id for one in examples] == [one for one in found.labelled if one in wanted]
    shown = {event.id: event for event in LOG if isinstance(event, Shown)}
    for one in examples:
        clicked = [item.id in found.clicked[one.id] for item in shown[one.id].items]
        assert one.labels[:, 0].tolist() == clicked
        assert (one.user, one.at) == (shown[one.id].user, shown[one.id].timestamp)


def test_no_list_that_is_measured_was_learned_from() -> None:
    """It learns once, before the first measured list, from the feedback that had come by then."""
    found = surveyed()
    learned, measured = found.split(0.7)
    taught: list[list[Example]] = []

    def train(examples: list[Example]) -> Scorer:
        taught.append(examples)
        return OfAllInputs()

    lane = replay.lane_of(KNOWN, AsShown(), TIME)
    run = Replay(KNOWN, found, 0.7, lane, train=train)
    run.run(records(LOG))
    [examples] = taught
    assert {one.id for one in examples} <= learned
    border = next(n for n, event in enumerate(LOG) if event.id in measured)
    come = surveyed(LOG[:border])
    assert [one.id for one in examples] == list(come.labelled)
    report = run.report()
    assert report["lists"] == {
        "shown": 60,
        "labelled": len(found.labelled),
        "measured": len(measured),
    }
    assert all(len(figures) == len(measured) for figures in run.figures.values())
    assert report["systems"].keys() == {
        "streamrank",
        "as_shown",
        "recently_touched",
        "popularity",
    }


def test_an_order_that_is_not_learned_is_measured_as_what_it_is() -> None:
    """Without a version the lists stay as they were shown."""
    run = Replay(KNOWN, surveyed(), 0.5, replay.lane_of(KNOWN, AsShown(), TIME))
    run.run(records(LOG))
    systems = run.report()["systems"]
    assert systems["streamrank"] == systems["as_shown"]


class Even:
    """Every candidate gets its label as likely as not."""

    version = "even"

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        return [np.zeros((len(one["candidate_items"]), 1)) for one in batch]


@dataclass
class Learned:
    """Has another version after a few examples."""

    champion: str = OfAllInputs.version
    seen: int = 0

    def take(self, examples: Sequence[Example], now: datetime) -> list[object]:
        self.seen += len(examples)
        if self.seen >= 5:
            self.champion = Even.version
        return []


def test_learning_on_is_measured_beside_the_version_that_it_began_with() -> None:
    """Frozen, it is what a replay without learning says of it; the rest is what was learned."""

    def replayed(learns: Learned | None) -> Replay:
        lane = replay.lane_of(KNOWN, AsShown(), TIME)
        run = Replay(
            KNOWN,
            surveyed(),
            0.5,
            lane,
            train=lambda examples: OfAllInputs(),
            begin=None if learns is None else lambda examples: learns,
            load=lambda version: Even(),
        )
        run.run(records(LOG))
        return run

    learning = replayed(Learned()).report()
    frozen = replayed(None).report()
    assert frozen["learning"] == {}
    systems = learning["systems"]
    assert systems["frozen"] == frozen["systems"]["streamrank"] != systems["streamrank"]
    for name in ("mrr", "ndcg@10", "auc"):
        gain = learning["learning"][name]
        assert gain["mean"] == pytest.approx(systems["streamrank"][name] - systems["frozen"][name])
        assert gain["low"] <= gain["mean"] <= gain["high"]


def test_the_chances_that_lists_went_out_with_are_held_against_all_their_feedback() -> None:
    found = surveyed()
    run = Replay(KNOWN, found, 0.5, replay.lane_of(KNOWN, Even(), TIME))
    run.run(records(LOG))
    report = run.report()["probabilities"]

    _, measured = found.split(0.5)
    lists = [event for event in LOG if event.id in measured and isinstance(event, Shown)]
    candidates = sum(len(one.items) for one in lists)
    clicked = sum(len(found.clicked[one.id]) for one in lists)
    assert report["log_loss"] == pytest.approx(np.log(2))
    assert report["calibration_ratio"] == pytest.approx(candidates / 2 / clicked)
    assert report["global_auc"] == 0.5


def test_an_order_without_a_model_has_no_chances() -> None:
    run = Replay(KNOWN, surveyed(), 0.5, replay.lane_of(KNOWN, AsShown(), TIME))
    run.run(records(LOG))
    assert run.report()["probabilities"] == {}
