"""A new version: checked as it will be when it is loaded, and there whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy

from streamrank.edges import registry_manifest, registry_retrieval
from streamrank.edges.registry_errors import VersionRefused, VersionTaken
from streamrank.edges.registry_folders import MARK, Folders
from streamrank.edges.registry_manifest import (
    LEARNED,
    ONNX,
    PROBE,
    STRUCTURE,
    WEIGHTS,
    File,
    Manifest,
    stamp,
)
from streamrank.edges.registry_retrieval import Finds, Retrievals
from streamrank.edges.registry_shelf import readable, shelf, usable, version_names
from streamrank.edges.registry_verified import EXPECTED, verified
from streamrank.features.inputs import Array, Inputs
from streamrank.features.schema import Schema

LEFTOVER = timedelta(days=1)
"""What a writer began so long ago, it will not finish."""


class Exported(Protocol):
    """A trained model as the registry takes it; `model.artifact.Exported` is one."""

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

    @property
    def structure(self) -> bytes | None:
        """The graph without its weights, which spares a learner the export."""


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
    learned_until: int | None = None,
    offsets: Mapping[str, int] | None = None,
    learned: Mapping[str, Array] | None = None,
    finds: Finds | None = None,
) -> Manifest:
    """Let a new version appear, after the checks that `load` makes of one that may serve.

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
        learned_until: The time of the newest of them, ms.
        offsets: How far it had read.
        learned: Which lists it learned from, arrays by name.
        finds: What it finds candidates with; without it, what its parent does, if that does.

    Returns:
        The manifest; its `version` names the folder.

    Raises:
        VersionRefused: The model is not what its own probe says, or not finite.
        VersionTaken: Somebody published the same at the same time.
        RegistryUnusable: The registry cannot be written; nothing of the version is left.
    """
    models = shelf(root, name)
    files = files_of(exported)
    if learned is not None:
        files[LEARNED] = _safetensors(learned)
    if finds is not None:
        files |= registry_retrieval.files_of(finds)
    with usable(root):
        inherited = {} if finds is not None else _inherited(models, name, parent)
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
        "learned_until": learned_until,
        "offsets": dict(offsets or {}),
        "files": inherited | entries(files),
    }
    with usable(root):
        models.sweep(stamp(now - LEFTOVER))
        manifest = registry_manifest.seal(record, _after(models, now))
        if rejected is None:  # what never serves is only kept
            # What a parent has was verified when it was published, and will be when it is loaded.
            own = Retrievals() if finds is not None else None
            verified(manifest, files.__getitem__, provider="cpu", threads=1, retrievals=own)
        _put(models, manifest, files, dict.fromkeys(inherited, parent or ""))
    return manifest


def _inherited(models: Folders, name: str, parent: str | None) -> dict[str, File]:
    """Return what the parent's manifest says of the files that it finds candidates with."""
    known = None if parent is None else readable(models, name, parent)
    if known is None:
        return {}
    return {file: known.files[file] for file in registry_retrieval.FILES & set(known.files)}


def files_of(exported: Exported) -> dict[str, bytes]:
    """Return the files of a version, all but its manifest."""
    for name, weight in exported.weights.items():
        if np.issubdtype(weight.dtype, np.floating) and not np.isfinite(weight).all():
            raise VersionRefused("", WEIGHTS, f"{name} must be finite", "NaN or infinity")
    probe = dict(exported.probe) | {EXPECTED: exported.expected}
    files = {
        ONNX: exported.onnx,
        WEIGHTS: _safetensors(exported.weights),
        PROBE: _safetensors(probe),
    }
    return files if exported.structure is None else files | {STRUCTURE: exported.structure}


def entries(files: Mapping[str, bytes]) -> dict[str, File]:
    """Return what a manifest says of the files."""
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
    times = [registry_manifest.moment(version) for version in version_names(models)[-1:]]
    return max([now.astimezone(UTC), *(time + timedelta(microseconds=1) for time in times)])


def _put(
    models: Folders, manifest: Manifest, files: Mapping[str, bytes], same: Mapping[str, str]
) -> None:
    mark = manifest.model_dump_json(indent=2).encode()
    try:
        models.put(manifest.version, {**files, MARK: mark}, same)
    except FileExistsError:
        raise VersionTaken(f"version {manifest.version} of {manifest.name} is there") from None
