"""What each step of the rank flow costs a list, with nothing else on the machine's mind.

    python tests/benchmarks/steps.py --report steps.json [--seconds 0.5]

The lists are those of `serve.py`, without a broker: 100 candidates that carry a price, users with
50 steps of history and earlier lists of their own, a store whose rows are all in the cache, and a
small Ranker, untrained, whose bins are those of the lists.  Printed are microseconds of one core a
list by step, in batches of 1, 8 and 32 lists, the best of some rounds; then what `enrich`, which
makes a list ready for the model, costs by the candidates and by the user's history, and where
nothing is kept of any history, as after a click of each user.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one
ITEMS, USERS, LISTS = 2_000, 64, 256
NOW = 1_700_000_000_000
STEPS = ("decode", "track", "retrieve", "enrich", "score", "rank", "encode", "log")
SIZES = (1, 8, 32)


def plan_of(history: int) -> Any:
    """Return what the steps know of the settings: those of `serve.py`."""
    from streamrank import deployment, settings
    from streamrank.settings import Settings

    known = settings.changed(
        Settings(),
        {
            "events": {"interactions": ["view", "click"], "label": "click"},
            "fields": {"item": {"price": "number"}},
            "windows": {"horizons": ["1d"]},
            "rank": {"triggers": []},
            "session": {"history": history},
        },
    )
    return deployment.plan_of(known)


def store_of(plan: Any) -> Any:
    """Return a cache before a store that knows windows of everybody, and the items' prices."""
    from streamrank.edges.cache import CachedStore
    from streamrank.edges.store import MemoryStore, Row, View
    from streamrank.features import windows

    random = np.random.default_rng(2)
    width = windows.width(len(plan.schema.horizons), len(plan.schema.channels))
    at = NOW - 60_000

    def window(view: View, key: str) -> Row:
        values = random.gamma(1.0, 5.0, width)
        values[: 1 + len(plan.schema.channels)] = at
        return Row(view, key, at, 0, values)

    store = MemoryStore(plan.schema, timedelta(days=1))
    store.write([window("item_windows", f"i{n}") for n in range(ITEMS)])
    store.write([window("user_windows", f"u{n}") for n in range(USERS)])
    fields = [Row("item_fields", f"i{n}", at, 0, {"price": float(n)}) for n in range(ITEMS)]
    store.write(fields)
    return CachedStore(store, max_rows=100_000, max_age=timedelta(hours=1))


def requests(candidates: int) -> Iterator[bytes]:
    """Return requests, user after user."""
    random = np.random.default_rng(1)
    number = 0
    while True:
        items = random.choice(ITEMS, candidates, replace=False)
        listed = [{"id": f"i{i}", "fields": {"price": int(i)}} for i in items]
        event = {"event": "request", "id": f"r{number}", "timestamp": NOW + number}
        by = {"user": f"u{number % USERS}", "session": f"s{number % USERS}"}
        yield json.dumps({**event, **by, "items": listed}, separators=(",", ":")).encode()
        number += 1


def users_of(plan: Any, steps: int) -> dict[str, Any]:
    """Return users who have done so much."""
    from streamrank.events import Interaction
    from streamrank.features.state import UserState, advance

    random = np.random.default_rng(3)
    users = {}
    for user in range(USERS):
        state = UserState()
        for step in range(steps):
            event = Interaction(
                id=f"e{user}-{step}",
                timestamp=NOW - 300_000 + 1000 * step,
                user=f"u{user}",
                session=f"s{user}",
                type="view" if step % 4 else "click",
                item=f"i{random.integers(ITEMS)}",
            )
            state, _ = advance(state, event, plan.rules)
        users[f"u{user}"] = state
    return users


class Lists:
    """The lists of one size, at every step of their way: what the steps are measured on."""

    def __init__(self, candidates: int, history: int) -> None:
        from streamrank import steps_ranking
        from streamrank.edges.kafka import Incoming
        from streamrank.events import decode
        from streamrank.steps import Read

        self.plan = plan_of(max(1, history))
        self.store = store_of(self.plan)
        users, asked = users_of(self.plan, history), requests(candidates)
        self.payloads, self.tracked, self.queries = [], [], []
        for number in range(6 * USERS + LISTS):  # the first ones are the users' earlier lists
            payload = next(asked)
            event: Any = decode(payload)
            record = Incoming("requests", 0, number, event.key.encode(), payload, float(NOW))
            read, state = Read(event, record), users[event.key]
            users[event.key], [query] = steps_ranking.track(self.plan, state, read)
            if number >= 6 * USERS:
                self.payloads.append(payload)
                self.tracked.append((state, read))
                self.queries.append(query)


def cost(work: Callable[[Any], object], given: Sequence[Any], size: int, seconds: float) -> float:
    """Return microseconds for each of the given things, in batches: the best round."""
    batches = [given[at : at + size] for at in range(0, len(given) - size + 1, size)]
    work(batches[0])
    best, ends = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        begun = time.process_time()  # what others do on this machine does not count
        for batch in batches:
            work(batch)
        best = min(best, (time.process_time() - begun) / (size * len(batches)))
    return round(1e6 * best, 1)


def fitted(config: Any, seen: Sequence[Any]) -> Any:
    """Return a Ranker of random weights whose bins fit inputs: it costs what a trained one does.

    A feature that is one of two numbers has one bin, not twelve: bins of anything else would not
    do the work that is to be measured.
    """
    from streamrank.model.ranker import Ranker, fit_bins

    numbers = np.concatenate([one["candidate_numbers"] for one in seen])
    context = np.stack([one["context_numbers"] for one in seen])
    return Ranker(config, fit_bins(numbers, config.bins), fit_bins(context, config.bins)).eval()


def untrained(lists: Lists) -> Any:
    """Return a small Ranker with the bins of the lists."""
    from streamrank.model.ranker import configure

    config = configure(lists.plan.schema, "small")
    return fitted(config, [one.inputs for one in enrich(lists)(lists.queries)])


def scorer_of(lists: Lists) -> Any:
    """Return the session that scores the lists."""
    from streamrank.edges.onnxruntime import OnnxScorer
    from streamrank.model import export

    return OnnxScorer(export.to_onnx(untrained(lists)), version="v1", provider="cpu")


def by_step(lists: Lists, scorer: Any, seconds: float) -> dict[str, dict[str, float]]:
    """Return microseconds a list by step and by size of batch."""
    from streamrank import steps_ranking, steps_retrieval
    from streamrank.events import decode

    plan = lists.plan
    enriched = [one for query in lists.queries for one in enrich(lists)([query])]
    scored = [one for each in enriched for one in steps_ranking.score(scorer, [each])]
    ranked = steps_ranking.ranked(plan, partial(datetime.now, UTC), scored)
    work: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "decode": (lambda some: [decode(one) for one in some], lists.payloads),
        "track": (
            lambda some: [steps_ranking.track(plan, *one) for one in some],
            lists.tracked,
        ),
        "retrieve": (partial(steps_retrieval.retrieve, plan, lists.store, scorer), lists.queries),
        "enrich": (enrich(lists), lists.queries),
        "score": (partial(steps_ranking.score, scorer), enriched),
        "rank": (partial(steps_ranking.ranked, plan, partial(datetime.now, UTC)), scored),
        "encode": (steps_ranking.ranking_records, ranked),
        "log": (partial(steps_ranking.served_records, plan), scored),
    }
    return {
        step: {f"batch {size}": cost(*work[step], size, seconds) for size in SIZES}
        for step in STEPS
    }


def enrich(lists: Lists) -> Callable[[Any], list[Any]]:
    """Return the step that makes lists ready for the model."""
    from streamrank import steps_ranking

    return partial(steps_ranking.enrich, lists.plan, lists.store)


def after_clicks(lists: Lists) -> Callable[[Any], list[Any]]:
    """Return the same step, that has forgotten what it kept of histories."""
    from streamrank.features import history

    def work(some: Any) -> list[Any]:
        history.forget()
        return enrich(lists)(some)

    return work


def growth(seconds: float) -> dict[str, dict[str, float]]:
    """Return what `enrich` costs a list, microseconds, by its candidates and its history."""
    usual = Lists(100, 50)
    cases = {f"{n} candidates": Lists(n, 50) for n in (10, 100, 1_000)}
    cases |= {f"history of {n}": Lists(100, n) for n in (10, 50, 200)}
    ways = {name: (enrich(lists), lists) for name, lists in cases.items()}
    ways["after a click"] = after_clicks(usual), usual
    return {
        name: {
            f"batch {size}": cost(work, lists.queries[: max(64, size)], size, seconds)
            for size in SIZES
        }
        for name, (work, lists) in ways.items()
    }


def table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print figures by row and size of batch."""
    print(f"{title:18}" + "".join(f"{f'batch {size}':>10}" for size in SIZES))
    for name, row in rows.items():
        print(f"{name:18}" + "".join(f"{value:10.1f}" for value in row.values()))


def main() -> None:
    """Measure, print tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each figure")
    given = parser.parse_args()
    lists = Lists(100, 50)
    steps = by_step(lists, scorer_of(lists), given.seconds)
    grown = growth(given.seconds)
    table("us a list", steps)
    table("us a list, enrich", grown)
    if given.report:
        machine = f"{os.cpu_count()} CPUs, {platform.machine()}"
        report = {"machine": machine, "us_per_list": steps, "us_per_list_enrich": grown}
        partial_file = given.report.with_name(given.report.name + ".part")
        partial_file.write_text(json.dumps(report, indent=2) + "\n")
        partial_file.replace(given.report)


if __name__ == "__main__":
    main()
