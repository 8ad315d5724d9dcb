"""Loops over candidates as machine code: one call for a list, whatever its length.

A call of numpy costs more than it works on a list of usual length, and a feature takes several.
So what is done for each candidate is a loop that numba compiles, from the types of its arguments
alone: a call never waits for the compiler because its arguments are of a new kind.

Compiled is what is called, when it is first called, or all of it by `prepare`.  The code is kept
on disk beside the source, or where that cannot be written to in the user's cache, or in
`NUMBA_CACHE_DIR`.  Indices are checked, as they are in Python: what is out of bounds is an
IndexError and never somebody else's memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import update_wrapper
from typing import Annotated, Any, Generic, Literal, ParamSpec, TypeVar, get_type_hints

import numpy as np

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

_Array = np.ndarray[Any, Any]
Reals = Annotated[_Array, "readonly", "float64", 1]
RealTable = Annotated[_Array, "readonly", "float64", 2]
Integers = Annotated[_Array, "readonly", "int64", 1]
IntegerTable = Annotated[_Array, "readonly", "int64", 2]
Flags = Annotated[_Array, "readonly", "boolean", 1]
Made = Annotated[_Array, "made", "float64", 2]
Numbers = Annotated[_Array, "made", "float32", 2]
"""What a loop makes and returns."""
Columns = Annotated[_Array, "columns", "float32", 2]
"""What a loop writes its features into, (C, features): some columns of all."""


class Compiled(Generic[P, R]):
    """A function that is compiled when it is first called; see `compiled`."""

    def __init__(self, function: Callable[P, R]) -> None:
        update_wrapper(self, function)
        self.function = function
        self._native: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **given: P.kwargs) -> R:
        """Call the machine code."""
        return (self._native or self.native())(*args, **given)

    def native(self) -> Callable[P, R]:
        """Return the machine code: from disk, where it is there."""
        if self._native is None:
            self._native = _native(self.function)
        return self._native


_ALL: list[Compiled[Any, Any]] = []


def compiled(function: Callable[P, R]) -> Compiled[P, R]:
    """Make a function of loops over arrays one that is compiled when it is first called.

    Its annotations are the types it is compiled for: `int`, `float`, `bool`, and the arrays of
    this module.  It may use what numba knows (https://numba.readthedocs.io), and calls no other
    function of ours: what is kept on disk is only made anew when its own file has changed.

    Examples:
        >>> @compiled
        ... def total(values: Reals) -> float:
        ...     found = 0.0
        ...     for value in values:
        ...         found += value
        ...     return found
        >>> total(np.array([1.0, 2.5]))
        3.5
    """
    made = Compiled(function)
    _ALL.append(made)
    return made


def prepare() -> None:
    """Compile all that was not, so that no list has to wait for it."""
    for one in _ALL:
        one.native()


def _native(function: Callable[P, R]) -> Callable[P, R]:
    from numba import njit  # a second; who only wants the features' names does not need it

    hints = get_type_hints(function, include_extras=True)
    returned = _numba_type(hints.pop("return"))
    signature = returned(*map(_numba_type, hints.values()))
    try:
        found = njit(signature, error_model="numpy", boundscheck=True, cache=True)(function)
    except (RuntimeError, OSError) as error:  # no folder to keep it in, or no room there
        log.warning("compiled code is not kept, so every start compiles it: %s", error)
        found = njit(signature, error_model="numpy", boundscheck=True)(function)
    native: Callable[P, R] = found
    return native


def _numba_type(hint: Any) -> Any:
    from numba import types

    if hint is type(None):
        return types.void
    if plain := {int: types.int64, float: types.float64, bool: types.boolean}.get(hint):
        return plain
    kind, element, dimensions = hint.__metadata__
    readonly = kind == "readonly"  # which takes arrays that may be written to as well
    layout: Literal["A", "C"] = "A" if kind == "columns" else "C"
    return types.Array(getattr(types, element), dimensions, layout, readonly=readonly)
