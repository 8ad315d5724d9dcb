"""From bytes to a message or to a reason, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamrank.events import (
    Candidate,
    DeadLetter,
    Interaction,
    Item,
    Limits,
    Placed,
    Ranking,
    Request,
    Served,
    Shown,
    User,
    decode,
    decode_letter,
    decode_ranking,
    decode_served,
)
from streamrank.settings import Settings, changed
from streamrank.values import EARLIEST, LATEST, MAX_LIST

AT = 1541548939000


def payload(**changes: Any) -> bytes:
    """A user event with some keys changed; a key set to `...` is left out."""
    keys = {"event": "user", "id": "e1", "timestamp": AT, "user": "u1"} | changes
    return json.dumps({key: value for key, value in keys.items() if value is not ...}).encode()


def request(**changes: Any) -> bytes:
    return payload(**({"event": "request", "items": [{"id": "i1"}]} | changes))


def refusal(read: Callable[[bytes], object], record: bytes) -> str | None:
    """Why a record is refused, `None` where it is not; any other exception fails the test."""
    try:
        read(record)
    except ValueError as error:
        return str(error)
    return None


def reason(record: bytes, max_bytes: int = 1_000_000) -> str:
    return refusal(partial(decode, limits=Limits(record_bytes=max_bytes)), record) or ""


# --- what is read -----------------------------------------------------------------------------

METARANK = [
    # The four kinds with each spelling that Metarank's documentation shows.
    (
        {
            "event": "item",
            "id": "81f46c34",
            "timestamp": "1599391467000",
            "item": "item1",
            "fields": [
                {"name": "title", "value": "Nice jeans"},
                {"name": "color", "value": ["blue", "black"]},
                {"name": "is_new", "value": True},
                {"name": "sizes", "value": [30, 31.5]},
            ],
        },
        Item(
            id="81f46c34",
            timestamp=1599391467000,
            item="item1",
            fields={
                "title": "Nice jeans",
                "color": ("blue", "black"),
                "is_new": True,
                "sizes": (30.0, 31.5),
            },
        ),
    ),
    (
        {
            "event": "user",
            "id": "81f46c35",
            "timestamp": "2022-06-22T11:21:39Z",
            "user": "user1",
            "fields": [{"name": "age", "value": 33}, {"name": "gender", "value": "m"}],
            "tenant": "shop",
        },
        User(
            id="81f46c35",
            timestamp=1655896899000,
            user="user1",
            fields={"age": 33.0, "gender": "m"},
            tenant="shop",
        ),
    ),
    (
        {
            "event": "ranking",
            "id": "81f46c36",
            "timestamp": 1599391467000,
            "user": "user1",
            "session": "session1",
            "fields": [{"name": "query", "value": "jeans"}],
            "items": [{"id": "item3", "relevancy": 2.0}, {"id": "item1", "relevancy": 1}],
        },
        Shown(
            id="81f46c36",
            timestamp=1599391467000,
            user="user1",
            session="session1",
            fields={"query": "jeans"},
            items=(Candidate(id="item3", relevancy=2.0), Candidate(id="item1", relevancy=1.0)),
        ),
    ),
    (
        {
            "event": "interaction",
            "id": "0f4c0036",
            "ranking": "81f46c36",
            "timestamp": "1599391467000",
            "user": "user1",
            "session": "session1",
            "type": "purchase",
            "item": "item1",
            "fields": [{"name": "count", "value": 1}],
        },
        Interaction(
            id="0f4c0036",
            ranking="81f46c36",
            timestamp=1599391467000,
            user="user1",
            session="session1",
            type="purchase",
            item="item1",
            fields={"count": 1.0},
        ),
    ),
]


@pytest.mark.parametrize(
    ("published", "event"), METARANK, ids=["item", "user", "ranking", "interaction"]
)
def test_metaranks_own_spelling_is_read_as_it_is(
    published: dict[str, Any], event: Item | User | Shown | Interaction
) -> None:
    assert decode(json.dumps(published).encode()) == event


@pytest.mark.parametrize(
    "written",
    [
        AT,
        float(AT),
        str(AT),
        "2018-11-07T00:02:19Z",
        "2018-11-07T01:02:19+01:00",
        "2018-11-07T00:02:19.000000Z",
    ],
)
def test_a_timestamp_has_four_spellings(written: object) -> None:
    assert decode(payload(timestamp=written)).timestamp == AT


def test_an_interaction_needs_no_item_and_a_request_no_candidates() -> None:
    search = decode(payload(event="interaction", type="search"))
    assert isinstance(search, Interaction)
    assert search.item is None
    asked = decode(request(items=[]))
    assert isinstance(asked, Request)
    assert asked.items == ()


def test_who_acts_is_the_user_and_else_the_session() -> None:
    assert decode(request(session="s1")).key == "u1"
    assert decode(request(user=..., session="s1")).key == "s1"


def test_fields_keep_their_kinds() -> None:
    fields = {"n": 7, "yes": True, "t": "7", "ts": ["7"], "ns": [7], "none": None, "no": []}
    event = decode(payload(fields=fields))
    assert isinstance(event, User)
    assert event.fields == {
        "n": 7.0, "yes": True, "t": "7", "ts": ("7",), "ns": (7.0,), "none": None, "no": (),
    }  # fmt: skip
    assert event.fields["yes"] is True


def test_no_fields_may_be_written_as_null() -> None:
    assert decode(payload(fields=None)) == decode(payload(fields={})) == decode(payload())


def test_a_byte_order_mark_is_skipped() -> None:
    assert decode(b"\xef\xbb\xbf" + payload()) == decode(payload())


def test_of_a_key_that_stands_twice_the_last_one_counts() -> None:
    assert decode(payload()[:-1] + b',"user":"u2"}').key == "u2"


# --- what is refused ----------------------------------------------------------------------------

LONG = "x" * 3_000_000

REFUSED = [
    (b"", "record: must not be empty"),
    (b"not json", "event: Invalid JSON: expected ident at line 1 column 2, got b'not json'"),
    (b'"\xff"', "event: Invalid JSON: invalid unicode code point"),
    (b"\xff\xfe{\x00}\x00", "event: Invalid JSON: expected value at line 1 column 1"),
    (b'{"event":' + b"[" * 10_000, "event: Invalid JSON: recursion limit exceeded"),
    (payload()[:-1], "event: Invalid JSON: EOF while parsing an object"),
    (payload() + payload(), "event: Invalid JSON: trailing characters"),
    (b"[]", "event: must be an object, got []"),
    (b"null", "event: must be an object, got None"),
    (payload(event="purchase"), "event: Input tag 'purchase' found using 'event' does not match"),
    (payload(event=...), "event: Unable to extract tag using discriminator 'event'"),
    (payload(colour="red"), "user.colour: Extra inputs are not permitted, got 'red'"),
    # ids
    (payload(id=...), "user.id: Field required"),
    (payload(id=""), "user.id: must have at least 1 character, got ''"),
    (payload(id=7), "user.id: must be a valid string, got 7"),
    (payload(id="x" * 513), "user.id: must have at most 512 characters, got 'xxx"),
    (payload(user=...), "user.user: Field required"),
    (payload(user=None), "user.user: must be a valid string, got None"),
    (request(user=...), "request: must have a user or a session, got {"),
    (request(user="", session=""), "request.user: must have at least 1 character"),
    (payload(id="\ud800"), "event: Invalid JSON: unexpected end of hex escape"),
    (payload(fields={"t": "\udc00"}), "event: Invalid JSON: lone leading surrogate"),
    # timestamps
    (payload(timestamp=...), "user.timestamp: Field required"),
    (payload(timestamp=None), "user.timestamp: must be epoch milliseconds or ISO 8601, got None"),
    (payload(timestamp=True), "user.timestamp: must be epoch milliseconds or ISO 8601, got True"),
    (payload(timestamp=AT // 1000), "user.timestamp: must be epoch milliseconds within"),
    (payload(timestamp=AT * 1000), "user.timestamp: must be epoch milliseconds within"),
    (payload(timestamp=str(AT // 1000)), "user.timestamp: must be epoch milliseconds within"),
    (payload(timestamp=-AT), "user.timestamp: must be epoch milliseconds within"),
    (payload(timestamp="2018-11-07T00:02:19"), "user.timestamp: must have a time zone"),
    (payload(timestamp="yesterday"), "user.timestamp: must be epoch milliseconds or ISO 8601"),
    (payload(timestamp=""), "user.timestamp: must be epoch milliseconds or ISO 8601, got ''"),
    (payload(timestamp=float("nan")), "user.timestamp: must be a finite number of milliseconds"),
    (payload(timestamp=float("inf")), "user.timestamp: must be a finite number of milliseconds"),
    (payload(timestamp=10**400), "user.timestamp: must be epoch milliseconds within"),
    (payload(timestamp="9" * 5000), "user.timestamp: must be a finite number of milliseconds"),
    # fields
    (payload(fields={"n": float("nan")}), "user.fields.n: must be a finite number, got nan"),
    (payload(fields={"n": float("-inf")}), "user.fields.n: must be a finite number, got -inf"),
    (payload(fields={"n": 0})[:-3] + b"1e999}}", "user.fields.n: must be a finite number, got inf"),
    (payload(fields={"n": 10**400}), "user.fields.n: must be a finite number"),
    (payload(fields={"n": [1, float("nan")]}), "user.fields.n: must be a finite number"),
    (payload(fields={"n": 0})[:-3] + b"1" * 5000 + b"}}", "event: Invalid JSON: number out of"),
    (payload(fields={"n": {}}), "user.fields.n: must be a finite number, text, a boolean, or a"),
    (payload(fields={"n": [1, "a"]}), "user.fields.n: must be a finite number, text, a boolean"),
    (payload(fields={"n": [True]}), "user.fields.n: must be a finite number, text, a boolean"),
    (payload(fields={"n": [[1]]}), "user.fields.n: must be a finite number, text, a boolean"),
    (payload(fields={"": 1}), "user.fields..[key]: must have at least 1 character, got ''"),
    (payload(fields={"t": "x" * 100_001}), "user.fields.t: must have at most 100000 characters"),
    (payload(fields="red"), "user.fields: must be an object, got 'red'"),
    (payload(fields=[{"name": "n"}]), 'user.fields: must be an object or a list of {"name",'),
    (payload(fields=[{"name": 1, "value": 1}]), "user.fields: must have text as names"),
    (
        payload(fields=[{"name": "n", "value": 1}, {"name": "n", "value": 2}]),
        "user.fields: must not name 'n' twice",
    ),
    (
        payload(fields={f"f{n}": n for n in range(257)}),
        "user.fields: must have at most 256 items",
    ),
    # lists
    (request(items=[{"id": "i1"}, {"id": "i2"}, {"id": "i1"}]), "request: items must not hold 'i1"),
    (request(items=[{"id": "i1"}, {"id": ""}]), "request.items.1.id: must have at least 1 char"),
    (request(items=["i1"]), "request.items.0: must be an object, got 'i1'"),
    (request(items={}), "request.items: must be a valid array"),
    (request(items=[{"id": "i1", "fields": {"p": {}}}]), "request.items.0.fields.p: must be a fin"),
    (request(items=[{"id": "i1", "label": float("nan")}]), "request.items.0.label: must be a fin"),
    (request(event="ranking", items=[]), "ranking.items: must have at least 1 item"),
    (request(k=0), "request.k: must be greater than or equal to 1, got 0"),
    (request(items=[{"id": f"i{n}"} for n in range(1001)]), "request.items: must hold at most"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "said"), REFUSED)
def test_what_cannot_be_read_is_refused_with_field_rule_and_value(record: bytes, said: str) -> None:
    assert said in reason(record)
    assert reason(record).startswith(said.split(":")[0])


def test_a_record_of_several_megabytes_is_refused_unread() -> None:
    assert reason(payload(user=LONG)) == (
        f"record: must have at most 1000000 bytes, got {len(payload(user=LONG))}"
    )


@pytest.mark.parametrize(
    "record",
    [
        payload(user=LONG),
        payload(event=LONG),
        payload(**{LONG: 1}),
        payload(fields={LONG: 1}),
        payload(fields={"t": LONG}),
        payload(fields=[{"name": LONG, "value": 1}] * 2),
        payload(timestamp=LONG),
        payload(timestamp="1" * 3_000_000),
        request(items=[{"id": f"i{n % 10_000}"} for n in range(100_000)]),
        LONG.encode(),
        b"\x00" * 3_000_000,
    ],
)
def test_a_reason_does_not_repeat_megabytes(record: bytes) -> None:
    assert 0 < len(reason(record, 100_000_000)) < 1_000


# --- properties -------------------------------------------------------------------------------

characters = st.characters(exclude_categories=["Cs"])
ids = st.text(characters, min_size=1, max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(characters, max_size=20)
values = (
    texts
    | numbers
    | st.booleans()
    | st.none()
    | st.lists(texts, max_size=3).map(tuple)
    | st.lists(numbers, min_size=1, max_size=3).map(tuple)
)
fields = st.dictionaries(ids, values, max_size=4)
times = st.integers(EARLIEST, LATEST)
shared = {"id": ids, "timestamp": times, "fields": fields, "tenant": st.none() | texts}
person = shared | {"user": ids, "session": st.none() | ids}
candidates = st.lists(
    st.builds(Candidate, id=ids, fields=fields, relevancy=st.none() | numbers),
    min_size=1,
    max_size=4,
    unique_by=lambda candidate: candidate.id,
).map(tuple)
messages = (
    st.builds(Item, item=ids, **shared)
    | st.builds(User, user=ids, **shared)
    | st.builds(Interaction, type=ids, item=st.none() | ids, **person)
    | st.builds(Shown, items=candidates, **person)
    | st.builds(Request, items=candidates, k=st.none() | st.integers(1, 10_000), **person)
)


@given(messages)
def test_every_message_comes_back_as_it_was_written(
    message: Item | User | Interaction | Shown | Request,
) -> None:
    assert decode(message.encode()) == message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
almost = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(["item", "user", "interaction", "ranking", "request"]) | st.text(),
        "id": json_values,
        "timestamp": times | times.map(str) | json_values,
        "user": ids | json_values,
        "item": ids | json_values,
        "type": json_values,
        "items": json_values,
        "fields": json_values,
    },
).map(lambda keys: json.dumps(keys).encode())


@given(st.binary() | almost)
@example(payload(timestamp="0001-01-01T00:00:00+23:59"))
@example(payload(timestamp="9999-12-31T23:59:59-23:59"))
def test_any_bytes_are_an_event_or_have_a_reason(record: bytes) -> None:
    for read in (decode, decode_ranking, decode_letter, decode_served):
        assert refusal(read, record) != ""


@given(messages, st.data())
def test_an_event_cut_anywhere_has_a_reason(
    message: Item | User | Interaction | Shown | Request, data: st.DataObject
) -> None:
    record = message.encode()
    assert reason(record[: data.draw(st.integers(0, len(record) - 1))])


@given(st.binary(), texts)
def test_a_dead_letter_keeps_any_payload(record: bytes, said: str) -> None:
    letter = DeadLetter(reason=said, origin="events[0]@7", payload=record, timestamp=AT)
    assert decode_letter(letter.encode()) == letter


def test_a_ranked_list_comes_back_as_it_was_written() -> None:
    ranking = Ranking(
        id="r1",
        timestamp=AT,
        user="u1",
        request="r1",
        items=(Placed(id="i1", score=1.5, propensity=1.0),),
        model="",
        policy="top",
        features="f",
        latency_ms=1.25,
    )
    assert decode_ranking(ranking.encode()) == ranking


# --- what the model saw -----------------------------------------------------------------------


def served() -> Served:
    return Served(
        id="r1",
        user="ü1",
        timestamp=AT,
        items=("i1", "i2"),
        model="",
        features="f",
        source="request",
        inputs={
            "numbers": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
            "items": np.array([1, 2], np.int64),
            "nothing": np.zeros((0, 4), np.float32),
        },
        scores=np.array([[0.5, 1.0], [0.25, 2.0]], np.float32)[:, :1],  # not contiguous
    )


def test_what_the_model_saw_comes_back_array_by_array() -> None:
    before, after = served(), decode_served(served().encode())
    for key in ("id", "user", "timestamp", "items", "model", "features", "source"):
        assert getattr(after, key) == getattr(before, key)
    assert after.inputs.keys() == before.inputs.keys()
    for name, array in before.inputs.items():
        assert after.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(after.inputs[name], array)
    np.testing.assert_array_equal(after.scores, before.scores)


@given(st.data())
def test_a_garbled_payload_of_what_the_model_saw_has_a_reason(data: st.DataObject) -> None:
    record = bytearray(served().encode())
    header = 8 + int.from_bytes(record[:8], "little")
    place = data.draw(st.integers(0, header - 1))
    record[place] ^= data.draw(st.integers(1, 255))
    assert (refusal(decode_served, bytes(record)) or "served: ").startswith("served: ")


@given(st.integers(0, 10_000))
def test_a_cut_payload_of_what_the_model_saw_has_a_reason(length: int) -> None:
    whole = served().encode()
    with pytest.raises(ValueError, match="served: must be safetensors"):
        decode_served(whole[: min(length, len(whole) - 1)])


def test_places_and_propensities_come_back_and_older_records_have_none() -> None:
    assert decode_served(served().encode()).shown is None
    shown, chances = np.array([1, -1], np.int64), np.array([1.0, 0.5], np.float32)
    after = decode_served(replace(served(), shown=shown, propensities=chances).encode())
    assert after.shown is not None
    assert after.propensities is not None
    np.testing.assert_array_equal(after.shown, shown)
    np.testing.assert_array_equal(after.propensities, chances)
    assert after.inputs.keys() == served().inputs.keys()


def test_a_place_for_another_number_of_items_is_refused() -> None:
    wrong = replace(served(), shown=np.array([0], np.int64))
    with pytest.raises(ValueError, match=r"a number of shown for each of 2 items"):
        decode_served(wrong.encode())


def test_scores_that_do_not_fit_the_items_are_refused() -> None:
    whole = served()
    wrong = Served(**{name: getattr(whole, name) for name in whole.__slots__} | {"items": ("i1",)})
    with pytest.raises(ValueError, match=r"each of 1 items, got shape \(2, 1\)"):
        decode_served(wrong.encode())


# --- limits by setting ------------------------------------------------------------------------

LIMITED = [
    ({"max_record_bytes": 1_000}, payload(tenant="x" * 2_000), "record: must have at most 1000 b"),
    ({"max_candidates": 1}, request(items=[{"id": "a"}, {"id": "b"}]), "request.items: must hold"),
    (
        {"max_fields": 2},
        payload(fields=dict.fromkeys("abc", 1)),
        "user.fields: must have at most 2",
    ),
    (
        {"max_fields": 2},
        request(items=[{"id": "i1", "fields": dict.fromkeys("abc", 1)}]),
        "request.items.0.fields: must have at most 2 items, got 3",
    ),
    ({"max_text": 3}, payload(fields={"t": "four"}), "user.fields.t: must have at most 3 charact"),
    ({"max_text": 3}, payload(fields={"t": ["a", "four"]}), "user.fields.t: must have at most 3 c"),
    ({"max_list": 2}, payload(fields={"t": ["a"] * 3}), "user.fields.t: must have at most 2 items"),
    ({"max_list": 2}, payload(fields={"n": [1, 2, 3]}), "user.fields.n: must have at most 2 item"),
    (
        {"max_list": 2},
        payload(fields=[{"name": "n", "value": [1, 2, 3]}]),
        "user.fields.n: must have at most 2 items, got 3",
    ),
]


@pytest.mark.parametrize(("section", "record", "said"), LIMITED)
def test_each_size_has_a_setting_beyond_which_a_record_is_refused(
    section: dict[str, int], record: bytes, said: str
) -> None:
    limits = changed(Settings(), {"events": section}).limits()
    assert reason(record) == ""
    assert (refusal(partial(decode, limits=limits), record) or "").startswith(said)


def test_what_is_just_within_the_settings_limits_is_read() -> None:
    section = {"max_fields": 3, "max_text": 3, "max_list": 2, "max_candidates": 1}
    limits = changed(Settings(), {"events": section}).limits()
    fields = {"t": "abc", "ts": ["abc", ""], "n": [1, 2]}
    assert decode(request(fields=fields, items=[{"id": "i", "fields": fields}]), limits)


def test_a_list_longer_than_any_setting_allows_is_refused_by_its_kind() -> None:
    said = reason(payload(fields={"n": [1] * (MAX_LIST + 1)}))
    assert said.startswith("user.fields.n: must have at most 10000 items")
