"""What a version is: its manifest.  What can be wrong with it is in `registry_errors`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from streamrank.edges.registry_errors import VersionRefused
from streamrank.edges.registry_folders import MARK
from streamrank.features.schema import Schema, decode_schema

VERSION = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}")
"""When it was made, to the microsecond, and the first digits of its manifest's hash."""
ONNX, WEIGHTS, PROBE = "ranker.onnx", "weights.safetensors", "probe.safetensors"
"""The files beside the manifest."""
LEARNED, STRUCTURE = "learned.safetensors", "structure.onnx"
"""Those that not every version has; those of retrieval are in `registry_retrieval`."""
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class File(BaseModel):
    """What a file of a version must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Hash
    size: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """What a version is.

    Attributes:
        format: Which layout the folder has.
        name: The model.
        version: The folder's name.
        created: When it was published.
        parent: The version that it learned on from.
        feature_schema: `Schema.encode` of what its features are made of.
        features: `features.inputs.digest` of that schema.
        heads: What each score means, the label first.
        metrics: How it did on lists that it had not learned from.
        gate: The verdict that let it through.
        rejected: Why it must not serve; it is kept for those who ask.
        lists_seen: Lists that it learned from, its ancestors' included.
        learned_until: The time of the newest of them, ms: who goes on from here has no need of
            those before.
        offsets: How far it had read, by `topic[partition]`.
        files: The rest of the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    name: str
    version: str
    created: AwareDatetime
    parent: str | None = None
    feature_schema: str
    features: str
    heads: Annotated[tuple[str, ...], Field(min_length=1)]
    metrics: dict[str, JsonValue] = {}
    gate: dict[str, JsonValue] | None = None
    rejected: str | None = None
    lists_seen: Annotated[int, Field(ge=0)] = 0
    learned_until: int | None = None
    offsets: dict[str, int] = {}
    files: dict[str, File]

    @property
    def digest(self) -> str:
        """The hash of the graph that serves; an announcement carries it."""
        return self.files[ONNX].sha256 if ONNX in self.files else ""

    def schema_used(self) -> Schema:
        """Return what its features are made of."""
        return decode_schema(self.feature_schema)


def stamp(moment: datetime) -> str:
    """Return a time as versions begin with it; it sorts as they do.

    Examples:
        >>> stamp(datetime(2026, 11, 24, 22, 35, tzinfo=UTC))
        '20261124T223500000000Z'
    """
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%S%f}Z"


def moment(version: str) -> datetime:
    """Return when a version was made."""
    return datetime.strptime(version.partition("-")[0], "%Y%m%dT%H%M%S%f%z")


def seal(record: Mapping[str, Any], created: datetime) -> Manifest:
    """Return the manifest of a new version: its name says when it was made, and of what.

    Args:
        record: The manifest's fields, all but `created` and `version`.
        created: The time.

    Raises:
        VersionRefused: A field is not as it must be, such as a metric that is not finite.
    """
    try:
        whole = Manifest.model_validate({**record, "created": created, "version": ""})
        text = whole.model_dump_json()
        version = _version(created, json.loads(text))
    except ValidationError as error:
        raise VersionRefused("", MARK, "must be a manifest", _faults(error)) from None
    return whole.model_copy(update={"version": version})


def read(version: str, text: bytes) -> Manifest:
    """Read the manifest of a version.

    Raises:
        VersionRefused: It is no manifest, or not the one that the version was named for.
    """
    try:
        found = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise VersionRefused(version, MARK, "must be a manifest", _faults(error)) from None
    named = _version(found.created, json.loads(text))
    if not version == found.version == named:
        raise VersionRefused(version, MARK, "must hash to its version", f"{named}")
    return found


def _version(created: datetime, record: Mapping[str, Any]) -> str:
    # Of the fields as they are written: one that joins later leaves old hashes as they were.
    rest = {key: value for key, value in record.items() if key != "version"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return f"{stamp(created)}-{digest[:8]}"


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False)
    )
