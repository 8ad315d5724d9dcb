"""What the flows count, for Prometheus: one set of metrics in each process.

The steps count whole batches where they can; what another part counts anyway (the cache, the
model's swaps, the learner) is read only when somebody scrapes, by `watch`.

Examples:
    >>> double = timed("double", lambda batch: [2 * one for one in batch])
    >>> double([1, 2, 3])
    [2, 4, 6]
    >>> b'streamrank_batch_size_count{step="double"} 1.0' in exposition()
    True
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)
A = TypeVar("A")
B = TypeVar("B")
SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REASONS = 50
"""Reasons of dead letters that are told apart; what else there is counts as "other"."""

REGISTRY = CollectorRegistry()
RECORDS = Counter("streamrank_records", "Records read.", ["topic"], registry=REGISTRY)
LETTERS = Counter(
    "streamrank_dead_letters", "Records set aside, by field.", ["reason"], registry=REGISTRY
)
SKIPPED = Counter(
    "streamrank_skipped", "Events that did not count: late, duplicate.", ["why"], registry=REGISTRY
)
LEFT_OUT = Counter(
    "streamrank_lists_left_out",
    "Lists of users from whom nothing is learned (learn.share).",
    registry=REGISTRY,
)
RANKINGS = Counter("streamrank_rankings", "Ranked lists made.", ["source"], registry=REGISTRY)
DEGRADED = Counter(
    "streamrank_degraded", "Lists made while the store did not answer.", registry=REGISTRY
)
RETRIEVED = Counter(
    "streamrank_retrievals",
    "Requests without items for which the model was asked: found, nothing, failed.",
    ["outcome"],
    registry=REGISTRY,
)
LATENCY = Histogram(
    "streamrank_ranking_seconds",
    "From the arrival of a request or a deed to its list.",
    buckets=SECONDS,
    registry=REGISTRY,
)
STEP = Histogram(
    "streamrank_step_seconds", "Time of a batch in a step.", ["step"], buckets=SECONDS,
    registry=REGISTRY,
)  # fmt: skip
BATCH = Histogram(
    "streamrank_batch_size", "Values of a batch in a step.", ["step"], buckets=SIZES,
    registry=REGISTRY,
)  # fmt: skip
DELAY = Gauge(
    "streamrank_watermark_delay_seconds",
    "How far the newest event time that was read lies behind the clock.",
    ["topic"],
    registry=REGISTRY,
)

_reasons: set[str] = set()


def timed(step: str, work: Callable[[list[A]], Iterable[B]]) -> Callable[[list[A]], list[B]]:
    """Return a step of batches that also notes their size and time.

    Args:
        step: Its name.
        work: What it does with a batch.
    """
    seconds, size = STEP.labels(step), BATCH.labels(step)

    def measured(batch: list[A]) -> list[B]:
        begun = time.perf_counter()
        found = list(work(batch))
        seconds.observe(time.perf_counter() - begun)
        size.observe(len(batch))
        return found

    return measured


def dead_letter(reason: str) -> None:
    """Count a record that was set aside, by what its reason begins with: a field, not a value."""
    field = reason.partition(":")[0][:60]
    if field not in _reasons:
        if len(_reasons) >= REASONS:
            field = "other"
        _reasons.add(field)
    LETTERS.labels(field).inc()


def exposition() -> bytes:
    """Return all metrics as Prometheus reads them."""
    return generate_latest(REGISTRY)


# --- what others count ------------------------------------------------------------------------

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """A value that is read when somebody scrapes.

    Attributes:
        name: Name of the metric, for a counter without `_total`.
        value: How much.
        labels: Of what.
        total: Whether it only grows.
        meaning: What it is.
    """

    name: str
    value: float
    labels: Labels
    total: bool
    meaning: str


class _Watched(Collector):
    """Asks everything that is watched, and leaves out what cannot answer."""

    def __init__(self) -> None:
        self.sources: dict[str, Callable[[], Iterable[Reading]]] = {}

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for one in self._readings():
            kind = CounterMetricFamily if one.total else GaugeMetricFamily
            family = families.setdefault(
                one.name, kind(one.name, one.meaning, labels=list(one.labels))
            )
            family.add_metric(list(one.labels.values()), one.value)  # type: ignore[attr-defined]
        yield from families.values()

    def _readings(self) -> Iterator[Reading]:
        for name, source in list(self.sources.items()):
            try:
                yield from list(source())
            except Exception as error:  # noqa: BLE001  # a scrape must not fail for one of them
                log.warning("metrics: %s cannot be read: %s", name, error)


_WATCHED = _Watched()
REGISTRY.register(_WATCHED)


def watch(name: str, source: Callable[[], Iterable[Reading]]) -> None:
    """Read these values whenever somebody scrapes, in place of what had this name before."""
    _WATCHED.sources[name] = source
