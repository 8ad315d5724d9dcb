"""Users and items as bytes: how the features flow keeps them over a restart.

Objects would take Bytewax, which pickles them, ten times as long; so would an object for each user.
What is alike stands together: all keys, all counts, and so on.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import cast

import msgspec
from msgspec import Struct

from streamrank.events import Value
from streamrank.features.aggregate import Described, Person, Thing
from streamrank.features.ledger import Book
from streamrank.features.schema import Schema
from streamrank.features.transitions import Followers

LAYOUT = 2
"""Of the bytes: what another one wrote is refused."""
_Fields = dict[str, str | float | bool | tuple[str | float, ...] | None]


class _Described(Struct, array_like=True, gc=False):
    fields: _Fields
    at: dict[str, int]
    count: int


class _Head(Struct, array_like=True):
    layout: int
    form: str


class _Shelf(_Head, array_like=True):
    keys: list[str]
    counts: bytes  # of all keys, one after the other
    described: dict[str, _Described]
    waiting: tuple[list[str], ...]  # keys whose rows are not in the store yet, by view


class _People(_Shelf, array_like=True):
    books: list[Book]
    touched: list[tuple[str, ...]]
    sessions: list[str | None]


class _Things(_Shelf, array_like=True):
    followers: list[Followers | None]


Waiting = tuple[list[str], ...]
_encode = msgspec.msgpack.Encoder().encode
_head = msgspec.msgpack.Decoder(_Head).decode
_people = msgspec.msgpack.Decoder(_People).decode
_things = msgspec.msgpack.Decoder(_Things).decode


def form(schema: Schema) -> str:
    """Say what counts mean under these settings.

    Examples:
        >>> form(Schema(interactions=("click",), horizons=(3600.0, 86400.0)))
        'click,other,impression over 3600,86400 s'
    """
    horizons = ",".join(f"{one:g}" for one in schema.horizons)
    return f"{','.join(schema.channels)} over {horizons} s"


def pack_people(form: str, known: Mapping[str, Person], waiting: Waiting) -> bytes:
    """Return users as bytes, with the keys whose rows wait."""
    people = known.values()
    return _encode(
        _People(
            *_shelf(form, known, waiting),
            [one.book for one in people],
            [one.touched for one in people],
            [one.session for one in people],
        )
    )


def people(saved: bytes, form: str, now: int) -> tuple[dict[str, Person], Waiting]:
    """Return what `pack_people` was given; all were heard of now.

    Raises:
        ValueError: Something else made the bytes, or they count something else.
    """
    _check(saved, form)
    found = _people(saved)
    known = {
        key: Person(counts, book, touched, session, _described(found, key), now)
        for key, counts, book, touched, session in zip(
            found.keys, _parted(found), found.books, found.touched, found.sessions, strict=True
        )
    }
    return known, found.waiting


def pack_things(form: str, known: Mapping[str, Thing], waiting: Waiting) -> bytes:
    """Return items as bytes, with the keys whose rows wait."""
    followers = [one.followers for one in known.values()]
    return _encode(_Things(*_shelf(form, known, waiting), followers))


def things(saved: bytes, form: str, now: int) -> tuple[dict[str, Thing], Waiting]:
    """Return what `pack_things` was given; all were heard of now.

    Raises:
        ValueError: Something else made the bytes, or they count something else.
    """
    _check(saved, form)
    found = _things(saved)
    known = {
        key: Thing(counts, followers, _described(found, key), now)
        for key, counts, followers in zip(found.keys, _parted(found), found.followers, strict=True)
    }
    return known, found.waiting


def _shelf(
    form: str, known: Mapping[str, Person] | Mapping[str, Thing], waiting: Waiting
) -> tuple[int, str, list[str], bytes, dict[str, _Described], Waiting]:
    described = {key: one.described for key, one in known.items() if one.described is not None}
    counts = b"".join([one.counts for one in known.values()])
    return LAYOUT, form, [*known], counts, cast(dict[str, _Described], described), waiting


def _check(saved: bytes, form: str) -> None:
    head = _head(saved)
    if head.layout != LAYOUT:
        raise ValueError(f"its layout must be {LAYOUT}, got {head.layout}")
    if head.form != form:
        raise ValueError(f"it must count {form}, got {head.form}")


def _parted(found: _Shelf) -> Iterator[array[float]]:
    size = len(found.counts) // max(1, len(found.keys))
    for start in range(0, len(found.counts), size or 1):
        yield array("d", found.counts[start : start + size])


def _described(shelf: _Shelf, key: str) -> Described | None:
    found = shelf.described.get(key)
    if found is None:
        return None
    return Described(cast(dict[str, Value], found.fields), found.at, found.count)
