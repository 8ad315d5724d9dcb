"""Every message on every topic, and the one way from bytes to a message or a dead letter.

The four kinds of input event (`item`, `user`, `interaction`, `ranking`) have the shape of
Metarank's public event schema, so that its producers need no change.  All of them are frozen
pydantic models; what cannot be read becomes a `DeadLetter` whose reason names the field, the
rule and the value, with origin and payload intact.

References:
    Metarank, "Event schema", doc/event-schema.md of github.com/metarank/metarank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from streamrank import entries, wire
from streamrank.entries import Candidate, Placed
from streamrank.forms import RULES
from streamrank.served import Served, decode_served
from streamrank.values import (
    MAX_FIELDS,
    MAX_LIST,
    MAX_TEXT,
    Fields,
    Id,
    Name,
    Timestamp,
    Value,
    reason,
)

__all__ = [
    "Announcement",
    "Candidate",
    "DeadLetter",
    "Event",
    "Interaction",
    "Item",
    "Limits",
    "Placed",
    "Ranking",
    "Replayed",
    "Request",
    "Served",
    "Shown",
    "User",
    "Value",
    "decode",
    "decode_letter",
    "decode_ranking",
    "decode_served",
    "decode_set_aside",
    "utc",
]

T = TypeVar("T")


class Message(BaseModel):
    """What all messages share."""

    model_config = RULES

    def encode(self) -> bytes:
        """Return the JSON of this message, without the keys that are not set."""
        return self.model_dump_json(exclude_none=True).encode()


class Item(Message):
    """What is to be known of an item; later events override field by field."""

    event: Literal["item"] = "item"
    id: Id
    timestamp: Timestamp
    item: Id
    fields: Fields = {}
    tenant: str | None = None

    @property
    def key(self) -> str:
        """The message key."""
        return self.item


class _ByPerson(Message):
    """An event of a person: by user where known, by session where not."""

    id: Id
    timestamp: Timestamp
    user: Id | None = None
    session: Id | None = None
    tenant: str | None = None

    @model_validator(mode="after")
    def _belongs_to_somebody(self) -> _ByPerson:
        if self.user is None and self.session is None:
            raise ValueError("must have a user or a session")
        return self

    @property
    def key(self) -> str:
        """The message key."""
        return self.user or self.session or ""


class User(Message):
    """What is to be known of a user; later events override field by field."""

    event: Literal["user"] = "user"
    id: Id
    timestamp: Timestamp
    user: Id
    fields: Fields = {}
    tenant: str | None = None

    @property
    def key(self) -> str:
        """The message key."""
        return self.user


class Interaction(_ByPerson):
    """What somebody did: with an item, or (a search, a filter) with none."""

    event: Literal["interaction"] = "interaction"
    type: Name
    item: Id | None = None
    ranking: Id | None = None
    fields: Fields = {}


def _distinct(items: tuple[Candidate, ...]) -> None:
    if len({item.id for item in items}) == len(items):
        return
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"items must not hold {item.id!r} twice")
        seen.add(item.id)


class _OfItems(_ByPerson):
    """A message that holds a list, whose entries pydantic is slow to write."""

    def encode(self) -> bytes:
        """Return the JSON of this message, without the keys that are not set."""
        return entries.write({key: one for key, one in self.__dict__.items() if one is not None})


class Shown(_OfItems):
    """A `ranking` event: this list was shown, in this order, by whomever."""

    event: Literal["ranking"] = "ranking"
    fields: Fields = {}
    items: Annotated[tuple[Candidate, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _items_differ(self) -> Shown:
        _distinct(self.items)
        return self


class Request(_OfItems):
    """A wish for a ranked list of `items`; without items, of what retrieval finds."""

    event: Literal["request"] = "request"
    k: Annotated[int, Field(ge=1, le=10_000)] | None = None
    fields: Fields = {}
    items: tuple[Candidate, ...] = ()

    @model_validator(mode="after")
    def _items_differ(self) -> Request:
        _distinct(self.items)
        return self


class Ranking(_OfItems):
    """A ranked list, best first: a `ranking` event that says how it was made."""

    event: Literal["ranking"] = "ranking"
    request: Id
    trigger: Id | None = None
    fields: Fields = {}
    items: tuple[Placed, ...]
    model: str
    policy: str
    features: str
    latency_ms: float
    degraded: Literal[True] | None = None
    """Set where the feature store did not answer: from the cache and the session alone."""


class Announcement(Message):
    """A version that now serves (or again), on the compacted topic `models`."""

    event: Literal["model"] = "model"
    name: Name
    version: Name
    timestamp: Timestamp
    digest: str
    reason: str


class DeadLetter(Message):
    """A record that could not be used: why, where it came from and what it was.

    `letter` names the dead letter that the record was replayed from, where it was: one that
    came back is not sent again.
    """

    event: Literal["dead_letter"] = "dead_letter"
    reason: str
    origin: str
    payload: bytes
    timestamp: Timestamp
    key: bytes | None = None
    letter: str | None = None


class Replayed(Message):
    """A word among the dead letters: some of this partition are about to be sent, or were.

    The letters are offsets, `ends` is where each partition of their origin ended before: what
    was sent by somebody who then died is found from there on.
    """

    event: Literal["replayed"] = "replayed"
    done: bool
    letters: Annotated[tuple[int, ...], Field(min_length=1)]
    ends: dict[str, int] = {}
    timestamp: Timestamp


Event = Item | User | Interaction | Shown
Incoming = Annotated[Item | User | Interaction | Shown | Request, Field(discriminator="event")]
_INCOMING: TypeAdapter[Event | Request] = TypeAdapter(Incoming)
_RANKING: TypeAdapter[Ranking] = TypeAdapter(Ranking)
_LETTER: TypeAdapter[DeadLetter] = TypeAdapter(DeadLetter)
_SET_ASIDE: TypeAdapter[DeadLetter | Replayed] = TypeAdapter(
    Annotated[DeadLetter | Replayed, Field(discriminator="event")]
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes beyond which a record is refused."""

    record_bytes: int = 1_000_000
    candidates: int = 1_000
    fields: int = MAX_FIELDS
    text: int = MAX_TEXT
    list: int = MAX_LIST
    usual: bool = field(init=False)
    """Whether fields may be what the messages themselves allow: there is nothing to look at."""

    def __post_init__(self) -> None:
        usual = (self.fields, self.text, self.list) == (MAX_FIELDS, MAX_TEXT, MAX_LIST)
        object.__setattr__(self, "usual", usual)

    def check_fields(self, where: str, fields: Fields) -> None:
        """Refuse fields that are more or larger than allowed.

        Raises:
            ValueError: The text names field, rule and value.
        """
        if len(fields) > self.fields:
            raise ValueError(f"{where}: must have at most {self.fields} items, got {len(fields)}")
        for name, value in fields.items():
            texts = value if isinstance(value, tuple) else (value,)
            if len(texts) > self.list:
                rule = f"must have at most {self.list} items, got {len(texts)}"
                raise ValueError(f"{where}.{name}: {rule}")
            longest = max((len(one) for one in texts if isinstance(one, str)), default=0)
            if longest > self.text:
                rule = f"must have at most {self.text} characters, got {longest}"
                raise ValueError(f"{where}.{name}: {rule}")


def decode(payload: bytes, limits: Limits = Limits()) -> Event | Request:
    """Read one record.

    Args:
        payload: The record's value, JSON in UTF-8; an empty one (a tombstone) is refused.
        limits: Sizes beyond which a record is refused.

    Returns:
        One of the four events, or a request.

    Raises:
        ValueError: The record cannot be used; the text names field, rule and value.

    Examples:
        >>> decode(b'{"event":"user","id":"e1","timestamp":1541548939000,"user":"u1"}').key
        'u1'
        >>> decode(b'{"event":"user","id":"e1","timestamp":1541548939,"user":"u1"}')
        Traceback (most recent call last):
        ValueError: user.timestamp: must be epoch milliseconds within \
100000000000..253402300799999, got 1541548939
    """
    event = _usual(payload, limits) or _validated(_INCOMING, payload, limits)
    if type(event) is Interaction:  # the commonest; to ask what else it may be costs as much
        if not limits.usual:
            limits.check_fields("interaction.fields", event.fields)
        return event
    if isinstance(event, (Shown, Request)) and len(event.items) > limits.candidates:
        raise ValueError(
            f"{event.event}.items: must hold at most {limits.candidates} candidates, "
            f"got {len(event.items)}"
        )
    if not limits.usual:
        limits.check_fields(f"{event.event}.fields", event.fields)
        for index, item in enumerate(getattr(event, "items", ())):
            limits.check_fields(f"{event.event}.items.{index}.fields", item.fields)
    return event


def _usual(payload: bytes, limits: Limits) -> Shown | Request | Interaction | None:
    """Read a list or a deed the fast way, if it is one and that can be said for sure."""
    if b'"items"' not in payload and b'"interaction"' not in payload:
        return None
    if len(payload) > limits.record_bytes:
        return None
    found = wire.read(payload)
    if found is None:
        return None
    if isinstance(found, wire.Acted):
        return _deed(found)
    kind = Request if isinstance(found, wire.Asked) else Shown
    return kind.model_construct(**msgspec.structs.asdict(found))


def _deed(found: wire.Acted) -> Interaction:
    """Return a deed as a message, without a second validation: the commonest of all records."""
    made = Interaction.__new__(Interaction)
    _put(
        made,
        {
            "id": found.id,
            "timestamp": found.timestamp,
            "user": found.user,
            "session": found.session,
            "tenant": found.tenant,
            "event": "interaction",
            "type": found.type,
            "item": found.item,
            "ranking": found.ranking,
            "fields": found.fields,
        },
    )
    _put_names(made, _NAMES)
    _put_more(made, None)
    _put_private(made, None)
    return made


# What pydantic's own constructors set, which go by names and take three times as long.
_put = BaseModel.__dict__["__dict__"].__set__
_put_names = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_put_more = BaseModel.__dict__["__pydantic_extra__"].__set__
_put_private = BaseModel.__dict__["__pydantic_private__"].__set__
_NAMES = set(Interaction.model_fields)


def decode_ranking(payload: bytes, limits: Limits = Limits()) -> Ranking:
    """Read one record of topic `rankings`.

    Raises:
        ValueError: The record cannot be used; the text names field, rule and value.
    """
    return _validated(_RANKING, payload, limits)


def decode_letter(payload: bytes) -> DeadLetter:
    """Read one record of topic `dead-letters`.

    Raises:
        ValueError: The record is no dead letter.
    """
    return _validated(_LETTER, payload, Limits(record_bytes=2**31))


def decode_set_aside(payload: bytes) -> DeadLetter | Replayed:
    """Read one record of topic `dead-letters`, also a word on letters that were replayed.

    Raises:
        ValueError: The record is neither.
    """
    return _validated(_SET_ASIDE, payload, Limits(record_bytes=2**31))


def _validated(kind: TypeAdapter[T], payload: bytes, limits: Limits) -> T:
    if not payload:
        raise ValueError("record: must not be empty")
    if len(payload) > limits.record_bytes:
        raise ValueError(
            f"record: must have at most {limits.record_bytes} bytes, got {len(payload)}"
        )
    try:
        return kind.validate_json(payload)
    except ValidationError as error:
        if payload.startswith(_BYTE_ORDER_MARK):
            return _validated(kind, payload.removeprefix(_BYTE_ORDER_MARK), limits)
        raise ValueError(reason(error)) from None


def utc(milliseconds: int) -> datetime:
    """Return a timestamp as an aware datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
