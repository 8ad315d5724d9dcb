"""The model registry: versions that appear whole, and are verified before they serve.

    <root>/<name>/<version>/
        ranker.onnx          the graph that serves
        weights.safetensors  what the learner goes on from
        probe.safetensors    inputs of a batch, and the scores that they must give
        structure.onnx       the graph without its weights, for a learner, if there is one
        learned.safetensors  which lists it knows, where a learner made it
        retrieval…           what it finds candidates with, if anything, see `registry_retrieval`
        manifest.json        what it is, and the hashes of the rest
    <root>/<name>/serving/   which version serves, see `registry_serving`
    <root>/<name>/learner…   who learns, see `registry_lock`

`root` is a folder, or any address that fsspec knows.  Versions sort by the time of their
creation, which is in their name beside a hash of the manifest.  No pickle is read or written.

What can go wrong is in `registry_errors`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from streamrank.edges.onnxruntime import OnnxScorer, Provider
from streamrank.edges.registry_errors import (
    LearnerRunning,
    LockLost,
    NameRefused,
    PointerMoved,
    RegistryError,
    RegistryUnusable,
    VersionBarred,
    VersionMissing,
    VersionRefused,
    VersionTaken,
)
from streamrank.edges.registry_folders import MARK
from streamrank.edges.registry_lock import Lock, learner_lock
from streamrank.edges.registry_manifest import LEARNED, STRUCTURE, WEIGHTS, Manifest, stamp
from streamrank.edges.registry_publishing import LEFTOVER, Exported, publish
from streamrank.edges.registry_retrieval import Build, Finds, Retrievals, at_once
from streamrank.edges.registry_serving import (
    bar,
    barred,
    current,
    history,
    latest,
    line,
    point,
    rollback,
    standing,
)
from streamrank.edges.registry_shelf import manifest_of, readable, reader, shelf, usable
from streamrank.edges.registry_shelf import version_names as _versions
from streamrank.edges.registry_standing import Bar, Standing
from streamrank.edges.registry_verified import Verified, arrays, content, verified
from streamrank.features.inputs import Array

__all__ = [
    "Bar",
    "Exported",
    "Finds",
    "LearnerRunning",
    "Lock",
    "LockLost",
    "Manifest",
    "NameRefused",
    "PointerMoved",
    "RegistryError",
    "RegistryUnusable",
    "Retrievals",
    "Standing",
    "Verified",
    "VersionBarred",
    "VersionMissing",
    "VersionRefused",
    "VersionTaken",
    "at_once",
    "bar",
    "barred",
    "current",
    "history",
    "latest",
    "learned",
    "learner_lock",
    "line",
    "load",
    "load_verified",
    "manifest",
    "point",
    "publish",
    "retain",
    "rollback",
    "standing",
    "structure",
    "versions",
    "weights",
]

# --- keeping ----------------------------------------------------------------------------------


def retain(
    root: str | Path,
    name: str,
    *,
    keep: int,
    now: datetime,
    max_age: timedelta | None = None,
    serving: Collection[str] = (),
) -> list[str]:
    """Remove old versions, and what writers left when they died.

    Whatever its age and place, what serves stays, with its parent and what served before it, for
    a roll-back; so does the newest that may serve, with its parent.

    Args:
        root: The registry.
        name: The model.
        keep: How many of the newest stay.
        now: The time.
        max_age: How old they may get, even among the newest.
        serving: More versions in use: they stay as well, and so do their parents.

    Returns:
        The versions that are gone.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    models = shelf(root, name)
    with usable(root):
        models.sweep(stamp(now - LEFTOVER))
        known = _versions(models)
        oldest = "" if max_age is None else stamp(now - max_age)
        spared = {version for version in known[-keep:] if version >= oldest}
        spared |= _in_use(root, name, serving)
        gone = [version for version in known if version not in spared]
        for version in gone:
            models.remove(version)
    return gone


def _in_use(root: str | Path, name: str, serving: Collection[str]) -> set[str]:
    used = {*serving, latest(root, name), current(root, name)}
    stands = standing(root, name)
    parents = {one.parent for one in versions(root, name) if one.version in used}
    former = {stands.former} if stands is not None else set()
    return {version for version in used | parents | former if version is not None}


# --- reading ----------------------------------------------------------------------------------


def versions(root: str | Path, name: str) -> list[Manifest]:
    """Return every version that can be read, the oldest first, the rejected among them."""
    models = shelf(root, name)
    with usable(root):
        found = [readable(models, name, version) for version in _versions(models)]
    return [manifest for manifest in found if manifest is not None]


def manifest(root: str | Path, name: str, version: str) -> Manifest:
    """Return what a version is.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: Its manifest is not as it must be.
    """
    models = shelf(root, name)
    with usable(root):
        return manifest_of(models, name, version)


def load(
    root: str | Path,
    name: str,
    version: str,
    *,
    features: str,
    provider: Provider = "auto",
    threads: int = 1,
) -> OnnxScorer:
    """Return a version as a scorer, if it is what its manifest says in every respect.

    Args:
        root: The registry.
        name: The model.
        version: Which one.
        features: `features.inputs.digest` of the schema that is served.
        provider: Where to run, see `OnnxScorer`.
        threads: Threads of the session.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: A file is missing or changed, the graph is none, the features are others,
            or the probe gives other scores.
        ProviderMissing: The GPU that was asked for cannot be had.
    """
    found = load_verified(
        root, name, version, features=features, provider=provider, threads=threads
    )
    return found.scorer


def load_verified(
    root: str | Path,
    name: str,
    version: str,
    *,
    features: str,
    provider: Provider = "auto",
    threads: int = 1,
    build: Build = at_once,
    retrievals: Retrievals | None = None,
) -> Verified:
    """Return a version as `load` does, with its manifest and the probe that it answered.

    `build` runs what builds a session, maybe in another thread (`swap.standing_back`).
    `retrievals` opens what the version finds candidates with, which is verified likewise; without
    it nobody reads that.
    """
    models = shelf(root, name)
    with usable(root):
        found = manifest_of(models, name, version)
        if found.features != features:
            rule = f"features must be {features}, as the settings have them"
            raise VersionRefused(version, MARK, rule, found.features)
        read = reader(models, version)
        return verified(
            found, read, provider=provider, threads=threads, build=build, retrievals=retrievals
        )


def weights(root: str | Path, name: str, version: str) -> dict[str, Array]:
    """Return what the learner goes on from.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: The file is missing or changed.
    """
    return _arrays(root, name, version, WEIGHTS)


def learned(root: str | Path, name: str, version: str) -> dict[str, Array] | None:
    """Return which lists a version has learned from, as `publish` took it; `None` if it took none.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: The file is missing or changed.
    """
    if LEARNED not in manifest(root, name, version).files:
        return None
    return _arrays(root, name, version, LEARNED)


def structure(root: str | Path, name: str, version: str) -> bytes | None:
    """Return the graph of a version without its weights; `None` if `publish` took none.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: The file is missing or changed.
    """
    models = shelf(root, name)
    with usable(root):
        known = manifest_of(models, name, version)
        if STRUCTURE not in known.files:
            return None
        return content(known, STRUCTURE, reader(models, version))


def _arrays(root: str | Path, name: str, version: str, file: str) -> dict[str, Array]:
    models = shelf(root, name)
    with usable(root):
        known = manifest_of(models, name, version)
        return arrays(version, file, content(known, file, reader(models, version)))
