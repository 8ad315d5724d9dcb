"""The features flow: events in, windows and fields of users and items into the store.

events, rankings ─▶ decode ─▶ count users ─▶ count items ─▶ store ─▶ popular ─▶ store
└──▶ dead letters ◀── too late
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from streamrank import deployment, operators, sharded, steps, steps_features
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.edges.store import FeatureStore
from streamrank.events import DeadLetter
from streamrank.features.aggregate import Popular
from streamrank.metrics import timed
from streamrank.operators import Clock
from streamrank.shelves import People, Skipped, Things
from streamrank.steps import Decoder, Plan
from streamrank.steps_features import Changes, Deeds


def build(
    events: Source[Incoming],
    dead_letters: Sink[tuple[str, Outgoing]],
    *,
    plan: Plan,
    store: FeatureStore,
    decoders: Mapping[str, Decoder],
    ttl: timedelta,
    flush: timedelta,
    ahead: timedelta = timedelta(hours=1),
    now: Clock = operators.utc_now,
) -> Dataflow:
    """Wire the flow. Whatever touches the outside comes in as an argument."""
    flow = Dataflow("features")
    forget = ttl // timedelta(milliseconds=1)
    records = op.input("events", flow, events)
    read = partial(sharded.read, decoders=decoders, ahead=ahead, now=now)
    decoded = op.flat_map_batch("decode", records, timed("decode", read))

    deeds = operators.only("deeds", decoded, Deeds)
    by_user = op.key_on("by_user", deeds, lambda deeds: deeds.shard)
    people = partial(People, plan, forget)
    users = op.key_rm(
        "users",
        sharded.hold("count_users", by_user, people, steps_features.count_users, flush, ttl, now),
    )
    skipped = operators.only("skipped", users, Skipped)

    touched = operators.only("touched", users, Changes)
    impacts = op.flat_map_batch("impacts", touched, steps_features.regrouped)
    items = operators.only("items", decoded, Changes)
    by_item = op.key_on("by_item", op.merge("changes", items, impacts), lambda some: some.shard)
    things = partial(Things, plan, forget)
    item_rows = sharded.hold(
        "count_items", by_item, things, steps_features.count_items, flush, ttl, now
    )

    user_rows = operators.only("user_rows", users, list)
    rows = op.merge("rows", user_rows, op.key_rm("item_rows", item_rows))
    stored = op.flat_map_batch(
        "store", rows, timed("store", partial(steps_features.store_rows, store))
    )

    as_one = op.key_on("as_one", stored, lambda rows: "all")
    popular_step = partial(steps_features.count_popular, plan)
    popular = operators.keep("popular", as_one, Popular, popular_step, ttl, now)
    best = op.map("best", op.key_rm("popular_rows", popular), lambda row: [row])
    op.output("store_popular", best, operators.StoreSink(store))

    dead = operators.only("dead", decoded, DeadLetter)
    late = op.filter_map("late", skipped, lambda skip: steps_features.too_late(plan, skip, now()))
    letters = op.map("letters", op.merge("set_aside", dead, late), steps.letter_record)
    op.output("dead_letters", letters, dead_letters)
    return flow


def main() -> Dataflow:
    """Build the flow on what the settings name: `python -m bytewax.run flows.features:main`."""
    return deployment.features_flow(build)
