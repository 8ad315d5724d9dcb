"""Users and items as bytes: how the features flow keeps them over a restart.

Objects would take Bytewax, which pickles them, ten times as long.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from streamrank.events import Value
from streamrank.features.aggregate import Described, Person, Thing
from streamrank.features.ledger import Book
from streamrank.features.schema import Schema
from streamrank.features.transitions import Followers

LAYOUT = 1
"""Of the bytes: what another one wrote is refused."""
T = TypeVar("T")
_Fields = dict[str, str | float | bool | tuple[str | float, ...] | None]


class _Described(Struct, array_like=True, gc=False):
    fields: _Fields
    at: dict[str, int]
    count: int


class _Person(Struct, array_like=True, gc=False):
    counts: bytes
    book: Book
    touched: tuple[str, ...]
    session: str | None
    described: _Described | None


class _Thing(Struct, array_like=True, gc=False):
    counts: bytes
    followers: Followers | None
    described: _Described | None


class Shelved(Struct, Generic[T], array_like=True, gc=False):
    """A shelf, and the keys of what is not in the store yet."""

    layout: int
    form: str
    known: list[tuple[str, T]]
    counted: list[str]
    described: list[str]
    followed: list[str]


_encode = msgspec.msgpack.Encoder().encode
_people = msgspec.msgpack.Decoder(Shelved[_Person])
_things = msgspec.msgpack.Decoder(Shelved[_Thing])
_head = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw])


def form(schema: Schema) -> str:
    """Say what counts mean under these settings.

    Examples:
        >>> form(Schema(interactions=("click",), horizons=(3600.0, 86400.0)))
        'click,other,impression over 3600,86400 s'
    """
    horizons = ",".join(f"{one:g}" for one in schema.horizons)
    return f"{','.join(schema.channels)} over {horizons} s"


def pack(
    form: str,
    known: Sequence[tuple[str, _Person | _Thing]],
    counted: Collection[str],
    described: Collection[str],
    followed: Collection[str] = (),
) -> bytes:
    """Return a shelf as bytes."""
    return _encode((LAYOUT, form, known, list(counted), list(described), list(followed)))


def people(saved: bytes, form: str) -> Shelved[_Person]:
    """Return the users that `pack` made bytes of.

    Raises:
        ValueError: Something else made them, or they count something else.
    """
    _check(saved, form)
    return _people.decode(saved)


def things(saved: bytes, form: str) -> Shelved[_Thing]:
    """Return the items that `pack` made bytes of.

    Raises:
        ValueError: Something else made them, or they count something else.
    """
    _check(saved, form)
    return _things.decode(saved)


def _check(saved: bytes, form: str) -> None:
    layout, known, *_ = _head.decode(saved)
    if layout != LAYOUT:
        raise ValueError(f"its layout must be {LAYOUT}, got {layout}")
    if known != form:
        raise ValueError(f"it must count {form}, got {known}")


def of_person(one: Person) -> _Person:
    """Return a user as it is kept."""
    fields = cast(_Described | None, one.described)
    return _Person(one.counts.tobytes(), one.book, one.touched, one.session, fields)


def person(found: _Person, now: int) -> Person:
    """Return the user that `of_person` was given, heard of now."""
    return Person(
        array("d", found.counts),
        found.book,
        found.touched,
        found.session,
        _described(found.described),
        now,
    )


def of_thing(one: Thing) -> _Thing:
    """Return an item as it is kept."""
    return _Thing(one.counts.tobytes(), one.followers, cast(_Described | None, one.described))


def thing(found: _Thing, now: int) -> Thing:
    """Return the item that `of_thing` was given, heard of now."""
    return Thing(array("d", found.counts), found.followers, _described(found.described), now)


def _described(found: _Described | None) -> Described | None:
    if found is None:
        return None
    return Described(cast(dict[str, Value], found.fields), found.at, found.count)
