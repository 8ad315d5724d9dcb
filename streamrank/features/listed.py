"""A list that its user got, as it is remembered: few objects, whoever asks for more gets them.

A list of a hundred candidates is most of what is known of a user.  Of the last one only the ids
are asked for at each request; their fields, when somebody acts on it.  So these are bytes from the
moment that the list comes: a snapshot, which every list has to wait for, has them to copy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, cast

import msgspec

from streamrank.events import Candidate
from streamrank.values import Fields

_Fields = dict[str, str | float | bool | tuple[str | float, ...] | None]


class _Rest(NamedTuple):
    context: _Fields
    candidates: tuple[tuple[_Fields, float | None, float | None], ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Rest).decode
_of_candidate = attrgetter("fields", "relevancy", "label")


@dataclass(frozen=True, slots=True)
class List:
    """A list the user got: what a trigger ranks again, and what counts as seen.

    Attributes:
        id: Of the request or of the list that was shown.
        at: When, in milliseconds.
        session: In which session.
        items: The ids of its candidates, in their order.
        k: How many were asked for.
        rest: What else it said, as bytes; see `candidates` and `context`.

    Examples:
        >>> shown = List.of("r1", 10**12, "s", {"q": "red"}, (Candidate(id="i", label=1.0),))
        >>> shown.items, shown.context, shown.candidates[0].label
        (('i',), {'q': 'red'}, 1.0)
    """

    id: str
    at: int
    session: str | None
    items: tuple[str, ...]
    k: int | None
    rest: bytes

    @classmethod
    def of(
        cls,
        name: str,
        at: int,
        session: str | None,
        context: Mapping[str, Any],
        candidates: Sequence[Candidate],
        k: int | None = None,
    ) -> List:
        """Return what is remembered of a list."""
        rest = _encode(_Rest(dict(context), tuple([_of_candidate(one) for one in candidates])))
        return cls(name, at, session, tuple([one.id for one in candidates]), k, rest)

    @property
    def context(self) -> Mapping[str, Any]:
        """What was said of the list as a whole."""
        return _decode(self.rest).context

    @property
    def fields(self) -> list[Fields]:
        """What was said of each candidate."""
        return [cast(Fields, fields) for fields, _, _ in _decode(self.rest).candidates]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The candidates, as they came."""
        told = zip(self.items, _decode(self.rest).candidates, strict=True)
        return tuple(
            [
                Candidate(id=name, fields=cast(Fields, fields), relevancy=relevancy, label=label)
                for name, (fields, relevancy, label) in told
            ]
        )
