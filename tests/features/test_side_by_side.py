"""Many lists at once, from arrays and from what is kept, are what each list is by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank import steps_ranking
from streamrank.edges.cache import CachedStore
from streamrank.edges.store import FeatureStore, MemoryStore, Row, View
from streamrank.events import Candidate, Interaction, Request, Value
from streamrank.features import inputs, transitions, windows
from streamrank.features.history import History, told
from streamrank.features.inputs import Query, Rows
from streamrank.features.schema import Schema
from streamrank.features.state import Rules, UserState, advance
from streamrank.steps import Plan
from tests.features import reference
from tests.lists import NOW, query, step

SCHEMA = Schema(
    interactions=("view", "click"),
    item={"price": "number", "tags": "text_list"},
    user={"country": "category"},
    horizons=(3600.0, 86400.0),
    history=4,
)
PLAN = Plan(SCHEMA, "", Rules(history=6, lists=2), frozenset(), 0, 10, 10)
ITEMS = [f"i{n}" for n in range(8)]
DAY = timedelta(days=1)

prices: st.SearchStrategy[Value] = st.sampled_from([1.0, 2.0, 2.0, 50.0, None, True, "much"])
fields = st.dictionaries(
    st.sampled_from(["price", "tags"]), prices | st.just(("sea", "wifi")), max_size=2
)
some_items = st.lists(st.sampled_from(ITEMS), unique=True, max_size=6)
turns = st.tuples(
    st.sampled_from(["u1", "u2"]),
    st.lists(
        st.tuples(
            st.sampled_from(["view", "click", "scroll"]), st.sampled_from([*ITEMS[:4], None])
        ),
        max_size=4,
    ),
    some_items.flatmap(
        lambda ids: st.tuples(st.just(ids), st.lists(fields, min_size=6, max_size=6))
    ),
    st.booleans(),
)


Turn = tuple[str, list[tuple[str, str | None]], tuple[list[str], list[dict[str, Value]]], bool]
"""A user, what they do, the list that they then ask for, and whether it is the last one again."""


def asked(taken: Sequence[Turn]) -> list[Query]:
    """Return the lists that users asked for, one after the other, each after some deeds."""
    users: dict[str, UserState] = {}
    found = []
    for number, (user, deeds, listed, again) in enumerate(taken):
        state, at = users.get(user, UserState()), NOW + 10_000 * number
        for n, (kind, item) in enumerate(deeds):
            deed = Interaction(
                id=f"e{number}-{n}", timestamp=at + n, user=user, session="s1", type=kind, item=item
            )
            state, _ = advance(state, deed, PLAN.rules)
        ids, own = listed
        candidates = tuple(Candidate(id=i, fields=f) for i, f in zip(ids, own, strict=False))
        if again and state.current:  # a trigger ranks the current list again
            one = replace(query([], state, at=at, name=state.current.id), user=user)
            found.append(replace(one, candidates=state.current.candidates))
        else:
            one = replace(query([], state, at=at, name=f"r{number}"), user=user)
            found.append(replace(one, candidates=candidates))
            event = Request(
                id=f"r{number}", timestamp=at, user=user, session="s1", items=candidates
            )
            state, _ = advance(state, event, PLAN.rules)
        users[user] = state
    return found


def filled() -> MemoryStore:
    """Return a store that knows something of most."""
    store = MemoryStore(SCHEMA, DAY)
    width = windows.width(len(SCHEMA.horizons), len(SCHEMA.channels))
    for n, item in enumerate([*ITEMS[:6], "u1"]):
        values = np.random.default_rng(n).gamma(1.0, 5.0, width if n != 5 else width - 1)
        values[: 1 + len(SCHEMA.channels)] = at = NOW - 3_600_000 * 5 * n
        view: View = "user_windows" if item == "u1" else "item_windows"
        store.write([Row(view, item, at, 0, values)])
    known: dict[str, Value] = {"price": 7.0, "tags": ("sea",)}
    store.write([Row("item_fields", item, NOW, 0, known) for item in ITEMS[2:]])
    store.write([Row("user_fields", "u2", NOW, 0, {"country": "NO"})])
    after = transitions.follow(transitions.Transitions(), "i2", 1.0, NOW, 3600.0)
    store.write([Row("item_next", "i1", NOW, 0, transitions.pack(after))])
    return store


def rows_of(store: FeatureStore, one: Query, at: int) -> Rows:
    """Return what a store knows, as one reads it without arrays."""
    ids = [candidate.id for candidate in one.candidates]
    width = windows.width(len(SCHEMA.horizons), len(SCHEMA.channels))
    vectors = [
        v if isinstance(v, np.ndarray) and len(v) == width else None
        for v in store.read("item_windows", ids, at)
    ]
    named = [v if isinstance(v, dict) else {} for v in store.read("item_fields", ids, at)]
    [user_window] = store.read("user_windows", [one.user], at)
    [user_fields] = store.read("user_fields", [one.user], at)
    [following] = store.read("item_next", ["i1"], at)
    assert not isinstance(user_window, dict)
    return Rows(
        user_window=user_window,  # type: ignore[arg-type]
        user_fields=user_fields or {},  # type: ignore[arg-type]
        item_windows=vectors,
        item_fields=named,
        next_items={"i1": following},  # type: ignore[dict-item]
    )


@given(st.lists(turns, min_size=1, max_size=8), st.sampled_from([2, 100]), st.sampled_from([1, 3]))
def test_a_batch_is_made_of_what_each_list_is_by_itself(
    taken: list[Turn], rows: int, size: int
) -> None:
    store, lists = filled(), asked(taken)
    cached = CachedStore(store, max_rows=rows, max_age=DAY)
    for start in range(0, len(lists), size):
        batch = lists[start : start + size]
        at = max(one.at for one in batch)
        for some in (cached, store):
            for one, enriched in zip(batch, steps_ranking.enrich(PLAN, some, batch), strict=True):
                alone = inputs.build(SCHEMA, one, rows_of(store, one, at))
                for name, array in alone.items():
                    assert enriched.inputs[name].dtype == array.dtype
                    assert np.array_equal(enriched.inputs[name], array), name


@given(st.lists(turns, min_size=1, max_size=8))
def test_features_are_what_one_would_write_first(
    taken: list[Turn],
) -> None:
    names = [feature.name for feature in inputs.features(SCHEMA)]
    for one in asked(taken):
        rows = Rows(item_fields=[{"price": 7.0}] * len(one.candidates))
        built = inputs.build(SCHEMA, one, rows)["candidate_numbers"]
        for name, expected in reference.columns(SCHEMA, one, rows).items():
            assert built[:, names.index(name)] == pytest.approx(expected, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("size", [3, 255, 256, 300])
def test_how_many_before_have_less_is_counted_in_lists_of_any_length(size: int) -> None:
    values = np.random.default_rng(size).integers(0, size, size).astype(float)
    values[::7] = np.nan
    listed = {f"i{n}": {"price": float(v)} for n, v in enumerate(values) if v == v}
    alone = {f"i{n}": listed.get(f"i{n}", {}) for n in range(size)}
    built = inputs.build(SCHEMA, query(alone), Rows())["candidate_numbers"]
    column = [feature.name for feature in inputs.features(SCHEMA)].index("price.less_before")
    less = [np.sum(values[:n] < values[n]) / max(1, n) for n in range(size)]
    assert built[:, column] == pytest.approx(less)


def test_what_the_steps_say_is_kept_until_the_next_step() -> None:
    steps = (step("view", "a", 60), step("click", "b", 30))
    known = told(SCHEMA, steps, "s1")
    assert told(SCHEMA, steps, "s1") is known
    assert told(SCHEMA, steps, "s2").here == 0
    further = (*steps, step("click", "a", 10))
    assert told(SCHEMA, further, "s1") == History(SCHEMA, further, "s1")
    assert told(SCHEMA, further, "s1").recent == ["a", "b"]
