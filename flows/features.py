"""The features flow: events in, windows and fields of users and items into the store.

events, rankings ─▶ decode ─▶ count users ─▶ count items ─▶ latest ─▶ store ─▶ popular ─▶ store
└──▶ dead letters ◀── too late
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from zlib import crc32

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from streamrank import deployment, operators, steps, steps_features
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.edges.store import FeatureStore, Row
from streamrank.events import Item
from streamrank.features.aggregate import Entity, Follow, Impact, Popular
from streamrank.metrics import timed
from streamrank.operators import Clock
from streamrank.steps import Decoder, Plan
from streamrank.steps_features import Skipped

SHARDS = 16
"""Into how many batches the rows of a flush are split: at least one for each worker."""


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
    records = op.input("events", flow, events)
    decoded = operators.decode("decode", records, decoders, ahead, now)

    people = op.filter("people", decoded.oks, lambda read: not isinstance(read.event, Item))
    by_user = op.key_on("by_user", people, lambda read: read.event.key)
    user_step = partial(steps_features.count_user, plan)
    users = op.key_rm("users", operators.keep("count_users", by_user, Entity, user_step, ttl, now))
    impacts = op.merge(
        "touched",
        operators.only("impacts", users, Impact),
        operators.only("follows", users, Follow),
    )
    skipped = operators.only("skipped", users, Skipped)

    items = op.filter_map("items", decoded.oks, lambda read: steps_features.item_event(read.event))
    by_item = op.key_on("by_item", op.merge("changes", items, impacts), lambda change: change.item)
    item_step = partial(steps_features.count_item, plan)
    item_rows = operators.keep("count_items", by_item, Entity, item_step, ttl, now)

    user_rows = operators.only("user_rows", users, Row)
    rows = op.merge("rows", user_rows, op.key_rm("item_rows", item_rows))
    by_shard = op.key_on("by_shard", rows, lambda row: str(crc32(row.key.encode()) % SHARDS))
    batches = op.key_rm("batches", operators.latest("latest", by_shard, flush, now))
    stored = op.flat_map_batch(
        "store", batches, timed("store", partial(steps_features.store_rows, store))
    )

    as_one = op.key_on("as_one", stored, lambda rows: "all")
    popular_step = partial(steps_features.count_popular, plan)
    popular = operators.keep("popular", as_one, Popular, popular_step, ttl, now)
    best = op.map("best", op.key_rm("popular_rows", popular), lambda row: [row])
    op.output("store_popular", best, operators.StoreSink(store))

    late = op.filter_map("late", skipped, lambda skip: steps_features.too_late(plan, skip, now()))
    letters = op.map("letters", op.merge("dead", decoded.errs, late), steps.letter_record)
    op.output("dead_letters", letters, dead_letters)
    return flow


def main() -> Dataflow:
    """Build the flow on what the settings name: `python -m bytewax.run flows.features:main`."""
    return deployment.features_flow(build)
