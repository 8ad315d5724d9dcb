"""`feature_repo/` is a Feast repository like any other, on the data of the flows."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from feast import FeatureStore

from streamrank.edges import repository
from streamrank.edges.feast import FeastStore
from streamrank.edges.store import Row, StoreRefused
from streamrank.settings import Secrets, Settings, load

ROOT = Path(__file__).parents[2]
FEAST = Path(sys.executable).with_name("feast")
NOW = 1_700_000_000_000
TOML = """
[fields.item]
price = "number"
[store]
path = "kept/here"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder: its settings and the feature repository."""
    shutil.copytree(
        ROOT / "feature_repo", tmp_path / "feature_repo", ignore=lambda *_: ["__pycache__"]
    )
    (tmp_path / "streamrank.toml").write_text(TOML)
    return tmp_path


def environment(**variables: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if "STREAMRANK" not in name}
    return {**ours, "PYTHONPATH": str(ROOT), "FEAST_NO_PROGRESS": "1", **variables}


def feast(folder: Path, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [FEAST, *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def store_of(project: Path) -> FeastStore:
    """Open the store as the flows do that are started in the project's folder."""
    return FeastStore(load(project / "streamrank.toml"), Secrets(), root=project)


def registered(project: Path) -> tuple[list[object], ...]:
    """Return everything that is registered, each kind by name."""
    config = repository.repo_config(load(project / "streamrank.toml"), Secrets(), project)
    feast = FeatureStore(config=config)
    found = (feast.list_entities(), feast.list_feature_views(), feast.list_feature_services())
    return tuple(sorted(objects, key=lambda one: str(one.name)) for objects in found)


@pytest.mark.slow
def test_feasts_commands_find_what_the_flows_write(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feast(project, "-c", "feature_repo", "apply")
    applied_from_outside = registered(project)
    store = store_of(project)
    store.write([Row("item_fields", "i1", NOW, 0, {"price": 71.0})])
    assert registered(project) == applied_from_outside

    feast(project / "feature_repo", "apply")
    assert registered(project) == applied_from_outside
    assert store.read("item_fields", ["i1"], NOW) == [{"price": 71.0}]
    listed = feast(project / "feature_repo", "feature-views", "list")
    names = {line.split()[0] for line in listed.splitlines()[1:] if line.strip()}
    assert names == {"item_windows", "user_windows", "item_next", "item_fields", "popular"}
    assert sorted(path.name for path in project.iterdir()) == [
        "feature_repo",
        "kept",
        "streamrank.toml",
    ]

    monkeypatch.chdir(project)
    found = FeatureStore("feature_repo").get_online_features(
        ["item_fields:price"], [{"item": "i1"}]
    )
    assert found.to_dict()["price"] == [71.0]


@pytest.mark.slow
def test_feasts_page_shows_the_project(project: Path) -> None:
    feast(project / "feature_repo", "apply")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    page = subprocess.Popen(
        [FEAST, "ui", "--host", "127.0.0.1", "--port", str(port)],
        cwd=project / "feature_repo",
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        address = f"http://127.0.0.1:{port}/api/v1/feature_views?project=streamrank"
        assert b'"item_windows"' in answered(address, within=60.0)
    finally:
        page.terminate()
        page.communicate(timeout=20)


def answered(address: str, within: float) -> bytes:
    deadline = time.monotonic() + within
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as response:  # noqa: S310  # our own page
                return bytes(response.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.integration
def test_one_variable_moves_feast_and_the_flows_to_redis(
    project: Path, redis_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"STREAMRANK_STORE__ONLINE": "redis", "STREAMRANK_STORE__REDIS": redis_address}
    feast(project, "-c", "feature_repo", "apply", **variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    store_of(project).write([Row("item_fields", "redis", NOW, 0, {"price": 5.0})])
    monkeypatch.chdir(project / "feature_repo")
    found = FeatureStore(".").get_online_features(["item_fields:price"], [{"item": "redis"}])
    assert found.to_dict()["price"] == [5.0]
    assert not (project / "kept/here/online.db").exists()


@pytest.mark.parametrize("here", [".", "feature_repo"])
def test_the_project_is_found_from_here_upwards(
    project: Path, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMRANK_SETTINGS", raising=False)
    monkeypatch.chdir(project / here)
    known, root = repository.located()
    assert root == project
    assert repository.store_path(known, root) == project / "kept/here"


def test_a_project_without_a_settings_file_has_the_defaults(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "streamrank.toml").unlink()
    monkeypatch.delenv("STREAMRANK_SETTINGS", raising=False)
    monkeypatch.chdir(project / "feature_repo")
    assert repository.located() == (Settings(), project)


@pytest.mark.parametrize("here", [".", "feature_repo"])
def test_the_variable_names_the_settings_from_the_projects_folder(
    project: Path, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "other.toml").write_text('project = "other"')
    monkeypatch.setenv("STREAMRANK_SETTINGS", "other.toml")
    monkeypatch.chdir(project / here)
    known, root = repository.located()
    assert (known.project, root) == ("other", project)


def test_from_anywhere_the_variable_leads_to_the_project(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMRANK_SETTINGS", str(project / "streamrank.toml"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert repository.located()[1] == project


def test_outside_a_project_feast_is_told_where_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMRANK_SETTINGS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreRefused, match=re.escape(f"got {tmp_path}")):
        repository.located()


def test_another_project_in_feature_store_yaml_is_refused(project: Path) -> None:
    file = project / "feature_repo/feature_store.yaml"
    repository.check_project(Settings(), file)
    with pytest.raises(StoreRefused, match="must be 'shop', got 'streamrank'"):
        repository.check_project(Settings(project="shop"), file)
