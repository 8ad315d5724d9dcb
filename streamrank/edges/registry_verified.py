"""A version's files, verified: hashes, the graph itself, and the probe that it must answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from streamrank.edges import registry_retrieval
from streamrank.edges.onnxruntime import ModelRefused, OnnxScorer, Provider, ScoringFailed
from streamrank.edges.registry_errors import VersionRefused
from streamrank.edges.registry_folders import MARK
from streamrank.edges.registry_manifest import (
    LEARNED,
    ONNX,
    PROBE,
    STRUCTURE,
    WEIGHTS,
    Manifest,
)
from streamrank.edges.registry_retrieval import Build, Retrievals, at_once
from streamrank.features.inputs import Array, Inputs

FILES = frozenset({ONNX, WEIGHTS, PROBE})
EXPECTED = "expected"
TOLERANCE = 1e-3
"""How far a score of the probe may be off, or a thousandth of the largest one where that is
more: other processors sum in another order."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A version that is what its manifest says in every respect."""

    scorer: OnnxScorer
    manifest: Manifest
    probe: Inputs
    """A stacked batch that its scorer has scored."""


def verified(
    known: Manifest,
    read: Callable[[str], bytes],
    *,
    provider: Provider,
    threads: int,
    build: Build = at_once,
    retrievals: Retrievals | None = None,
) -> Verified:
    """Build the scorer from files that are what the manifest says, and try the probe on it.

    Args:
        known: The manifest.
        read: Reads a file of the version.
        provider: Where to run, see `OnnxScorer`.
        threads: Threads of the session.
        build: Runs what builds a session, maybe elsewhere.
        retrievals: Opens what the version finds candidates with; `None` where nobody asks it.

    Raises:
        VersionRefused: A file is missing or changed, a graph is none, or a probe gives other
            scores.
        ProviderMissing: The GPU that was asked for cannot be had.
    """
    version = known.version
    registry_retrieval.check_whole(known)
    if set(known.files) - {LEARNED, STRUCTURE} - registry_retrieval.FILES != FILES:
        raise VersionRefused(version, MARK, f"files must be {sorted(FILES)}", sorted(known.files))
    contents = {file: content(known, file, read) for file in sorted(FILES)}
    make = partial(OnnxScorer, contents[ONNX], version=version, provider=provider, threads=threads)
    try:
        scorer = build(make)
    except ModelRefused as error:
        raise VersionRefused(version, ONNX, "must be a graph that runs here", error) from None
    if scorer.heads != len(known.heads):
        raise VersionRefused(version, ONNX, f"heads must be {known.heads}", scorer.heads)
    probe = arrays(version, PROBE, contents[PROBE])
    _try_probe(scorer, probe, probe.pop(EXPECTED, np.zeros(0)))
    if retrievals is not None:
        scorer.retrieval = retrievals.open(known, partial(content, known, read=read), build=build)
    return Verified(scorer, known, probe)


def content(known: Manifest, file: str, read: Callable[[str], bytes]) -> bytes:
    """Return a file of a version, if it is the one that was published."""
    try:
        found = read(file)
    except FileNotFoundError:
        raise VersionRefused(known.version, file, "must be there", "no such file") from None
    digest = hashlib.sha256(found).hexdigest()
    if digest != known.files[file].sha256:
        rule = f"must be {known.files[file].size} bytes of sha256 {known.files[file].sha256}"
        raise VersionRefused(known.version, file, rule, f"{len(found)} of {digest}")
    return found


def arrays(version: str, file: str, content: bytes) -> dict[str, Array]:
    """Return the arrays of a safetensors file."""
    try:
        return dict(safetensors.numpy.load(content))
    except SafetensorError as error:
        raise VersionRefused(version, file, "must be safetensors", error) from None


def _try_probe(scorer: OnnxScorer, probe: Inputs, expected: Array) -> None:
    version = scorer.version
    if not expected.size:
        raise VersionRefused(version, PROBE, "must hold scores that are expected", "none")
    try:
        scores = scorer.run(probe)
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
