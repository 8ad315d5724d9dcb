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

    def put(self, turn: int, arrays: Mapping[str, Array], words: Mapping[str, Any]) -> str:
        """Keep a state, and forget the oldest beyond `keep`.

        Args:
            turn: Rises from state to state.
            arrays: What it is.
            words: The rest of it, as JSON has it.

        Returns:
            Its token; the same state of the same turn has the same.

        Raises:
            CheckpointLost: It cannot be written; nothing of it is there then.
        """
        whole = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
        content = safetensors.numpy.save(whole)
        digest = hashlib.sha256(content).hexdigest()
        mark = json.dumps({"sha256": digest, "words": dict(words)}, sort_keys=True).encode()
        token = f"{turn:012d}-{_short(mark)}"
        shelf = folders(self.root, self.name)
        try:
            shelf.sweep(FAR_FUTURE)  # there is one learner, and it is not writing now
            if token not in shelf.names():
                shelf.put(token, {STATE: content, MARK: mark})
            for old in shelf.names()[: -self.keep]:
                shelf.remove(old)
        except OSError as error:
            raise CheckpointLost(
                f"state {token} in {self.root} cannot be written: {error}"
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
        return folders(self.root, self.name).names()


def _short(mark: bytes) -> str:
    return hashlib.sha256(mark).hexdigest()[:12]
