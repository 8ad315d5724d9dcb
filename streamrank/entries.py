"""What lists hold, as light objects: of a hundred a list, and a thousand lists a second.

They are msgspec's, made in a tenth of the time that a pydantic model takes.  Where they stand in
a message pydantic still holds them to the rules of `streamrank.forms`, and describes them so.

References:
    msgspec, "Structs", https://jcristharif.com/msgspec/structs.html.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec
from msgspec import Meta, Struct
from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from streamrank import forms
from streamrank.values import MAX_FIELDS, MAX_ID, MAX_LIST, MAX_NAME, MAX_TEXT

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Texts = Annotated[tuple[Text, ...], Meta(max_length=MAX_LIST)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
if TYPE_CHECKING:
    from streamrank.values import Fields as Fields
else:  # msgspec can tell but one kind of list from other values: see `wire`
    Fields = Annotated[dict[Name, Text | float | bool | Texts | None], Meta(max_length=MAX_FIELDS)]


class _Entry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Made without a check where it is made by itself, with them where a message takes it in."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        form = handler.generate_schema(getattr(forms, cls.__name__))
        made = core_schema.no_info_after_validator_function(cls._of, form)
        opened = core_schema.no_info_before_validator_function(_opened, made)
        return core_schema.json_or_python_schema(
            json_schema=made,
            python_schema=opened,
            serialization=core_schema.plain_serializer_function_ser_schema(_opened),
        )

    @classmethod
    def _of(cls, form: BaseModel) -> Self:
        return cls(**form.__dict__)


def _opened(entry: object) -> object:
    """Return an entry as its parts, so that they are checked; anything else as it is."""
    if not isinstance(entry, _Entry):
        return entry
    return {
        name: value for name, value in msgspec.structs.asdict(entry).items() if value is not None
    }


class Candidate(_Entry, frozen=True):
    """An item of a list, with the fields that only this list knows (its price today).

    Examples:
        >>> Candidate(id="i1", fields={"price": 71.0}).fields["price"]
        71.0
    """

    id: Id
    fields: Fields = {}
    relevancy: float | None = None  # Metarank's names for a score given by others …
    label: float | None = None  # … and for an explicit judgement


class Placed(_Entry, frozen=True):
    """An item of a ranked list."""

    id: Id
    score: float
    propensity: float


write: Callable[[Any], bytes] = msgspec.json.Encoder().encode
"""JSON of what is plain, or an entry, or made of such."""
