"""Rows of the store as named columns: the layout that Feast's stores and the log share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from streamrank.edges.store import VECTORS, Row, Values, View, kinds_of
from streamrank.events import Value
from streamrank.features.inputs import Array
from streamrank.features.schema import FieldKind, Schema

Type = Literal["number", "text", "texts", "numbers", "stamp"]
Cell = float | str | tuple[str, ...] | Array | int | None

EVENT_TIMESTAMP, CREATED = "event_timestamp", "created_timestamp"
STAMP = "event_time"
"""Column of every table: the event timestamp as a number of microseconds.

Feast's SQLite store keeps whole seconds of local time; age and order must be exact.
"""
ENTITIES: Mapping[View, str] = {
    "item_windows": "item",
    "user_windows": "user",
    "item_next": "item",
    "item_fields": "item",
    "user_fields": "user",
    "popular": "catalogue",
}
_RESERVED = {*ENTITIES.values(), EVENT_TIMESTAMP, CREATED, STAMP}
_TYPES: Mapping[FieldKind, Type] = {
    "number": "number",
    "category": "text",
    "text": "text",
    "text_list": "texts",
}


@dataclass(frozen=True, slots=True)
class Table:
    """How the rows of a view look as columns.

    Attributes:
        view: Which view.
        entity: Name of the column with the key.
        columns: Type of each column of values.
        fields: Column of each configured field; none where the values are one vector.
    """

    view: View
    entity: str
    columns: Mapping[str, Type]
    fields: Mapping[str, str] = field(default_factory=dict)


def tables_of(schema: Schema) -> dict[View, Table]:
    """Return the table of each view; a view without a configured field has none."""
    found = {
        view: Table(view, ENTITIES[view], {"values": "numbers", STAMP: "stamp"}) for view in VECTORS
    }
    for view, kinds in kinds_of(schema).items():
        if kinds:
            fields = {name: column(name) for name in kinds}
            columns: dict[str, Type] = {fields[name]: _TYPES[kind] for name, kind in kinds.items()}
            found[view] = Table(view, ENTITIES[view], {**columns, STAMP: "stamp"}, fields)
    return found


def column(name: str) -> str:
    """Return the column of a field: its name, unless Feast or we need that one.

    Examples:
        >>> column("price"), column("item"), column("item_")
        ('price', 'item_', 'item__')
    """
    return f"{name}_" if name.rstrip("_") in _RESERVED else name


def cells(table: Table, row: Row) -> dict[str, Cell]:
    """Return the values of a row by column; every column is there, `None` where unknown."""
    found: dict[str, Cell] = {STAMP: row.stamp}
    if isinstance(row.values, np.ndarray):
        found["values"] = row.values
    else:
        for name, place in table.fields.items():
            found[place] = row.values.get(name)  # type: ignore[assignment]  # see `conform`
    return found


def row(table: Table, key: str, found: Mapping[str, Cell]) -> Row | None:
    """Return the row that `cells` took apart; `None` where nothing was stored."""
    stamp = found.get(STAMP)
    if not isinstance(stamp, int):
        return None
    values: Values | None = _fields(table, found) if table.fields else _vector(found)
    if values is None:
        return None
    return Row(table.view, key, stamp // 1000, stamp % 1000, values)


def _vector(found: Mapping[str, Cell]) -> Array | None:
    values = found.get("values")
    return values if isinstance(values, np.ndarray) else None


def _fields(table: Table, found: Mapping[str, Cell]) -> dict[str, Value]:
    values = {name: found.get(place) for name, place in table.fields.items()}
    return {
        name: value
        for name, value in values.items()
        if value is not None and not isinstance(value, np.ndarray)
    }
