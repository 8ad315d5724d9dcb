"""The model registry: versions that appear whole, and are verified before they serve.

    <root>/<name>/<version>/
        ranker.onnx          the graph that serves
        weights.safetensors  what the learner goes on from
        probe.safetensors    inputs of a batch, and the scores that they must give
        manifest.json        what it is, and the hashes of the rest
    <root>/<name>/serving/   which version serves, see `registry_serving`
    <root>/<name>/learner…   who learns, see `registry_lock`

`root` is a folder, or any address that fsspec knows.  Versions sort by the time of their
creation, which is in their name beside a hash of the manifest.  No pickle is read or written.

What can go wrong is in `registry_errors`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy

from streamrank.edges import registry_manifest
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
from streamrank.edges.registry_folders import MARK, Folders
from streamrank.edges.registry_lock import Lock, learner_lock
from streamrank.edges.registry_manifest import ONNX, PROBE, WEIGHTS, File, Manifest, stamp
from streamrank.edges.registry_serving import (
    Bar,
    Standing,
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
from streamrank.edges.registry_verified import (
    EXPECTED,
    Build,
    Verified,
    arrays,
    at_once,
    content,
    verified,
)
from streamrank.features.inputs import Array, Inputs
from streamrank.features.schema import Schema

__all__ = [
    "Bar",
    "Exported",
    "LearnerRunning",
    "Lock",
    "LockLost",
    "Manifest",
    "NameRefused",
    "PointerMoved",
    "RegistryError",
    "RegistryUnusable",
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
    "versions",
    "weights",
]

LEFTOVER = timedelta(days=1)
"""What a writer began so long ago, it will not finish."""


class Exported(Protocol):
    """A trained model as the registry takes it; `model.export.Exported` is one."""

    @property
    def onnx(self) -> bytes:
        """The graph."""

    @property
    def weights(self) -> Mapping[str, Array]:
        """What the learner goes on from."""

    @property
    def heads(self) -> tuple[str, ...]:
        """What each score means."""

    @property
    def probe(self) -> Inputs:
        """A stacked batch."""

    @property
    def expected(self) -> Array:
        """The scores that it must give, float32 (lists, candidates, heads)."""


# --- writing ----------------------------------------------------------------------------------


def publish(
    root: str | Path,
    name: str,
    exported: Exported,
    *,
    schema: Schema,
    features: str,
    now: datetime,
    metrics: Mapping[str, Any] | None = None,
    parent: str | None = None,
    gate: Mapping[str, Any] | None = None,
    rejected: str | None = None,
    lists_seen: int = 0,
    offsets: Mapping[str, int] | None = None,
) -> Manifest:
    """Let a new version appear, after the checks that `load` makes.

    Args:
        root: The registry.
        name: The model.
        exported: What training made.
        schema: What its features are made of.
        features: `features.inputs.digest(schema)`.
        now: The time; a version that is there already and newer moves it on.
        metrics: How it did, numbers by name.
        parent: The version that it learned on from.
        gate: The gate's verdict.
        rejected: Why it must not serve, if it must not.
        lists_seen: Lists that it learned from.
        offsets: How far it had read.

    Returns:
        The manifest; its `version` names the folder.

    Raises:
        VersionRefused: The model is not what its own probe says, or not finite.
        VersionTaken: Somebody published the same at the same time.
        RegistryUnusable: The registry cannot be written; nothing of the version is left.
    """
    models = shelf(root, name)
    files = _files(exported)
    record = {
        "name": name,
        "parent": parent,
        "feature_schema": schema.encode(),
        "features": features,
        "heads": list(exported.heads),
        "metrics": dict(metrics or {}),
        "gate": None if gate is None else dict(gate),
        "rejected": rejected,
        "lists_seen": lists_seen,
        "offsets": dict(offsets or {}),
        "files": _entries(files),
    }
    with usable(root):
        models.sweep(stamp(now - LEFTOVER))
        manifest = registry_manifest.seal(record, _after(models, now))
        verified(manifest, files.__getitem__, provider="cpu", threads=1)
        _put(models, manifest, files)
    return manifest


def _files(exported: Exported) -> dict[str, bytes]:
    for name, weight in exported.weights.items():
        if np.issubdtype(weight.dtype, np.floating) and not np.isfinite(weight).all():
            raise VersionRefused("", WEIGHTS, f"{name} must be finite", "NaN or infinity")
    probe = dict(exported.probe) | {EXPECTED: exported.expected}
    return {
        ONNX: exported.onnx,
        WEIGHTS: _safetensors(exported.weights),
        PROBE: _safetensors(probe),
    }


def _entries(files: Mapping[str, bytes]) -> dict[str, File]:
    return {
        file: File(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for file, content in sorted(files.items())
    }


def _safetensors(arrays: Mapping[str, Array]) -> bytes:
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    )


def _after(models: Folders, now: datetime) -> datetime:
    """Return the time, moved on where a clock that went back would hide the new version."""
    times = [registry_manifest.moment(version) for version in _versions(models)[-1:]]
    return max([now.astimezone(UTC), *(time + timedelta(microseconds=1) for time in times)])


def _put(models: Folders, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    mark = manifest.model_dump_json(indent=2).encode()
    try:
        models.put(manifest.version, {**files, MARK: mark})
    except FileExistsError:
        raise VersionTaken(f"version {manifest.version} of {manifest.name} is there") from None


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
) -> Verified:
    """Return a version as `load` does, with its manifest and the probe that it answered.

    `build` runs what builds the session, maybe in another thread (`swap.standing_back`).
    """
    models = shelf(root, name)
    with usable(root):
        found = manifest_of(models, name, version)
        if found.features != features:
            rule = f"features must be {features}, as the settings have them"
            raise VersionRefused(version, MARK, rule, found.features)
        read = reader(models, version)
        return verified(found, read, provider=provider, threads=threads, build=build)


def weights(root: str | Path, name: str, version: str) -> dict[str, Array]:
    """Return what the learner goes on from.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: The file is missing or changed.
    """
    models = shelf(root, name)
    with usable(root):
        known = manifest_of(models, name, version)
        return arrays(version, WEIGHTS, content(known, WEIGHTS, reader(models, version)))
