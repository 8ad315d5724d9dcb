"""A user's state as bytes: how it is kept over a restart, and while its user is silent.

A snapshot of objects costs fifteen times as long to write and a hundred times as long to read
back, and the objects of a million silent users are what a garbage collector looks through.
"""

from __future__ import annotations

from operator import attrgetter
from typing import cast

import msgspec
from msgspec import Struct

from streamrank.events import Candidate
from streamrank.features.ledger import Ledger
from streamrank.features.state import List, Number, Step, UserState
from streamrank.values import Fields

LAYOUT = 1
"""Of the bytes: what another one wrote is refused."""
_Fields = dict[str, str | float | bool | tuple[str | float, ...] | None]
_Step = tuple[
    str, str | None, str | None, int, int, int, str, int, tuple[Number, ...]
]  # as `Step` has them
_Candidate = tuple[str, _Fields, float | None, float | None]


class _List(Struct, array_like=True, gc=False):
    id: str
    at: int
    session: str | None
    context: _Fields
    candidates: tuple[_Candidate, ...]
    k: int | None


class _State(Struct, array_like=True, gc=False):
    layout: int
    steps: tuple[_Step, ...]
    current: _List | None
    earlier: tuple[tuple[str, ...], ...]
    newest: int
    ids: dict[str, int]
    session: str | None
    session_start: int
    session_steps: int
    triggered: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode
_of_step = attrgetter(
    "type", "item", "session", "first", "last", "count", "value", "place", "numbers"
)
_of_candidate = attrgetter("id", "fields", "relevancy", "label")


def pack(state: UserState) -> bytes:
    """Return a state as bytes.

    Examples:
        >>> state = UserState(steps=(Step("click", "i1", "s", 10**12, 10**12),))
        >>> len(pack(state)), unpack(pack(state)) == state
        (45, True)
    """
    current = state.current
    return _encode(
        _State(
            LAYOUT,
            tuple([_of_step(step) for step in state.steps]),
            None if current is None else _packed(current),
            state.earlier,
            state.ledger.newest,
            state.ledger.ids,
            state.session,
            state.session_start,
            state.session_steps,
            state.triggered,
        )
    )


def _packed(shown: List) -> _List:
    candidates = tuple([_of_candidate(one) for one in shown.candidates])
    return _List(shown.id, shown.at, shown.session, dict(shown.context), candidates, shown.k)


def unpack(packed: bytes) -> UserState:
    """Return the state that `pack` made bytes of.

    Raises:
        ValueError: Something else made them.
    """
    found = _decode(packed)
    if found.layout != LAYOUT:
        raise ValueError(f"the layout of a user's state must be {LAYOUT}, got {found.layout}")
    return UserState(
        steps=tuple([Step(*step) for step in found.steps]),
        current=None if found.current is None else _unpacked(found.current),
        earlier=found.earlier,
        ledger=Ledger(found.newest, found.ids),
        session=found.session,
        session_start=found.session_start,
        session_steps=found.session_steps,
        triggered=found.triggered,
    )


def _unpacked(shown: _List) -> List:
    candidates = tuple(
        [
            Candidate(id=name, fields=cast(Fields, fields), relevancy=relevancy, label=label)
            for name, fields, relevancy, label in shown.candidates
        ]
    )
    return List(shown.id, shown.at, shown.session, shown.context, candidates, shown.k)
