"""Which fields, interaction types and horizons exist: configuration as a value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from streamrank.values import reason

FieldKind = Literal["number", "category", "text", "text_list"]
"""What a field holds: a quantity, one word of a closed set, free text, or several words."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What the features are made of.

    Attributes:
        interactions: Interaction types, in the order of their channels.
        label: The interaction type that is the feedback on a list.
        conversion: The rarer, later feedback, where there is one.
        item: Kind of each item field, whether from the catalogue or from the list.
        user: Kind of each user field.
        context: Kind of each field of a list or request.
        interaction: Kind of each field of an interaction.
        horizons: Half-lives of the decayed windows, seconds.
        history: Steps of behaviour that the model sees.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    interactions: tuple[str, ...] = ("click",)
    label: str = "click"
    conversion: str | None = None
    item: Mapping[str, FieldKind] = field(default_factory=dict)
    user: Mapping[str, FieldKind] = field(default_factory=dict)
    context: Mapping[str, FieldKind] = field(default_factory=dict)
    interaction: Mapping[str, FieldKind] = field(default_factory=dict)
    horizons: tuple[float, ...] = (3600.0, 86400.0, 604800.0)
    history: int = 50

    def __post_init__(self) -> None:
        """Order the fields by name: columns must not move because a file was tidied up."""
        for name in ("item", "user", "context", "interaction"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))

    @property
    def channels(self) -> tuple[str, ...]:
        """What a window counts: each interaction type, any other, and impressions."""
        return (*self.interactions, "other", "impression")

    def channel(self, interaction: str) -> int:
        """Return the channel that counts this interaction type."""
        known = self.interactions
        return known.index(interaction) if interaction in known else len(known)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The item fields that are quantities."""
        return tuple(name for name, kind in self.item.items() if kind == "number")

    def encode(self) -> str:
        """Return this schema as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def decode_schema(text: str) -> Schema:
    """Read what `Schema.encode` wrote.

    Raises:
        ValueError: The text is no schema.
    """
    try:
        return _SCHEMA.validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"schema must be what Schema.encode wrote: {reason(error)}") from None


_SCHEMA: TypeAdapter[Schema] = TypeAdapter(Schema)


@lru_cache(maxsize=1_000_000)
def hashed(word: str) -> int:
    """Return a stable 63-bit hash; 0 is kept for "nothing".

    Examples:
        >>> hashed("i1") == hashed("i1") != hashed("i2")
        True
    """
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) or 1
