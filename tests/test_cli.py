"""The commands as a person meets them: right, wrong, interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streamrank import __version__
from streamrank.cli import app
from streamrank.errors import StreamRankError

COMMANDS = ["init", "replay", "train", "run", "demo", "topics create", "topics check", "doctor"]
COMMANDS += ["models list", "models show", "models rollback"]


def streamrank(
    *arguments: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamrank", *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def in_process(*arguments: str, folder: Path) -> Result:
    """Run a command here, which saves its imports: where only what it does is looked at."""
    with chdir(folder):
        return CliRunner().invoke(app, arguments, catch_exceptions=False)


def lines_of(events: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def small_log(lists: int = 30) -> list[dict[str, Any]]:
    """Lists of three; the item that was viewed before is clicked."""
    return [event for number in range(lists) for event in visit(number)]


def visit(number: int) -> list[dict[str, Any]]:
    start, wanted = 1_700_000_000_000 + number * 60_000, f"i{number % 3}"
    who = {"user": f"u{number}", "session": f"s{number}"}
    items = [{"id": f"i{place}", "fields": {"price": place}} for place in range(3)]
    viewed: dict[str, Any] = {
        "event": "interaction",
        "id": f"v{number}",
        "type": "view",
        "item": wanted,
    }
    shown: dict[str, Any] = {"event": "ranking", "id": f"r{number}", "items": items}
    clicked = viewed | {"id": f"c{number}", "type": "click", "ranking": f"r{number}"}
    events = enumerate((viewed, shown, clicked))
    return [event | who | {"timestamp": start + 1000 * place} for place, event in events]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    done = streamrank(*command.split(), "--help", folder=tmp_path)
    assert done.returncode == 0
    assert f"streamrank {command}" in " ".join(done.stdout.split())
    assert "Example" in done.stdout


def test_it_says_its_version(tmp_path: Path) -> None:
    assert streamrank("--version", folder=tmp_path).stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["replay"], 2, "--events"),
        (["replay", "--events", "x", "--learn-until", "1.5"], 2, "--learn-until"),
        (["demo", "--speed", "fast"], 2, "must be max, got 'fast'"),
        (["run", "nonsense"], 2, "nonsense"),
        (["nonsense"], 2, "nonsense"),
        (["replay", "--events", "missing.jsonl"], 1, "missing.jsonl"),
        (["init", "--events", "."], 1, "."),
        (["doctor", "--settings", "missing.toml"], 1, "missing.toml"),
        (["topics", "check", "--settings", "missing.toml"], 1, "missing.toml"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = streamrank(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_init_writes_settings_that_load_and_never_over_others(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(lines_of(small_log()))
    assert streamrank("init", "--events", "log.jsonl", folder=tmp_path).returncode == 0
    written = (tmp_path / "streamrank.toml").read_text()
    assert 'label = "click"' in written
    again = streamrank("init", "--events", "log.jsonl", folder=tmp_path)
    assert (again.returncode, "--force" in again.stderr) == (1, True)
    assert streamrank("init", "--events", "log.jsonl", "--force", folder=tmp_path).returncode == 0


def test_a_log_without_feedback_is_refused_with_the_reason(tmp_path: Path) -> None:
    events = [event for event in small_log() if event.get("type") != "click"]
    (tmp_path / "log.jsonl").write_text(lines_of(events))
    with pytest.raises(StreamRankError, match="the ranker cannot be trained: "):
        in_process("train", "--events", "log.jsonl", folder=tmp_path)


@pytest.mark.slow
def test_a_replay_trains_measures_and_says_the_same_twice(tmp_path: Path) -> None:
    """The clicked item is always the one touched before, which the model learns."""
    log = [*small_log(90), {"event": "nonsense"}, small_log(1)[0]]
    (tmp_path / "log.jsonl").write_text(lines_of(log))
    command = ("replay", "--events", "log.jsonl", "--rankings", "lists.jsonl", "--report")
    done = streamrank(*command, "one.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert in_process(*command, "two.json", folder=tmp_path).exit_code == 0
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert one["lists"] == {"shown": 90, "labelled": 90, "measured": 27}
    assert one["events"] == {"read": 272, "dead_letters": 1, "duplicates": 1, "late": 0}
    assert one["systems"]["recently_touched"]["mrr"] == 1.0
    assert one["systems"]["as_shown"]["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert one["systems"]["streamrank"]["mrr"] > 0.9
    assert one["systems"] == two["systems"]
    [model] = one["models"]
    assert (model["published"], model["lists_seen"]) == (True, 63)
    lists = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    assert len({ranking["id"] for ranking in lists}) == len(lists)


def test_a_replay_that_learns_nothing_measures_the_version_that_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log.jsonl").write_text(lines_of(small_log(9)))
    done = in_process("replay", "--events", "log.jsonl", "--learn-until", "0", folder=tmp_path)
    report = json.loads(done.stdout)
    assert "data/registry" in caplog.text  # where it looked; without a version, lists stay as shown
    assert (report["lists"]["measured"], report["models"]) == (9, [])
    assert report["systems"]["streamrank"] == report["systems"]["as_shown"]


def test_without_a_settings_file_the_environment_stands_over_what_the_log_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log.jsonl").write_text(lines_of(small_log(9)))
    command = ("replay", "--events", "log.jsonl", "--learn-until", "0")
    monkeypatch.setenv("STREAMRANK_REGISTRY__PATH", "elsewhere")
    assert in_process(*command, folder=tmp_path).exit_code == 0
    assert "elsewhere" in caplog.text

    monkeypatch.setenv("STREAMRANK_RANK__K", "many")
    with pytest.raises(StreamRankError, match=r"STREAMRANK_RANK__K: rank\.k"):
        in_process(*command, folder=tmp_path)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    done = streamrank("doctor", "--report", "report.json", folder=tmp_path)
    assert done.returncode in (1, 2)
    assert "report.json" in done.stderr
    assert "Traceback" not in done.stderr
