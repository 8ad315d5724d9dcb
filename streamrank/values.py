"""What stands in a message: ids, timestamps, fields; and what is said where it cannot stand.

The usual form of a value is read by pydantic's compiled core alone; only where that refuses is
Python asked for another one (an ISO timestamp, Metarank's list of fields).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from reprlib import Repr
from typing import Annotated

from pydantic import Field, GetCoreSchemaHandler, Strict, StringConstraints, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema

EARLIEST = 100_000_000_000
"""March 1973 in milliseconds.  A smaller number is a timestamp in seconds."""
LATEST = 253_402_300_799_999
"""The end of year 9999 in milliseconds.  A larger number is in micro- or nanoseconds."""
MAX_ID = 512
MAX_NAME = 256
MAX_TEXT = 100_000
MAX_FIELDS = 256
MAX_LIST = 10_000
"""The settings may allow less of each of these, and not more."""

_AS_IT_IS, _AFTER_READING = "(as it is)", "(after reading)"


@dataclass(frozen=True, slots=True)
class OrRead:
    """Annotates a type: a value is taken as it is, or else as `read` makes it.

    Attributes:
        read: Turns another form into the usual one; raises ValueError with the rule.
    """

    read: Callable[[object], object]

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        plain = handler(source)
        read = core_schema.no_info_before_validator_function(self.read, plain)
        return core_schema.union_schema(
            [(plain, _AS_IT_IS), (read, _AFTER_READING)],
            mode="left_to_right",
            serialization=core_schema.simple_ser_schema("any"),
        )


def milliseconds(value: object) -> int:
    """Read a timestamp: epoch milliseconds (number or digits) or ISO 8601 with a zone.

    Examples:
        >>> milliseconds("2022-06-22T11:21:39Z"), milliseconds("1655896899000")
        (1655896899000, 1655896899000)

    Raises:
        ValueError: It is neither, or it is in seconds or in microseconds.
    """
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
        found = int(value)
    except (OverflowError, ValueError):  # NaN and the infinities, or thousands of digits
        raise ValueError("must be a finite number of milliseconds") from None
    if not EARLIEST <= found <= LATEST:
        raise ValueError(f"must be epoch milliseconds within {EARLIEST}..{LATEST}")
    return found


def as_object(value: object) -> object:
    """Turn Metarank's list of `{"name", "value"}` into an object, and null into an empty one.

    Examples:
        >>> as_object([{"name": "title", "value": "Sea view"}])
        {'title': 'Sea view'}

    Raises:
        ValueError: It is a list of something else, or names a field twice.
    """
    if not isinstance(value, list):
        return {} if value is None else value
    fields: dict[str, object] = {}
    for entry in value:
        if not isinstance(entry, dict) or entry.keys() != {"name", "value"}:
            raise ValueError('must be an object or a list of {"name", "value"}')
        if not isinstance(entry["name"], str):
            raise ValueError("must have text as names")
        if entry["name"] in fields:
            raise ValueError(f"must not name {shown(entry['name'])} twice")
        fields[entry["name"]] = entry["value"]
    return fields


Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Number = Annotated[float, Strict()]
Value = Annotated[
    Text
    | Number
    | Annotated[bool, Strict()]
    | Annotated[tuple[Text, ...], Field(max_length=MAX_LIST)]
    | Annotated[tuple[Number, ...], Field(max_length=MAX_LIST)]
    | None,
    Field(union_mode="left_to_right"),
]
"""What a field may hold: the five kinds of Metarank, and null for "no value"."""
Fields = Annotated[dict[Name, Value], Field(max_length=MAX_FIELDS), OrRead(as_object)]
Timestamp = Annotated[int, Strict(), Field(ge=EARLIEST, le=LATEST), OrRead(milliseconds)]


# --- what is wrong ----------------------------------------------------------------------------

_KINDS = "must be a finite number, text, a boolean, or a list of texts or of numbers"
_BRIEF = Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 100
_BRIEF.maxdict = _BRIEF.maxlist = _BRIEF.maxtuple = 3


def shown(value: object) -> str:
    """Return a value as a reason shows it: a megabyte is not repeated.

    Examples:
        >>> shown("x" * 1_000_000)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"
    """
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value[:200])  # Repr would write out all of it first
    return _brief(_BRIEF.repr(value), 300)


def _brief(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def reason(error: ValidationError) -> str:
    """Name the first thing that is wrong: field, rule, value."""
    faults = [one for one in error.errors(include_url=False) if _AS_IT_IS not in one["loc"]]
    first = faults[0]
    path = [str(part) for part in first["loc"] if part != _AFTER_READING]
    rule, value = _rule(first), first["input"]
    if "fields" in path[:-1] and path[-1] != "[key]":
        # One fault for each kind that the value could have had: the first is as good as any.
        path = path[: path.index("fields") + 2]
        rule = next(filter(None, map(_of_a_kind, faults)), _KINDS)
    where = ".".join(_brief(part, 60) for part in path) or "event"
    return f"{where}: {_brief(rule, 300)}, got {shown(value)}"


def _rule(fault: ErrorDetails) -> str:
    rule = fault["msg"].removeprefix("Value error, ")
    subject, should, rest = rule.partition(" should ")
    return f"must {rest}" if should and " " not in subject else rule


_SIZES = {"string_too_long", "finite_number", "too_long"}


def _of_a_kind(fault: ErrorDetails) -> str | None:
    """Return the rule where the kind of a field's value was right, and its size was not."""
    return _rule(fault) if fault["type"] in _SIZES else None
