"""A user's state as bytes: how it is kept over a restart, and while its user is silent.

A snapshot of objects costs fifteen times as long to write and a hundred times as long to read
back, and the objects of a million silent users are what a garbage collector looks through.
"""

from __future__ import annotations

from operator import attrgetter

import msgspec
from msgspec import Struct

from streamrank.features.ledger import Ledger
from streamrank.features.listed import List
from streamrank.features.state import Number, Step, UserState

LAYOUT = 2
"""Of the bytes: what another one wrote is refused."""
_Step = tuple[
    str, str | None, str | None, int, int, int, str, int, tuple[Number, ...]
]  # as `Step` has them
_List = tuple[str, int, str | None, tuple[str, ...], int | None, bytes]  # as `List` has them


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
_of_list = attrgetter("id", "at", "session", "items", "k", "rest")


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
            None if current is None else _of_list(current),
            state.earlier,
            state.ledger.newest,
            state.ledger.ids,
            state.session,
            state.session_start,
            state.session_steps,
            state.triggered,
        )
    )


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
        current=None if found.current is None else List(*found.current),
        earlier=found.earlier,
        ledger=Ledger(found.newest, found.ids),
        session=found.session,
        session_start=found.session_start,
        session_steps=found.session_steps,
        triggered=found.triggered,
    )
