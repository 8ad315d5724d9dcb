"""Where curves are drawn: a folder that TensorBoard is pointed at."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


def writer(folder: Path) -> SummaryWriter:
    """Return what takes the points of curves; it is closed as a context, or by `close`."""
    return SummaryWriter(str(folder))
