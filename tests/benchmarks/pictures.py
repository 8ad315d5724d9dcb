"""What the pictures of the benchmarks share: small multiples on a light ground, for any page.

The same figures give the same bytes, so that a picture changes in git only where they do.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, LINES = "#24292f", "#8c959f", "#d8dee4"
COLOURS = ("#0969da", "#d1570a", "#1a7f37", "#8250df")
STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",  # opaque: readable where the page is dark
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 9,
    "grid.color": LINES,
    "grid.linewidth": 0.6,
    "legend.edgecolor": "none",
    "legend.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "streamrank",
    "text.color": INK,
    "xtick.bottom": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.left": False,
}


def grid(rows: int, columns: int, *, alike: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, row by row.

    Args:
        rows: Of panels.
        columns: Of panels.
        alike: Whether the panels of a row have one scale.
    """
    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(11, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey="row" if alike else "none")
    return figure, list(np.ravel(panels))


def save(figure: Figure, file: Path) -> None:
    """Write a picture, whole or not at all, in the format that its name ends in.

    Raises:
        ValueError: There is no such format.
    """
    known = figure.canvas.get_supported_filetypes()
    kind = file.suffix.removeprefix(".")
    if kind not in known:
        raise ValueError(f"a picture's name must end in one of {', '.join(known)}, got {file}")
    partial = file.with_name(f"{file.name}.part")
    dated = {"Date": None} if kind == "svg" else None
    figure.savefig(partial, format=kind, dpi=110, metadata=dated)
    if kind == "svg":
        partial.write_text(_short(partial.read_text()))
    partial.replace(file)


def _short(svg: str) -> str:
    """Return a picture in two thirds of the bytes: a hundredth of a point is enough for a line."""
    lines = re.sub(r' d="[^"]*"', lambda one: re.sub(r"(\.\d\d)\d+", r"\1", one[0]), svg)
    return re.sub(r"\n +", "\n", lines)
