"""The demo's view, as text: on a terminal of 100 columns, and as plain lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from streamrank.changes import Change
from streamrank.simulate import Size, World
from streamrank.ui.live import LiveView, Picture, draw, summary, texts

WORLD = World(size=Size(items=2_000))
LONGEST = sorted((WORLD.title(f"i{n}") for n in range(2_000)), key=len)[-8:]
CHANGE = Change(f"purchase {LONGEST[-1]}", tuple(LONGEST), (*LONGEST[1:], "Alma loft"))
FIGURES = {
    "answered": "1,234,567 of 1,234,599",
    "lists": "1,200/s",
    "events": "31,000/s",
    "p50": "1234.5 ms",
    "p90": "1234.5 ms",
    "p99": "12345.6 ms",
    "re-ranked": "1,234,567",
    "dead letters": "1,234",
    "versions": "120 learned live: 35 published, 85 refused by the gate; 36 served",
    "quality": "▁▂▃▄▅▆▇█▇█ 0.668 → 0.712",
}
QUALITY = texts(
    {
        system: {
            "lists": 123_456,
            "lists_clicked": 0.51234,
            "ctr": 0.12345,
            "ndcg@10_of_true_order": 0.98765,
        }
        for system in ("streamrank", "as_shown")
    }
)
PICTURE = Picture("StreamRank, live", 12.3, 60.0, FIGURES, QUALITY, CHANGE)
REPORT = {
    "systems": {"streamrank": {"lists": 10, "mrr": 0.5}, "as_shown": {"lists": 10, "mrr": 0.4}},
    "latency_ms": {"p50": 9.1, "p90": 12.2, "p99": 30.3},
    "requests": 1234,
    "answered": 1233,
    "missing": 1,
    "duplicated": 0,
    "reranked": 55,
    "dead_letters": 2,
    "models": [{"published": True}, {"published": True}, {"published": False}],
}


def as_text(what: RenderableType, width: int = 100) -> str:
    console = Console(record=True, width=width, force_terminal=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def words(text: str) -> list[str]:
    """Return the words of a text, without the lines of boxes and tables."""
    return "".join(" " if one in "│─╭╮╰╯╶╴" else one for one in text).split()


def test_a_picture_shows_its_figures_whole_within_100_columns() -> None:
    text = as_text(draw(PICTURE))
    assert max(cell_len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    for name, value in FIGURES.items():
        assert [*name.split(), *value.split()] == _after(words(text), [*name.split(), value])
    for system, figures in QUALITY.items():
        assert _row(text, system)[1:] == list(figures.values())
    assert "12 of 60 s" in text


def _after(found: list[str], wanted: list[str]) -> list[str]:
    """Return as many words as wanted, from where they begin."""
    flat = " ".join(wanted).split()
    starts = [place for place in range(len(found)) if found[place : place + len(flat)] == flat]
    return found[starts[0] : starts[0] + len(flat)] if starts else found


def _row(text: str, first: str) -> list[str]:
    """Return the words of the line that has this word, from it on."""
    for line in text.splitlines():
        if first in words(line):
            return words(line)[words(line).index(first) :]
    raise AssertionError(f"no line has {first!r}:\n{text}")


def test_the_heads_of_the_quality_are_whole() -> None:
    text = " ".join(words(as_text(draw(PICTURE))))
    for head in ("lists", "click-through", "order"):
        assert head in text


def test_a_change_shows_every_title_whole_and_where_it_moved() -> None:
    """All but the last moved up by one; the last is new."""
    text = as_text(draw(PICTURE))
    for title in (*CHANGE.before, *CHANGE.after):
        assert title in text
    assert text.count("▲1") == 7
    assert text.count("new") == 1
    assert CHANGE.deed in " ".join(words(text))  # a long deed goes over two lines


def test_an_item_that_sank_is_marked_so_and_one_that_stayed_is_not() -> None:
    text = as_text(draw(Picture(change=Change("click b", ("a", "b", "c"), ("b", "a", "c")))))
    rows = [words(line) for line in text.splitlines() if words(line)][-3:]
    assert rows == [["1", "a", "b", "▲1"], ["2", "b", "a", "▼1"], ["3", "c", "c"]]


def test_titles_are_text_and_no_markup() -> None:
    change = Change("click [red]x[/red]", ("[bold]a",), ("[/x]",))
    text = as_text(draw(Picture(change=change)))
    assert "click [red]x[/red]" in text
    assert "[bold]a" in text
    assert "[/x]" in text


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_is_not_left(width: int) -> None:
    lines = as_text(draw(PICTURE), width).splitlines()
    assert max(map(cell_len, lines)) <= width


def test_elsewhere_a_picture_is_one_plain_line_every_few_seconds() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, width=100, force_terminal=False), every=5.0) as view:
        for seconds in (0.0, 2.0, 5.0, 7.0, 11.0):
            view.show(Picture(seconds=seconds, figures=FIGURES, quality=QUALITY))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["5", "11"]
    for line in lines:
        assert "\x1b" not in line
        for name, value in FIGURES.items():
            assert f"{name} {value}" in line
        assert "streamrank: lists 123,456" in line


def test_on_a_terminal_a_picture_is_redrawn_and_gone_in_the_end() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, width=100, force_terminal=True)) as view:
        view.show(PICTURE)
        drawn = out.getvalue()
    assert "StreamRank, live" in drawn
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


def test_the_summary_says_what_came_of_every_request() -> None:
    text = "\n".join(as_text(part) for part in summary(REPORT, CHANGE))
    assert "1,234: 1,233 answered, 1 missing, 0 answered twice" in text
    assert "p50 9.1 ms, p90 12.2 ms, p99 30.3 ms" in text
    assert _row(text, "streamrank") == ["streamrank", "10", "0.5000"]
    assert CHANGE.deed in " ".join(words(text))
    assert "dead letters  2" in text
    assert "2 learned live: 1 published, 1 refused by the gate" in text


def test_counts_are_whole_and_rates_have_four_places() -> None:
    assert texts({"a": {"lists": 1234, "ctr": 0.5}}) == {
        "a": {"lists": "1,234", "click-through": "0.5000"}
    }
