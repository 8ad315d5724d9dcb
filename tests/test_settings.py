"""Settings: what is read from where, and how everything that is wrong is said at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.features.schema import Schema
from streamrank.features.state import Rules
from streamrank.sections import WindowsSection
from streamrank.settings import (
    SETTINGS_VARIABLE,
    Secrets,
    Settings,
    SettingsError,
    changed,
    load,
    to_toml,
)

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without a variable of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "shop.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def faults(path: Path | None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
    return [str(fault) for fault in caught.value.faults]


# --- what is read -----------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold() -> None:
    assert load() == Settings()


def test_the_environment_stands_over_the_file_and_the_file_over_the_defaults(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('[kafka]\nbootstrap_servers = "file:9092"\nprefix = "shop."\n')
    monkeypatch.setenv("STREAMRANK_KAFKA__BOOTSTRAP_SERVERS", "environment:9092")
    kafka = load(path).kafka
    assert kafka.bootstrap_servers == "environment:9092"
    assert kafka.prefix == "shop."
    assert kafka.group == "streamrank"


def test_a_variable_holds_a_list_as_json_and_a_number_as_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMRANK_EVENTS__INTERACTIONS", '["click", "buy"]')
    monkeypatch.setenv("STREAMRANK_KAFKA__PARTITIONS", "8")
    monkeypatch.setenv("STREAMRANK_FIELDS__ITEM__PRICE", "number")
    found = load()
    assert found.events.interactions == ("click", "buy")
    assert found.kafka.partitions == 8
    assert found.fields.item == {"price": "number"}


def test_the_file_is_the_one_given_else_the_variables_else_the_one_here(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "streamrank.toml").write_text('project = "here"')
    assert load().project == "here"
    (tmp_path / "named.toml").write_text('project = "named"')
    monkeypatch.setenv(SETTINGS_VARIABLE, str(tmp_path / "named.toml"))
    assert load().project == "named"
    assert load(write('project = "given"')).project == "given"


def test_building_settings_does_not_look_at_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMRANK_KAFKA__PREFIX", "shop.")
    assert Settings().kafka.prefix == ""


def test_other_variables_of_the_same_prefix_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMRANK_LOG", "DEBUG")
    monkeypatch.setenv("STREAMRANK_SERVICE_HOST", "10.0.0.1")  # Kubernetes sets such
    assert load() == Settings()


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "bom.toml"
    path.write_bytes(b'\xef\xbb\xbfproject = "shop"\n')
    assert load(path).project == "shop"


@pytest.mark.parametrize(("text", "on"), [("true", True), ("false", False)])
def test_a_switch_is_true_or_false_and_no_number(
    text: str, on: bool, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(f"[retrieval]\nenabled = {text}")
    assert load(path).retrieval.enabled is on
    monkeypatch.setenv("STREAMRANK_RETRIEVAL__ENABLED", text)
    assert load().retrieval.enabled is on
    assert load(write(to_toml(load()))).retrieval.enabled is on
    monkeypatch.delenv("STREAMRANK_RETRIEVAL__ENABLED")
    [fault] = faults(write("[retrieval]\nfound = true"))
    assert "retrieval.found" in fault
    assert "must not be true or false" in fault
    assert Settings().retrieval.enabled is False


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("1.5h", timedelta(minutes=90)),
        (" 7d ", timedelta(days=7)),
        (20, timedelta(seconds=20)),
        ("20", timedelta(seconds=20)),
    ],
)
def test_a_duration_is_a_number_with_a_unit_and_seconds_without(text: str, span: timedelta) -> None:
    assert changed(Settings(), {"windows": {"ttl": text}}).windows.ttl == span


@pytest.mark.parametrize("text", ["", "h", "1e999999d", "nan", "0s", "-1s", "10 m m", True, [1]])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(SettingsError, match=r"windows\.ttl: must"):
        changed(Settings(), {"windows": {"ttl": text}})


# --- what the rest of the package takes from them ----------------------------------------------


def test_topics_limits_rules_and_schema_are_what_the_keys_say() -> None:
    found = changed(
        Settings(),
        {
            "kafka": {"prefix": "shop."},
            "events": {"interactions": ["click", "buy"], "conversion": "buy", "max_candidates": 7},
            "windows": {"horizons": ["1m", "1h"], "lateness": "2s"},
            "session": {"history": 9, "lists": 2},
            "fields": {"item": {"price": "number"}, "context": {"city": "category"}},
        },
    )
    assert found.topic("dead-letters") == "shop.dead-letters"
    assert found.limits().candidates == 7
    assert found.limits().record_bytes == 1_000_000
    assert found.rules() == Rules(history=9, lists=2, lateness=2000)
    assert found.feature_schema() == Schema(
        interactions=("click", "buy"),
        conversion="buy",
        item={"price": "number"},
        context={"city": "category"},
        horizons=(60.0, 3600.0),
        history=9,
    )


# --- what is wrong ----------------------------------------------------------------------------


def test_everything_wrong_is_said_at_once_with_file_key_and_value(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("""
colour = "red"
[kafka]
bootstrap_server = "x:1"
partitions = 0
[windows]
ttl = "10 parsecs"
horizons = ["1d", "1h"]
[events]
interactions = ["click", "click"]
max_candidates = true
[session]
k = 5
[fields.item]
price = "money"
""")
    monkeypatch.setenv("STREAMRANK_RANK__THREADS", "many")
    assert sorted(faults(path)) == sorted(
        [
            f"{path}: colour: is not known; there are {', '.join(Settings.model_fields)}",
            f"{path}: kafka.bootstrap_server: is not known; did you mean bootstrap_servers?",
            f"{path}: kafka.partitions: must be greater than or equal to 1, got 0",
            f"{path}: windows.ttl: must be a number with a unit of ms, s, m, h or d, "
            "as \"10m\", got '10 parsecs'",
            f"{path}: windows.horizons: must rise from the shortest to the longest, "
            "got ['1d', '1h']",
            f"{path}: events.interactions: must not name 'click' twice, got ['click', 'click']",
            f"{path}: events.max_candidates: must not be true or false, got True",
            f"{path}: session.k: is not known here; did you mean rank.k?",
            f"{path}: fields.item.price: must be 'number', 'category', 'text' or 'text_list', "
            "got 'money'",
            "environment variable STREAMRANK_RANK__THREADS: rank.threads: must be a valid "
            "integer, unable to parse string as an integer, got 'many'",
        ]
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("STREAMRANK_KAFKA__PREFX", "shop.", "kafka.prefx: is not known; did you mean prefix?"),
        ("STREAMRANK_KAFKKA__PREFIX", "shop.", "kafkka: is not known; did you mean kafka?"),
        ("STREAMRANK_EVENTS__INTERACTIONS", "click,buy", "must be JSON, got 'click,buy'"),
        ("STREAMRANK_WINDOWS__TTL", "soon", "windows.ttl: must be a number with a unit"),
        ("STREAMRANK_PROJECT", "No!", "project: must match pattern"),
        ("STREAMRANK_KAFKA", "{", "must be JSON, got '{'"),
    ],
)
def test_a_wrong_variable_is_named_as_such(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    [fault] = faults(None)
    assert fault.startswith(f"environment variable {variable}: {said}")


@pytest.mark.parametrize(
    "events",
    ['label = "buy"', 'interactions = ["buy"]', 'conversion = "buy"\ninteractions = ["click"]'],
)
def test_a_label_must_be_one_of_the_interactions(events: str, write: Write) -> None:
    [fault] = faults(write(f"[events]\n{events}"))
    assert "must be one of interactions (" in fault


def test_triggers_must_be_among_the_interactions(write: Write) -> None:
    [fault] = faults(write('[rank]\ntriggers = ["buy"]'))
    assert "rank: triggers must be among events.interactions (click)" in fault


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[kafka\n", "must be TOML: Expected ']' at the end of a table declaration (at line 1"),
        (b'project = "a"\nproject = "b"\n', "must be TOML: Cannot overwrite a value (at line 2"),
        (b"project = '\xff'\n", "must be UTF-8: invalid start byte at byte 11"),
        (b"a = " + b"[" * 10_000, "must be TOML"),
    ],
)
def test_a_file_that_is_no_toml_is_named_with_the_place(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    [fault] = faults(path)
    assert fault.startswith(f"{path}: {said}")


def test_a_file_that_is_not_there_or_a_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [missing] = faults(tmp_path / "no.toml")
    assert missing.endswith("no.toml: does not exist (streamrank init writes one)")
    [folder] = faults(tmp_path)
    assert "cannot be read" in folder
    monkeypatch.setenv(SETTINGS_VARIABLE, "no.toml")
    assert faults(None) == [
        "environment variable STREAMRANK_SETTINGS: must name a settings file, got 'no.toml'"
    ]


# --- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'sasl_password = "hunter2"',
        '[kafka]\nsasl_password = "hunter2"',
        '[kafka]\n"sasl.password" = "hunter2"',
        '[store]\nredis_password = "hunter2"\n',
        '[store]\nredis = ":hunter2@cache:6379"',
        '[[kafka]]\nsasl_password = "hunter2"',
        '[kafka.secrets]\nx = "hunter2"',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(text: str, write: Write) -> None:
    said = "\n".join(faults(write(text)))
    assert "hunter2" not in said
    if "[[" not in text:
        assert "STREAMRANK_" in said


def test_a_secret_in_the_wrong_variable_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMRANK_KAFKA__SASL_PASSWORD", "hunter2")
    [fault] = faults(None)
    assert fault == (
        "environment variable STREAMRANK_KAFKA__SASL_PASSWORD: kafka.sasl_password: secrets have "
        "no place here: they come from the environment alone (STREAMRANK_SASL_PASSWORD)"
    )


def test_secrets_come_from_the_environment_and_never_print(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMRANK_SASL_PASSWORD", "hunter2")
    secrets = Secrets()
    assert secrets.sasl_password is not None
    assert secrets.sasl_password.get_secret_value() == "hunter2"
    printed = f"{secrets} {secrets!r} {secrets.model_dump()} {secrets.model_dump_json()}"
    assert "hunter2" not in printed
    assert "hunter2" not in to_toml(load())


# --- writing ----------------------------------------------------------------------------------

spans = st.timedeltas(timedelta(microseconds=1), timedelta(days=36_500))
kinds = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.sampled_from(["number", "category", "text", "text_list"]),
    max_size=4,
)


@given(st.lists(spans, min_size=1, max_size=6, unique=True).map(sorted), spans, kinds)
def test_what_is_written_is_read_back_as_it_was(
    horizons: list[timedelta], ttl: timedelta, fields: dict[str, str]
) -> None:
    known = Settings.model_validate(
        {
            "windows": WindowsSection(horizons=tuple(horizons), ttl=ttl),
            "fields": {"item": fields, "context": fields},
            "state": {"path": "data/state"},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "streamrank.toml")
        path.write_text(to_toml(known), encoding="utf-8")
        assert load(path) == known


def test_the_file_says_what_each_key_means_and_shows_the_keys_that_are_not_set() -> None:
    lines = to_toml(Settings()).splitlines()
    assert "# conversion = # The rarer, later feedback, where there is one." in lines
    assert "[kafka]" in lines


def test_changes_are_checked_as_a_file_is() -> None:
    with pytest.raises(SettingsError, match=r"changes: kafka\.partitions: must be greater"):
        changed(Settings(), {"kafka": {"partitions": 0}})
    with pytest.raises(SettingsError, match=r"kafkka: is not known; did you mean kafka"):
        changed(Settings(), {"kafkka": {"partitions": 1}})


def test_changed_settings_leave_the_first_ones_and_the_environment_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMRANK_KAFKA__PREFIX", "environment.")
    known = Settings()
    changes: dict[str, dict[str, Any]] = {"kafka": {"group": "other"}}
    assert changed(known, changes).kafka.group == "other"
    assert changed(known, changes).kafka.prefix == ""
    assert known == Settings()
