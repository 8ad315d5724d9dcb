"""What a log says about itself: the settings that fit it, and why.

`infer` looks at every event once and keeps counts, never the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamrank.errors import StreamRankError
from streamrank.events import Event, Request, utc
from streamrank.features.schema import FieldKind
from streamrank.seen import FieldSeen, Seen
from streamrank.settings import Settings, SettingsError, changed

LADDER = tuple(
    timedelta(minutes=minutes) for minutes in (10, 60, 360, 1440, 7 * 1440, 30 * 1440, 90 * 1440)
)
"""The horizons there are to choose from."""
MAX_INTERACTIONS, MAX_FIELDS = 64, 64
_DEEDS_OF_BUYERS = ("purchase", "buy", "bought", "order", "book", "checkout", "convert", "pay")
_LATEST_LATENESS = timedelta(days=1)
_FOREVER = timedelta(days=36_500)


class NothingToInfer(StreamRankError):
    """The log is empty, or lacks the interaction type that was asked for."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """Settings that fit a log.

    Attributes:
        settings: The settings.
        notes: What was decided and why, with figures, a sentence each.
    """

    settings: Settings
    notes: tuple[str, ...]


def infer(
    events: Iterable[Event | Request], *, label: str | None = None, conversion: str | None = None
) -> Inferred:
    """Choose settings by looking at a whole log.

    Args:
        events: The log, in its order.
        label: The interaction type that is the feedback on a list; else the one that most often
            names the list it belongs to.
        conversion: The rarer, later feedback; else another type that names lists, if one does.

    Raises:
        NothingToInfer: The log is empty, or has no interaction of the type asked for.

    Examples:
        >>> from streamrank.events import Interaction
        >>> click = {"event": "interaction", "timestamp": 10**12, "user": "u", "type": "open"}
        >>> found = infer([Interaction(id="e1", ranking="r1", **click)])
        >>> found.settings.events.label
        'open'
    """
    seen = Seen()
    for event in events:
        seen.add(event)
    if seen.count == 0:
        raise NothingToInfer("the log must hold at least one event that can be read, got none")
    notes = [_overview(seen)]
    changes = {
        "events": _feedback(seen, label, conversion, notes),
        "fields": _fields(seen, notes),
        **_times(seen, notes),
    }
    if seen.longest > Settings().rank.k:
        changes["rank"] = {"k": seen.longest}
        notes.append(f"rank.k: {seen.longest}, as long as the longest list")
    try:
        return Inferred(changed(Settings(), changes), tuple(notes))
    except SettingsError as error:  # names of the log that no settings can hold
        raise NothingToInfer(f"no settings fit this log: {error}") from None


def _overview(seen: Seen) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in seen.kinds.most_common())
    since = f"{utc(seen.first):%Y-%m-%d}"
    return f"{seen.count:,} events from {since} on, over {_days(seen.span)}: {kinds}"


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.1f} days" if span >= timedelta(days=1) else f"{span}"


def _feedback(
    seen: Seen, label: str | None, conversion: str | None, notes: list[str]
) -> dict[str, Any]:
    """Choose the interaction types, the label and the conversion."""
    ordered = [name for name, _ in sorted(seen.types.items(), key=lambda one: (-one[1], one[0]))]
    for option, name in (("label", label), ("conversion", conversion)):
        if name is not None and name not in seen.types:
            known = f"one of the log's interaction types ({', '.join(ordered) or 'none'})"
            raise NothingToInfer(f"{option} must be {known}, got {name!r}")
    label = label or _label(seen, ordered, notes)
    if label == conversion:
        raise NothingToInfer(f"conversion must be another type than the label, got {label!r}")
    if seen.about_lists[label] == 0:
        notes.append(f"no {label} names its list (key ranking): there is no feedback to learn from")
    conversion = conversion or _conversion(seen, label, notes)
    kept = dict.fromkeys(filter(None, [label, conversion, *ordered]))
    chosen = sorted(list(kept)[:MAX_INTERACTIONS], key=[*ordered, label].index)
    listed = ", ".join(f"{name} ({seen.types[name]:,})" for name in chosen)
    notes.append(f"interactions: {len(chosen)} of {len(ordered) or 1} types: {listed}")
    return {"interactions": chosen, "label": label, "conversion": conversion}


def _label(seen: Seen, ordered: list[str], notes: list[str]) -> str:
    naming = [name for name, count in seen.about_lists.most_common() if count]
    if naming:
        label = naming[0]
        told = f"{seen.about_lists[label]:,} of {seen.types[label]:,} name the list they belong to"
        others = ", ".join(f"{name} {seen.about_lists[name]:,}" for name in naming[1:])
        notes.append(
            f"label: {label}: {told}; " + (f"others: {others}" if others else "no other does")
        )
        return label
    with_items = [name for name in ordered if seen.about_items[name]]
    label = next(iter(with_items or ordered), Settings().events.label)
    why = f"the most frequent of {len(ordered)} types" if ordered else "there is no interaction"
    notes.append(f"label: {label}, a guess: no interaction names a list; {why}")
    return label


def _conversion(seen: Seen, label: str, notes: list[str]) -> str | None:
    """Choose another type that names lists, and is rarer: the only one, or one that pays."""
    most = seen.about_lists[label]
    others = [n for n, count in seen.about_lists.items() if n != label and 0 < count < most]
    paying = [name for name in others if any(word in name.lower() for word in _DEEDS_OF_BUYERS)]
    if len(others) == 1 or len(paying) == 1:
        [found] = paying if len(paying) == 1 else others
        notes.append(f"conversion: {found}: {seen.about_lists[found]:,} name their list")
        return found
    why = f"any of {', '.join(sorted(others))} could be" if others else "no rarer type names a list"
    notes.append(f"conversion: none: {why}")
    return None


def _fields(seen: Seen, notes: list[str]) -> dict[str, dict[str, FieldKind]]:
    """Choose the fields and their kinds: the most often filled ones, in the order of the log."""
    chosen: dict[str, dict[str, FieldKind]] = {}
    for owner in ("item", "user", "context", "interaction"):
        found = {name: one for (of, name), one in seen.fields.items() if of == owner}
        often = sorted(found, key=lambda name: -found[name].forms.total())
        for name in often[MAX_FIELDS:]:
            notes.append(f"fields.{owner}.{name}: left out, as {MAX_FIELDS} others are filled more")
            del found[name]
        chosen[owner] = dict(_kinds(owner, found, notes))
    return chosen


def _kinds(
    owner: str, found: Mapping[str, FieldSeen], notes: list[str]
) -> Iterator[tuple[str, FieldKind]]:
    for name, one in found.items():
        kind, why = one.kind()
        notes.append(f"fields.{owner}.{name}: {kind or 'left out'}: {why}")
        if kind is not None:
            yield name, kind


def _times(seen: Seen, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Choose horizons, lateness and how long things are remembered."""
    defaults = Settings()
    horizons = [span for span in LADDER if span <= seen.span][-3:] or [LADDER[0]]
    late = timedelta(milliseconds=seen.late)
    lateness = min(_LATEST_LATENESS, max(defaults.windows.lateness, _minutes(2 * late)))
    session = max(defaults.session.ttl, horizons[-1])
    described = _whole_days(seen.span) if seen.kinds["item"] or seen.kinds["user"] else session
    ttl = min(_FOREVER, max(defaults.windows.ttl, 4 * horizons[-1], described))
    found: dict[str, dict[str, Any]] = {
        "windows": {"horizons": horizons, "lateness": lateness, "ttl": ttl},
        "session": {"ttl": session},
    }
    shown = changed(defaults, found).model_dump(mode="json")["windows"]
    spans = ", ".join(shown["horizons"])
    latest = f"an event of a user or item came {late} late at most"
    notes += [
        f"windows.horizons: {spans}, the longest that fit into {_days(seen.span)}",
        f"windows.lateness: {shown['lateness']}; {latest}",
        f"windows.ttl: {shown['ttl']}, session.ttl: {_days(session)}",
    ]
    return found


def _minutes(span: timedelta) -> timedelta:
    return -(-span // timedelta(minutes=1)) * timedelta(minutes=1)


def _whole_days(span: timedelta) -> timedelta:
    return timedelta(days=span.days + 1)
