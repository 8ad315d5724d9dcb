"""What is inferred from a log, and what is said about it."""

from __future__ import annotations

import csv
import gzip
import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streamrank.edges.log import records
from streamrank.events import Candidate, Event, Interaction, Item, Request, Shown, User, decode
from streamrank.infer import Inferred, NothingToInfer, infer
from streamrank.settings import Settings, load, to_toml

AT = 1_600_000_000_000
HOUR = 3_600_000
DATA = Path(__file__).parents[2] / "shared" / "data"
numbers = itertools.count()


def deed(kind: str, *, ranking: str | None = None, at: int = AT, fields: Any = None) -> Interaction:
    return Interaction(
        id=f"e{next(numbers)}",
        timestamp=at,
        user="u1",
        type=kind,
        item="i1",
        ranking=ranking,
        fields=fields or {},
    )


def item(number: Any = 1, at: Any = AT, **fields: Any) -> Item:
    return Item(id=f"e{next(numbers)}", timestamp=at, item=f"i{number}", fields=fields)


def notes_of(found: Inferred, start: str) -> str:
    [note] = [note for note in found.notes if note.startswith(start)]
    return note


# --- label and conversion ---------------------------------------------------------------------


def test_the_label_is_what_most_often_names_a_list_however_frequent_the_rest() -> None:
    log = [deed("view")] * 90 + [deed("click", ranking="r1")] * 9 + [deed("tap", ranking="r1")]
    found = infer(log)
    assert found.settings.events.label == "click"
    assert found.settings.events.interactions == ("view", "click", "tap")
    assert notes_of(found, "label:") == (
        "label: click: 9 of 9 name the list they belong to; others: tap 1"
    )


def test_the_conversion_is_the_rarer_type_that_names_lists_too() -> None:
    log = [deed("click", ranking="r1")] * 3 + [deed("purchase", ranking="r1")] + [deed("view")]
    assert infer(log).settings.events.conversion == "purchase"


def test_of_several_types_the_one_that_pays_is_the_conversion() -> None:
    log = [deed("click", ranking="r1")] * 3 + [deed(t, ranking="r1") for t in ("like", "buy_now")]
    assert infer(log).settings.events.conversion == "buy_now"


def test_without_a_clear_one_there_is_no_conversion_and_the_choice_is_named() -> None:
    log = [deed("click", ranking="r1")] * 3 + [deed(t, ranking="r1") for t in ("share", "like")]
    found = infer(log)
    assert found.settings.events.conversion is None
    assert notes_of(found, "conversion:") == "conversion: none: any of like, share could be"


def test_what_is_asked_for_is_taken() -> None:
    log = [deed("click", ranking="r1")] * 3 + [deed("buy", ranking="r1"), deed("view")]
    found = infer(log, label="buy", conversion="click").settings.events
    assert (found.label, found.conversion) == ("buy", "click")


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    log = [deed("click", ranking="r1")] * 2 + [deed("view")]
    for option in ("label", "conversion"):
        with pytest.raises(NothingToInfer) as caught:
            infer(log, **{option: "clik"})
        assert str(caught.value) == (
            f"{option} must be one of the log's interaction types (click, view), got 'clik'"
        )
    with pytest.raises(NothingToInfer, match="another type than the label, got 'click'"):
        infer(log, conversion="click")


def test_without_feedback_on_lists_the_label_is_a_guess_that_is_called_one() -> None:
    search = Interaction(id="s", timestamp=AT, user="u1", type="search")
    found = infer([search, search, deed("view")])
    assert found.settings.events.label == "view"
    assert "a guess: no interaction names a list" in notes_of(found, "label:")
    assert notes_of(found, "no view names its list")


def test_a_log_of_items_alone_keeps_the_default_label() -> None:
    found = infer([item(price=1.0)])
    assert found.settings.events.interactions == ("click",)
    assert "there is no interaction" in notes_of(found, "label:")


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(NothingToInfer, match="at least one event that can be read, got none"):
        infer([])


def test_no_more_types_are_kept_than_settings_hold_but_always_the_label() -> None:
    log = [deed(f"t{n}", at=AT) for n in range(80) for _ in range(2)]
    found = infer([*log, deed("click", ranking="r1")]).settings.events
    assert len(found.interactions) == 64
    assert found.label == found.interactions[-1] == "click"


# --- fields -----------------------------------------------------------------------------------


def kind_of(*values: Any) -> str | None:
    log = [item(n, x=value) for n, value in enumerate(values)]
    return infer(log).settings.fields.item.get("x")


WORDS = [f"Blue chair number {n}" for n in range(60)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, None], "number"),
        (["red", "blue", "red"], "category"),
        ([True, False], "category"),
        (["71", "64"], "category"),
        ([1, "one"], "category"),
        ([f"c{n}" for n in range(60)], "category"),
        (WORDS, "text"),
        (WORDS * 5, "text"),
        (["x " * 60], "text"),
        ([("a", "b"), ()], "text_list"),
        ([("a", "b"), "c"], "text_list"),
        ([(1.0, 2.0)], None),
        ([None], None),
    ],
)
def test_a_fields_kind_follows_from_its_values(values: list[Any], kind: str | None) -> None:
    assert kind_of(*values) == kind


def test_each_kind_of_event_describes_its_own() -> None:
    candidates = (Candidate(id="i1", fields={"price": 7.0}),)
    shared: dict[str, Any] = {"timestamp": AT, "user": "u1"}
    log: list[Event | Request] = [
        item(title="lamp"),
        User(id="e1", fields={"country": "FR"}, **shared),
        Shown(id="r1", fields={"city": "Paris"}, items=candidates, **shared),
        Request(id="r2", fields={"device": "phone"}, **shared),
        deed("click", ranking="r1", fields={"place": "top"}),
    ]
    found = infer(log).settings.fields
    assert found.item == {"title": "category", "price": "number"}
    assert found.user == {"country": "category"}
    assert found.context == {"city": "category", "device": "category"}
    assert found.interaction == {"place": "category"}


def test_numbers_written_as_text_are_pointed_out() -> None:
    found = infer([item(1, price="71"), item(2, price="64.5")])
    assert "send numbers to have them compared" in notes_of(found, "fields.item.price")


def test_of_very_many_fields_the_rarest_are_left_out_with_a_note() -> None:
    log = [item(**{f"f{n}": 1.0 for n in range(64)})] * 2 + [item(rare=1.0)]
    found = infer(log)
    assert len(found.settings.fields.item) == 64
    assert "left out" in notes_of(found, "fields.item.rare")


# --- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "horizons"),
    [
        (0, (timedelta(minutes=10),)),
        (2, (timedelta(minutes=10), timedelta(hours=1))),
        (48, (timedelta(hours=1), timedelta(hours=6), timedelta(days=1))),
        (24 * 365, (timedelta(days=7), timedelta(days=30), timedelta(days=90))),
    ],
)
def test_horizons_fit_into_the_time_of_the_log(hours: int, horizons: tuple[timedelta, ...]) -> None:
    found = infer([deed("click"), deed("click", at=AT + hours * HOUR)]).settings
    assert found.windows.horizons == horizons
    assert found.session.ttl >= horizons[-1]
    assert found.windows.ttl >= 4 * horizons[-1]


def test_what_the_catalogue_says_once_is_good_for_as_long_as_the_log() -> None:
    log: list[Event] = [item(price=1.0), deed("click", at=AT + 24 * 3650 * HOUR)]
    assert infer(log).settings.windows.ttl > timedelta(days=3650)


def test_a_log_over_all_times_still_has_settings() -> None:
    log = [item(at=100_000_000_000), item(at=253_402_300_799_999)]
    assert infer(log).settings.windows.ttl == timedelta(days=36_500)


def test_lateness_is_twice_what_the_log_shows() -> None:
    log = [deed("click"), deed("click", at=AT - HOUR)]
    assert infer(log).settings.windows.lateness == timedelta(hours=2)
    assert infer(log[::-1]).settings.windows.lateness == Settings().windows.lateness


def test_the_lists_of_the_log_fit_into_the_answer() -> None:
    candidates = tuple(Candidate(id=f"i{n}") for n in range(300))
    shown = Shown(id="r1", timestamp=AT, user="u1", items=candidates)
    assert infer([shown]).settings.rank.k == 300


def test_what_is_inferred_is_written_and_read_back(tmp_path: Path) -> None:
    found = infer([deed("click", ranking="r1", fields={"a b": "x", "ü": 1.0}), item(price=1.0)])
    path = tmp_path / "streamrank.toml"
    path.write_text(to_toml(found.settings), encoding="utf-8")
    assert load(path) == found.settings


# --- real logs --------------------------------------------------------------------------------


def needs(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs the data set {path.name}, which is not distributed with the project")
    return path


def test_trivago() -> None:
    path = needs(DATA / "trivago" / "events.jsonl.gz")
    found = infer(decode(record.value) for record in records(path, "events"))
    events, fields = found.settings.events, found.settings.fields
    assert set(events.interactions) == {
        "interaction_item_image",
        "clickout",
        "filter_selection",
        "search_for_destination",
        "change_of_sort_order",
        "interaction_item_info",
        "interaction_item_rating",
        "interaction_item_deals",
        "search_for_poi",
        "search_for_item",
    }
    assert (events.label, events.conversion) == ("clickout", None)
    assert fields.item == {"price": "number"}
    assert fields.context == {
        "city": "category",
        "platform": "category",
        "device": "category",
        "filters": "text_list",
    }
    assert fields.interaction == {"value": "category"}
    assert found.settings.windows.horizons[-1] == timedelta(days=1)


def movies(folder: Path) -> Iterator[Event]:
    """MovieLens as events: what each movie is, then who rated what."""
    with (folder / "movies.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Item(
                id=f"m{row['movieId']}",
                timestamp=789_652_004_000,
                item=row["movieId"],
                fields={"title": row["title"], "genres": tuple(row["genres"].split("|"))},
            )
    with gzip.open(folder / "ratings.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            yield Interaction(
                id=f"r{number}",
                timestamp=1000 * int(row["timestamp"]),
                user=row["userId"],
                type="rating",
                item=row["movieId"],
                fields={"stars": float(row["rating"])},
            )


def test_movielens() -> None:
    found = infer(movies(needs(DATA / "ml-latest-small")))
    assert found.settings.fields.item == {"title": "text", "genres": "text_list"}
    assert found.settings.fields.interaction == {"stars": "number"}
    assert found.settings.events.interactions == ("rating",)
    assert notes_of(found, "no rating names its list")
