"""How time and memory grow with events, users, items, candidates and history: a table, a picture.

    python tests/benchmarks/growth.py --report growth.json --picture growth.svg

One quantity grows at a time.  Time is processor time, the median of many rounds; the sizes of an
axis are measured in turn in one process, so that whatever else the machine does slows all of them
alike, and the picture shows each time over that of the smallest size.  Memory is what a process of
its own gained, resident; `bytes_each` is that of one more of what grows.

`events`, `users`, `items`: the features flow's own steps on one core (read, count in the shards,
rows of what changed, what is popular) without a broker, Bytewax or a store.  What does not grow:
100,000 events of an hour, 10,000 users, all known before, and 10,000 items.  A round is up to ten
batches of 1,000 events, and the rows of what changed in them.

`candidates`, `history`: a list made ready for the model right after its user acted, so that nothing
is kept of the history (`enrich`), and scored by the small Ranker, untrained, in ONNX Runtime on one
core; one list at a time.  What does not grow: 100 candidates, a history of 50.  Memory is that of
32 such lists scored together, of which no more run at once than have 1,024 candidates; `session` is
what a user's session, six earlier lists among it, takes in bytes while the user is silent.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one

from tests.benchmarks.features import BATCH, FORM, HOUR, known_of  # noqa: E402

FLUSH, ROUNDS, TOGETHER, LISTS = 10, 10, 32, 200
NOW = datetime.now(UTC)
BEGIN = round(NOW.timestamp() * 1000) - 2 * HOUR
USUAL = {"events": 100_000, "users": 10_000, "items": 10_000, "candidates": 100, "history": 50}
SIZES: Mapping[str, Sequence[int]] = {
    "events": (1_000, 10_000, 100_000, 1_000_000),
    "users": (1_000, 10_000, 100_000, 1_000_000),
    "items": (1_000, 10_000, 100_000),
    "candidates": (10, 30, 100, 300, 1_000),
    "history": (10, 50, 100, 200),
}
FLOW = ("events", "users", "items")
"""What grows in the features flow; the rest grows in a list."""

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from streamrank.edges.kafka import Incoming
    from streamrank.shelves import People, Things

Cost = dict[str, float]
Point = dict[str, Any]


def resident() -> int:
    """Return the memory of this process, bytes, without what it has given back."""
    gc.collect()
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed would hide what is gained
    return int(psutil.Process().memory_info().rss)


# --- the features flow ----------------------------------------------------------------------------


class Flow:
    """The steps of the features flow, one after the other, and what they keep."""

    def __init__(self) -> None:
        from streamrank import deployment
        from streamrank.features.aggregate import Popular
        from streamrank.shelves import People, Things

        known = known_of("unused", None)
        self.plan, ttl = deployment.plan_of(known), known.windows.ttl // timedelta(milliseconds=1)
        self._decoders = deployment.decoders_of(known, "events")
        self._people = defaultdict[str, People](partial(People, self.plan, ttl))
        self._things = defaultdict[str, Things](partial(Things, self.plan, ttl))
        self._popular = Popular()

    def take(self, records: Sequence[Incoming]) -> None:
        """Take a batch of records in."""
        from streamrank import steps, steps_features
        from streamrank.steps_features import Changes, Deeds

        at, changes = BEGIN + 2 * HOUR, list[Changes]()
        read = steps.decode(self._decoders, records, NOW, timedelta(hours=1))
        for part in steps_features.by_shard(read):
            if not isinstance(part, Deeds):
                raise SystemExit(f"only deeds were sent, got {part}")
            for found in steps_features.count_users(self._people[part.shard], [part], at):
                if not isinstance(found, Changes):
                    raise SystemExit(f"every event is new, got {found}")
                changes.append(found)
        for some in steps_features.regrouped(changes):
            steps_features.count_items(self._things[some.shard], [some], at)

    def flush(self) -> int:
        """Make the rows of what changed, and say how many."""
        from streamrank import steps_features

        rows = [row for shelf in self._shelves() for row in shelf.flush()]
        self._popular, best = steps_features.count_popular(self.plan, self._popular, rows)
        return len(rows) + len(best)

    def snapshot(self) -> None:
        """Pack what changed, as Bytewax has it done after each epoch: silent keys sleep then."""
        for shelf in self._shelves():
            shelf.pack()

    def _shelves(self) -> list[People | Things]:
        return [*self._people.values(), *self._things.values()]


def memory_of_flow(sizes: Mapping[str, int]) -> Point:
    """Return what the flow gains in an hour."""
    list(rounds(Flow(), begun(100, 100, BEGIN)))  # what is loaded with the first event
    before, flow = resident(), Flow()
    users, items = sizes["users"], sizes["items"]
    for batches in (begun(users, items, BEGIN), hour(sizes["events"], users, items, BEGIN)):
        for _ in rounds(flow, batches):
            flow.snapshot()
    return {"memory": resident() - before}


def costs_of_flow(sizes: Mapping[str, int]) -> Iterator[Cost]:
    """Give the microseconds of an event, round by round, hour after hour of a new flow."""
    users, items = sizes["users"], sizes["items"]
    while True:
        flow = Flow()
        list(rounds(flow, begun(users, items, BEGIN)))
        for each in rounds(flow, hour(sizes["events"], users, items, BEGIN)):
            yield {"event": each}


def rounds(flow: Flow, batches: Iterator[list[Incoming]]) -> Iterator[float]:
    """Take batches in; give the microseconds of an event, round by round."""
    while some := list(islice(batches, FLUSH)):
        begin = time.process_time()
        for batch in some:
            flow.take(batch)
        flow.flush()
        yield 1e6 * (time.process_time() - begin) / sum(map(len, some))


def begun(users: int, items: int, begin: int) -> Iterator[list[Incoming]]:
    """Give an event of each user, in batches."""
    for first in range(0, users, BATCH):
        some = range(first, min(users, first + BATCH))
        yield [record(f"p{user}", begin, user, user % items, "view") for user in some]


def hour(events: int, users: int, items: int, begin: int) -> Iterator[list[Incoming]]:
    """Give the events of an hour, in batches; no more than some of them are held."""
    random = np.random.default_rng(0)
    for first in range(0, events, BATCH):
        numbers = range(first, min(events, first + BATCH))
        who, what = (random.integers(n, size=len(numbers)).tolist() for n in (users, items))
        yield [
            record(f"e{n}", begin + HOUR * n // events, user, item, "view" if n % 4 else "click")
            for n, user, item in zip(numbers, who, what, strict=True)
        ]


def record(name: str, at: int, user: int, item: int, kind: str) -> Incoming:
    """Return an event as it lies on Kafka."""
    from streamrank.edges.kafka import Incoming

    return Incoming("events", 0, 0, (FORM % (name, at, user, user, kind, item)).encode())


# --- a list ---------------------------------------------------------------------------------------


def graph() -> bytes:
    """Return a small Ranker with the bins of usual lists: it costs what a trained one does."""
    from streamrank.model import export
    from tests.benchmarks import steps

    lists = steps.Lists(USUAL["candidates"], USUAL["history"])
    return export.to_onnx(steps.untrained(lists))


class Scoring:
    """Lists of one size, and the steps that rank them."""

    def __init__(self, sizes: Mapping[str, int], onnx: bytes) -> None:
        from streamrank import steps_ranking
        from streamrank.edges.onnxruntime import OnnxScorer
        from tests.benchmarks import steps

        self.lists = steps.Lists(sizes["candidates"], sizes["history"])
        scorer = OnnxScorer(onnx, version="v1", provider="cpu")
        self.enrich = steps.after_clicks(self.lists)
        self.score = partial(steps_ranking.score, scorer)
        self.enrich(self.lists.queries)  # what is kept of items is there from now on


def memory_of_lists(sizes: Mapping[str, int], onnx: bytes) -> Point:
    """Return what lists that are scored together gain, and what is kept of a silent user."""
    from streamrank.features import packed

    scoring = Scoring(sizes, onnx)
    before = resident()
    ready = scoring.enrich(scoring.lists.queries[:TOGETHER])
    scored = scoring.score(ready)
    gained = resident() - before
    del ready, scored
    kept = [len(packed.pack(state)) for state, _ in scoring.lists.tracked]
    return {"memory": gained, "session": round(median(kept))}


def costs_of_lists(sizes: Mapping[str, int], onnx: bytes) -> Iterator[Cost]:
    """Give the microseconds of both steps, list by list, again and again."""
    scoring = Scoring(sizes, onnx)
    while True:
        for query in scoring.lists.queries:
            begin = time.process_time()
            ready = scoring.enrich([query])
            middle = time.process_time()
            scoring.score(ready)
            end = time.process_time()
            yield {"enrich": 1e6 * (middle - begin), "score": 1e6 * (end - middle)}


# --- all of it ------------------------------------------------------------------------------------


def in_turn(runs: Sequence[tuple[int, Iterator[Cost]]]) -> list[Cost]:
    """Return the median cost of each run, by step.

    Args:
        runs: How often each is measured, spread over all the time, and what measures it.

    Examples:
        >>> few, many = iter([{"a": 1.0}]), iter([{"a": 2.0}, {"a": 4.0}, {"a": 9.0}])
        >>> in_turn([(1, few), (3, many)])
        [{'a': 1.0}, {'a': 4.0}]
    """
    turns = max(count for count, _ in runs)
    found: list[list[Cost]] = [[] for _ in runs]
    for turn in range(turns):
        for own, (count, run) in zip(found, runs, strict=True):
            if turn * count // turns < (turn + 1) * count // turns:
                own.append(next(run))
    return [{step: round(median(one[step] for one in own), 2) for step in own[0]} for own in found]


def costs(axis: str, most: int, onnx: bytes) -> list[Cost]:
    """Measure the time of all sizes of an axis."""
    runs = list[tuple[int, Iterator[Cost]]]()
    for size in sizes_of(axis, most):
        sizes = USUAL | {axis: size}
        if axis in FLOW:
            runs.append((max(ROUNDS, sizes["events"] // (FLUSH * BATCH)), costs_of_flow(sizes)))
        else:
            runs.append((LISTS, costs_of_lists(sizes, onnx)))
    return in_turn(runs)


def sizes_of(axis: str, most: int) -> list[int]:
    """Return the sizes of an axis, the smallest first."""
    return [size for size in SIZES[axis] if size <= most]


def measured(axis: str, most: int, model: Path) -> list[Point]:
    """Measure an axis: time in one process, the memory of each size in another."""
    times = apart(model, "--costs", axis, str(most))
    sizes = sizes_of(axis, most)
    memory = [apart(model, "--memory", axis, str(size)) for size in sizes]
    return grown(
        [
            {"size": size, "microseconds": cost} | own
            for size, cost, own in zip(sizes, times, memory, strict=True)
        ]
    )


def apart(model: Path, *asked: str) -> Any:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--model", str(model), *asked]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def alone(given: argparse.Namespace) -> Any:
    """Measure what this process is there for."""
    from streamrank import deployment

    deployment.seldom_collect()
    onnx = given.model.read_bytes() if given.model.exists() else b""
    if given.costs:
        return costs(given.costs[0], int(given.costs[1]), onnx)
    axis, size = given.memory[0], int(given.memory[1])
    sizes = USUAL | {axis: size}
    return memory_of_flow(sizes) if axis in FLOW else memory_of_lists(sizes, onnx)


def grown(points: Sequence[Point]) -> list[Point]:
    """Return points with how far each is from the smallest: times as long, bytes of each one more.

    Examples:
        >>> few = {"size": 10, "microseconds": {"a": 1.0, "b": 1.0}, "memory": 100}
        >>> many = {"size": 20, "microseconds": {"a": 2.0, "b": 3.0}, "memory": 150}
        >>> [(one["times"], one["bytes_each"]) for one in grown([few, many])]
        [(1.0, None), (2.5, 5)]
    """
    least = points[0]
    return [
        one
        | {
            "times": round(total(one) / total(least), 3),
            "bytes_each": round((one["memory"] - least["memory"]) / (one["size"] - least["size"]))
            if one["size"] > least["size"]
            else None,
        }
        for one in points
    ]


def total(point: Point) -> float:
    """Return the microseconds of all steps."""
    return float(sum(point["microseconds"].values()))


def show(axes: Mapping[str, Sequence[Point]], console: Console) -> None:
    """Print a table."""
    table = Table("", "size", "µs", "enrich", "score", "times", "MB", "bytes each", "session")
    for axis, points in axes.items():
        for one in points:
            each, steps = one["bytes_each"], one["microseconds"]
            table.add_row(
                axis,
                f"{one['size']:,}",
                f"{total(one):,.1f}",
                *(f"{steps[name]:,.0f}" if name in steps else "" for name in ("enrich", "score")),
                f"{one['times']:.2f}",
                f"{one['memory'] / 2**20:,.1f}",
                "" if each is None else f"{each:,}",
                f"{one['session']:,}" if axis == "history" else "",
            )
        table.add_section()
    console.print(table)


def draw(axes: Mapping[str, Sequence[Point]]) -> Figure:
    """Draw how time grows above how memory does, one axis beside the other."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    from tests.benchmarks import pictures

    figure, panels = pictures.grid(2, len(axes), alike=True)
    upper, lower = panels[: len(axes)], panels[len(axes) :]
    for (axis, points), above, below in zip(axes.items(), upper, lower, strict=True):
        sizes = [one["size"] for one in points]
        for step in points[0]["microseconds"]:
            cost = [one["microseconds"][step] for one in points]
            above.loglog(sizes, [each / cost[0] for each in cost], marker="o", label=step)
        even = [size / sizes[0] for size in sizes]
        above.loglog(
            sizes, even, color=pictures.FAINT, linestyle=":", label="in proportion", zorder=1
        )
        below.loglog(sizes, [one["memory"] / 2**20 for one in points], marker="o")
        above.set_title(axis.capitalize())
        below.set_xlabel(axis)
    most = max(one["times"] for points in axes.values() for one in points)
    upper[0].set(ylabel="time, times the first", ylim=(0.7, 5 * most))
    lower[0].set(ylabel="memory, MB")
    for panel in (upper[0], *upper[len(FLOW) :]):
        panel.legend(loc="upper left", fontsize=8)
    for panel in panels:
        for scale in (panel.xaxis, panel.yaxis):
            scale.set_major_formatter(EngFormatter(sep=""))
            scale.set_minor_formatter(NullFormatter())
    return figure


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--picture", type=Path, help="where the picture goes: .svg, .png")
    parser.add_argument("--axes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--most", type=int, default=1_000_000, help="leave larger sizes out")
    parser.add_argument("--costs", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.costs or given.memory:
        print(json.dumps(alone(given)))
        return
    if given.report is None:
        parser.error("--report is required")
    axes, machine = dict[str, list[Point]](), f"{os.cpu_count()} CPUs, {platform.machine()}"
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        if not set(given.axes) <= set(FLOW):
            model.write_bytes(graph())
        for axis in given.axes:  # some take minutes: each is told and kept as soon as it is there
            axes[axis] = measured(axis, given.most, model)
            show({axis: axes[axis]}, Console())
            report = {"machine": f"{machine}, load {os.getloadavg()[0]:.1f}", "axes": axes}
            draft = given.report.with_name(given.report.name + ".part")
            draft.write_text(json.dumps(report, indent=2) + "\n")
            draft.replace(given.report)
    if given.picture:
        from tests.benchmarks import pictures

        pictures.save(draw(axes), given.picture)


if __name__ == "__main__":
    main()
