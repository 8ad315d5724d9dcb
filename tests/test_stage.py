"""A demo's folder is its own, and its flows see none of the user's settings."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from streamrank import settings as settings_module
from streamrank.settings import Settings
from streamrank.stage import FLOWS, MARKER, DemoError, Stage, flows, prepare, refuse_other
from tests.services import until

BROKER = "127.0.0.1:9"


def test_a_folder_that_is_missing_or_empty_is_fine(tmp_path: Path) -> None:
    refuse_other(tmp_path)
    refuse_other(tmp_path / "none" / "yet")


@pytest.mark.parametrize("name", ["thesis.txt", ".hidden", "streamrank.toml"])
def test_a_folder_that_no_demo_wrote_is_neither_taken_nor_touched(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("years of work")
    for take in (lambda: refuse_other(tmp_path), lambda: prepare(tmp_path, Settings(), BROKER)):
        with pytest.raises(DemoError, match="choose another --folder"):
            take()
    assert (tmp_path / name).read_text() == "years of work"


def test_a_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    prepare(folder, Settings(), BROKER)
    (folder / "registry").mkdir()
    (folder / "registry" / "old").touch()
    prepare(folder, Settings(), BROKER)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "streamrank.toml"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("years of work")
    with pytest.raises(DemoError, match="is no folder"):
        refuse_other(tmp_path / "demo")
    with pytest.raises(DemoError, match="is no folder"):
        prepare(tmp_path / "demo", Settings(), BROKER)
    assert (tmp_path / "demo").read_text() == "years of work"


def test_a_link_to_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").touch()
    (tmp_path / "demo").symlink_to(tmp_path / "work")
    with pytest.raises(DemoError, match="choose another --folder"):
        prepare(tmp_path / "demo", Settings(), BROKER)
    assert (tmp_path / "work" / "thesis.txt").exists()


def test_a_link_to_a_demo_folder_is_a_place_to_play(tmp_path: Path) -> None:
    prepare(tmp_path / "large-disk", Settings(), BROKER)
    (tmp_path / "large-disk" / "old").touch()
    (tmp_path / "demo").symlink_to(tmp_path / "large-disk")
    stage = prepare(tmp_path / "demo", Settings(), BROKER)
    assert stage.settings_file.exists()
    assert not (tmp_path / "large-disk" / "old").exists()
    assert (tmp_path / "demo").is_symlink()


def test_the_settings_that_the_flows_read_are_those_of_the_stage(tmp_path: Path) -> None:
    inferred = settings_module.changed(
        Settings(), {"events": {"interactions": ["open"], "label": "open"}}
    )
    stage = prepare(tmp_path / "demo", inferred, BROKER)
    assert settings_module.load(stage.settings_file) == stage.known
    assert stage.known.events == inferred.events
    assert stage.known.kafka.bootstrap_servers == BROKER
    assert stage.known.registry.path == tmp_path / "demo" / "registry"
    assert stage.known.store.path == tmp_path / "demo" / "feast"
    assert stage.known.rank.provider == "cpu"


def test_a_folder_named_from_here_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = prepare(Path("demo"), Settings(), BROKER)
    assert Path(stage.known.registry.path).is_absolute()
    assert stage.known.registry.path == tmp_path / "demo" / "registry"


# --- the flows' processes -----------------------------------------------------------------------


def test_no_setting_of_the_user_reaches_the_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMRANK_SETTINGS", "/etc/mine.toml")
    monkeypatch.setenv("STREAMRANK_KAFKA__BOOTSTRAP_SERVERS", "production:9092")
    monkeypatch.setenv("STREAMRANK_REDIS_PASSWORD", "secret")
    monkeypatch.setenv("streamrank_rank__k", "3")  # as good a name of a setting as in capitals
    monkeypatch.setenv("SOMETHING_ELSE", "stays")
    stage = prepare(tmp_path / "demo", Settings(), BROKER)
    before = _children()
    with flows(stage):
        found = [_environment(pid) for pid in _children() - before]
    assert len(found) == len(FLOWS)
    for environment in found:
        assert {n for n in environment if "STREAMRANK" in n.upper()} <= {"STREAMRANK_LOG"}
        assert environment["SOMETHING_ELSE"] == "stays"


def test_no_flow_outlives_the_stage(tmp_path: Path) -> None:
    before = _children()
    stage = prepare(tmp_path / "demo", Settings(), BROKER)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(stage, before)
    assert _children() == before


def _interrupted(stage: Stage, before: set[int]) -> None:
    with flows(stage):
        assert len(_children() - before) == len(FLOWS)
        raise KeyboardInterrupt


def test_a_flow_that_ended_is_told_with_what_it_said_last(tmp_path: Path) -> None:
    """Nobody listens at the broker's address, so a flow ends by itself."""
    impatient = settings_module.changed(Settings(), {"kafka": {"delivery_timeout": "1s"}})
    stage = prepare(tmp_path / "demo", impatient, BROKER)
    before = _children()
    with flows(stage) as alive:
        alive()
        flow = max(_children() - before)
        os.waitid(os.P_PID, flow, os.WEXITED | os.WNOWAIT)  # it stays for `alive` to find
        with pytest.raises(DemoError, match=r"(?s)flow ended with 1;.*\.log says:.*127\.0\.0\.1:9"):
            alive()
    assert _children() == before


def _children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


def _environment(pid: int) -> dict[str, str]:
    """Return what a program was started with; the kernel shows it a moment after its start."""
    until(lambda: psutil.Process(pid).environ() != {}, 30, "an environment")
    found: dict[str, str] = psutil.Process(pid).environ()
    return found
