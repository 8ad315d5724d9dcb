"""What a version finds candidates with: three more files, which all versions of a line may share.

    retrieval.onnx               the graph with its catalogue
    retrieval-items.json         the ids of the catalogue's items, in order
    retrieval-probe.safetensors  users to find items for, and the scores of what must be found

A version has all three or none.  One that learns on from a parent has its parent's: on a disk
the same files by another name, which costs nothing however large the catalogue is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from streamrank.edges.onnxruntime import ModelRefused
from streamrank.edges.onnxruntime_retrieval import OnnxRetrieval, RetrievalFailed
from streamrank.edges.registry_errors import VersionRefused
from streamrank.edges.registry_folders import MARK
from streamrank.edges.registry_manifest import Manifest
from streamrank.features.view import Array

ONNX = "retrieval.onnx"
ITEMS = "retrieval-items.json"
PROBE = "retrieval-probe.safetensors"
FILES = frozenset({ONNX, ITEMS, PROBE})
EXPECTED = "expected"
TOLERANCE = 1e-3
"""How far a score of the probe may be off, or a thousandth of the largest one where that is
more: other processors sum in another order."""
T = TypeVar("T")


class Finds(Protocol):
    """What finds candidates, as the registry takes it; `model.candidates.Candidates` is one."""

    @property
    def onnx(self) -> bytes:
        """The graph with its catalogue."""

    @property
    def items(self) -> tuple[str, ...]:
        """The ids of the catalogue's items, in order."""

    @property
    def probe(self) -> Mapping[str, Array]:
        """What the graph takes."""

    @property
    def expected(self) -> Array:
        """The scores of what it must find, float32 (B, K)."""


class Build(Protocol):
    """Runs what builds a session, maybe in another thread."""

    def __call__(self, make: Callable[[], T], /) -> T:
        """Return what was made."""


def at_once(make: Callable[[], T], /) -> T:
    """Build a session in this thread.

    Examples:
        >>> at_once(lambda: 7)
        7
    """
    return make()


def files_of(finds: Finds) -> dict[str, bytes]:
    """Return the files of a version that are for retrieval."""
    probe = dict(finds.probe) | {EXPECTED: finds.expected}
    arrays = {name: np.ascontiguousarray(array) for name, array in probe.items()}
    return {
        ONNX: finds.onnx,
        ITEMS: json.dumps(finds.items).encode(),
        PROBE: safetensors.numpy.save(arrays),
    }


@dataclass
class Retrievals:
    """Opens what versions find candidates with, each of it once, for as long as one uses it.

    Args:
        threads: Threads of a session.
    """

    threads: int = 1
    _open: WeakValueDictionary[tuple[str, ...], OnnxRetrieval] = field(
        default_factory=WeakValueDictionary, init=False
    )
    _turn: Lock = field(default_factory=Lock, init=False)

    def open(
        self, known: Manifest, read: Callable[[str], bytes], *, build: Build = at_once
    ) -> OnnxRetrieval | None:
        """Return what a version finds candidates with, verified; `None` where it has nothing.

        What another version uses here already, with the same hashes, is not read again.

        Args:
            known: The version's manifest.
            read: Reads one of its files, if it is what the manifest says.
            build: Runs what builds the session, maybe elsewhere.

        Raises:
            VersionRefused: A file is missing or changed, the graph is none, or the probe gives
                other scores.
        """
        if not FILES & set(known.files):
            return None
        hashes = tuple([known.files[file].sha256 for file in sorted(FILES)])
        with self._turn:
            found = self._open.get(hashes)
            if found is None:
                found = self._open[hashes] = self._opened(known, read, build)
            return found

    def _opened(self, known: Manifest, read: Callable[[str], bytes], build: Build) -> OnnxRetrieval:
        version = known.version
        items = _items(version, read(ITEMS))
        make = partial(OnnxRetrieval, read(ONNX), items, threads=self.threads)
        try:
            found = build(make)
        except ModelRefused as error:
            raise VersionRefused(version, ONNX, "must be a graph that runs here", error) from None
        _try_probe(version, found, _probe(version, read(PROBE)))
        return found


def check_whole(known: Manifest) -> None:
    """Make sure that a version has all files of retrieval, or none.

    Raises:
        VersionRefused: It has some.
    """
    there = FILES & set(known.files)
    if there and there != FILES:
        rule = f"files must be all of {sorted(FILES)}, or none"
        raise VersionRefused(known.version, MARK, rule, sorted(there))


def _items(version: str, content: bytes) -> list[str]:
    try:
        items = json.loads(content)
    except ValueError as error:
        raise VersionRefused(version, ITEMS, "must be JSON", error) from None
    if not isinstance(items, list) or not all(isinstance(one, str) for one in items):
        raise VersionRefused(version, ITEMS, "must be a list of ids", type(items).__name__)
    return items


def _probe(version: str, content: bytes) -> dict[str, Array]:
    try:
        return dict(safetensors.numpy.load(content))
    except SafetensorError as error:
        raise VersionRefused(version, PROBE, "must be safetensors", error) from None


def _try_probe(version: str, retrieval: OnnxRetrieval, probe: dict[str, Array]) -> None:
    expected = probe.pop(EXPECTED, np.zeros(0))
    if not expected.size:
        raise VersionRefused(version, PROBE, "must hold scores that are expected", "none")
    try:
        found, scores = retrieval.run(probe)
    except RetrievalFailed as error:
        raise VersionRefused(version, PROBE, "must fit the graph", error) from None
    if scores.shape != expected.shape:
        raise VersionRefused(version, PROBE, f"shape must be {expected.shape}", scores.shape)
    highest, count = int(found.max()), len(retrieval.items)
    if highest > count:
        raise VersionRefused(version, ITEMS, f"must name all items, as far as {highest}", count)
    left = np.isfinite(expected)
    worst = float(np.abs(scores[left] - expected[left]).max(initial=0.0))
    largest = float(np.abs(expected[left]).max(initial=0.0))
    if (np.isfinite(scores) != left).any() or not worst <= TOLERANCE * max(1.0, largest):
        rule = f"scores must be as expected to {TOLERANCE}"
        raise VersionRefused(version, PROBE, rule, f"a difference of {worst:.6g}")
