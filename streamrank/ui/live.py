"""The demo's view: rates, latencies, click-through and one list before and after a click."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


@dataclass
class Picture:
    """What is to be seen at one moment."""

    title: str = ""
    seconds: float = 0.0
    of: float | None = None
    figures: dict[str, str] = field(default_factory=dict)
    quality: dict[str, dict[str, str]] = field(default_factory=dict)
    """Rows by system, figures by name."""
    clicked: str = ""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


class LiveView:
    """Shows a `Picture`: redrawn on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, console: Console, every: float = 5.0) -> None:
        """Show on `console`; without a terminal print a line every `every` seconds."""
        self.console = console
        self._every = every
        self._last = -every
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

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
            self._live.update(draw(picture))
        elif picture.seconds - self._last >= self._every:
            self._last = picture.seconds
            self.console.print(line(picture), markup=False, highlight=False, soft_wrap=True)


def line(picture: Picture) -> str:
    """Return a picture as one line of text."""
    quality = [
        f"{system} {' '.join(f'{name} {value}' for name, value in figures.items())}"
        for system, figures in picture.quality.items()
    ]
    figures = [f"{name} {value}" for name, value in picture.figures.items()]
    return f"{picture.seconds:5.0f} s  " + " | ".join(figures + quality)


def draw(picture: Picture) -> RenderableType:
    """Return a picture for a terminal."""
    of = f" of {picture.of:.0f}" if picture.of else ""
    figures = Table.grid(padding=(0, 2))
    for name, value in picture.figures.items():
        figures.add_row(Text(name, style="dim"), Text(value, style="bold", justify="right"))
    parts: list[RenderableType] = [Panel(figures, title="traffic"), _quality(picture)]
    if picture.before:
        parts.append(Panel(_change(picture), title=f"a list before and after {picture.clicked}"))
    title = f"{picture.title}  {picture.seconds:.0f}{of} s"
    return Group(Text(title, style="bold cyan"), Columns(parts))


def _quality(picture: Picture) -> RenderableType:
    names = list(dict.fromkeys(n for figures in picture.quality.values() for n in figures))
    table = Table("order", *names, title="how good the lists are")
    for system, figures in picture.quality.items():
        table.add_row(system, *(figures.get(name, "") for name in names))
    return table


def _change(picture: Picture) -> RenderableType:
    place = {item: number for number, item in enumerate(picture.before, 1)}
    table = Table.grid(padding=(0, 2))
    table.add_row(*(Text(head, style="dim") for head in ("", "before", "after", "moved")))
    for number, (old, new) in enumerate(zip(picture.before, picture.after, strict=False), 1):
        moved = place[new] - number if new in place else 0
        arrow = Text(f"▲{moved}", "green") if moved > 0 else Text(f"▼{-moved}", "red")
        table.add_row(str(number), old, new, arrow if moved else "")
    return table
