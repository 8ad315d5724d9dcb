"""Every message on every topic, and the one way from bytes to a message or a dead letter.

The four kinds of input event (`item`, `user`, `interaction`, `ranking`) have the shape of
Metarank's public event schema, so that its producers need no change.  All of them are frozen
pydantic models; what cannot be read becomes a `DeadLetter` whose reason names the field, the
rule and the value, with origin and payload intact.

References:
    Metarank, "Event schema", doc/event-schema.md of github.com/metarank/metarank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

Array = np.ndarray[Any, Any]
T = TypeVar("T")

EARLIEST = 100_000_000_000
"""March 1973 in milliseconds.  A smaller number is a timestamp in seconds."""
LATEST = 253_402_300_799_999
"""The end of year 9999 in milliseconds.  A larger number is in micro- or nanoseconds."""


def _milliseconds(value: object) -> int:
    """Read a timestamp: epoch milliseconds (number or digits) or ISO 8601 with a zone."""
    if isinstance(value, str) and not value.lstrip("-").isdigit():
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be epoch milliseconds or ISO 8601") from None
        if moment.tzinfo is None:
            raise ValueError("must have a time zone")
        value = round(moment.timestamp() * 1000)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("must be epoch milliseconds or ISO 8601")
    try:
        milliseconds = int(value)
    except (OverflowError, ValueError):  # NaN and the infinities, or thousands of digits
        raise ValueError("must be a finite number of milliseconds") from None
    if not EARLIEST <= milliseconds <= LATEST:
        raise ValueError(f"must be epoch milliseconds within {EARLIEST}..{LATEST}")
    return milliseconds


def _as_object(value: object) -> object:
    """Turn Metarank's list of `{"name", "value"}` into an object."""
    if not isinstance(value, list):
        return {} if value is None else value
    fields: dict[str, object] = {}
    for entry in value:
        if not isinstance(entry, dict) or entry.keys() != {"name", "value"}:
            raise ValueError('must be an object or a list of {"name", "value"}')
        if not isinstance(entry["name"], str):
            raise ValueError("must have text as names")
        if entry["name"] in fields:
            raise ValueError(f"must not name {entry['name']!r} twice")
        fields[entry["name"]] = entry["value"]
    return fields


MAX_TEXT = 100_000
Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Value = bool | float | Text | tuple[Text, ...] | tuple[float, ...] | None
"""What a field may hold: the five kinds of Metarank, and null for "no value"."""
_KINDS = "a finite number, text, a boolean, or a list of texts or of numbers"
Fields = Annotated[dict[Name, Value], BeforeValidator(_as_object), Field(max_length=256)]
Timestamp = Annotated[int, BeforeValidator(_milliseconds)]


class Message(BaseModel):
    """What all messages share: frozen, no unknown keys, no NaN, bytes as base64."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_bytes="base64"
    )

    def encode(self) -> bytes:
        """Return the JSON of this message, without the keys that are not set."""
        return self.model_dump_json(exclude_none=True).encode()


class Candidate(Message):
    """An item of a list, with the fields that only this list knows (its price today)."""

    id: Id
    fields: Fields = {}
    relevancy: float | None = None  # Metarank's names for a score given by others …
    label: float | None = None  # … and for an explicit judgement


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
        return self.user


class Interaction(_ByPerson):
    """What somebody did: with an item, or (a search, a filter) with none."""

    event: Literal["interaction"] = "interaction"
    type: Name
    item: Id | None = None
    ranking: Id | None = None
    fields: Fields = {}


def _distinct(items: tuple[Candidate, ...]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"items must not hold {item.id!r} twice")
        seen.add(item.id)


class Shown(_ByPerson):
    """A `ranking` event: this list was shown, in this order, by whomever."""

    event: Literal["ranking"] = "ranking"
    fields: Fields = {}
    items: Annotated[tuple[Candidate, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _items_differ(self) -> Shown:
        _distinct(self.items)
        return self


class Request(_ByPerson):
    """A wish for a ranked list of `items`; without items, of what retrieval finds."""

    event: Literal["request"] = "request"
    k: Annotated[int, Field(ge=1, le=10_000)] | None = None
    fields: Fields = {}
    items: tuple[Candidate, ...] = ()

    @model_validator(mode="after")
    def _items_differ(self) -> Request:
        _distinct(self.items)
        return self


class Placed(Message):
    """An item of a ranked list."""

    id: Id
    score: float
    propensity: Annotated[float, Field(gt=0, le=1)]


class Ranking(_ByPerson):
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


class Announcement(Message):
    """A version that now serves (or again), on the compacted topic `models`."""

    event: Literal["model"] = "model"
    name: Name
    version: Name
    timestamp: Timestamp
    digest: str
    reason: str


class DeadLetter(Message):
    """A record that could not be used: why, where it came from and what it was."""

    event: Literal["dead_letter"] = "dead_letter"
    reason: str
    origin: str
    payload: bytes
    timestamp: Timestamp


Event = Item | User | Interaction | Shown
Incoming = Annotated[Item | User | Interaction | Shown | Request, Field(discriminator="event")]
_INCOMING: TypeAdapter[Event | Request] = TypeAdapter(Incoming)
_RANKING: TypeAdapter[Ranking] = TypeAdapter(Ranking)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes beyond which a record is refused."""

    record_bytes: int = 1_000_000
    candidates: int = 1_000


def decode(payload: bytes, limits: Limits = Limits()) -> Event | Request:
    """Read one record.

    Args:
        payload: The record's value, JSON in UTF-8.
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
    event = _validated(_INCOMING, payload, limits)
    if isinstance(event, (Shown, Request)) and len(event.items) > limits.candidates:
        raise ValueError(
            f"{event.event}.items: must hold at most {limits.candidates} candidates, "
            f"got {len(event.items)}"
        )
    return event


def decode_ranking(payload: bytes, limits: Limits = Limits()) -> Ranking:
    """Read one record of topic `rankings`.

    Raises:
        ValueError: The record cannot be used; the text names field, rule and value.
    """
    return _validated(_RANKING, payload, limits)


def _validated(kind: TypeAdapter[T], payload: bytes, limits: Limits) -> T:
    if len(payload) > limits.record_bytes:
        raise ValueError(
            f"record: must have at most {limits.record_bytes} bytes, got {len(payload)}"
        )
    try:
        return kind.validate_json(payload)
    except ValidationError as error:
        raise ValueError(_reason(error)) from None


def _reason(error: ValidationError) -> str:
    """Name the first fault: field, rule, value."""
    first = error.errors(include_url=False)[0]
    path, rule = [str(part) for part in first["loc"]], first["msg"].removeprefix("Value error, ")
    if "fields" in path[:-1]:  # one error for each kind that the value could have had
        path, rule = path[: path.index("fields") + 2], f"must be {_KINDS}"
    value = repr(first["input"])
    shown = value if len(value) <= 120 else value[:117] + "..."
    return f"{'.'.join(path) or 'event'}: {rule}, got {shown}"


@dataclass(frozen=True, slots=True)
class Served:
    """What the model saw: the inputs of one list as they were at scoring time.

    Attributes:
        id: The ranking's id.
        user: Whose list it is (the message key).
        timestamp: Event time of what caused the list, epoch milliseconds.
        items: Candidates in incoming order.
        model: Version that scored, `""` where none did.
        features: Hash of the feature definitions.
        source: `"request"`, `"trigger"` or `"ranking"` (a list shown elsewhere).
        inputs: Arrays by name, as `streamrank.features.inputs` builds them.
        scores: One score a candidate and head, shape (candidates, heads).
    """

    id: str
    user: str
    timestamp: int
    items: tuple[str, ...]
    model: str
    features: str
    source: str
    inputs: Mapping[str, Array]
    scores: Array

    def encode(self) -> bytes:
        """Return the binary payload: safetensors, with the words in its metadata."""
        words = {
            "id": self.id,
            "user": self.user,
            "timestamp": self.timestamp,
            "items": self.items,
            "model": self.model,
            "features": self.features,
            "source": self.source,
        }
        arrays = {f"inputs.{name}": np.ascontiguousarray(a) for name, a in self.inputs.items()}
        return save_tensors({**arrays, "scores": self.scores}, {"served": json.dumps(words)})


def decode_served(payload: bytes) -> Served:
    """Read a record of topic `served`.

    Raises:
        ValueError: The payload is not what `Served.encode` writes.
    """
    try:
        arrays = load_tensors(payload)
        words = json.loads(_metadata(payload)["served"])
        inputs = {
            name.removeprefix("inputs."): array
            for name, array in arrays.items()
            if name.startswith("inputs.")
        }
        words["items"] = tuple(words["items"])
        return Served(**words, inputs=inputs, scores=arrays["scores"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"served: must be safetensors with its words, got {error}") from None


def _metadata(payload: bytes) -> dict[str, str]:
    """Return the metadata of safetensors bytes: a length, then a JSON header."""
    length = int.from_bytes(payload[:8], "little")
    metadata: dict[str, str] = json.loads(payload[8 : 8 + length])["__metadata__"]
    return metadata


def utc(milliseconds: int) -> datetime:
    """Return a timestamp as an aware datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
