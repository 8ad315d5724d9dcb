"""`streamrank.toml` and the environment, read once.

A variable `STREAMRANK_<SECTION>__<KEY>` overrides the file (`STREAMRANK_KAFKA__BOOTSTRAP_SERVERS`).
Secrets have no place in the file: they come from the environment alone and never print.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from streamrank.features.schema import FieldKind, Schema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: object) -> object:
    """Read `"10m"`; a bare number is seconds."""
    if not isinstance(value, str):
        return value
    number = value.rstrip("smhd")
    unit = value[len(number) :]
    try:
        return float(number) * _UNITS[unit or "s"]
    except (KeyError, ValueError):
        raise ValueError("must be a number with a unit of ms, s, m, h or d") from None


def _text(duration: timedelta) -> str:
    """Write a duration in the largest unit that divides it."""
    seconds = duration.total_seconds()
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds * 1000:.0f}ms"


Duration = Annotated[
    timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0)), PlainSerializer(_text)
]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A table of the file: no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FieldsSection(Section):
    """Which fields exist and of what kind they are, by what they describe."""

    item: dict[str, FieldKind] = {}
    user: dict[str, FieldKind] = {}
    context: dict[str, FieldKind] = {}
    interaction: dict[str, FieldKind] = {}


class EventsSection(Section):
    """What people do, and which deeds are the feedback that the model learns from."""

    interactions: tuple[str, ...] = ("click",)
    label: str = "click"
    conversion: str | None = None
    max_record_bytes: Annotated[int, Field(ge=1_000, le=100_000_000)] = 1_000_000
    max_candidates: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    max_ahead: Duration = timedelta(hours=1)

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        for key in ("label", "conversion"):
            name = getattr(self, key)
            if name is not None and name not in self.interactions:
                raise ValueError(f"{key} must be one of interactions, got {name!r}")
        return self


class WindowsSection(Section):
    """Event-time windows of users and items."""

    horizons: Annotated[tuple[Duration, ...], Field(min_length=1, max_length=6)] = (
        timedelta(hours=1),
        timedelta(days=1),
        timedelta(days=7),
    )
    lateness: Duration = timedelta(minutes=10)
    ttl: Duration = timedelta(days=30)
    flush: Duration = timedelta(seconds=1)
    popular: Annotated[int, Field(ge=1, le=10_000)] = 100


class SessionSection(Section):
    """What is remembered of each user between two events."""

    history: Annotated[int, Field(ge=1, le=200)] = 50
    lists: Annotated[int, Field(ge=1, le=20)] = 5
    ttl: Duration = timedelta(days=1)


class RankSection(Section):
    """How lists are made."""

    k: Annotated[int, Field(ge=1, le=10_000)] = 100
    triggers: tuple[str, ...] | None = None
    """Interaction types that re-rank the current list by themselves; all where not given."""
    trigger_every: Duration = timedelta(seconds=1)
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    cache_age: Duration = timedelta(seconds=1)
    cache_rows: Annotated[int, Field(ge=1)] = 100_000


class ModelSection(Section):
    """The ranker and its training."""

    name: str = "ranker"
    size: Literal["small", "base", "large"] = "small"
    epochs: Annotated[int, Field(ge=1, le=1000)] = 6
    seed: int = 0


class KafkaSection(Section):
    """The broker, its topics and how to be let in."""

    bootstrap_servers: str = "localhost:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_ca_location: Path | None = None
    ssl_certificate_location: Path | None = None
    ssl_key_location: Path | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    prefix: str = ""
    group: str = "streamrank"
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 4
    replication: Annotated[int, Field(ge=1, le=10)] = 1
    fetch_wait: Duration = timedelta(milliseconds=50)
    start: Literal["earliest", "latest"] = "earliest"
    delivery_timeout: Duration = timedelta(minutes=2)


class StoreSection(Section):
    """Feast: the online store, and where its files are."""

    online: Literal["sqlite", "redis"] = "sqlite"
    path: Path = Path("data/feast")
    redis: str = "localhost:6379"
    """`host:port` of Redis; a password comes from STREAMRANK_REDIS_PASSWORD."""


class StateSection(Section):
    """Where the flows keep their snapshots."""

    path: Path | None = None
    """A folder; without it nothing is kept over a restart."""
    every: Duration = timedelta(seconds=10)


class RegistrySection(Section):
    """Where the versions of the model are."""

    path: Path = Path("data/registry")


class Secrets(BaseSettings):
    """What only the environment may hold."""

    model_config = SettingsConfigDict(env_prefix="STREAMRANK_", frozen=True, extra="ignore")

    sasl_password: SecretStr | None = None
    ssl_key_password: SecretStr | None = None
    redis_password: SecretStr | None = None


class Settings(BaseSettings):
    """The whole of `streamrank.toml`, each value overridden by its environment variable."""

    model_config = SettingsConfigDict(
        env_prefix="STREAMRANK_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")] = "streamrank"
    events: EventsSection = EventsSection()
    fields: FieldsSection = FieldsSection()
    windows: WindowsSection = WindowsSection()
    session: SessionSection = SessionSection()
    rank: RankSection = RankSection()
    model: ModelSection = ModelSection()
    kafka: KafkaSection = KafkaSection()
    store: StoreSection = StoreSection()
    state: StateSection = StateSection()
    registry: RegistrySection = RegistrySection()
