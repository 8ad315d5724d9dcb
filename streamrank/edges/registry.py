"""The model registry: versions that appear whole, and are verified before they serve.

    <root>/<name>/<version>/
        ranker.onnx          the graph that serves
        weights.safetensors  what the learner goes on from
        probe.safetensors    inputs of a batch, and the scores that they must give
        manifest.json        what it is, and the hashes of the rest

`root` is a folder, or any address that fsspec knows.  Versions sort by the time of their
creation, which is in their name beside a hash of the manifest.  No pickle is read or written.

What can go wrong is in `registry_manifest`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from streamrank.edges import registry_manifest
from streamrank.edges.onnxruntime import ModelRefused, OnnxScorer, Provider, ScoringFailed
from streamrank.edges.registry_folders import MARK, Folders, folders
from streamrank.edges.registry_manifest import (
    VERSION,
    File,
    Manifest,
    NameRefused,
    RegistryError,
    RegistryUnusable,
    VersionMissing,
    VersionRefused,
    VersionTaken,
    stamp,
)
from streamrank.features.inputs import Array, Inputs
from streamrank.features.schema import Schema

__all__ = [
    "Exported",
    "Manifest",
    "NameRefused",
    "RegistryError",
    "RegistryUnusable",
    "VersionMissing",
    "VersionRefused",
    "VersionTaken",
    "latest",
    "load",
    "manifest",
    "publish",
    "retain",
    "versions",
    "weights",
]

log = logging.getLogger(__name__)

ONNX, WEIGHTS, PROBE = "ranker.onnx", "weights.safetensors", "probe.safetensors"
FILES = frozenset({ONNX, WEIGHTS, PROBE})
EXPECTED = "expected"
TOLERANCE = 1e-3
"""How far a score of the probe may be off, or a thousandth of the largest one where that is
more: other processors sum in another order."""
LEFTOVER = timedelta(days=1)
"""What a writer began so long ago, it will not finish."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


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
    shelf = _shelf(root, name)
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
    with _usable(root):
        shelf.sweep(stamp(now - LEFTOVER))
        manifest = registry_manifest.seal(record, _after(shelf, now))
        _verified(manifest, files.__getitem__, provider="cpu", threads=1)
        _put(shelf, manifest, files)
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


def _after(shelf: Folders, now: datetime) -> datetime:
    """Return the time, moved on where a clock that went back would hide the new version."""
    times = [registry_manifest.moment(version) for version in _versions(shelf)[-1:]]
    return max([now.astimezone(UTC), *(time + timedelta(microseconds=1) for time in times)])


def _put(shelf: Folders, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    mark = manifest.model_dump_json(indent=2).encode()
    try:
        shelf.put(manifest.version, {**files, MARK: mark})
    except FileExistsError:
        raise VersionTaken(f"version {manifest.version} of {manifest.name} is there") from None


def retain(
    root: str | Path, name: str, *, keep: int, now: datetime, serving: Collection[str] = ()
) -> list[str]:
    """Remove old versions, and what writers left when they died.

    Args:
        root: The registry.
        name: The model.
        keep: How many of the newest stay.
        now: The time.
        serving: Versions in use: they stay whatever their age, and so do their parents, for a
            roll-back; so does the newest that may serve, with its parent.

    Returns:
        The versions that are gone.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    shelf = _shelf(root, name)
    with _usable(root):
        shelf.sweep(stamp(now - LEFTOVER))
        known = _versions(shelf)
        spared = set(known[-keep:]) | {*serving, latest(root, name)}
        spared |= {one.parent for one in versions(root, name) if one.version in spared - {None}}
        gone = [version for version in known if version not in spared]
        for version in gone:
            shelf.remove(version)
    return gone


# --- reading ----------------------------------------------------------------------------------


def versions(root: str | Path, name: str) -> list[Manifest]:
    """Return every version that can be read, the oldest first, the rejected among them."""
    shelf = _shelf(root, name)
    with _usable(root):
        found = [_readable(shelf, name, version) for version in _versions(shelf)]
    return [manifest for manifest in found if manifest is not None]


def latest(root: str | Path, name: str) -> str | None:
    """Return the newest version that may serve, `None` where there is none."""
    shelf = _shelf(root, name)
    with _usable(root):
        for version in reversed(_versions(shelf)):
            manifest = _readable(shelf, name, version)
            if manifest is not None and manifest.rejected is None:
                return version
    return None


def manifest(root: str | Path, name: str, version: str) -> Manifest:
    """Return what a version is.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: Its manifest is not as it must be.
    """
    shelf = _shelf(root, name)
    with _usable(root):
        return _manifest(shelf, name, version)


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
    shelf = _shelf(root, name)
    with _usable(root):
        found = _manifest(shelf, name, version)
        if found.features != features:
            rule = f"features must be {features}, as the settings have them"
            raise VersionRefused(version, MARK, rule, found.features)
        return _verified(found, _reader(shelf, version), provider=provider, threads=threads)


def weights(root: str | Path, name: str, version: str) -> dict[str, Array]:
    """Return what the learner goes on from.

    Raises:
        VersionMissing: There is no such version.
        VersionRefused: The file is missing or changed.
    """
    shelf = _shelf(root, name)
    with _usable(root):
        content = _content(_manifest(shelf, name, version), WEIGHTS, _reader(shelf, version))
    return _arrays(version, WEIGHTS, content)


def _readable(shelf: Folders, name: str, version: str) -> Manifest | None:
    try:
        return _manifest(shelf, name, version)
    except VersionMissing:  # removed since it was listed
        return None
    except VersionRefused as error:
        log.error("%s", error)
        return None


def _manifest(shelf: Folders, name: str, version: str) -> Manifest:
    if not VERSION.fullmatch(version):
        raise NameRefused(f"version must be like 20260102T030405000000Z-0123abcd, got {version!r}")
    try:
        text = shelf.read(version, MARK)
    except (FileNotFoundError, NotADirectoryError):
        raise VersionMissing(f"there is no version {version} of {name}") from None
    found = registry_manifest.read(version, text)
    if found.name != name:
        raise VersionRefused(version, MARK, f"must be of {name}", found.name)
    return found


def _verified(
    known: Manifest, read: Callable[[str], bytes], *, provider: Provider, threads: int
) -> OnnxScorer:
    """Build the scorer from files that are what the manifest says, and try the probe on it."""
    version = known.version
    if set(known.files) != FILES:
        raise VersionRefused(version, MARK, f"files must be {sorted(FILES)}", sorted(known.files))
    contents = {file: _content(known, file, read) for file in sorted(FILES)}
    try:
        scorer = OnnxScorer(contents[ONNX], version=version, provider=provider, threads=threads)
    except ModelRefused as error:
        raise VersionRefused(version, ONNX, "must be a graph that runs here", error) from None
    if scorer.heads != len(known.heads):
        raise VersionRefused(version, ONNX, f"heads must be {known.heads}", scorer.heads)
    _try_probe(scorer, _arrays(version, PROBE, contents[PROBE]))
    return scorer


def _content(known: Manifest, file: str, read: Callable[[str], bytes]) -> bytes:
    try:
        content = read(file)
    except FileNotFoundError:
        raise VersionRefused(known.version, file, "must be there", "no such file") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != known.files[file].sha256:
        rule = f"must be {known.files[file].size} bytes of sha256 {known.files[file].sha256}"
        raise VersionRefused(known.version, file, rule, f"{len(content)} of {digest}")
    return content


def _arrays(version: str, file: str, content: bytes) -> dict[str, Array]:
    try:
        return dict(safetensors.numpy.load(content))
    except SafetensorError as error:
        raise VersionRefused(version, file, "must be safetensors", error) from None


def _try_probe(scorer: OnnxScorer, arrays: dict[str, Array]) -> None:
    version, expected = scorer.version, arrays.pop(EXPECTED, np.zeros(0))
    if not expected.size:
        raise VersionRefused(version, PROBE, "must hold scores that are expected", "none")
    try:
        scores = scorer.run(arrays)
    except ScoringFailed as error:
        raise VersionRefused(version, PROBE, "must fit the graph", error) from None
    if scores.shape != expected.shape:
        raise VersionRefused(version, PROBE, f"shape must be {expected.shape}", scores.shape)
    if not np.isfinite(scores).all():
        raise VersionRefused(version, PROBE, "scores must be finite", "NaN or infinity")
    worst = float(np.abs(scores - expected).max())
    if not worst <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        rule = f"scores must be as expected to {TOLERANCE}"
        raise VersionRefused(version, PROBE, rule, f"a difference of {worst:.6g}")


# --- the folder or bucket ---------------------------------------------------------------------


def _shelf(root: str | Path, name: str) -> Folders:
    if not _NAME.fullmatch(name):
        raise NameRefused(f"model name must be of letters, digits, _ and -, got {name!r}")
    try:
        return folders(root, name)
    except (ValueError, ImportError) as error:
        raise RegistryUnusable(f"registry {root} cannot be opened: {error}") from None


def _versions(shelf: Folders) -> list[str]:
    return [name for name in shelf.names() if VERSION.fullmatch(name)]


def _reader(shelf: Folders, version: str) -> Callable[[str], bytes]:
    return lambda file: shelf.read(version, file)


@contextmanager
def _usable(root: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryUnusable(f"registry {root} cannot be used: {error}") from error
