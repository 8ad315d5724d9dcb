"""What all messages share, and the rules for what a list holds.

The models of this module say what is allowed, with pydantic; `streamrank.entries` has the same
as the light objects that the flows carry.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from streamrank.values import Fields, Id

RULES = ConfigDict(
    frozen=True,
    extra="forbid",
    allow_inf_nan=False,
    ser_json_bytes="base64",
    val_json_bytes="base64",
)
"""What all messages share: frozen, no unknown keys, no NaN, bytes as base64."""


class Candidate(BaseModel):
    """An item of a list, with the fields that only this list knows (its price today)."""

    model_config = RULES

    id: Id
    fields: Fields = {}
    relevancy: float | None = None
    label: float | None = None


class Placed(BaseModel):
    """An item of a ranked list."""

    model_config = RULES

    id: Id
    score: float
    propensity: Annotated[float, Field(gt=0, le=1)]
