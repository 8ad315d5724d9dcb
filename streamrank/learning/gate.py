"""May a challenger serve?  It is held against the champion on lists that neither has learned from.

It passes if it works (finite weights and scores, a graph that does what PyTorch does, quick
enough, scores that tell candidates apart), and if it ranks those lists no worse: its mean is at
least the champion's, or, where the rules are strict, better beyond chance.  A mean that is at
least equal is never significantly worse, so that is no rule of its own; in a segment, which is
small, it is: there a loss must be significant and beyond a limit to refuse.

Feedback itself can be wrong.  Where the champion orders the newest lists the other way round, far
beyond chance and for most users, something upstream says the opposite of what people did: nothing
that learned from it, or was judged by it, may serve.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from streamrank.evaluation import intervals, metrics
from streamrank.features.inputs import Array

SAMPLES = 1000
"""Of a bootstrap."""
METRICS = ("mrr", "ndcg@10", "auc")
CREDIBLE = 0.45
"""An AUC of the champion that is surely below this is no chance and no change of taste."""
FAR = 1e-3
"""How improbable that is by chance, user by user: what nobody believes is not learned from, and a
bootstrap of a handful of users is sure too soon."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a challenger must be.

    Attributes:
        lists: Lists with feedback to judge by, at least.
        metric: What is compared: `"ndcg@10"`, `"mrr"` or `"auc"`.
        require: `"equal"`: on average at least as good; `"better"`: beyond chance.
        confidence: How sure a difference must be to count as one.
        parity: How far a score of the graph may be from PyTorch's, or this share of the largest
            score where that is more.
        latency: How many times the champion's time it may take.
        spread: Standard deviation of the scores within a list, at least, on average.
        segments: Segments in which it must not lose; none is compared that is not named.
        segment_loss: How much of the metric it may lose there, if it surely does.
    """

    lists: int = 50
    metric: Literal["ndcg@10", "mrr", "auc"] = "ndcg@10"
    require: Literal["equal", "better"] = "equal"
    confidence: float = 0.95
    parity: float = 1e-3
    latency: float = 1.5
    spread: float = 1e-4
    segments: tuple[str, ...] = ()
    segment_loss: float = 0.01


@dataclass(frozen=True, slots=True)
class Evidence:
    """What both did with the same lists, which neither had learned from.

    Attributes:
        labels: Of each list, (C, heads).
        champion: Scores of each list by the graph that serves, (C, heads).
        challenger: Those of the graph that wants to, (C, heads).
        torch: Those of the challenger by PyTorch, of all lists or of the last ones.
        users: Whose list each one is.
        segments: The segments of each list.
        seconds: The time that the champion and the challenger took for the same lists.
        weights_finite: Whether all the challenger's weights are numbers.
    """

    labels: Sequence[Array]
    champion: Sequence[Array]
    challenger: Sequence[Array]
    torch: Sequence[Array]
    users: Sequence[Hashable]
    segments: Sequence[Collection[str]] = ()
    seconds: tuple[float, float] = (0.0, 0.0)
    weights_finite: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger may serve.

    Attributes:
        passed: It may.
        reason: Why, in words.
        figures: All that was measured.
        credible: Whether the feedback is; if not, nobody should learn from it either.
    """

    passed: bool
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)
    credible: bool = True


def judge(evidence: Evidence, rules: Rules = Rules()) -> Verdict:
    """Judge a challenger.

    Args:
        evidence: What both did.
        rules: What must be.

    Examples:
        >>> labels = [np.eye(3)[:, [place % 3]] for place in range(60)]
        >>> good, bad = [9 * one for one in labels], [-9 * one for one in labels]
        >>> judge(Evidence(labels, bad, good, good, range(60))).passed
        False
        >>> print(judge(Evidence(labels, good, bad, bad, range(60))).reason)
        ndcg@10 must be at least the champion's 1.0000, got 0.5000 on 60 lists
    """
    fault = _fault(evidence, rules)
    if fault is not None:
        return Verdict(False, *fault)
    compared = _compared(evidence, rules)
    if compared is None:
        lists = len(_told(evidence))
        rule = f"there must be {rules.lists} lists with feedback to judge by"
        return Verdict(False, f"{rule}, got {lists}", {"lists": float(lists)})
    figures, name = compared, rules.metric
    if figures["champion_auc_high"] < CREDIBLE and figures["reversed_by_chance"] < FAR:
        return Verdict(
            False,
            "feedback must not be the opposite of what it was, got an auc of "
            f"{figures['champion_auc']:.4f} for the champion",
            figures,
            credible=False,
        )
    lost = _lost(figures, rules) or _lost_segment(evidence, rules, figures)
    if lost is not None:
        return Verdict(False, f"{lost} on {figures['lists']:.0f} lists", figures)
    said = f"{name} {figures[name]:.4f} against the champion's {figures[f'champion_{name}']:.4f}"
    return Verdict(True, f"{said} on {figures['lists']:.0f} lists", figures)


# --- does it work -----------------------------------------------------------------------------


def _fault(evidence: Evidence, rules: Rules) -> tuple[str, dict[str, float]] | None:
    """Say what is broken, with the figures, `None` where it works."""
    if not evidence.weights_finite:
        return "weights must be finite, got NaN or infinity", {}
    for name, found in (("scores", evidence.challenger), ("PyTorch's scores", evidence.torch)):
        broken = sum(not np.isfinite(scores).all() for scores in found)
        if broken:
            return f"{name} must be finite, got {broken} lists with NaN or infinity", {}
    apart, largest = _apart(evidence.challenger[-len(evidence.torch) :], evidence.torch)
    figures = {"parity": apart}
    if not apart <= rules.parity * max(1.0, largest):
        return f"graph and PyTorch must agree to {rules.parity}, got {apart:.6g}", figures
    theirs, ours = evidence.seconds
    figures["latency"] = ours / theirs if theirs else 0.0
    if figures["latency"] > rules.latency:
        limit = f"must take at most {rules.latency} times the champion's time"
        return f"{limit}, got {figures['latency']:.2f}", figures
    figures["spread"] = _spread(evidence.challenger)
    if figures["spread"] < rules.spread:
        return f"scores must spread by {rules.spread} within a list, got {figures['spread']:.3g}", (
            figures
        )
    if _as_incoming(evidence.challenger) and not _as_incoming(evidence.champion):
        return "lists must not all keep the order in which they came, got no other", figures
    return None


def _apart(scores: Sequence[Array], others: Sequence[Array]) -> tuple[float, float]:
    """Return the largest difference, and the largest score."""
    apart = largest = 0.0
    for ours, theirs in zip(scores, others, strict=True):
        apart = max(apart, float(np.abs(ours - theirs).max(initial=0.0)))
        largest = max(largest, float(np.abs(theirs).max(initial=0.0)))
    return apart, largest


def _spread(lists: Sequence[Array]) -> float:
    """Return the standard deviation of the label's scores within a list, on average."""
    spreads = [float(scores[:, 0].std()) for scores in lists if len(scores) > 1]
    return float(np.mean(spreads)) if spreads else float("inf")


def _as_incoming(lists: Sequence[Array]) -> bool:
    """Say whether every list that has an order keeps the incoming one."""
    long = [scores[:, 0] for scores in lists if len(scores) > 2]
    return bool(long) and all((np.diff(scores) <= 0).all() for scores in long)


# --- is it as good ----------------------------------------------------------------------------


def _told(evidence: Evidence) -> list[int]:
    """Return the lists that tell two orders apart: those with some of the label, not all of it."""
    return [
        place
        for place, labels in enumerate(evidence.labels)
        if labels[:, 0].any() and not labels[:, 0].all()
    ]


def _compared(evidence: Evidence, rules: Rules) -> dict[str, float] | None:
    """Measure both on the lists that can tell, `None` where these are too few."""
    told = _told(evidence)
    if len(told) < max(1, rules.lists):
        return None
    users = [evidence.users[place] for place in told]
    champion = _of_lists(evidence.champion, evidence, told)
    challenger = _of_lists(evidence.challenger, evidence, told)
    figures = {"lists": float(len(told))}
    for metric in METRICS:
        figures[metric] = float(challenger[metric].mean())
        figures[f"champion_{metric}"] = float(champion[metric].mean())
    surely = intervals.paired(
        challenger[rules.metric],
        champion[rules.metric],
        groups=users,
        confidence=rules.confidence,
        samples=SAMPLES,
    )
    believed = intervals.bootstrap(
        champion["auc"], groups=users, confidence=rules.confidence, samples=SAMPLES
    )
    names = ("difference", "difference_low", "difference_high")
    return (
        figures
        | dict(zip(names, surely, strict=True))
        | {"champion_auc_high": believed.high, "reversed_by_chance": _sign(champion["auc"], users)}
    )


def _sign(aucs: Array, users: Sequence[Hashable]) -> float:
    """Return how probable so many users below an AUC of 1/2 are, were either side as likely."""
    own: dict[Hashable, float] = defaultdict(float)
    for auc, user in zip(aucs.tolist(), users, strict=True):
        own[user] += auc - 0.5
    below, above = sum(one < 0 for one in own.values()), sum(one > 0 for one in own.values())
    count = below + above
    return sum(math.comb(count, places) for places in range(below, count + 1)) / (1 << count)


def _of_lists(
    scores: Sequence[Array], evidence: Evidence, places: Sequence[int]
) -> dict[str, Array]:
    # What the champion cannot score at all counts as the incoming order, as it is served.
    whole = [
        scores[place][:, 0]
        if np.isfinite(scores[place]).all()
        else -np.arange(len(scores[place]), dtype=np.float64)
        for place in places
    ]
    found = [
        metrics.of_list(one, evidence.labels[place][:, 0])
        for one, place in zip(whole, places, strict=True)
    ]
    return {metric: np.array([one[metric] for one in found]) for metric in METRICS}


def _lost(figures: Mapping[str, float], rules: Rules) -> str | None:
    ours, theirs = figures[rules.metric], figures[f"champion_{rules.metric}"]
    if rules.require == "better" and figures["difference_low"] <= 0:
        return (
            f"{rules.metric} must surely be above the champion's {theirs:.4f}, got {ours:.4f}, "
            f"a difference of {figures['difference_low']:+.4f} to {figures['difference_high']:+.4f}"
        )
    if ours < theirs:
        return f"{rules.metric} must be at least the champion's {theirs:.4f}, got {ours:.4f}"
    return None


def _lost_segment(evidence: Evidence, rules: Rules, figures: dict[str, float]) -> str | None:
    """Say in which named segment it surely loses more than the limit; note the differences."""
    if not rules.segments:
        return None
    told = _told(evidence)
    champion = _of_lists(evidence.champion, evidence, told)[rules.metric]
    challenger = _of_lists(evidence.challenger, evidence, told)[rules.metric]
    for name in rules.segments:
        own = [n for n, place in enumerate(told) if name in evidence.segments[place]]
        if not own:
            continue
        lead = intervals.paired(
            challenger[own], champion[own], confidence=rules.confidence, samples=SAMPLES
        )
        figures[f"difference {name}"] = lead.mean
        if lead.high < 0 and lead.mean < -rules.segment_loss:
            return (
                f"{rules.metric} of {name!r} must not fall by {rules.segment_loss}, "
                f"got {lead.mean:+.4f}"
            )
    return None
