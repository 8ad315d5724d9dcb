"""Which version serves, who said so, and which ones never may.

    <root>/<name>/serving/<number>/manifest.json

Each change is a new, numbered folder that appears whole or not at all and only where there is
none yet, as versions do; the highest number counts.  So of two writers that saw the same state
one is told that it came late, on a disk and in a bucket alike, and the last fifty states are the
history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Final, Literal

from streamrank.edges.registry_errors import PointerMoved, RegistryUnusable, VersionBarred
from streamrank.edges.registry_shelf import manifest_of, shelf, usable, version_names, who
from streamrank.edges.registry_standing import (
    FOLDER,
    Bar,
    Standing,
    ancestor,
    good_ancestors,
    last,
    newest,
    put,
    read,
    refuse_bad,
    serving_by,
)

TRIES = 1000
"""Writers that may be faster than one that does not mind, before it gives up."""


class _Anything(Enum):
    ANYTHING = 0


ANYTHING: Final = _Anything.ANYTHING
"""The former version may be any: the last writer wins."""
Expected = str | None | Literal[_Anything.ANYTHING]


Move = Callable[[Standing | None, str | None], tuple[str | None, dict[str, Bar]]]
"""From what stands, and what serves by it, to what shall serve and what is barred."""


# --- what serves ------------------------------------------------------------------------------


def current(root: str | Path, name: str) -> str | None:
    """Return the version that serves.

    That is the one which was pointed at; where nobody has pointed yet, or that one is gone, it
    is the newest that is neither rejected nor barred, and `None` where there is none.
    """
    with usable(root):
        return serving_by(shelf(root, name), name, standing(root, name))


def line(root: str | Path, name: str) -> list[str]:
    """Return what serves, and then those ancestors of it that may, the nearest first."""
    models = shelf(root, name)
    with usable(root):
        serving, bars = current(root, name), barred(root, name)
        if serving is None:
            return []
        return [serving, *(one.version for one in good_ancestors(models, name, serving, bars))]


def latest(root: str | Path, name: str) -> str | None:
    """Return the newest version that may serve, `None` where there is none."""
    with usable(root):
        return newest(shelf(root, name), name, barred(root, name))


def standing(root: str | Path, name: str) -> Standing | None:
    """Return what was last said of who serves, `None` where nobody said anything."""
    with usable(root):
        return last(shelf(root, name, FOLDER))[1]


def barred(root: str | Path, name: str) -> Mapping[str, Bar]:
    """Return the versions that must not serve again, with the reason."""
    known = standing(root, name)
    return {} if known is None else known.barred


def history(root: str | Path, name: str) -> list[Standing]:
    """Return what was said of who serves, the oldest first: at most the last fifty."""
    states = shelf(root, name, FOLDER)
    with usable(root):
        found = [read(states, number) for number in states.names()]
    return [one for one in found if one is not None]


# --- who shall serve --------------------------------------------------------------------------


def point(
    root: str | Path,
    name: str,
    version: str,
    reason: str,
    now: datetime,
    *,
    expected: Expected = ANYTHING,
    by: str | None = None,
    force: bool = False,
) -> Standing:
    """Let a version serve.

    Args:
        root: The registry.
        name: The model.
        version: Which one.
        reason: Why, for the history.
        now: The time.
        expected: What serves so far, as the caller believes (`current`); given, nothing is
            changed where another one does.
        by: Who wants it; else user, machine and process.
        force: Even if it was rejected or barred; the bar is lifted.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: Its manifest is not as it must be.
        VersionBarred: It was rejected or barred.
        PointerMoved: Another one serves than was expected.
        RegistryUnusable: It cannot be written; what served goes on.
    """

    def move(known: Standing | None, serving: str | None) -> tuple[str, dict[str, Bar]]:
        unsaid = known is None or known.version is None
        # Where nobody has pointed yet, the newcomer itself is the newest that may serve.
        ours = unsaid and serving == version
        if expected is not ANYTHING and serving != expected and not ours:
            raise PointerMoved(
                f"{name}: {expected} must serve for {version} to take over, got {serving}"
            )
        bars = dict(known.barred) if known else {}
        refuse_bad(manifest_of(shelf(root, name), name, version), bars, force)
        bars.pop(version, None)
        return version, bars

    return _change(root, name, move, reason, now, by)


def bar(
    root: str | Path, name: str, version: str, reason: str, now: datetime, *, by: str | None = None
) -> Standing:
    """Never let a version serve again; where it serves, its nearest good ancestor takes over.

    Raises:
        VersionMissing: There is no such version.
        VersionBarred: It serves, and no ancestor is left that may; nothing is changed.
    """

    def move(known: Standing | None, serving: str | None) -> tuple[str | None, dict[str, Bar]]:
        models = shelf(root, name)
        manifest_of(models, name, version)
        bars = dict(known.barred) if known else {}
        bars[version] = Bar(reason=reason, at=now, by=by or who())
        if serving == version:
            return ancestor(models, name, version, bars), bars
        return known.version if known else None, bars

    return _change(root, name, move, reason, now, by)


def rollback(
    root: str | Path,
    name: str,
    to: str | None = None,
    *,
    now: datetime,
    reason: str = "rolled back",
    bar: bool = False,
    by: str | None = None,
    force: bool = False,
) -> Standing:
    """Let an earlier version serve again.

    Args:
        root: The registry.
        name: The model.
        to: Which one; else the nearest ancestor of the one that serves that is neither rejected
            nor barred.
        now: The time.
        reason: Why, for the history.
        bar: Whether what served so far must never serve again.
        by: Who wants it; else user, machine and process.
        force: Even `to` a version that was rejected or barred; the bar is lifted.

    Returns:
        What stands now; its `version` serves.

    Raises:
        VersionMissing: There is no such version.
        VersionBarred: It was rejected or barred, or no ancestor is left; nothing is changed.
    """

    def move(known: Standing | None, serving: str | None) -> tuple[str, dict[str, Bar]]:
        models = shelf(root, name)
        bars = dict(known.barred) if known else {}
        if serving is None:
            raise VersionBarred(f"no version of {name} serves: there is nothing to roll back")
        if bar and to != serving:
            bars[serving] = Bar(reason=reason, at=now, by=by or who())
        if to is None:
            return ancestor(models, name, serving, bars), bars
        refuse_bad(manifest_of(models, name, to), bars, force)
        bars.pop(to, None)
        return to, bars

    return _change(root, name, move, reason, now, by)


# --- the states -------------------------------------------------------------------------------


def _change(
    root: str | Path, name: str, move: Move, reason: str, now: datetime, by: str | None
) -> Standing:
    """Write the next state; whoever finds it written by somebody else looks again."""
    states, models = shelf(root, name, FOLDER), shelf(root, name)
    with usable(root):
        for _ in range(TRIES):
            number, known = last(states)
            serving = serving_by(models, name, known)
            version, bars = move(known, serving)
            there = set(version_names(models))
            after = Standing(
                version=version,
                former=serving if version != serving else known and known.former,
                reason=reason,
                at=now,
                by=by or who(),
                barred={one: why for one, why in bars.items() if one in there},
            )
            if put(states, number + 1, after):
                return after
    raise RegistryUnusable(f"{TRIES} other writers of who serves as {name} were faster")
