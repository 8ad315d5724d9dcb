"""From settings to a flow that runs: the real adapters, put together in one place."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bytewax.dataflow import Dataflow

from streamrank import (
    events,
    heap,
    logs,
    metrics,
    metrics_watched,
    settings,
    steps_learning,
    study_kept,
    swap,
)
from streamrank.edges import kafka, onnxruntime, registry, scrape
from streamrank.edges.announcements import Announcer, Listener
from streamrank.edges.cache import CachedStore
from streamrank.edges.kafka_lag import Lag
from streamrank.edges.patience import PatientStore
from streamrank.edges.registry import Verified
from streamrank.features import compiled, inputs, logged
from streamrank.learning import join
from streamrank.settings import Secrets, Settings
from streamrank.steps import Decoder, Plan
from streamrank.steps_parity import Again, Watch
from streamrank.steps_ranking import Scorer
from streamrank.swap import HotSwap

if TYPE_CHECKING:
    from streamrank.edges.feast import FeastStore

log = logging.getLogger(__name__)
T = TypeVar("T")
PAUSES = {
    "features": timedelta(milliseconds=20),  # of a window's second
    "rank": timedelta(),  # somebody waits
    "learn": timedelta(milliseconds=100),  # of the seconds until an update
}
"""How long each flow waits before it asks again where its topics have nothing new."""


def plan_of(known: Settings) -> Plan:
    """Return what the steps need to know of the settings."""
    schema = known.feature_schema()
    types = known.events.interactions if known.rank.triggers is None else known.rank.triggers
    return Plan(
        schema=schema,
        features=inputs.digest(schema),
        rules=known.rules(),
        triggers=frozenset(types),
        trigger_every=round(known.rank.trigger_every.total_seconds() * 1000),
        k=known.rank.k,
        popular=known.windows.popular,
        found=known.retrieval.found if known.retrieval.enabled else 0,
    )


def decoders_of(known: Settings, *names: str) -> Mapping[str, Decoder]:
    """Return how the payload of each of these topics is read, by the topic's full name."""
    kinds: dict[str, Decoder] = {
        "events": partial(events.decode, limits=known.limits()),
        "requests": partial(events.decode, limits=known.limits()),
        "rankings": partial(events.decode_ranking, limits=known.limits()),
        "served": logged.reader(known.feature_schema()),
    }
    return {known.topic(name): kinds[name] for name in names}


def loader_of(known: Settings) -> Callable[[str], Verified]:
    """Return what loads a version, verified, for what is served here."""
    # Threads of a session would keep the low priority of the thread that builds it.
    alone = known.rank.threads == 1
    asked = known.retrieval.enabled
    return partial(
        registry.load_verified,
        known.registry.path,
        known.model.name,
        provider=known.rank.provider,
        threads=known.rank.threads,
        features=plan_of(known).features,
        build=swap.standing_back if alone else registry.at_once,
        retrievals=registry.Retrievals(known.rank.threads) if asked else None,
    )


def scorer_of(known: Settings, load: Callable[[str], Verified] | None = None) -> Scorer:
    """Load the version that serves; without one, lists keep their incoming order."""
    line = registry.line(known.registry.path, known.model.name)
    found = swap.first(line, load or loader_of(known))
    if found is None:
        log.warning(
            "no version of %r in %s yet: lists keep their incoming order (streamrank train)",
            known.model.name,
            known.registry.path,
        )
        return onnxruntime.AsShown()
    log.info("model %s on %s", found.scorer.version, found.scorer.provider)
    return found.scorer


def hot_swap(known: Settings, connection: Mapping[str, str | int]) -> HotSwap:
    """Return the version that serves, and go along wherever another one is said to."""
    load = loader_of(known)  # one for all versions: they may share what finds candidates
    scorer = HotSwap(scorer_of(known, load), load, slower=known.rank.slower)
    listener = Listener(
        connection,
        known.topic("models"),
        known.registry.path,
        known.model.name,
        scorer.start().follow,
        poll=known.registry.poll,
    )
    listener.start()  # both end with the process
    return scorer


def feast_store() -> type[FeastStore]:
    """Import Feast: seconds that other commands save.

    Where PyTorch is installed Feast imports it too, for conversions that nobody asks for here:
    as many seconds again of each start, and 200 MB.  And it has typeguard rewrite its classes to
    check their arguments, a third of the seconds that are left; mypy has checked ours.
    """
    with _absent("torch"), _unguarded():
        from streamrank.edges.feast import FeastStore
    return FeastStore


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let a module that was not imported yet look as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _unguarded() -> Iterator[None]:
    """Let typeguard leave what is imported as it is."""
    import typeguard  # it comes with Feast

    guard = typeguard.typechecked
    vars(typeguard)["typechecked"] = _as_it_is
    try:
        yield
    finally:
        vars(typeguard)["typechecked"] = guard


def _as_it_is(target: T | None = None, **options: object) -> T | Callable[[T], T]:
    return target if target is not None else lambda target: target


def features_flow(build: Callable[..., Dataflow]) -> Dataflow:
    """Build the features flow on the configured broker and store."""
    known, secrets = settings.load(), Secrets()
    connection = kafka.connection(known.kafka, secrets)
    topics = ("events", "rankings")
    _observe(known, connection, "features", topics)
    flow = build(
        _source(known, connection, "features", *topics),
        kafka.KafkaSink(connection, known.topic("dead-letters")),
        plan=plan_of(known),
        store=PatientStore(
            feast_store()(known, secrets, patient=True), known.kafka.delivery_timeout
        ),
        decoders=decoders_of(known, *topics),
        ttl=known.windows.ttl,
        flush=known.windows.flush,
        ahead=known.events.max_ahead,
    )
    seldom_collect()
    return flow


def rank_flow(build: Callable[..., Dataflow]) -> Dataflow:
    """Build the rank flow on the configured broker, store and registry."""
    heap.share()  # Bytewax's own command comes here first
    known, secrets = settings.load(), Secrets()
    connection = kafka.connection(known.kafka, secrets)
    topics, letters = ("events", "requests"), known.topic("dead-letters")
    store = CachedStore(
        feast_store()(known, secrets, wait=known.rank.store_wait, patient=True),
        max_rows=known.rank.cache_rows,
        max_age=known.rank.cache_age,
    )
    scorer = hot_swap(known, connection)
    flow = build(
        _source(known, connection, "rank", *topics),
        kafka.KafkaSink(connection, known.topic("rankings"), letters=letters),
        kafka.KafkaSink(connection, known.topic("served"), letters=letters),
        kafka.KafkaSink(connection, known.topic("dead-letters")),
        plan=plan_of(known),
        store=store,
        scorer=scorer,
        decoders=decoders_of(known, *topics),
        reports=frozenset({known.topic("requests")}),
        ttl=known.session.ttl,
        users=known.session.users,
        ahead=known.events.max_ahead,
    )
    metrics.watch("cache", lambda: metrics_watched.cache(store))
    metrics.watch("model", lambda: metrics_watched.model(scorer))
    _observe(known, connection, "rank", topics)
    compiled.prepare()  # now, and not while a list waits
    _spare()
    return flow


def _observe(
    known: Settings, connection: Mapping[str, str | int], flow: str, topics: Sequence[str]
) -> None:
    """Let Prometheus and an orchestrator ask, where the settings name a port."""
    if known.metrics.logs == "json":
        logs.write_json()
    if known.metrics.port is None:
        return
    group = f"{known.kafka.group}-{flow}"
    lag = Lag(connection, [known.topic(name) for name in topics], group)
    metrics.watch("lag", lambda: metrics_watched.lag(lag))
    server = scrape.Scrape(
        known.metrics.address,
        known.metrics.port,
        metrics.exposition,
        lambda: not kafka.STOPPING.is_set(),
    )
    atexit.register(server.close)
    log.info("metrics on http://%s:%d/metrics", known.metrics.address, server.port)


def join_rules(known: Settings) -> join.Rules:
    """Return which feedback counts, and for how long."""
    learn = known.learn
    return join.Rules(
        label=known.events.label,
        conversion=known.events.conversion,
        label_window=_milliseconds(learn.label_window),
        conversion_window=_milliseconds(learn.conversion_window),
        idle=_milliseconds(learn.idle),
        settle=_milliseconds(learn.settle),
        lateness=_milliseconds(learn.lateness),
        lists=learn.lists,
    )


def learn_flow(build: Callable[..., Dataflow]) -> Dataflow:
    """Build the learn flow on the configured broker and registry."""
    known, secrets = settings.load(), Secrets()
    connection = kafka.connection(known.kafka, secrets)
    topics, letters = ("events", "requests", "served"), known.topic("dead-letters")
    plan, learn = plan_of(known), known.learn
    wait = known.kafka.delivery_timeout.total_seconds()
    announcer = Announcer(connection, known.topic("models"), wait=wait)
    again = partial(
        registry.load, known.registry.path, known.model.name, features=plan.features, provider="cpu"
    )
    report = steps_learning.Report()
    metrics.watch("learning", lambda: metrics_watched.learning(report.counts.figures()))
    _observe(known, connection, "learn", topics)
    compiled.prepare()  # for what is compared with what was served
    return build(
        _source(known, connection, "learn", *topics),
        kafka.KafkaSink(connection, known.topic("examples"), letters=letters),
        kafka.KafkaSink(connection, known.topic("dead-letters")),
        report,
        rules=join_rules(known),
        learner=study_kept.opener(known, announcer),
        watch=Watch(plan, learn.parity_share, ttl=_milliseconds(known.session.ttl)),
        again=Again(again),
        decoders=decoders_of(known, *topics),
        reports=frozenset({known.topic("served")}),
        share=learn.share,
        parity_limit=learn.parity_limit,
        ahead=known.events.max_ahead,
    )


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _spare() -> None:
    """Let the garbage collector leave alone what is there by now, which stays anyway.

    The libraries' 330,000 objects cost it 190 ms, in which no list is ranked, each time that it
    looks through all of them; building a version made it do so.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or some libraries complain at the end


def seldom_collect() -> None:
    """Let the garbage collector look for cycles once in 50,000 objects, not in 700.

    The features flow makes a dozen objects for each event, without cycles: looking for some took
    it a fifth of its time.
    """
    _spare()
    gc.set_threshold(50_000, 20, 20)


def _source(
    known: Settings, connection: Mapping[str, str | int], flow: str, *names: str
) -> kafka.KafkaSource:
    return kafka.KafkaSource(
        connection,
        [known.topic(name) for name in names],
        group=f"{known.kafka.group}-{flow}",
        start=known.kafka.start,
        fetch_wait=known.kafka.fetch_wait,
        pause=PAUSES[flow],
    )
