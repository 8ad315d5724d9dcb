import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Candidate, Interaction, Value
from streamrank.features import dense, inputs, transitions, windows
from streamrank.features.columns import ranks
from streamrank.features.inputs import Query, Rows
from streamrank.features.listed import List
from streamrank.features.schema import Schema, hashed
from streamrank.features.state import Number, Rules, Step, UserState, advance
from streamrank.features.view import Array, View
from tests.lists import NOW, query, step

SCHEMA = Schema(
    interactions=("view", "click"),
    label="click",
    item={"price": "number", "tags": "text_list", "title": "text"},
    user={"country": "category"},
    context={"city": "category"},
    horizons=(3600.0, 86400.0),
)


def features(asked: Query, rows: Rows | None = None, schema: Schema = SCHEMA) -> dict[str, Array]:
    built = inputs.build(schema, asked, rows or Rows())
    names = [feature.name for feature in inputs.features(schema)]
    shared = [feature.name for feature in inputs.context_features(schema)]
    assert built["candidate_numbers"].shape == (len(asked.candidates), len(names))
    assert built["context_numbers"].shape == (len(shared),)
    return dict(zip(names, built["candidate_numbers"].T, strict=True)) | dict(
        zip(shared, built["context_numbers"], strict=True)
    )


def test_what_was_touched_is_told_by_recency_count_and_type() -> None:
    """By hand: c viewed 3 times, then a clicked, 60 s ago; b never.  Newest first: a, c."""
    user = UserState((step("view", "c", 120, count=3), step("click", "a", 60)))
    found = features(query(["a", "b", "c"], user))
    assert found["touch.recency"].tolist() == pytest.approx([1, 0, 1 / 2])
    assert found["touch.is_last"].tolist() == [1, 0, 0]
    assert found["touch.label_recency"].tolist() == [1, 0, 0]
    assert found["touch.view"] == pytest.approx([0, 0, np.log(4)])
    assert found["touch.last.click"].tolist() == [1, 0, 0]
    assert found["touch.deeds"] == pytest.approx([1, 0, 1 / (1 + np.log(2))])
    assert found["touch.age"][0] == pytest.approx(1 / (1 + np.log(2)))
    assert found["touch.count_rank"] == pytest.approx([1 / 2, 0, 1])
    assert found["touch.share"] == pytest.approx([1 / 4, 0, 3 / 4])
    assert found["touch.looked"] == pytest.approx([np.log(61), 0, np.log(61)])
    assert found["touch.untouched_rank"] == pytest.approx([0, np.log(2), 0])
    assert found["list.touched"] == pytest.approx(np.log(3))
    assert found["list.none_touched"] == 0


def test_places_are_told_against_what_was_touched() -> None:
    """By hand: of a b c d e, d was clicked and then b viewed."""
    user = UserState((step("click", "d", 60), step("view", "b", 30)))
    found = features(query(list("abcde"), user))
    assert found["offset.last+1"].tolist() == [0, 0, 1, 0, 0]
    assert found["offset.last-1"].tolist() == [1, 0, 0, 0, 0]
    assert found["offset.labelled+1"].tolist() == [0, 0, 0, 0, 1]
    assert found["offset.from_last"] == pytest.approx(
        [-np.log(2), 0, np.log(2), np.log(3), np.log(4)]
    )
    assert found["offset.from_lowest"][4] == pytest.approx(np.log(2))  # after d
    assert found["offset.nearest"] == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1 / 3, 1 / 2])
    assert found["offset.touched_above"] == pytest.approx(np.log1p([0, 0, 1, 1, 2]))
    assert found["offset.recency_above"] == pytest.approx([0, 0, 1, 0, 1 / 2])


def test_a_quantity_is_told_against_the_list_and_against_what_was_touched() -> None:
    """By hand: prices 80, 60, unknown, 120; the 60 one was touched."""
    priced = {"a": {"price": 80.0}, "b": {"price": 60.0}, "c": {}, "d": {"price": 120.0}}
    found = features(query(priced, UserState((step("view", "b", 9),))))
    logs = np.log1p([80, 60, 120])
    assert found["price.unknown"].tolist() == [0, 0, 1, 0]
    assert found["price.rank"].tolist() == [0.25, 0.5, 0.75, 0]  # more: d; a, d; all; none
    assert found["price.least_so_far"].tolist() == [1, 1, 0, 0]
    assert found["price.most_so_far"].tolist() == [1, 0, 0, 1]
    assert found["price.less_before"] == pytest.approx([0, 0, 0, 2 / 3])
    assert found["price.over_least"] == pytest.approx([logs[0] - logs[1], 0, 0, logs[2] - logs[1]])
    assert found["price.over_last"] == pytest.approx(found["price.over_least"])
    assert found["price.log"][2] == found["price.centred"][2] == 0


def test_the_taste_of_earlier_lists_is_known_in_another_list() -> None:
    """By hand: the cheapest of four, 30, was clicked: 3 of 4 have more of the price."""
    shown = [Candidate(id=f"i{p}", fields={"price": p}) for p in (30.0, 40.0, 50.0, 60.0)]
    listed = UserState(current=List.of("r0", NOW - 9000, "s1", {}, tuple(shown)))
    click = Interaction(
        id="e", timestamp=NOW - 5000, user="u1", session="s1", type="click", item="i30.0"
    )
    user, _ = advance(listed, click, Rules())
    assert user.steps[0].place == 0
    assert user.steps[0].numbers == (Number("price", 30.0, 0.75),)
    found = features(query({"x": {"price": 62.0 - 1}, "y": {"price": 30.0}}, user))
    assert found["price.over_label_taste"] == pytest.approx([np.log(62 / 31), 0])
    assert found["price.as_label_taste"] == pytest.approx([1 / (1 + 2 * 0.75), 1 / (1 + 2 * 0.25)])


def test_windows_are_brought_up_to_the_time_of_the_list() -> None:
    """By hand: 4 clicks of a an hour ago weigh 2 over the horizon of an hour."""
    channels = len(SCHEMA.channels)
    counts = np.zeros((2, channels))
    counts[:, 1] = 4
    last = np.zeros(channels)
    last[1] = NOW - 3_600_000
    window = windows.Window(NOW - 3_600_000, counts[0], last, counts)
    found = features(query(["a", "b"]), Rows(item_windows=[windows.pack(window), None]))
    assert found["window.3600s.label"] == pytest.approx([np.log(3), 0])
    assert found["window.unknown"].tolist() == [0, 1]
    assert found["window.age"] == pytest.approx([1 / (1 + np.log(2)), 0])
    assert found["window.3600s.rate"][0] > found["window.3600s.rate"][1]
    assert found["window.3600s.rank"].tolist() == [0, 0.5]


def test_earlier_lists_are_told_apart_from_this_one() -> None:
    earlier = List.of("r0", NOW - 60_000, "s1", {}, tuple(Candidate(id=i) for i in "abc"))
    user = UserState((step("view", "a", 30),), current=earlier, earlier=(("a", "z"),))
    found = features(query(["c", "b", "a"], user))
    assert found["seen.count"] == pytest.approx([np.log(2), np.log(2), np.log(3)])
    assert found["seen.untouched"] == pytest.approx([np.log(2), np.log(2), 0])
    assert found["seen.risen"] == pytest.approx([np.log(3), 0, -np.log(3)])
    assert found["list.same"] == 0
    assert found["list.seen"] == 1
    assert found["list.since"] == pytest.approx(np.log(61))
    assert features(query(["a", "b", "c"], user))["list.same"] == 1
    assert features(query(["a", "b", "c"], user, name="r0"))["list.same"] == 0  # itself, again


def test_history_tells_where_each_steps_item_is_and_how_long_ago() -> None:
    """By hand: a search 100 s ago, then b viewed twice 40 s ago."""
    user = UserState((step("search", None, 100), step("view", "b", 40, count=2)))
    built = inputs.build(SCHEMA, query(["a", "b"], user), Rows())
    assert built["history_items"].tolist() == [0, hashed("b")]
    assert built["history_types"].tolist() == [3, 1]  # other, view
    assert built["history_places"].tolist() == [0, 2]
    assert built["history_numbers"] == pytest.approx(
        np.log1p([[100, 60, 1, math.e - 1], [40, 40, 2, math.e - 1]]), rel=1e-6
    )


def test_only_the_configured_number_of_steps_is_seen_the_newest() -> None:
    user = UserState(tuple(step("view", f"i{n}", 100 - n) for n in range(60)))
    built = inputs.build(SCHEMA, query(["a"], user), Rows())
    assert built["history_items"].tolist() == [hashed(f"i{n}") for n in range(10, 60)]


def test_words_of_item_list_and_user_are_hashed() -> None:
    fields: dict[str, Value] = {
        "tags": ("Sea", "wifi"),
        "title": "Sea view, 2nd floor",
        "price": 3.0,
        "x": "y",
    }
    asked = query({"a": fields, "b": {}}, context={"city": "Oslo"})
    built = inputs.build(SCHEMA, asked, Rows(user_fields={"country": "NO"}))
    words = ["tags=Sea", "tags=wifi", "title=sea", "title=view", "title=2nd", "title=floor"]
    assert set(built["candidate_tokens"][0].tolist()) == set(map(hashed, words))
    assert not built["candidate_tokens"][1].any()
    assert built["context_tokens"].tolist() == [hashed("city=Oslo"), hashed("country=NO")]


def test_the_lists_own_fields_override_the_catalogues() -> None:
    rows = Rows(item_windows=[None], item_fields=[{"price": 99.0, "tags": ("sea",)}])
    found = features(query({"a": {"price": 9.0}}), rows)
    assert found["price.log"][0] == pytest.approx(np.log(10))


def test_a_list_without_candidates_or_a_user_without_past_is_no_error() -> None:
    nothing = inputs.build(SCHEMA, query([]), Rows())
    assert nothing["candidate_numbers"].shape == (0, len(inputs.features(SCHEMA)))
    assert nothing["history_types"].shape == (0,)
    stacked = inputs.stack([nothing])
    assert stacked["candidate_items"].tolist() == [[0]]
    assert stacked["history_types"].tolist() == [[0]]


def test_rows_of_another_number_of_items_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        inputs.build(SCHEMA, query(["a", "b"]), Rows(item_fields=[{}]))


def test_stacked_histories_end_and_candidates_begin_together() -> None:
    long = query(["a", "b", "c"], UserState((step("view", "a", 9), step("click", "b", 5))))
    short = query(["d"], UserState((step("click", "d", 5),)))
    stacked = inputs.stack([inputs.build(SCHEMA, one, Rows()) for one in (long, short)])
    assert stacked["history_types"].tolist() == [[1, 2], [0, 2]]
    assert (stacked["candidate_items"] != 0).tolist() == [[True] * 3, [True, False, False]]
    assert stacked["candidate_numbers"].shape[:2] == (2, 3)


def test_the_digest_follows_schema_and_features() -> None:
    assert inputs.digest(SCHEMA) == inputs.digest(SCHEMA)
    assert inputs.digest(SCHEMA) != inputs.digest(Schema())


def test_features_are_named_once() -> None:
    known = inputs.features(SCHEMA) + inputs.context_features(SCHEMA)
    assert len({feature.name for feature in known}) == len(known)
    assert all(feature.meaning for feature in known)


@given(st.lists(st.floats(-9, 9) | st.just(float("nan")), min_size=1, max_size=9))
def test_a_rank_counts_those_that_have_more(values: list[float]) -> None:
    [found] = ranks(np.array([values])).tolist()
    known = [value for value in values if value == value]
    wanted = [
        sum(other > value for other in known) if value == value else len(known) for value in values
    ]
    assert found == wanted


deeds = st.builds(
    lambda kind, item, ago: step(kind, item, ago, session="s1" if ago < 99 else "s0"),
    st.sampled_from(["view", "click", "scroll"]),
    st.sampled_from(["i0", "i1", "i2", "far", None]),
    st.integers(0, 10**6),
)
prices = st.none() | st.floats(-1e12, 1e12)


@given(st.lists(deeds, max_size=6), st.lists(prices, max_size=5))
def test_features_are_finite_whatever_comes(steps: list[Step], values: list[float | None]) -> None:
    ordered = tuple(sorted(steps, key=lambda one: one.last))
    asked = query({f"i{n}": {"price": v} for n, v in enumerate(values)}, UserState(ordered))
    for array in inputs.build(SCHEMA, asked, Rows()).values():
        assert np.isfinite(array).all()


@given(st.permutations(list("abcd")))
def test_what_the_user_did_follows_the_item_not_the_place(order: list[str]) -> None:
    user = UserState((step("view", "c", 20), step("click", "a", 10)))
    found = features(query(order, user))
    recency = dict(zip(order, found["touch.recency"].tolist(), strict=True))
    assert recency == {"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.0}


def test_a_feature_group_has_room_for_what_it_names_and_no_more() -> None:
    shown = List.of("r0", NOW - 60_000, "s1", {}, (Candidate(id="a"),))
    user = UserState((step("click", "a", 30), step("scroll", "b", 20)), current=shown)
    priced = {"a": {"price": 1.0}, "b": {"price": 2.0}}
    view = View(SCHEMA, query(priced, user), Rows())
    for group in dense.GROUPS:
        columns = np.zeros((view.size, len(group.features(SCHEMA))), np.float32)
        group.compute(view, columns)
        with pytest.raises((IndexError, ValueError)):
            group.compute(view, columns[:, :-1])


def test_what_people_touch_next_is_told_of_the_items_touched_last() -> None:
    """By hand: b came once after a and c twice after x; of weights 1 and 2, and a prior of 2."""
    after_a = transitions.follow(transitions.Transitions(), "b", 1.0, NOW, 3600.0)
    after_x = transitions.follow(transitions.Transitions(), "c", 2.0, NOW, 3600.0)
    user = UserState((step("view", "x", 60), step("view", "a", 30)))
    rows = Rows(
        next_items={"a": transitions.pack(after_a), "x": transitions.pack(after_x)},
    )
    found = features(query(["a", "b", "c"], user), rows)
    assert found["next.last"] == pytest.approx(np.log1p([0, 100 / 3, 0]))
    assert found["next.recent"] == pytest.approx(np.log1p([0, 100 / 3, 100 * 0.5 / 2]))
    assert found["next.rank"] == pytest.approx([1, 0, 1 / 3])


def test_without_transitions_nothing_is_known_to_come_next() -> None:
    found = features(query(["a", "b"], UserState((step("view", "a", 30),))))
    assert found["next.last"].tolist() == found["next.recent"].tolist() == [0, 0]
    assert found["next.rank"].tolist() == [1, 1]
