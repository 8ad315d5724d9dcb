"""What can be wrong with settings, and how it is said: where, which key, the rule, the value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from streamrank.errors import StreamRankError

_SECRETS = ("password", "passwd", "secret", "token", "credential", "private key", "://", "@")
_SHOULD = re.compile(r"^\w+ should")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where it stands, which key, and why (with the value)."""

    source: str
    key: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.key, self.reason) if part)


class SettingsError(StreamRankError):
    """The settings cannot be used; `faults` holds everything that is wrong with them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def is_secret(key: str) -> bool:
    """Tell whether a key looks as if it held a secret, or a text as if it were one.

    Examples:
        >>> is_secret("sasl_password"), is_secret("sasl_username")
        (True, False)
    """
    return any(word in key.lower() for word in _SECRETS)


def refused_secret(key: str, known: Iterable[str]) -> str:
    """Say where a secret belongs; its value is not repeated.

    Args:
        key: The key that holds it.
        known: The secrets that there are.
    """
    names = [name.upper() for name in known if name in key.lower() or key.lower() in name]
    variables = ", ".join(f"STREAMRANK_{name}" for name in names or map(str.upper, known))
    return f"secrets have no place here: they come from the environment alone ({variables})"


def reason(error: ErrorDetails, model: type[BaseModel]) -> str:
    """Say what is wrong with one key of `model`: the rule and the value."""
    if error["type"] == "extra_forbidden":
        return unknown(error["loc"], model)
    rule = _SHOULD.sub("must", error["msg"].removeprefix("Value error, "))
    value = repr(error["input"])
    if isinstance(error["input"], BaseModel) or is_secret(value):
        return rule  # a rule of a whole table names the value itself
    return f"{rule}, got {value if len(value) <= 120 else value[:117] + '...'}"


def unknown(path: tuple[str | int, ...], model: type[BaseModel]) -> str:
    """Say that a key is not known, and which known one is nearest."""
    key, known = str(path[-1]), _keys(model, path[:-1])
    if near := get_close_matches(key, known, 1):
        return f"is not known; did you mean {near[0]}?"
    for section in model.model_fields:
        if len(path) > 1 and key in _keys(model, (section,)):
            return f"is not known here; did you mean {section}.{key}?"
    return f"is not known; there are {', '.join(known)}"


def _keys(model: type[BaseModel], path: Iterable[str | int]) -> Mapping[str, FieldInfo]:
    """Return the keys of the table at `path`; none where it is no table of `model`."""
    fields: Mapping[str, FieldInfo] = model.model_fields
    for part in path:
        table = fields[str(part)].annotation if part in fields else None
        if not isinstance(table, type) or not issubclass(table, BaseModel):
            return {}
        fields = table.model_fields
    return fields
