"""The rank flow: events and requests in, ranked lists out.

events, requests ─▶ decode ─▶ track users ─▶ retrieve ─▶ enrich ─▶ score ─┬▶ rank ─▶ rankings
└──▶ dead letters                                   └▶ served
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from streamrank import deployment, operators, steps, steps_ranking, steps_retrieval
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.edges.store import FeatureStore
from streamrank.features import packed
from streamrank.features.state import UserState
from streamrank.metrics import timed
from streamrank.operators import Clock
from streamrank.steps import Decoder, Plan
from streamrank.steps_ranking import Scorer


def build(
    events: Source[Incoming],
    rankings: Sink[tuple[str, Outgoing]],
    served: Sink[tuple[str, Outgoing]],
    dead_letters: Sink[tuple[str, Outgoing]],
    *,
    plan: Plan,
    store: FeatureStore,
    scorer: Scorer,
    decoders: Mapping[str, Decoder],
    reports: frozenset[str],
    ttl: timedelta,
    users: int = 5_000_000,
    ahead: timedelta = timedelta(hours=1),
    now: Clock = operators.utc_now,
) -> Dataflow:
    """Wire the flow. Whatever touches the outside comes in as an argument.

    `users` is how many of them are remembered at most. `reports` are the topics whose bad records
    this flow sets aside; those of `events` are set aside by the features flow, which reads them
    too.
    """
    flow = Dataflow("rank")
    records = op.input("events", flow, events)
    decoded = operators.decode("decode", records, decoders, ahead, now)

    people = op.filter("people", decoded.oks, lambda read: steps_ranking.is_of_a_person(read.event))
    by_user = op.key_on("by_user", people, lambda read: read.event.key)
    track = partial(steps_ranking.track, plan)
    room = operators.Room(users)
    form = operators.Form(packed.pack, packed.unpack)
    tracked = operators.keep("track_users", by_user, UserState, track, ttl, now, room, form)

    queries = op.key_rm("queries", tracked)
    retrieve = partial(steps_retrieval.retrieve, plan, store, scorer)
    filled = op.flat_map_batch("retrieve", queries, timed("retrieve", retrieve))
    enriched = op.flat_map_batch(
        "enrich", filled, timed("enrich", partial(steps_ranking.enrich, plan, store))
    )
    scored = op.flat_map_batch(
        "score", enriched, timed("score", partial(steps_ranking.score, scorer))
    )

    answers = op.filter("answers", scored, lambda one: one.query.source != "ranking")
    rank = partial(steps_ranking.ranked, plan, now)
    ranked = op.flat_map_batch("rank", answers, timed("rank", rank))
    encode = timed("encode", steps_ranking.ranking_records)
    op.output("rankings", op.flat_map_batch("encode", ranked, encode), rankings)
    write = timed("log", partial(steps_ranking.served_records, plan))
    op.output("served", op.flat_map_batch("log", scored, write), served)

    mine = op.filter("mine", decoded.errs, lambda one: one.origin.partition("[")[0] in reports)
    op.output("dead_letters", op.map("letters", mine, steps.letter_record), dead_letters)
    return flow


def main() -> Dataflow:
    """Build the flow on what the settings name: `python -m bytewax.run flows.rank:main`."""
    return deployment.rank_flow(build)
