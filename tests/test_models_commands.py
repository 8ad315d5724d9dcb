"""`streamrank models`, as a person meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from streamrank import settings
from streamrank.edges import registry
from streamrank.edges.broker import EmbeddedBroker
from streamrank.edges.registry import Manifest
from streamrank.events import Announcement
from streamrank.settings import Settings
from tests.graphs import a_model
from tests.services import Topics, free_port

NOW = datetime(2026, 11, 24, 22, 35, tzinfo=UTC)


def known(folder: Path, bootstrap: str) -> Settings:
    return settings.changed(
        Settings(),
        {
            "kafka": {"bootstrap_servers": bootstrap},
            "registry": {"path": str(folder / "registry"), "poll": "3s"},
        },
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose broker does not answer."""
    file = tmp_path / "streamrank.toml"
    file.write_text(settings.to_toml(known(tmp_path, f"127.0.0.1:{free_port()}")))
    return tmp_path


def publish(folder: Path, **more: Any) -> Manifest:
    given: dict[str, Any] = {
        "schema": Settings().feature_schema(),
        "features": "f1",
        "now": NOW,
        "metrics": {"mrr": 0.63},
    }
    return registry.publish(folder / "registry", "ranker", a_model(), **given | more)


def models(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamrank", "models", *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_list_says_which_one_serves_and_what_the_gate_thought(folder: Path) -> None:
    first = publish(folder).version
    second = publish(folder, parent=first, gate={"reason": "mrr +.004 (+.001 to +.007)"}).version
    publish(folder, parent=second, rejected="worse for new users by .02")
    registry.point(folder / "registry", "ranker", second, "it won", NOW)
    done = models(folder, "list")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["serving"] == second
    assert [(one["parent"], one["serving"]) for one in report["versions"]] == [
        (None, False),
        (first, True),
        (second, False),
    ]
    assert [one["reason"] for one in report["history"]] == ["it won"]
    rows = {line.split()[1]: line for line in done.stderr.splitlines() if "20261124T" in line}
    assert "serves" in rows[second]
    assert "mrr +.004 (+.001 to +.007)" in rows[second]
    assert "0.6300" in rows[second]
    assert "rejected" in done.stderr
    assert "worse for new users by .02" in done.stderr


def test_a_registry_without_versions_is_no_error(folder: Path) -> None:
    done = models(folder, "list", "--registry", "elsewhere", "--report", "found.json")
    assert (done.returncode, done.stdout) == (0, "")
    report = json.loads((folder / "found.json").read_text())
    assert (report["serving"], report["versions"]) == (None, [])
    assert "no version of ranker in elsewhere yet (streamrank train)" in done.stderr


def test_the_registry_may_be_an_address(tmp_path: Path) -> None:
    address = "memory://models/of/ours"
    bucket = settings.changed(Settings(), {"registry": {"path": address}})
    (tmp_path / "streamrank.toml").write_text(settings.to_toml(bucket))
    assert settings.load(tmp_path / "streamrank.toml").registry.path == address
    assert json.loads(models(tmp_path, "list").stdout)["registry"] == address
    named = models(tmp_path, "list", "--registry", "memory://elsewhere")
    assert json.loads(named.stdout)["registry"] == "memory://elsewhere"


def test_a_version_is_shown_by_a_part_of_its_name(folder: Path) -> None:
    version = publish(folder, offsets={"examples[0]": 17}).version
    by_hash = models(folder, "show", version[-8:])
    assert by_hash.returncode == 0
    assert json.loads(by_hash.stdout)["offsets"] == {"examples[0]": 17}
    assert json.loads(models(folder, "show").stdout)["version"] == version


@pytest.mark.parametrize(
    ("part", "rule"), [("ffffffffff", "must name one version of"), ("2026", "one version, not 2")]
)
def test_a_name_of_none_or_of_two_is_refused(folder: Path, part: str, rule: str) -> None:
    publish(folder)
    publish(folder)
    done = models(folder, "show", part)
    assert (done.returncode, done.stdout) == (1, "")
    assert rule in done.stderr


def test_a_rollback_without_a_broker_says_that_workers_will_see_it_by_polling(
    folder: Path,
) -> None:
    first = publish(folder).version
    second = publish(folder, parent=first).version
    done = models(folder, "rollback", "--reason", "clicks fell", "--bar")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report | {"at": "", "by": ""} == {
        "version": first,
        "former": second,
        "reason": "clicks fell",
        "at": "",
        "by": "",
        "barred": {second: "clicks fell"},
        "model": "ranker",
        "announced": False,
    }
    assert "not announced: no Kafka broker answers" in done.stderr
    assert "in the registry, which it polls every 3 s" in done.stderr
    assert registry.current(folder / "registry", "ranker") == first


def test_a_rollback_that_nothing_is_left_for_changes_nothing(folder: Path) -> None:
    version = publish(folder).version
    done = models(folder, "rollback")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no ancestor of version {version} of ranker is left that may serve" in done.stderr
    assert registry.standing(folder / "registry", "ranker") is None


def test_a_barred_version_serves_again_only_by_force(folder: Path) -> None:
    first = publish(folder).version
    second = publish(folder, parent=first).version
    registry.bar(folder / "registry", "ranker", second, "clicks fell", NOW)
    refused = models(folder, "rollback", second)
    assert refused.returncode == 1
    assert f"version {second} is barred since 2026-11-24 22:35: clicks fell" in refused.stderr
    assert models(folder, "rollback", second, "--force").returncode == 0
    assert registry.current(folder / "registry", "ranker") == second
    assert registry.barred(folder / "registry", "ranker") == {}


def test_a_rollback_is_announced_with_the_digest_of_its_version(tmp_path: Path) -> None:
    with EmbeddedBroker(["models"]) as broker:
        (tmp_path / "streamrank.toml").write_text(
            settings.to_toml(known(tmp_path, broker.bootstrap))
        )
        first = publish(tmp_path)
        publish(tmp_path, parent=first.version, now=NOW + timedelta(seconds=1))
        done = models(tmp_path, "rollback")
        [value] = Topics(broker.bootstrap, embedded=True).values("models", 1)
    assert "announced on models: all that runs follows now" in done.stderr
    assert json.loads(done.stdout)["announced"] is True
    word = TypeAdapter(Announcement).validate_json(value)
    assert (word.name, word.version) == ("ranker", first.version)
    assert (word.digest, word.reason) == (first.digest, "rolled back by hand")
