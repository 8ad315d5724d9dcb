"""What the doctor finds, and that nothing it meets stops it."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from streamrank.doctor import LOOKS, Check, checked, examine, show
from streamrank.edges.onnxruntime import cuda_missing
from streamrank.settings import SETTINGS_VARIABLE, Secrets, Settings, changed

NAMES = [
    "python",
    "packages",
    "settings",
    "broker",
    "topics",
    "store",
    "state",
    "registry",
    "provider",
]


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a machine without a broker: its port was free a moment ago."""
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    monkeypatch.setenv("STREAMRANK_SASL_PASSWORD", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = tmp_path / "streamrank.toml"
    path.write_text(
        f"""
[kafka]
bootstrap_servers = "127.0.0.1:{port}"
[store]
path = "{tmp_path / "feast"}"
[registry]
path = "{tmp_path / "registry"}"
[rank]
provider = "cpu"
"""
    )
    return path


@pytest.mark.slow  # it waits for a broker that is not there
def test_what_fails_does_not_stop_what_comes_after_it(settings_file: Path) -> None:
    found = {check.name: check for check in examine(settings_file)}
    assert list(found) == NAMES
    assert [name for name, check in found.items() if not check.ok] == ["broker", "topics"]
    assert "127.0.0.1" in found["broker"].found
    assert found["topics"].found == "not looked at: the broker does not answer"
    assert found["registry"].found.startswith("0 versions of ranker")
    assert found["provider"].found == "cpu (asked for: cpu), no model yet"
    assert found["settings"].found.endswith("secrets given: sasl_password")
    assert "hunter2" not in str(found)


def test_a_state_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    good = changed(Settings(), {"state": {"path": str(tmp_path / "new" / "state")}})
    bad = changed(Settings(), {"state": {"path": str(tmp_path / "file" / "state")}})
    assert checked("state", LOOKS["state"], good, Secrets()).ok
    found = checked("state", LOOKS["state"], bad, Secrets())
    assert not found.ok
    assert "state.path must be a folder to write in" in found.found
    assert checked("state", LOOKS["state"], Settings(), Secrets()).found.startswith("no folder")


def test_bad_settings_are_a_finding(settings_file: Path) -> None:
    settings_file.write_text("[kafka]\npartitions = 0\n")
    found = examine(settings_file)
    assert [check.name for check in found] == ["python", "packages", "settings"]
    assert not found[-1].ok
    assert "kafka.partitions: must be greater than or equal to 1, got 0" in found[-1].found


@pytest.mark.skipif(not cuda_missing(), reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_is_a_finding(tmp_path: Path) -> None:
    known = changed(Settings(), {"rank": {"provider": "cuda"}, "registry": {"path": str(tmp_path)}})
    found = checked("provider", LOOKS["provider"], known, Secrets())
    assert not found.ok
    assert "rank.provider is cuda, and CUDA cannot be used" in found.found


def test_what_nobody_foresaw_is_a_finding_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMRANK_REDIS_PASSWORD", "hunter2")

    def broken(known: Settings, secrets: Secrets) -> str:
        assert secrets.redis_password is not None
        raise RuntimeError(f"AUTH {secrets.redis_password.get_secret_value()} failed")

    found = checked("store", broken, Settings(), Secrets())
    assert found == Check("store", False, "RuntimeError: AUTH … failed")


def test_the_table_shows_brackets_as_they_are() -> None:
    out = io.StringIO()
    show([Check("topics", False, "events[0] is [red] there")], Console(file=out, width=100))
    assert "events[0] is [red] there" in out.getvalue()
    assert "fails" in out.getvalue()
