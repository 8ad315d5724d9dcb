"""How many cores, how much memory and how many partitions a load needs: a linear model.

What a core does differs from machine to machine by more than any formula could say. So that is
measured where it will run (`streamrank bench`), and the model says how it changes with lists,
histories, users and items. `tests/benchmarks/sizing.py` holds it against measurements.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streamrank.errors import StreamRankError
from streamrank.features import windows
from streamrank.settings import Settings

BUSY = 0.6
"""Share of a core that is planned with: the rest is for bursts, swaps and snapshots."""
GROWTH = 4
"""Partitions of each process, so that there can be four times as many later."""
MB = 1 << 20

# --- what things cost, relative to each other -------------------------------------------------

_FIXED, _CANDIDATES, _HISTORY = 0.44, 0.40 / 100, 0.16 / 50
"""Of what a list of 100 candidates and 50 steps of history costs the rank flow."""
_DEED = 0.1
"""What a deed costs the rank flow that re-ranks nothing, of such a list."""
_IMPRESSION = 0.05
"""What a candidate that was shown costs the features flow, of a deed: to be read and counted."""
_SCATTERED = 0.35
"""What a deed costs more in the features flow with ten times as many users, from a thousand on: the
store's pages lie apart, and a snapshot is written whole."""
_LESSON = 5.0
"""What a list costs the learner with its share of old ones and verdicts, of scoring it."""

# --- bytes ------------------------------------------------------------------------------------

_RANK, _FEATURES, _LEARN = 550 * MB, 300 * MB, 1_300 * MB
"""Each flow with its libraries, and the learner with the lists that it repeats."""
_SESSION, _ID, _STEP = 180, 8.7, 54
"""A session without anything; a candidate in a list; a step of history."""
USER, ITEM = 830, 3_700
"""A user and an item in the features flow, but for the numbers of their windows: between one that
sleeps, as bytes alone, and one that acts, an item as one in a busy catalogue of 10,000."""
_CACHED = 3_600
"""An item in the rank flow's cache, likewise: twice what one with a single number takes (1,840)."""


@dataclass(frozen=True, slots=True)
class Load:
    """What comes.

    Attributes:
        users: Who are remembered at the same time: all within `session.ttl`.
        items: How many there are.
        events: Deeds a second.
        requests: Requests a second.
        reranks: Lists a second that are ranked again because somebody acted.
        candidates: Of a list.
    """

    users: int
    items: int
    events: float
    requests: float
    reranks: float
    candidates: int = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """What one core does.

    The defaults are of a slow one (two shared x86-64 hyperthreads that broker and load keep busy
    too): `serve.py` and `features.py` of `tests/benchmarks`.

    Attributes:
        rankings: Lists a second through the rank flow.
        candidates: Of these lists.
        history: Steps of history of these lists.
        events: Deeds a second through the features flow, of a thousand users.
    """

    rankings: float = 400.0
    candidates: int = 100
    history: int = 50
    events: float = 13_000.0


@dataclass(frozen=True, slots=True)
class Need:
    """What a flow needs.

    Attributes:
        cores: How many it keeps busy.
        processes: How many it runs as, each with a core that is not more than `BUSY`.
        memory: Bytes of each process.
    """

    cores: float
    processes: int
    memory: int


def list_cost(candidates: int, history: int) -> float:
    """Return what a list costs the rank flow, of one with 100 candidates and 50 steps of history.

    Examples:
        >>> round(list_cost(100, 50), 6), round(list_cost(1000, 50), 6)
        (1.0, 4.6)
    """
    return _FIXED + _CANDIDATES * candidates + _HISTORY * history


def event_cost(users: int) -> float:
    """Return what a deed costs the features flow, of one where there are a thousand users.

    Examples:
        >>> event_cost(1_000), event_cost(1_000_000)
        (1.0, 2.05)
    """
    return 1.0 + _SCATTERED * max(0.0, math.log10(max(1, users) / 1000))


def session_bytes(candidates: int, history: int, lists: int) -> float:
    """Return what a silent user's session takes: its steps, its last list and earlier ones."""
    return _SESSION + _STEP * history + _ID * candidates * (lists + 1)


def size(load: Load, known: Settings, pace: Pace | None = None) -> dict[str, Any]:
    """Say what a load needs.

    Args:
        load: What comes.
        known: The settings, which say what is counted and remembered.
        pace: What one core does.

    Returns:
        A `Need` for each flow, the partitions of the topics, and what it was reckoned from.

    Examples:
        >>> small = Load(users=1_000, items=1_000, events=10, requests=5, reranks=10)
        >>> found = size(small, Settings())
        >>> found["rank"]["processes"], found["partitions"]
        (1, 4)
    """
    pace = pace or Pace()
    schema, session = known.feature_schema(), known.session
    usual = pace.rankings * list_cost(pace.candidates, pace.history)  # lists of 100 and 50
    lists = load.requests + load.reranks
    width = 8 * windows.width(len(schema.horizons), len(schema.channels))

    one_list = list_cost(load.candidates, session.history) / usual
    rank = lists * one_list + load.events * _DEED / usual
    shown = load.requests * load.candidates  # a list that is ranked again was seen already
    deeds = load.events + load.requests + _IMPRESSION * shown
    features = deeds * event_cost(load.users) / pace.events
    learn = known.learn.share * lists * _LESSON * one_list

    held = session_bytes(load.candidates, session.history, session.lists)
    cached = min(load.items, known.rank.cache_rows) * (_CACHED + width)
    rank_processes, features_processes = _processes(rank), _processes(features)
    everything = load.users * (USER + width) + load.items * (ITEM + width)
    return {
        "rank": asdict(
            Need(rank, rank_processes, round(_RANK + load.users * held / rank_processes + cached))
        ),
        "features": asdict(
            Need(features, features_processes, round(_FEATURES + everything / features_processes))
        ),
        "learn": asdict(Need(learn, 1, _LEARN)),
        "partitions": GROWTH * max(rank_processes, features_processes),
        "load": asdict(load),
        "pace": asdict(pace),
    }


def _processes(cores: float) -> int:
    return max(1, math.ceil(cores / BUSY))


def pace_of(path: Path) -> Pace:
    """Return what one core did, from a report of `streamrank bench`.

    Raises:
        StreamRankError: It is no such report.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rankings = float(found["rankings_per_second"])
        candidates, history = int(found["candidates"]), int(found["history"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StreamRankError(
            f"{path} must be a report of `streamrank bench`: {type(error).__name__} {error}"
        ) from None
    if not rankings > 0:
        raise StreamRankError(f"{path}: rankings_per_second must be positive, got {rankings:g}")
    return Pace(rankings=rankings, candidates=candidates, history=history)


def show(found: dict[str, Any], console: Console) -> None:
    """Print what a load needs as a table."""
    table = Table("flow", "cores busy", "processes", "memory each")
    for flow in ("rank", "features", "learn"):
        need = found[flow]
        memory = f"{need['memory'] / MB:,.0f} MB"
        busy = min(need["cores"], float(need["processes"]))
        table.add_row(flow, f"{busy:.2f}", str(need["processes"]), memory)
    console.print(table)
    console.print(f"partitions: {found['partitions']} or a multiple, the same for all topics")
    if found["learn"]["cores"] > 1:
        console.print(
            f"the learner, of which there is one, would keep {found['learn']['cores']:.1f} cores "
            "busy: it repeats less of the past, and beyond some two cores it falls behind "
            "(learn.share has it learn from fewer users)"
        )
