"""The model registry: versions that appear whole, and are verified before they serve.

    <root>/<name>/<version>/
        ranker.onnx          the graph that serves
        weights.safetensors  what the learner goes on from
        probe.safetensors    inputs of a batch, and the scores that they must give
        manifest.json        what it is, and the hashes of the rest

`root` is a folder, or any address that fsspec knows.  Versions sort by the time of their
creation, which is in their name beside a hash of the manifest.  No pickle is read or written.

    RegistryError             anything below
    ├── RegistryUnusable      it cannot be read or written: no rights, a full disk, no network
    ├── NameRefused           a name that could lead out of the registry
    ├── VersionMissing        there is no such version
    ├── VersionTaken          somebody else has just published it
    └── VersionRefused        something in it is not as it must be: `file`, `rule`, `value`
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import safetensors.numpy
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError

from streamrank.edges.folders import MARK, Folders, folders
from streamrank.edges.onnxruntime import ModelRefused, OnnxScorer, Provider, ScoringFailed
from streamrank.errors import StreamRankError
from streamrank.features.inputs import Array, Inputs
from streamrank.features.schema import Schema, decode_schema

log = logging.getLogger(__name__)

ONNX, WEIGHTS, PROBE = "ranker.onnx", "weights.safetensors", "probe.safetensors"
FILES = frozenset({ONNX, WEIGHTS, PROBE})
EXPECTED = "expected"
RTOL, ATOL = 1e-3, 1e-4
"""How far a score of the probe may be off: other processors sum in another order."""
LEFTOVER = timedelta(days=1)
"""What a writer began so long ago, it will not finish."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}")
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RegistryError(StreamRankError):
    """Something is wrong with the registry or with a version in it."""


class RegistryUnusable(RegistryError):
    """The registry cannot be read or written."""


class NameRefused(RegistryError):
    """A model's or version's name that could lead out of the registry."""


class VersionMissing(RegistryError):
    """There is no such version."""


class VersionTaken(RegistryError):
    """Somebody else has just published it."""


class VersionRefused(RegistryError):
    """Something in a version is not as it must be.

    Args:
        version: Which one.
        file: In which of its files.
        rule: What must be.
        value: What is instead.
    """

    def __init__(self, version: str, file: str, rule: str, value: object) -> None:
        super().__init__(f"version {version or '(new)'}: {file}: {rule}, got {value}")
        self.version, self.file, self.rule, self.value = version, file, rule, value


class File(BaseModel):
    """What a file of a version must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Hash
    size: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """What a version is.

    Attributes:
        format: Which layout the folder has.
        name: The model.
        version: The folder's name.
        created: When it was published.
        parent: The version that it learned on from.
        feature_schema: `Schema.encode` of what its features are made of.
        features: `features.inputs.digest` of that schema.
        heads: What each score means, the label first.
        metrics: How it did on lists that it had not learned from.
        gate: The verdict that let it through.
        rejected: Why it must not serve; it is kept for those who ask.
        lists_seen: Lists that it learned from, its ancestors' included.
        offsets: How far it had read, by `topic[partition]`.
        files: The rest of the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    name: str
    version: str
    created: AwareDatetime
    parent: str | None = None
    feature_schema: str
    features: str
    heads: Annotated[tuple[str, ...], Field(min_length=1)]
    metrics: dict[str, JsonValue] = {}
    gate: dict[str, JsonValue] | None = None
    rejected: str | None = None
    lists_seen: Annotated[int, Field(ge=0)] = 0
    offsets: dict[str, int] = {}
    files: dict[str, File]

    def schema_used(self) -> Schema:
        """Return what its features are made of."""
        return decode_schema(self.feature_schema)


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
        "format": 1,
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
        "files": {
            file: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for file, content in sorted(files.items())
        },
    }
    with _usable(root):
        shelf.sweep(f"{now - LEFTOVER:%Y%m%dT%H%M%S%f}Z")
        manifest = _named(record, _after(shelf, now))
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


def _safetensors(arrays: Mapping[str, Array]) -> bytes:
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    )


def _after(shelf: Folders, now: datetime) -> datetime:
    """Return the time, moved on where a clock that went back would hide the new version."""
    names = _versions(shelf)
    if not names:
        return now.astimezone(UTC)
    newest = datetime.strptime(names[-1].partition("-")[0], "%Y%m%dT%H%M%S%f%z")
    return max(now.astimezone(UTC), newest + timedelta(microseconds=1))


def _named(record: Mapping[str, Any], created: datetime) -> Manifest:
    whole = {**record, "created": created.isoformat().replace("+00:00", "Z")}
    try:
        text = json.dumps(whole | {"version": _version(created, _digest(whole))}, allow_nan=False)
        return Manifest.model_validate_json(text)
    except ValueError as error:
        raise VersionRefused("", MARK, "must hold finite numbers and plain values", error) from None


def _version(created: datetime, digest: str) -> str:
    return f"{created:%Y%m%dT%H%M%S%f}Z-{digest[:8]}"


def _digest(record: Mapping[str, Any]) -> str:
    """Hash a manifest as it is written, all but its version."""
    rest = {key: value for key, value in record.items() if key != "version"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


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
        shelf.sweep(f"{now - LEFTOVER:%Y%m%dT%H%M%S%f}Z")
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
        found = [_readable(shelf, version) for version in _versions(shelf)]
    return [manifest for manifest in found if manifest is not None]


def latest(root: str | Path, name: str) -> str | None:
    """Return the newest version that may serve, `None` where there is none."""
    shelf = _shelf(root, name)
    with _usable(root):
        for version in reversed(_versions(shelf)):
            manifest = _readable(shelf, version)
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


def _readable(shelf: Folders, version: str) -> Manifest | None:
    try:
        return _manifest(shelf, None, version)
    except VersionMissing:  # removed since it was listed
        return None
    except VersionRefused as error:
        log.error("%s", error)
        return None


def _manifest(shelf: Folders, name: str | None, version: str) -> Manifest:
    if not _VERSION.fullmatch(version):
        raise NameRefused(f"version must be like 20260102T030405000000Z-0123abcd, got {version!r}")
    try:
        text = shelf.read(version, MARK)
    except (FileNotFoundError, NotADirectoryError):
        raise VersionMissing(f"there is no version {version} of {name}") from None
    try:
        found = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise VersionRefused(version, MARK, "must be a manifest", _faults(error)) from None
    named = _version(found.created.astimezone(UTC), _digest(json.loads(text)))
    if not version == found.version == named:
        raise VersionRefused(version, MARK, f"must hash to {version}", named)
    if name is not None and found.name != name:
        raise VersionRefused(version, MARK, f"must be of {name}", found.name)
    return found


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False)
    )


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
    if not np.allclose(scores, expected, rtol=RTOL, atol=ATOL):
        worst = float(np.abs(scores - expected).max())
        rule = f"scores must be as expected to {ATOL} + {RTOL} of each"
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
    return [name for name in shelf.names() if _VERSION.fullmatch(name)]


def _reader(shelf: Folders, version: str) -> Callable[[str], bytes]:
    return lambda file: shelf.read(version, file)


@contextmanager
def _usable(root: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryUnusable(f"registry {root} cannot be used: {error}") from error
