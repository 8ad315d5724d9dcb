"""The learn flow: lists and feedback in, examples out, and versions of the model from them.

events, served ─▶ decode ─┬─▶ join ─┬─▶ encode ─▶ examples
(and requests)       │    │         ├─▶ learn ─▶ report: what the learner did
                     │    │         ├─────────▶ report: what became of lists and feedback
                     │    └─▶ follow ─▶ score again ─▶ learn, report: is it what was served?
                     └──▶ dead letters
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import Source
from bytewax.outputs import Sink

from streamrank import deployment, operators, steps, steps_learning, steps_parity
from streamrank.edges.kafka import Incoming, Outgoing
from streamrank.learning.examples import Example
from streamrank.learning.join import Outcome, Rules
from streamrank.learning.parity import Compared
from streamrank.operators import Clock
from streamrank.steps import Decoder
from streamrank.steps_learning import Opens
from streamrank.steps_parity import Again, Watch


def build(
    events: Source[Incoming],
    examples: Sink[tuple[str, Outgoing]],
    dead_letters: Sink[tuple[str, Outgoing]],
    report: Sink[object],
    *,
    rules: Rules,
    learner: Opens,
    watch: Watch,
    again: Again,
    decoders: Mapping[str, Decoder],
    reports: frozenset[str],
    share: float = 1.0,
    parity_limit: float = 0.05,
    ahead: timedelta = timedelta(hours=1),
    now: Clock = operators.utc_now,
) -> Dataflow:
    """Wire the flow. Whatever touches the outside comes in as an argument.

    `reports` are the topics whose bad records this flow sets aside; those of `events` are set
    aside by the features flow, which reads them too. `share` is the share of the users whose
    lists are learned from.
    """
    flow = Dataflow("learn")
    records = op.input("events", flow, events)
    decoded = operators.decode("decode", records, decoders, ahead, now)

    of_lists = op.filter("of_lists", decoded.oks, partial(steps_learning.is_of_the_join, share))
    by_user = op.key_on("by_user", of_lists, lambda read: read.event.key)
    advance = partial(steps_learning.advance, rules)
    alarm = partial(steps_learning.alarm, rules)
    joined = operators.awake("join", by_user, steps_learning.begin, advance, alarm, now)

    joined_lists = op.key_rm("lists", joined)
    ready = operators.only("ready", joined_lists, Example)
    op.output("examples", op.map("encode", ready, steps_learning.example_record), examples)

    sampled = op.filter("sampled", decoded.oks, watch.takes)
    of_sample = op.key_on("of_sample", sampled, lambda read: read.event.key)
    follow, look = partial(steps_parity.advance, watch), partial(steps_parity.alarm, watch)
    followed = operators.awake("follow", of_sample, steps_parity.begin, follow, look, now)
    compared = op.flat_map_batch("score_again", op.key_rm("checked", followed), again.score)

    lessons: Stream[Example | Compared] = op.merge("lessons", ready, compared)
    to_learner = op.key_on("to_learner", lessons, lambda lesson: "learner")
    learned = steps_learning.learn("learn", to_learner, learner, parity_limit, now)
    outcomes = operators.only("outcomes", joined_lists, Outcome)
    news: Stream[object] = op.merge("news", op.key_rm("learned", learned), outcomes, compared)
    op.output("report", news, report)

    mine = op.filter("mine", decoded.errs, lambda one: one.origin.partition("[")[0] in reports)
    op.output("dead_letters", op.map("letters", mine, steps.letter_record), dead_letters)
    return flow


def main() -> Dataflow:
    """Build the flow on what the settings name: `python -m bytewax.run flows.learn:main`."""
    return deployment.learn_flow(build)
