"""The Feast objects that the settings mean: entities, views, the service of a model.

One place for both who use them: the flows (`edges.feast`) and the people who work with Feast
(`feature_repo/definitions.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.feast_object import FeastObject
from feast.types import Array, FeastType, Float64, Int64, String
from feast.value_type import ValueType

from streamrank.edges.offline import folder
from streamrank.edges.store import View
from streamrank.edges.tables import CREATED, EVENT_TIMESTAMP, STAMP, Table, Type, tables_of
from streamrank.features import windows
from streamrank.features.schema import Schema
from streamrank.settings import Settings

_TYPES: Mapping[Type, FeastType] = {
    "number": Float64,
    "text": String,
    "texts": Array(String),
    "numbers": Array(Float64),
    "stamp": Int64,
}
_ENTITIES = {
    "item": "What is ranked.",
    "user": "Whom it is ranked for: the user's id, or the session's where no user is known.",
    "catalogue": "All items together; its one key is `all`.",
}
_VIEWS: Mapping[View, str] = {
    "item_windows": "What happened to an item, over several horizons.",
    "user_windows": "What a user did, over several horizons.",
    "item_next": "What people touched after an item, over the longest horizon.",
    "item_fields": "What the catalogue says of an item.",
    "user_fields": "What is known of a user.",
    "popular": "The items with the most recent interactions, best first.",
}


@dataclass(frozen=True, slots=True)
class Definitions:
    """All that `feast apply` registers; a view without a configured field is not there."""

    entities: Mapping[str, Entity]
    views: Mapping[View, FeatureView]
    service: FeatureService

    def objects(self) -> list[FeastObject]:
        """Return everything in one list."""
        return [*self.entities.values(), *self.views.values(), self.service]


def define(settings: Settings, root: Path) -> Definitions:
    """Return the Feast objects of these settings.

    Args:
        settings: The fields, interaction types, horizons and the model there are.
        root: What a relative `store.path` is relative to.
    """
    schema, path = settings.feature_schema(), (root / settings.store.path).resolve()
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING, description=text)
        for name, text in _ENTITIES.items()
    }
    views = {
        view: FeatureView(
            name=view,
            description=_VIEWS[view],
            entities=[entities[table.entity]],
            ttl=settings.windows.ttl,
            schema=[Field(name=table.entity, dtype=String), *_fields(table, schema)],
            source=_log(table, path),
        )
        for view, table in tables_of(schema).items()
    }
    service = FeatureService(
        name=settings.model.name,
        description="What the model sees. Ask for full_feature_names: views share field names.",
        features=[view for name, view in views.items() if name != "popular"],
    )
    return Definitions(entities, views, service)


def _log(table: Table, path: Path) -> FileSource:
    return FileSource(
        name=f"{table.view}_log",
        description="Every row that was written, in append-only Parquet parts.",
        path=str(folder(path, table)),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=CREATED,
    )


def _fields(table: Table, schema: Schema) -> list[Field]:
    places = windows.names(schema.channels, schema.horizons)
    text = "Milliseconds, counts, and counts decayed as of `at`; the tags name each place."
    if table.view == "item_next":
        places = ["at", "total"]
        text = "Milliseconds, weight of all; hashes of items, then as many weights as of `at`."
    described: Mapping[str, str] = {
        "values": text,
        STAMP: "Event time of these values, epoch microseconds: void when older than the TTL.",
    }
    tags = {"values": {f"{place:03d}": name for place, name in enumerate(places)}}
    own = {STAMP} if table.fields else {STAMP, "values"}
    return [
        Field(
            name=name,
            dtype=_TYPES[kind],
            description=described[name] if name in own else "",
            tags=tags["values"] if kind == "numbers" else {},
        )
        for name, kind in table.columns.items()
    ]
