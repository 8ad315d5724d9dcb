"""The tables of `streamrank.toml`: which keys there are, what they may hold, what they mean.

The text under a key is also its comment in the file that `streamrank init` writes.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
)

from streamrank.features.schema import FieldKind
from streamrank.values import MAX_FIELDS, MAX_LIST, MAX_TEXT

_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def _span(value: object) -> object:
    """Read `"10m"`; a bare number is seconds."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    text = "" if isinstance(value, bool) else str(value).strip()
    number = text.rstrip("smhd")
    try:
        microseconds = Decimal(number) * _UNITS[text[len(number) :] or "s"]
        if not 1 <= microseconds <= 36_500 * _UNITS["d"]:
            raise ValueError("must be longer than 0 and at most 36500d")
    except (KeyError, ArithmeticError):
        raise ValueError('must be a number with a unit of ms, s, m, h or d, as "10m"') from None
    return timedelta(microseconds=round(microseconds))


def _text(duration: timedelta) -> str:
    """Write a duration in the largest unit that divides it."""
    microseconds = duration // timedelta(microseconds=1)
    for unit in ("d", "h", "m", "s"):
        if microseconds % _UNITS[unit] == 0:
            return f"{microseconds // _UNITS[unit]}{unit}"
    return f"{Decimal(microseconds) / _UNITS['ms']}ms"


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"must not name {', '.join(map(repr, twice))} twice")
    return names


def _rising(spans: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    if any(one >= next_one for one, next_one in pairwise(spans)):
        raise ValueError("must rise from the shortest to the longest")
    return spans


def _address(value: str) -> str:
    if "@" in value:
        raise ValueError("must be host:port; the password comes from STREAMRANK_REDIS_PASSWORD")
    return value


def _place(value: object) -> object:
    """Keep an address as it is: a path would make one slash of two."""
    return value if isinstance(value, str) and "://" in value else Path(str(value))


Place = Annotated[Path | str, BeforeValidator(_place)]
Duration = Annotated[timedelta, BeforeValidator(_span), PlainSerializer(_text)]
Word = Annotated[str, Field(min_length=1, max_length=256)]
Words = Annotated[tuple[Word, ...], AfterValidator(_distinct)]
Kinds = dict[Word, FieldKind]


class Section(BaseModel):
    """A table of the file: no key that is not known."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _only_a_switch_is_true_or_false(cls, value: object, info: ValidationInfo) -> object:
        switch = cls.model_fields[info.field_name or ""].annotation is bool
        if isinstance(value, bool) and not switch:  # which pydantic would read as 0 or 1
            raise ValueError("must not be true or false")
        return value


class EventsSection(Section):
    """What people do, and which deeds are the feedback that the model learns from."""

    interactions: Annotated[Words, Field(min_length=1, max_length=64)] = ("click",)
    """Interaction types, the most frequent first; the rest count together as "other"."""
    label: Annotated[str, Field(validate_default=True)] = "click"
    """The interaction type that is the feedback on a list."""
    conversion: str | None = None
    """The rarer, later feedback, where there is one."""
    max_record_bytes: Annotated[int, Field(ge=1_000, le=100_000_000)] = 1_000_000
    """A larger record goes to the dead letters."""
    max_candidates: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """A longer list goes to the dead letters."""
    max_fields: Annotated[int, Field(ge=1, le=MAX_FIELDS)] = MAX_FIELDS
    """An event, or a candidate, with more fields goes to the dead letters."""
    max_text: Annotated[int, Field(ge=1, le=MAX_TEXT)] = MAX_TEXT
    """A field with a longer text goes to the dead letters with its record; in characters."""
    max_list: Annotated[int, Field(ge=1, le=MAX_LIST)] = MAX_LIST
    """A field that is a list of more texts or numbers likewise."""
    max_ahead: Duration = timedelta(hours=1)
    """An event dated further ahead of the clock goes to the dead letters."""

    @field_validator("label", "conversion")
    @classmethod
    def _is_an_interaction(cls, name: str | None, info: ValidationInfo) -> str | None:
        known = info.data.get("interactions")
        if name is not None and known is not None and name not in known:
            raise ValueError(f"must be one of interactions ({', '.join(known)})")
        return name


class FieldsSection(Section):
    """Which fields there are: number, category, text or text_list. Others are ignored."""

    item: Kinds = {}
    """Of items, from the catalogue or from a list."""
    user: Kinds = {}
    """Of users."""
    context: Kinds = {}
    """Of requests and lists."""
    interaction: Kinds = {}
    """Of interactions."""


class WindowsSection(Section):
    """Counts of users and items by event time, each halved once per horizon."""

    horizons: Annotated[
        tuple[Duration, ...], Field(min_length=1, max_length=6), AfterValidator(_rising)
    ] = (timedelta(hours=1), timedelta(days=1), timedelta(days=7))
    lateness: Duration = timedelta(minutes=10)
    """How late an event may come; it is also for how long an event id counts once."""
    ttl: Duration = timedelta(days=30)
    """For how long a value is good, and a silent user or item remembered."""
    flush: Duration = timedelta(seconds=1)
    """How long a change may wait to be written to the store."""
    popular: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Popular items that are kept, and candidates of a request without items, at most."""


class SessionSection(Section):
    """What is remembered of each user between two events."""

    history: Annotated[int, Field(ge=1, le=200)] = 50
    """Steps of behaviour that the model sees."""
    lists: Annotated[int, Field(ge=1, le=20)] = 5
    """Earlier lists whose items count as seen."""
    ttl: Duration = timedelta(days=1)
    """A user silent for so long starts anew."""
    users: Annotated[int, Field(ge=1)] = 5_000_000
    """Users that one process remembers; to more it answers as to users it never saw."""


class RankSection(Section):
    """How lists are made."""

    k: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Length of a list that does not ask for one."""
    triggers: Words | None = None
    """Interaction types that re-rank the current list by themselves; all where not given."""
    trigger_every: Duration = timedelta(seconds=1)
    """How often at most they do so for one user."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs: auto takes a GPU if there is one, cuda insists."""
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads of one model session."""
    slower: Annotated[float, Field(ge=1.0)] = 3.0
    """A new version that takes so many times as long as the one that serves is refused."""
    cache_age: Duration = timedelta(seconds=1)
    """How old a row of the store may be in the reader's cache."""
    cache_rows: Annotated[int, Field(ge=1)] = 100_000
    """Rows in the reader's cache."""
    store_wait: Duration = timedelta(milliseconds=250)
    """Within what Redis must answer; without it lists are made of the cache, marked degraded."""


class ModelSection(Section):
    """The ranker and its training."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")] = "ranker"
    size: Literal["small", "base", "large"] = "small"
    epochs: Annotated[int, Field(ge=1, le=1000)] = 9
    start: Literal["fresh", "pretrained"] = "fresh"
    """pretrained: the history's encoder first learns what people did next, whatever the labels."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class RetrievalSection(Section):
    """Candidates out of all items that people touched, for requests without items."""

    enabled: bool = False
    """true: train makes a model that finds them beside the ranker, and the rank flow asks it."""
    found: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Items that it finds for a request; what the user touched and what is popular come after."""
    items: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000_000
    """Items that it knows at most: those that were touched most often."""
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64
    """Numbers that stand for an item, 4 bytes each in memory and in the registry."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 100
    """Passes over what people did, at most; it ends when items are no longer found better."""
    within: Duration = timedelta(minutes=10)
    """No further pass begins after so long."""


class LearnSection(Section):
    """How feedback becomes examples, and how the model goes on learning from them."""

    label_window: Duration = timedelta(minutes=10)
    """How long after a list its label may come."""
    conversion_window: Duration = timedelta(days=3)
    """How long after a list its conversion may come."""
    idle: Duration = timedelta(minutes=5)
    """A user silent for so long has ended the session, and the open lists with it."""
    settle: Duration = timedelta(seconds=1)
    """How long a list with feedback waits for more of it before it is learned from."""
    lateness: Duration = timedelta(minutes=10)
    """How long feedback waits for its list, and a list that is over for late feedback."""
    lists: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Lists of a user that may wait for feedback; of more, the oldest is over at once."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the users whose lists are learned from: less than all where these are more lists
    than one learner can take."""
    batch: Annotated[int, Field(ge=1, le=100_000)] = 64
    """New lists that make an update."""
    every: Duration = timedelta(seconds=2)
    """How long a new list waits for an update that has fewer."""
    memory: Annotated[int, Field(ge=1, le=10_000_000)] = 2000
    """Old lists that are remembered, to be learned from again."""
    past: Literal["even", "fading"] = "even"
    """even: all old lists are remembered alike; fading: newer ones better than older ones."""
    replay: Annotated[float, Field(ge=0, le=100)] = 3.0
    """Old lists that are learned from again with each new one."""
    recall: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of an old list's labels that is what was thought of it once it was learned: more of it
    keeps what is known, less of it follows a change of taste sooner."""
    rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Learning rate of the updates."""
    parity_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the users whose lists are computed and scored again, to compare with what served."""
    parity_limit: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of those lists that may differ; beyond it no version is published."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """How far the learner stands back for other processes."""
    logs: Path | None = None
    """A folder for TensorBoard's curves of updates and verdicts; without it there are none."""


Segment = Literal[
    "new user", "known user", "history 0", "history 1-4", "history 5-19", "history 20+",
    "new item", "tail item", "head item",
]  # fmt: skip


class GateSection(Section):
    """What a version must be before it serves, on lists that nobody has learned from."""

    lists: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Lists with feedback to judge by."""
    metric: Literal["ndcg@10", "mrr", "auc"] = "ndcg@10"
    """What is compared with the version that serves."""
    require: Literal["equal", "better"] = "equal"
    """equal: on average at least as good; better: beyond chance."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """How sure a difference must be to count as one."""
    latency: Annotated[float, Field(ge=1, le=100)] = 1.5
    """How many times the time of the version that serves it may take."""
    segments: tuple[Segment, ...] = ()
    """Kinds of lists in which it must not surely lose, as "new user" or "new item"."""
    segment_loss: Annotated[float, Field(ge=0, le=1)] = 0.01
    """How much of the metric it may lose there."""
    abreast: Annotated[int, Field(ge=1, le=16)] = 3
    """Versions that may be judged at the same time, each by the lists after it was made."""


class KafkaSection(Section):
    """The broker, its topics and how to be let in.

    Passwords come from STREAMRANK_SASL_PASSWORD and STREAMRANK_SSL_KEY_PASSWORD.
    """

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "localhost:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_ca_location: Path | None = None
    ssl_certificate_location: Path | None = None
    ssl_key_location: Path | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    """Stands before every topic's name."""
    group: Annotated[str, Field(min_length=1)] = "streamrank"
    """Consumer group, for the tools that show lag."""
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 4
    replication: Annotated[int, Field(ge=1, le=10)] = 1
    fetch_wait: Duration = timedelta(milliseconds=50)
    """How long the broker may hold back an answer to a consumer that waits."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a flow without a snapshot begins."""
    delivery_timeout: Duration = timedelta(minutes=2)
    """A record not acknowledged by then stops the flow."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    """How records are packed on their way to the broker and there; `served` holds arrays that are
    0 for the most part."""


class StoreSection(Section):
    """Feast: the online store, and where its files are."""

    online: Literal["sqlite", "redis"] = "sqlite"
    path: Path = Path("data/feast")
    redis: Annotated[str, Field(min_length=1), AfterValidator(_address)] = "localhost:6379"
    """`host:port` of Redis; a password comes from STREAMRANK_REDIS_PASSWORD."""


class MetricsSection(Section):
    """What a flow says of itself: metrics, health, and the form of its logs."""

    address: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Where /metrics, /healthz and /readyz are; 0.0.0.0 in a container."""
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """Their port, one for each process; without it there are none."""
    logs: Literal["text", "json"] = "text"
    """How log lines are written: for people, or one JSON object a line."""


class StateSection(Section):
    """Where the flows keep their snapshots."""

    path: Path | None = None
    """A folder; without it nothing is kept over a restart."""
    every: Duration = timedelta(seconds=10)
    partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    """Files that a flow's snapshots are spread over, from the first one on: as many processes may
    share it. Each is written and synced at every snapshot, and no list is ranked meanwhile; but
    30,000 users a file are read back in seconds, and ten times as many in a hundred times as long.
    """


class RegistrySection(Section):
    """Where the versions of the model are."""

    path: Place = Path("data/registry")
    """A folder that the flows share, or an address that fsspec knows, as s3://bucket/models."""
    poll: Duration = timedelta(seconds=10)
    """How often a worker looks here for the version that serves, beside topic models."""
    keep: Annotated[int, Field(ge=1)] = 50
    """How many of the newest versions stay; what serves and its parent stay anyway."""
    max_age: Duration = timedelta(days=30)
    """How old a version may get that does not serve."""
