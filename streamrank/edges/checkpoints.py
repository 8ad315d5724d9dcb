"""Where a learner's states are: a folder for each, whole or not there, the last few of them.

    <root>/<name>/<token>/
        state.safetensors    its arrays
        manifest.json        the rest, and the hash of the arrays

A token sorts as its states were made.  No pickle is read or written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from streamrank.edges.registry_folders import MARK, folders
from streamrank.errors import StreamRankError
from streamrank.features.inputs import Array

STATE = "state.safetensors"
FAR_FUTURE = "~"
"""Sorts after every token."""


class CheckpointLost(StreamRankError):
    """There is no such state, it is not what was written, or it cannot be written."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The states of one learner.

    Attributes:
        root: A folder, or any address that fsspec knows.
        name: Whose they are.
        keep: How many of the newest stay: as many as a snapshot may lie back.
    """

    root: str | Path
    name: str = "learner"
    keep: int = 5

    def __post_init__(self) -> None:
        """Refuse to keep nothing."""
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")

    def put(self, turn: int, arrays: Mapping[str, Array], words: Mapping[str, Any]) -> str:
        """Keep a state, and forget the oldest beyond `keep`.

        Args:
            turn: How far the learner is; where it is not ahead of the newest state's, as after
                a way back, the next number after that one stands in the token.
            arrays: What it is.
            words: The rest of it, as JSON has it.

        Returns:
            Its token; the newest state, kept again, has the same.

        Raises:
            CheckpointLost: It cannot be written; nothing of it is there then.
        """
        whole = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
        content = safetensors.numpy.save(whole)
        digest = hashlib.sha256(content).hexdigest()
        mark = json.dumps({"sha256": digest, "words": dict(words)}, sort_keys=True).encode()
        shelf = folders(self.root, self.name)
        try:
            shelf.sweep(FAR_FUTURE)  # there is one learner, and it is not writing now
            there = self.tokens()
            token = _token(turn, _short(mark), there)
            if token not in there:
                shelf.put(token, {STATE: content, MARK: mark})
            for old in self.tokens()[: -self.keep]:
                shelf.remove(old)
        except OSError as error:
            raise CheckpointLost(
                f"state {turn} in {self.root} cannot be written: {error}"
            ) from error
        return token

    def get(self, token: str) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return a state's arrays and words.

        Raises:
            CheckpointLost: It is not there, or not what was written.
        """
        shelf = folders(self.root, self.name)
        try:
            if token not in shelf.names():
                raise CheckpointLost(f"there is no state {token} in {self.root}")
            mark, content = shelf.read(token, MARK), shelf.read(token, STATE)
            known = json.loads(mark)
            digest = hashlib.sha256(content).hexdigest()
            if known["sha256"] != digest or token.rpartition("-")[2] != _short(mark):
                raise CheckpointLost(f"state {token} must hash to its token, got other content")
            return dict(safetensors.numpy.load(content)), known["words"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointLost(f"state {token} in {self.root} cannot be read: {error}") from error

    def tokens(self) -> list[str]:
        """Return what is there, the oldest first."""
        return sorted(folders(self.root, self.name).names(), key=_number)


def _token(turn: int, digest: str, there: list[str]) -> str:
    """Return a token that sorts last: what was written last must not be forgotten first."""
    if not there:
        return f"{turn:012d}-{digest}"
    newest = there[-1]
    if newest.rpartition("-")[2] == digest and turn <= _number(newest):
        return newest
    return f"{max(turn, _number(newest) + 1):012d}-{digest}"


def _number(token: str) -> int:
    number = token.partition("-")[0]
    return int(number) if number.isdecimal() else -1  # somebody else's folder goes first


def _short(mark: bytes) -> str:
    return hashlib.sha256(mark).hexdigest()[:12]
