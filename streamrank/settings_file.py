"""The file `streamrank.toml`: how it is read, and how it is written so that people can edit it."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel
from tomlkit.items import Table

from streamrank.settings_faults import Fault, SettingsError

_HEAD = """\
The settings of StreamRank. A variable STREAMRANK_<SECTION>__<KEY> overrides a key of this file;
passwords come from the environment alone. Durations: "500ms", "10s", "5m", "1h", "7d"."""


def read(path: Path) -> dict[str, Any]:
    """Read a settings file as it stands.

    Raises:
        SettingsError: There is no such file, or it is not TOML; it names the line.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        reason = "does not exist (streamrank init writes one)"
    except tomllib.TOMLDecodeError as error:
        reason = f"must be TOML: {error}"
    except UnicodeDecodeError as error:
        reason = f"must be UTF-8: {error.reason} at byte {error.start}"
    except RecursionError:
        reason = "must be TOML that is nested less deeply"
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise SettingsError([Fault(str(path), "", reason)])


def write(settings: BaseModel) -> str:
    """Return settings as a file, each key with what it means; what is not set is a comment."""
    document = tomlkit.document()
    for line in _HEAD.splitlines():
        document.add(tomlkit.comment(line))
    document.add(tomlkit.nl())
    values = settings.model_dump(mode="json")
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name, value in values.items():
        if name not in tables:
            document.add(name, value)
    for name in tables:
        document.add(tomlkit.nl())
        document.add(name, _table(getattr(settings, name), tables[name]))
    return tomlkit.dumps(document)


def _table(section: BaseModel, values: dict[str, Any]) -> Table:
    """Return a section as a table, below its comment."""
    table = tomlkit.table()
    for line in inspect.cleandoc(type(section).__doc__ or "").splitlines():
        if line:
            table.add(tomlkit.comment(line))
    for key, field in type(section).model_fields.items():
        value = values[key]
        meaning = " ".join((field.description or "").replace("`", "").split())
        if value is None:
            table.add(tomlkit.comment(f"{key} =" + (f" # {meaning}" if meaning else "")))
            continue
        if isinstance(value, dict):
            inner = tomlkit.table()
            inner.update(value)
            if meaning:
                inner.comment(meaning)
            table.add(key, inner)
            continue
        item = tomlkit.item(value)
        if meaning:
            item.comment(meaning)
        table.add(key, item)
    return table
