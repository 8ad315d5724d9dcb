"""The fast reading of lists and deeds is never another reading: pydantic is the judge of both."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streamrank import wire
from streamrank.events import Incoming, Interaction, Request, Shown, decode

AT = 1_700_000_000_000
Parts = dict[str, st.SearchStrategy[Any]]
JUDGE: TypeAdapter[Any] = TypeAdapter(Incoming)
numbers = st.integers() | st.floats() | st.integers(2**63, 2**70) | st.just(1e300)
texts = st.text(max_size=5) | st.sampled_from(["", "x" * 600, "\x00", "é"])
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
names = st.text(min_size=1, max_size=3)
finite = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = texts | finite | st.booleans() | st.none() | st.lists(texts, max_size=3)
fields = st.dictionaries(names, values, max_size=3)
items = st.lists(
    st.fixed_dictionaries(
        {"id": names},
        optional={"fields": fields, "relevancy": finite, "label": st.none() | finite},
    ),
    max_size=3,
)
person: Parts = {
    "id": names,
    "timestamp": st.just(AT) | st.just(float(AT)) | st.integers(AT // 2, AT * 2),
    "user": names,
    "items": items,
}
perhaps: Parts = {"session": st.none() | names, "tenant": st.none() | texts, "fields": fields}
asked: Parts = {"k": st.none() | st.integers(1, 10_000)}
lists = st.fixed_dictionaries(
    person | {"event": st.just("request")}, optional=perhaps | asked
) | st.fixed_dictionaries(person | {"event": st.just("ranking")}, optional=perhaps)
deeds: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {key: value for key, value in person.items() if key != "items"}
    | {"event": st.just("interaction"), "type": names},
    optional=perhaps | {"item": st.none() | names, "ranking": st.none() | names},
)
keys = st.sampled_from([*person, *perhaps, *asked, "event", "more"])
parts = st.sampled_from(["id", "fields", "relevancy", "label", "more"])


def judged(payload: bytes) -> Request | Shown | Interaction | None:
    try:
        found: Request | Shown | Interaction = JUDGE.validate_json(payload)
    except ValidationError:
        return None
    return found


def agree(payload: bytes) -> bool:
    """Say whether a list is read the fast way; it must then be what pydantic reads."""
    if wire.read(payload) is None:
        return False
    found = decode(payload)
    assert found == judged(payload)
    assert repr(found) == repr(judged(payload))  # 1.0 and 1 are equal, and not the same
    return True


@given(lists)
def test_what_is_read_the_fast_way_is_what_pydantic_reads(record: dict[str, Any]) -> None:
    agree(json.dumps(record).encode())


@given(deeds, keys | st.sampled_from(["type", "item", "ranking"]), anything)
def test_so_it_is_for_deeds(record: dict[str, Any], key: str, value: object) -> None:
    agree(json.dumps(record).encode())
    agree(json.dumps(record | {key: value}).encode())


def test_a_usual_deed_is_read_the_fast_way_and_written_as_ever() -> None:
    record = {"event": "interaction", "id": "e", "timestamp": AT, "user": "u", "type": "click"}
    payload = json.dumps(record | {"item": "i", "fields": {"price": 7}}).encode()
    assert agree(payload)
    found, known = decode(payload), JUDGE.validate_json(payload)
    assert (found.encode(), hash(found.model_dump_json())) == (
        known.encode(),
        hash(known.model_dump_json()),
    )
    assert found.model_fields_set >= known.model_fields_set
    assert found.model_copy() == known


@given(lists, keys, parts, anything)
def test_so_it_is_where_something_else_stands_in_a_list(
    record: dict[str, Any], key: str, part: str, value: object
) -> None:
    agree(json.dumps(record | {key: value}).encode())
    for item in record["items"]:
        item[part] = value
    agree(json.dumps(record).encode())


@given(lists, st.data())
def test_so_it_is_where_bytes_are_damaged(record: dict[str, Any], data: st.DataObject) -> None:
    payload = bytearray(json.dumps(record).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] = data.draw(
            st.sampled_from(b'"{}[],:\\0-eEtu\x00\xff') | st.integers(0, 255)
        )
    agree(bytes(payload))


@pytest.mark.parametrize(
    "twice",
    [
        '"event":"ranking","event":"request"',
        '"event":"request","id":"r2"',
        '"event":"request","items":[]',
        '"event":"request","fields":{"a":1,"a":2}',
        '"event":"request","k":3.0',
        '"event":"request","k":3.5',
        '"event":"request","timestamp":17e11',
        '"event":"request","fields":{"a":[1,2]}',
        '"event":"request","fields":{"a":["x",2]}',
        '"event":"request","fields":null',
        '"event":"request","id":"\\ud800"',
        '"event":"request","session":""',
    ],
)
def test_what_json_leaves_open_is_settled_as_pydantic_settles_it(twice: str) -> None:
    rest = f'"id":"r1","timestamp":{AT},"user":"u1","items":[{{"id":"i1"}}]'
    for payload in (f"{{{rest},{twice}}}".encode(), f"{{{twice},{rest}}}".encode()):
        agree(payload)


def test_the_usual_list_needs_no_second_reading() -> None:
    listed = '{"id":"i1","fields":{"price":71,"new":true,"tags":["a","b"],"note":null}}'
    for event in ("request", "ranking"):
        payload = f'{{"event":"{event}","id":"r1","timestamp":{AT},"user":"u1","items":[{listed}]}}'
        assert agree(payload.encode())
