"""What was said of who serves: its states as numbered folders, and who may serve by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from streamrank.edges.registry_errors import RegistryUnusable, VersionBarred
from streamrank.edges.registry_folders import MARK, Folders
from streamrank.edges.registry_manifest import Manifest
from streamrank.edges.registry_shelf import readable, version_names

FOLDER = "serving"
KEPT = 50
"""States that stay, the newest among them."""


class Bar(BaseModel):
    """Why a version must not serve again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    at: AwareDatetime
    by: str


class Standing(BaseModel):
    """What serves, since when and why.

    Attributes:
        format: Which layout this has.
        version: What serves; `None` where nobody has said so yet, only barred some.
        former: What served before.
        reason: Why it was changed.
        at: When.
        by: Who changed it.
        barred: Versions that must not serve again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    version: str | None
    former: str | None
    reason: str
    at: AwareDatetime
    by: str
    barred: dict[str, Bar] = {}


def put(states: Folders, number: int, after: Standing) -> bool:
    """Write a state, unless it has been written or even forgotten; forget the oldest ones."""
    try:
        states.put(_named(number), {MARK: after.model_dump_json(indent=2).encode()})
    except FileExistsError:
        return False
    highest, _ = last(states)
    if highest - number >= KEPT:  # so late that its number had been given and forgotten
        states.remove(_named(number))
        return False
    for old in states.names():
        if int(old) <= number - KEPT:
            with suppress(FileNotFoundError):  # somebody else forgets it too
                states.remove(old)
    return True


def last(states: Folders) -> tuple[int, Standing | None]:
    """Return the newest state with its number, 0 and `None` where there is none."""
    while (number := states.last()) is not None:
        known = read(states, number)
        if known is not None:
            return int(number), known
    return 0, None


def read(states: Folders, number: str) -> Standing | None:
    """Return a state, `None` where it has been forgotten."""
    try:
        return Standing.model_validate_json(states.read(number, MARK))
    except FileNotFoundError:  # forgotten since it was listed
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise RegistryUnusable(
            f"{FOLDER}/{number}/{MARK} must say which version serves: {first}; "
            "remove the folder, and the one before it counts"
        ) from None


def _named(number: int) -> str:
    return f"{number:012d}"


# --- which ones may ---------------------------------------------------------------------------


def serving_by(models: Folders, name: str, known: Standing | None) -> str | None:
    """Return which version serves, by what was last said."""
    if known is None or known.version is None:
        return newest(models, name, known.barred if known else {})
    if readable(models, name, known.version) is not None:
        return known.version
    return newest(models, name, known.barred)


def newest(models: Folders, name: str, bars: Mapping[str, Bar]) -> str | None:
    """Return the newest version that is neither rejected nor barred."""
    for version in reversed(version_names(models)):
        found = readable(models, name, version)
        if found is not None and found.rejected is None and version not in bars:
            return version
    return None


def ancestor(models: Folders, name: str, version: str, bars: Mapping[str, Bar]) -> str:
    """Return the nearest ancestor that may serve.

    Raises:
        VersionBarred: None is left.
    """
    for found in good_ancestors(models, name, version, bars):
        return found.version
    raise VersionBarred(f"no ancestor of version {version} of {name} is left that may serve")


def good_ancestors(
    models: Folders, name: str, version: str, bars: Mapping[str, Bar]
) -> Iterator[Manifest]:
    """Give the ancestors that may serve, the nearest first."""
    found = readable(models, name, version)
    while found is not None and found.parent is not None and found.parent < found.version:
        found = readable(models, name, found.parent)
        if found is not None and found.rejected is None and found.version not in bars:
            yield found


def refuse_bad(found: Manifest, bars: Mapping[str, Bar], force: bool) -> None:
    """Refuse a version that was rejected or barred, unless it is forced."""
    if force:
        return
    if found.rejected is not None:
        raise VersionBarred(f"version {found.version} was rejected: {found.rejected}")
    if found.version in bars:
        why = bars[found.version]
        raise VersionBarred(
            f"version {found.version} is barred since {why.at:%Y-%m-%d %H:%M}: {why.reason}"
        )
