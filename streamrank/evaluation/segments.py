"""Which lists a figure is of: new users, new items, the long tail, short and long histories.

A mean over all lists hides who is served badly.  Segments are relative to what was learned from:
`Known.of(learned)` looks at that, `of` sorts a list, `by_segment` averages with intervals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamrank.evaluation import intervals
from streamrank.learning.examples import Example

HEAD = 0.8
"""Share of the feedback that the items of the head got; all others are the long tail."""
HISTORIES = (0, 1, 5, 20)
"""Where the segments of history length begin, in steps."""


@dataclass(frozen=True, slots=True)
class Known:
    """Who and what was in the lists that were learned from.

    Attributes:
        users: Whose lists they were.
        items: Hashes of the items that were shown in them.
        head: Those of the items that together got `HEAD` of the feedback, the most liked first.
    """

    users: frozenset[str]
    items: frozenset[int]
    head: frozenset[int]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Known:
        """Look at the lists that were learned from."""
        users, items, liked = set[str](), set[int](), Counter[int]()
        for one in examples:
            users.add(one.user)
            items.update(one.inputs["candidate_items"].tolist())
            liked.update(_liked(one))
        ranked = sorted(liked, key=lambda item: (-liked[item], item))
        before = np.cumsum([0, *(liked[item] for item in ranked)])[:-1]
        head = [
            i for i, so_far in zip(ranked, before, strict=True) if so_far < HEAD * liked.total()
        ]
        return cls(frozenset(users), frozenset(items), frozenset(head))


def of(example: Example, known: Known) -> frozenset[str]:
    """Return the segments of a list.

    Args:
        example: The list.
        known: What was learned from.

    Returns:
        `new user` or `known user`; `history 0`, `history 1-4`, `history 5-19` or `history 20+`,
        by steps; and, of each item with feedback, `new item` (in no list that was learned from),
        `tail item` or `head item`.
    """
    found = {"known user" if example.user in known.users else "new user", _length(example)}
    for item in _liked(example):
        if item in known.items:
            found.add("head item" if item in known.head else "tail item")
        else:
            found.add("new item")
    return frozenset(found)


def by_segment(
    lists: Sequence[Mapping[str, float]],
    segments: Sequence[Collection[str]],
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 500,
) -> dict[str, dict[str, float]]:
    """Average each metric within each segment, with its interval.

    Args:
        lists: The metrics of each list.
        segments: The segments of each list.
        groups: Whose list each one is, as `intervals.bootstrap` takes it.
        samples: How many times to draw.

    Returns:
        By segment, in alphabetic order, how many `lists` have it, and of each metric the mean
        by its name, with `_low` and `_high` the ends of its 95 % interval.

    Raises:
        ValueError: There are not as many segments as lists.

    Examples:
        >>> by_segment([{"mrr": 1.0}, {"mrr": 0.5}], [{"new user"}, {"new user", "history 0"}])[
        ...     "history 0"]
        {'lists': 1.0, 'mrr': 0.5, 'mrr_low': 0.5, 'mrr_high': 0.5}
    """
    if len(segments) != len(lists):
        raise ValueError(
            f"there must be segments of each list, got {len(segments)} for {len(lists)} lists"
        )
    parts = defaultdict[str, list[int]](list)
    for place, names in enumerate(segments):
        for name in names:
            parts[name].append(place)
    return {
        name: {"lists": float(len(parts[name]))} | _means(lists, parts[name], groups, samples)
        for name in sorted(parts)
    }


def _means(
    lists: Sequence[Mapping[str, float]],
    places: Sequence[int],
    groups: Sequence[Hashable] | None,
    samples: int,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in dict.fromkeys(name for place in places for name in lists[place]):
        held = [place for place in places if metric in lists[place]]
        values = np.array([lists[place][metric] for place in held])
        whose = None if groups is None else [groups[place] for place in held]
        mean, low, high = intervals.bootstrap(values, groups=whose, samples=samples)
        found |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
    return found


def _liked(example: Example) -> list[int]:
    """Return the hashes of the items that got the label."""
    liked: list[int] = example.inputs["candidate_items"][example.labels[:, 0] > 0].tolist()
    return liked


def _length(example: Example) -> str:
    steps = len(example.inputs["history_types"])
    begin = max(border for border in HISTORIES if border <= steps)
    if begin == HISTORIES[-1]:
        return f"history {begin}+"
    end = HISTORIES[HISTORIES.index(begin) + 1] - 1
    return f"history {begin}" if end == begin else f"history {begin}-{end}"
