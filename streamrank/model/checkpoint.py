"""Where a training is written down, so that an interruption costs seconds and not hours.

One file of safetensors, there by one rename: whole, or the one before.  It says what it is of;
a training of anything else does not go on from it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from streamrank.learning.examples import Example

logger = logging.getLogger(__name__)
OF = "of"
"""The entry of the file's metadata that says what it is of."""


@dataclass
class Checkpoint:
    """A file that holds how far a training is.

    Args:
        path: The file; its folder need not exist.
        of: What the training is of, as `digest` says it.
        every: How many seconds apart it is written at the most often.
    """

    path: Path
    of: str
    every: float = 10.0
    _last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Return whether it was not written for a while."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Write the state; the file is whole whenever it is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        payload = save({n: value.contiguous() for n, value in state.items()}, {OF: self.of})
        with draft.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        self._last = time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        """Return the state, `None` where there is none of this training; say which."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                if (file.metadata() or {}).get(OF) != self.of:
                    logger.warning(
                        "%s is of other lists or settings: training starts anew", self.path
                    )
                    return None
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            logger.warning("%s cannot be read (%s): training starts anew", self.path, error)
            return None
        logger.info("training goes on from %s", self.path)
        return found


def digest(examples: Iterable[Example], *settings: object) -> str:
    """Return a hash of everything that weights follow from: lists, settings, and torch itself."""
    found = hashlib.blake2b(digest_size=16)
    found.update(repr((torch.__version__, *settings)).encode())
    for one in examples:
        found.update(f"\n{one.id} {one.user} {one.at}".encode())
        for name, array in sorted({"labels": one.labels, **one.inputs}.items()):
            found.update(f" {name} {array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
    return found.hexdigest()
