"""The demo's view: rates, latencies, click-through and one list before and after a deed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamrank.changes import Change

Figures = Mapping[str, Mapping[str, float]]
"""Figures by name, by system."""
HEADS = {
    "lists": "lists",
    "lists_clicked": "lists with a click",
    "ctr": "click-through",
    "ndcg@10_of_true_order": "NDCG@10 of the true order",
}


@dataclass
class Picture:
    """What is to be seen at one moment.

    Attributes:
        seconds: Since people began to act.
        of: How long they do; `None` where that is not known.
        figures: Counts, rates and latencies, by name.
        quality: Rows by system, figures by name.
        change: One list before and after a deed.
    """

    title: str = ""
    seconds: float = 0.0
    of: float | None = None
    figures: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    change: Change | None = None


class LiveView:
    """Shows a `Picture`: redrawn on a terminal, a plain line every few seconds elsewhere.

    Args:
        console: Where.
        every: Seconds between two lines where there is no terminal.
    """

    def __init__(self, console: Console, every: float = 5.0) -> None:
        self.console = console
        self._every = every
        self._last = 0.0
        live = Live(console=console, auto_refresh=False, transient=True)
        self._live = live if console.is_terminal else None

    def __enter__(self) -> LiveView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, picture: Picture) -> None:
        """Show this picture now."""
        if self._live:
            self._live.update(draw(picture), refresh=True)
        elif picture.seconds - self._last >= self._every:
            self._last = picture.seconds
            self.console.print(line(picture), markup=False, highlight=False, soft_wrap=True)


BARS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float], width: int = 10) -> str:
    """Return how a figure has gone: bars of its means, and the first and the last of them.

    Examples:
        >>> spark([0.5, 0.5, 0.6, 0.6, 0.9, 0.9], width=3)
        '▁▃█ 0.500 → 0.900'
        >>> spark([])
        ''
    """
    if not values:
        return ""
    parts = np.array_split(np.asarray(values, np.float64), min(width, len(values)))
    means = np.array([part.mean() for part in parts])
    spread = max(float(np.ptp(means)), 1e-9)
    places = ((means - means.min()) / spread * (len(BARS) - 1)).round().astype(int)
    return f"{''.join(BARS[place] for place in places)} {means[0]:.3f} → {means[-1]:.3f}"


def line(picture: Picture) -> str:
    """Return a picture as one line of text.

    Examples:
        >>> line(Picture(seconds=5.2, figures={"p50": "9.1 ms"}, quality={"a": {"mrr": "0.5"}}))
        '    5 s  p50 9.1 ms | a: mrr 0.5'
    """
    quality = [
        f"{system}: {', '.join(f'{name} {value}' for name, value in figures.items())}"
        for system, figures in picture.quality.items()
    ]
    figures = [f"{name} {value}" for name, value in picture.figures.items()]
    return f"{picture.seconds:5.0f} s  " + " | ".join(figures + quality)


def draw(picture: Picture) -> RenderableType:
    """Return a picture for a terminal."""
    of = f" of {picture.of:.0f}" if picture.of else ""
    title = Text(f"{picture.title}  {picture.seconds:.0f}{of} s", style="bold cyan")
    beside = Columns([Panel(_pairs(picture.figures), title="traffic"), systems(picture.quality)])
    change = [changed(picture.change)] if picture.change else []
    return Group(title, beside, *change)


def texts(quality: Figures) -> dict[str, dict[str, str]]:
    """Return figures as people read them: counts whole, rates with four places."""
    return {
        system: {
            HEADS.get(name, name): f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
            for name, value in figures.items()
        }
        for system, figures in quality.items()
    }


def systems(quality: Mapping[str, Mapping[str, str]]) -> Table:
    """Return a table of how good each order is."""
    names = list(dict.fromkeys(name for figures in quality.values() for name in figures))
    table = Table("order", title="how good the lists are", box=box.SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="right")
    for system, figures in quality.items():
        cells = (figures.get(name, "") for name in names)
        table.add_row(system, *cells, style="bold" if system == "streamrank" else None)
    return table


def changed(change: Change) -> Table:
    """Return a table of a list before and after a deed."""
    place = {item: number for number, item in enumerate(change.before, 1)}
    title = Text.assemble("the same list before and after: ", (change.deed, "bold"))
    table = Table("", "before", "after", "", title=title, box=box.SIMPLE_HEAD)
    for number, (old, new) in enumerate(zip(change.before, change.after, strict=True), 1):
        table.add_row(str(number), Text(old), Text(new), _moved(place.get(new), number))
    return table


def _moved(before: int | None, now: int) -> Text:
    if before is None:
        return Text("new", "green")
    if before == now:
        return Text("")
    return Text(f"▲{before - now}", "green") if before > now else Text(f"▼{now - before}", "red")


def summary(report: Mapping[str, Any], change: Change | None) -> Iterator[RenderableType]:
    """Give what is left to look at once a demo is over."""
    if change is not None:
        yield changed(change)
    yield systems(texts(report["systems"]))
    latency = ", ".join(f"{name} {value} ms" for name, value in report["latency_ms"].items())
    yield _pairs(
        {
            "requests": f"{report['requests']:,}: {report['answered']:,} answered, "
            f"{report['missing']:,} missing, {report['duplicated']:,} answered twice",
            "latency": f"{latency} from request to ranked list",
            "re-ranked": f"{report['reranked']:,} lists, each by a deed of who looked at it",
            "dead letters": f"{report['dead_letters']:,}",
            "versions": learned(report["models"]),
        }
    )


def learned(models: Sequence[Mapping[str, Any]]) -> str:
    """Say how many versions there are beside the first, and what the gate said of them.

    Examples:
        >>> learned([{"published": True}, {"published": True}, {"published": False}])
        '2 learned live: 1 published, 1 refused by the gate'
    """
    published = sum(bool(one["published"]) for one in models[1:])
    refused = max(0, len(models) - 1) - published
    return (
        f"{published + refused} learned live: {published} published, {refused} refused by the gate"
    )


def _pairs(figures: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in figures.items():
        table.add_row(Text(name, style="dim"), Text(value, style="bold"))
    return table
