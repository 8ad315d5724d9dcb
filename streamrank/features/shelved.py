"""Users and items as bytes: how the features flow keeps them over a restart, and while they sleep.

Objects would take Bytewax, which pickles them, ten times as long.  Each is packed by itself, so
that a snapshot need not pack again those of whom nothing was heard since the last one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import cast

import msgspec
from msgspec import Struct

from streamrank.events import Value
from streamrank.features.aggregate import Described, Person, Thing
from streamrank.features.ledger import Book
from streamrank.features.schema import Schema
from streamrank.features.transitions import Followers

LAYOUT = 3
"""Of the bytes: what another one wrote is refused."""
Waiting = tuple[list[str], ...]
"""Keys whose rows are not in the store yet, by view."""


class _Described(Struct, array_like=True, gc=False):
    fields: dict[str, str | float | bool | tuple[str | float, ...] | None]
    at: dict[str, int]
    count: int


class _Person(Struct, array_like=True, gc=False):
    counts: list[float]
    book: Book
    touched: tuple[str, ...]
    session: str | None
    described: _Described | None


class _Thing(Struct, array_like=True, gc=False):
    counts: list[float]
    followers: Followers | None
    described: _Described | None


class _Head(Struct, array_like=True):
    layout: int
    form: str


class _Shelf(_Head, array_like=True):
    keys: list[str]
    packed: list[bytes]
    waiting: Waiting


_encode = msgspec.msgpack.Encoder().encode
_person = msgspec.msgpack.Decoder(_Person).decode
_thing = msgspec.msgpack.Decoder(_Thing).decode
_head = msgspec.msgpack.Decoder(_Head).decode
_shelf = msgspec.msgpack.Decoder(_Shelf).decode


def pack_person(one: Person) -> bytes:
    """Return a user as bytes.

    Examples:
        >>> from array import array
        >>> kept = pack_person(Person(array("d", [1.0]), Book(5, 5, {"e1": 5}), ("i1",), "s"))
        >>> person(kept).counts, person(kept).book.ids, person(kept).touched
        (array('d', [1.0]), {'e1': 5}, ('i1',))
    """
    counts = _counts(one.counts)
    return _encode((counts, one.book, one.touched, one.session, one.described))


def person(packed: bytes) -> Person:
    """Return what `pack_person` was given.

    Raises:
        ValueError: Something else made the bytes.
    """
    found = _person(packed)
    counts = array("d", found.counts)
    return Person(counts, found.book, found.touched, found.session, _described(found.described))


def pack_thing(one: Thing) -> bytes:
    """Return an item as bytes."""
    return _encode((_counts(one.counts), one.followers, one.described))


def thing(packed: bytes) -> Thing:
    """Return what `pack_thing` was given.

    Raises:
        ValueError: Something else made the bytes.
    """
    found = _thing(packed)
    return Thing(array("d", found.counts), found.followers, _described(found.described))


def _counts(counts: array[float]) -> list[float]:
    """Return counts so that those that are 0, which most are, take a byte instead of nine."""
    return [one or 0 for one in counts]


def _described(found: _Described | None) -> Described | None:
    if found is None:
        return None
    return Described(cast(dict[str, Value], found.fields), found.at, found.count)


def form(schema: Schema) -> str:
    """Say what counts mean under these settings.

    Examples:
        >>> form(Schema(interactions=("click",), horizons=(3600.0, 86400.0)))
        'click,other,impression over 3600,86400 s'
    """
    horizons = ",".join(f"{one:g}" for one in schema.horizons)
    return f"{','.join(schema.channels)} over {horizons} s"


def pack(form: str, packed: dict[str, bytes], waiting: Iterable[Iterable[str]]) -> bytes:
    """Return users or items, each as bytes already, in one piece.

    Examples:
        >>> unpack(pack("click over 1 s", {"u1": b"packed"}, (["u1"], [])), "click over 1 s")
        ({'u1': b'packed'}, (['u1'], []))
    """
    some = tuple([[*keys] for keys in waiting])
    return _encode(_Shelf(LAYOUT, form, [*packed], [*packed.values()], some))


def unpack(saved: bytes, form: str) -> tuple[dict[str, bytes], Waiting]:
    """Return what `pack` was given.

    Raises:
        ValueError: Something else made the bytes, or they count something else.
    """
    head = _head(saved)
    if head.layout != LAYOUT:
        raise ValueError(f"its layout must be {LAYOUT}, got {head.layout}")
    if head.form != form:
        raise ValueError(f"it must count {form}, got {head.form}")
    found = _shelf(saved)
    return dict(zip(found.keys, found.packed, strict=True)), found.waiting
