"""`streamrank.toml` and the environment, read once.

A variable `STREAMRANK_<SECTION>__<KEY>` overrides the file (`STREAMRANK_KAFKA__BOOTSTRAP_SERVERS`);
a list is written as JSON.  Secrets have no place in the file: they come from the environment
alone and never print.  Whatever is wrong is reported at once, each with where it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from streamrank import settings_file
from streamrank.events import Limits
from streamrank.features.schema import Schema
from streamrank.features.state import Rules
from streamrank.sections import (
    EventsSection,
    FieldsSection,
    GateSection,
    KafkaSection,
    LearnSection,
    MetricsSection,
    ModelSection,
    RankSection,
    RegistrySection,
    RetrievalSection,
    SessionSection,
    StateSection,
    StoreSection,
    WindowsSection,
)
from streamrank.settings_faults import (
    Fault,
    SettingsError,
    is_secret,
    reason,
    refused_secret,
    unknown,
)

__all__ = [
    "SETTINGS_VARIABLE",
    "EventsSection",
    "Fault",
    "FieldsSection",
    "GateSection",
    "KafkaSection",
    "LearnSection",
    "MetricsSection",
    "ModelSection",
    "RankSection",
    "RegistrySection",
    "RetrievalSection",
    "Secrets",
    "SessionSection",
    "Settings",
    "SettingsError",
    "StateSection",
    "StoreSection",
    "WindowsSection",
    "changed",
    "load",
    "to_toml",
]

SETTINGS_VARIABLE = "STREAMRANK_SETTINGS"
"""Names the settings file where no path is given."""
DEFAULT_FILE = Path("streamrank.toml")
Key = tuple[str, ...]
_PREFIX = "STREAMRANK_"


class Secrets(BaseSettings):
    """What only the environment may hold."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    sasl_password: SecretStr | None = None
    ssl_key_password: SecretStr | None = None
    redis_password: SecretStr | None = None


class Settings(BaseSettings):
    """The whole of `streamrank.toml`; `load` is what reads it and the environment.

    Examples:
        >>> Settings(kafka={"prefix": "shop."}).topic("events")
        'shop.events'
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")] = "streamrank"
    """Names the Feast project."""
    events: EventsSection = EventsSection()
    fields: FieldsSection = FieldsSection()
    windows: WindowsSection = WindowsSection()
    session: SessionSection = SessionSection()
    rank: RankSection = RankSection()
    model: ModelSection = ModelSection()
    retrieval: RetrievalSection = RetrievalSection()
    learn: LearnSection = LearnSection()
    gate: GateSection = GateSection()
    kafka: KafkaSection = KafkaSection()
    store: StoreSection = StoreSection()
    state: StateSection = StateSection()
    registry: RegistrySection = RegistrySection()
    metrics: MetricsSection = MetricsSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given and nothing else: only `load` reads the environment."""
        return (init_settings,)

    @field_validator("rank")
    @classmethod
    def _triggers_are_interactions(cls, rank: RankSection, info: ValidationInfo) -> RankSection:
        events = info.data.get("events")
        unknown = set(rank.triggers or ()) - set(events.interactions if events else ())
        if events is not None and unknown:
            known = ", ".join(events.interactions)
            raise ValueError(f"triggers must be among events.interactions ({known})")
        return rank

    def topic(self, name: str) -> str:
        """Return the full name of a topic."""
        return self.kafka.prefix + name

    def limits(self) -> Limits:
        """Return the sizes beyond which a record is refused."""
        found = self.events
        return Limits(
            found.max_record_bytes,
            found.max_candidates,
            found.max_fields,
            found.max_text,
            found.max_list,
        )

    def rules(self) -> Rules:
        """Return how much is remembered of each user."""
        lateness = round(self.windows.lateness.total_seconds() * 1000)
        return Rules(self.session.history, self.session.lists, lateness)

    def feature_schema(self) -> Schema:
        """Return what the features are made of."""
        return Schema(
            interactions=self.events.interactions,
            label=self.events.label,
            conversion=self.events.conversion,
            item=self.fields.item,
            user=self.fields.user,
            context=self.fields.context,
            interaction=self.fields.interaction,
            horizons=tuple(horizon.total_seconds() for horizon in self.windows.horizons),
            history=self.session.history,
        )


def load(path: Path | None = None) -> Settings:
    """Read the settings: environment over file over defaults.

    Args:
        path: The file; without it the one that $STREAMRANK_SETTINGS names, else
            ./streamrank.toml where there is one, else the defaults.

    Raises:
        SettingsError: Something is wrong; it says everything that is.
    """
    found = _file(path)
    values = {} if found is None else settings_file.read(found)
    return _under_the_environment(values, str(found or "defaults"))


def overridden(known: Settings) -> Settings:
    """Put the environment over settings that are in no file, such as those inferred from a log.

    Raises:
        SettingsError: A variable is wrong; it says everything that is.
    """
    return _under_the_environment(known.model_dump(), "settings without a file")


def _under_the_environment(values: dict[str, Any], source: str) -> Settings:
    faults: list[Fault] = []
    owners: dict[Key, str] = {}
    for variable, given in _variables(faults):
        _merge(values, given, f"environment variable {variable}", owners)
    return _checked(values, source, owners, faults)


def changed(known: Settings, changes: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return settings with other values at some keys.

    Args:
        known: The settings so far.
        changes: New values by section and key, as they would stand in the file.

    Raises:
        SettingsError: A key or a value is wrong.

    Examples:
        >>> changed(Settings(), {"kafka": {"prefix": "shop.", "fetch_wait": "5ms"}}).kafka.prefix
        'shop.'
    """
    values = known.model_dump()
    _merge(values, changes, "changes", {})
    return _checked(values, "changes", {}, [])


def to_toml(known: Settings) -> str:
    """Return settings as the text of a file that `load` reads back as they are."""
    return settings_file.write(known)


def _file(path: Path | None) -> Path | None:
    """Return the settings file that there must be, or `None` for the defaults."""
    named = os.environ.get(SETTINGS_VARIABLE)
    if path is not None:
        return path
    if not named:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    if not Path(named).is_file():
        rule = f"must name a settings file, got {named!r}"
        raise SettingsError([Fault(f"environment variable {SETTINGS_VARIABLE}", "", rule)])
    return Path(named)


def _variables(faults: list[Fault]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the environment variable by variable, so that each fault has the name of one."""
    source = EnvSettingsSource(Settings)
    sections = {name.upper() for name in Settings.model_fields}
    for lowered, text in dict(source.env_vars).items():
        variable = lowered.upper()
        section, nested, key = variable.removeprefix(_PREFIX).partition("__")
        if not variable.startswith(_PREFIX) or not (nested or section in sections):
            continue  # not ours, or one that is no setting (STREAMRANK_LOG)
        source.env_vars = {lowered: text}
        try:
            given = source()
        except UnreadableVariable:
            hidden = is_secret(variable) or is_secret(text or "")
            rule = "must be JSON" if hidden else f"must be JSON, got {text!r}"
            faults.append(Fault(f"environment variable {variable}", "", rule))
            continue
        yield variable, given or {section.lower(): {key.lower(): text}}


def _merge(
    values: dict[str, Any],
    given: Mapping[str, Any],
    owner: str,
    owners: dict[Key, str],
    at: Key = (),
) -> None:
    """Put `given` over `values`, table by table, and note whose each key is."""
    for name, value in given.items():
        path = (*at, name)
        if isinstance(value, Mapping):
            if not isinstance(values.get(name), dict):
                values[name], owners[path] = {}, owner
            _merge(values[name], value, owner, owners, path)
        else:
            values[name], owners[path] = value, owner


def _checked(
    values: dict[str, Any], source: str, owners: Mapping[Key, str], faults: Iterable[Fault]
) -> Settings:
    """Build the settings, or say all that is wrong with them."""

    def fault(path: Key, rule: str) -> Fault:
        lengths = range(len(path), 0, -1)
        owner = next((owners[path[:n]] for n in lengths if path[:n] in owners), source)
        return Fault(owner, ".".join(path), rule)

    secrets = list(_secrets(values))
    found = [
        *faults,
        *(fault(one, refused_secret(one[-1], Secrets.model_fields)) for one in secrets),
    ]
    # A leading underscore would be an option of pydantic-settings itself (`_env_file`).
    strange = [name for name in values if name.startswith("_")]
    found += [fault((name,), unknown((name,), Settings)) for name in strange]
    try:
        settings = Settings(**{name: v for name, v in values.items() if name not in strange})
    except ValidationError as error:
        wrong = [(tuple(map(str, one["loc"])), one) for one in error.errors(include_url=False)]
        found += [fault(p, reason(one, Settings)) for p, one in wrong if p not in secrets]
    if found:
        raise SettingsError(found)
    return settings


def _secrets(values: Mapping[str, Any], at: Key = ()) -> Iterator[Key]:
    """Find the keys that look like secrets, outside the names that people choose."""
    for name, value in values.items():
        if at[:1] == ("fields",):
            return
        if is_secret(name):
            yield (*at, name)
        elif isinstance(value, Mapping):
            yield from _secrets(value, (*at, name))
