"""The schema as a value: what a window counts, and the text that manifests keep."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.features.schema import Schema, decode_schema, hashed

SCHEMA = Schema(
    interactions=("view", "click", "buy"),
    label="click",
    conversion="buy",
    item={"price": "number", "title": "text"},
    context={"city": "category"},
    horizons=(60.0, 3600.5),
    history=7,
)


def test_each_interaction_type_has_a_channel_and_unknown_ones_share_one() -> None:
    assert SCHEMA.channels == ("view", "click", "buy", "other", "impression")
    assert [SCHEMA.channel(name) for name in ("view", "buy", "wink")] == [0, 2, 3]


def test_numbers_are_the_item_fields_that_are_quantities() -> None:
    assert SCHEMA.numbers == ("price",)


def test_a_schema_comes_back_as_it_was_written() -> None:
    assert decode_schema(SCHEMA.encode()) == SCHEMA
    assert decode_schema(Schema().encode()) == Schema()


def test_the_order_in_which_fields_are_named_changes_nothing() -> None:
    one = Schema(item={"a": "number", "b": "number"}, context={"x": "text", "y": "category"})
    two = Schema(item={"b": "number", "a": "number"}, context={"y": "category", "x": "text"})
    for schema in (one, two, decode_schema(two.encode())):
        assert schema.numbers == ("a", "b")
        assert list(schema.context) == ["x", "y"]
        assert schema.encode() == one.encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interactions": "click"}, "interactions: must be a valid array, got 'click'"),
        ({"item": {"price": "money"}}, "item.price: must be 'number', 'category', 'text'"),
        ({"horizons": ["1h"]}, "horizons.0: must be a valid number, got '1h'"),
        ({"colour": 1}, "colour: "),
    ],
)
def test_what_is_no_schema_is_refused_with_the_key(change: dict[str, Any], said: str) -> None:
    text = json.dumps(json.loads(SCHEMA.encode()) | change)
    with pytest.raises(ValueError, match=r"schema must be what Schema\.encode wrote: ") as caught:
        decode_schema(text)
    assert said in str(caught.value)


@given(st.text())
def test_any_text_is_a_schema_or_is_refused(text: str) -> None:
    try:
        assert isinstance(decode_schema(text), Schema)
    except ValueError:
        return


@given(st.text())
def test_a_hash_is_stable_positive_and_never_the_one_for_nothing(word: str) -> None:
    assert 0 < hashed(word) < 2**63
    assert hashed(word) == hashed.__wrapped__(word)
