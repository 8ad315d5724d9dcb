"""Which version serves: pointed at, barred, rolled back, by one writer or by many."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamrank.edges import registry, registry_standing
from streamrank.edges.registry import (
    PointerMoved,
    RegistryUnusable,
    VersionBarred,
    VersionMissing,
)
from streamrank.edges.registry_folders import MARK, folders
from streamrank.features.schema import Schema
from tests.graphs import a_model
from tests.services import ROOT

NOW = datetime(2026, 11, 24, 22, 35, tzinfo=UTC)
Root = str | Path


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    """A registry on a disk, and one in a store that has no rename."""
    return tmp_path / "registry" if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def publish(root: Root, **more: Any) -> str:
    given: dict[str, Any] = {"schema": Schema(), "features": "f1", "now": NOW} | more
    return registry.publish(root, "ranker", a_model(), **given).version


def a_line(root: Root, length: int) -> list[str]:
    """Publish versions, each the parent of the next."""
    found: list[str] = []
    for _ in range(length):
        found.append(publish(root, parent=found[-1] if found else None))
    return found


def current(root: Root) -> str | None:
    return registry.current(root, "ranker")


# --- who serves -------------------------------------------------------------------------------


def test_where_nobody_pointed_the_newest_that_may_serve_does(root: Root) -> None:
    assert current(root) is None
    assert registry.line(root, "ranker") == []
    first, second = a_line(root, 2)
    publish(root, rejected="worse")
    assert current(root) == second
    registry.bar(root, "ranker", second, "clicks fell", NOW)
    assert current(root) == registry.latest(root, "ranker") == first


def test_what_was_pointed_at_serves_though_others_are_newer(root: Root) -> None:
    first, second = a_line(root, 2)
    stands = registry.point(root, "ranker", first, "the first was better", NOW, by="ada")
    assert current(root) == first
    assert registry.latest(root, "ranker") == second
    assert registry.standing(root, "ranker") == stands
    assert (stands.former, stands.reason, stands.at, stands.by) == (
        second,
        "the first was better",
        NOW,
        "ada",
    )


def test_where_what_served_is_gone_the_newest_that_may_does(tmp_path: Path) -> None:
    first, second = a_line(tmp_path, 2)
    registry.point(tmp_path, "ranker", second, "newest", NOW)
    shutil.rmtree(tmp_path / "ranker" / second)
    assert current(tmp_path) == first


def test_a_version_that_is_missing_or_was_rejected_is_not_pointed_at(root: Root) -> None:
    good = publish(root)
    bad = publish(root, rejected="worse for new users")
    with pytest.raises(VersionBarred, match=f"version {bad} was rejected: worse for new users"):
        registry.point(root, "ranker", bad, "oops", NOW)
    with pytest.raises(VersionMissing):
        registry.point(root, "ranker", "20261124T223500000000Z-00000000", "oops", NOW)
    assert current(root) == good
    assert registry.standing(root, "ranker") is None
    assert registry.point(root, "ranker", bad, "I know", NOW, force=True).version == bad


# --- back -------------------------------------------------------------------------------------


def test_a_rollback_goes_to_the_parent_and_again_to_its_parent(root: Root) -> None:
    first, second, third = a_line(root, 3)
    registry.point(root, "ranker", third, "won", NOW)
    stands = registry.rollback(root, "ranker", now=NOW, reason="clicks fell")
    assert (stands.version, stands.former, stands.reason) == (second, third, "clicks fell")
    assert registry.rollback(root, "ranker", now=NOW).version == first
    with pytest.raises(VersionBarred, match=f"no ancestor of version {first} of ranker is left"):
        registry.rollback(root, "ranker", now=NOW)
    assert current(root) == first


def test_a_rollback_passes_over_ancestors_that_were_rejected_or_barred(root: Root) -> None:
    first = publish(root)
    rejected = publish(root, parent=first, rejected="worse")
    barred = publish(root, parent=rejected)
    last = publish(root, parent=barred)
    registry.point(root, "ranker", last, "won", NOW)
    registry.bar(root, "ranker", barred, "clicks fell", NOW)
    assert registry.line(root, "ranker") == [last, first]
    assert registry.rollback(root, "ranker", now=NOW).version == first


def test_a_rollback_may_bar_what_served(root: Root) -> None:
    first, second = a_line(root, 2)
    stands = registry.rollback(root, "ranker", now=NOW, reason="clicks fell", bar=True, by="ada")
    assert (current(root), list(stands.barred)) == (first, [second])
    why = registry.barred(root, "ranker")[second]
    assert (why.reason, why.at, why.by) == ("clicks fell", NOW, "ada")
    with pytest.raises(VersionBarred, match=f"{second} is barred since 2026-11-24 22:35: clicks"):
        registry.point(root, "ranker", second, "again", NOW)
    with pytest.raises(VersionBarred):
        registry.rollback(root, "ranker", second, now=NOW)
    assert registry.rollback(root, "ranker", second, now=NOW, force=True).version == second
    assert registry.barred(root, "ranker") == {}


def test_whoever_bars_what_serves_rolls_it_back(root: Root) -> None:
    first, second = a_line(root, 2)
    registry.point(root, "ranker", second, "won", NOW)
    assert registry.bar(root, "ranker", second, "clicks fell", NOW).version == first
    with pytest.raises(VersionBarred, match="no ancestor"):
        registry.bar(root, "ranker", first, "that too", NOW)
    assert current(root) == first
    assert list(registry.barred(root, "ranker")) == [second]


def test_a_registry_without_versions_has_nothing_to_roll_back(root: Root) -> None:
    with pytest.raises(VersionBarred, match="no version of ranker serves"):
        registry.rollback(root, "ranker", now=NOW)


# --- the history ------------------------------------------------------------------------------


def test_the_history_says_what_served_when_and_why_and_is_bounded(root: Root) -> None:
    pair = a_line(root, 2)
    for number in range(registry_standing.KEPT + 5):
        registry.point(root, "ranker", pair[number % 2], f"turn {number}", NOW)
    history = registry.history(root, "ranker")
    assert [one.reason for one in history] == [
        f"turn {number}" for number in range(5, registry_standing.KEPT + 5)
    ]
    assert all(one.version != one.former for one in history)
    assert f"process {os.getpid()}" in history[-1].by


def test_bars_go_with_their_versions(tmp_path: Path) -> None:
    first, second = a_line(tmp_path, 2)
    registry.rollback(tmp_path, "ranker", now=NOW, bar=True)
    shutil.rmtree(tmp_path / "ranker" / second)
    assert registry.point(tmp_path, "ranker", first, "again", NOW).barred == {}


def test_states_are_not_taken_for_versions_nor_swept_away(root: Root) -> None:
    [version] = a_line(root, 1)
    registry.point(root, "ranker", version, "won", NOW)
    registry.retain(root, "ranker", keep=1, now=NOW + timedelta(days=400))
    assert [one.version for one in registry.versions(root, "ranker")] == [version]
    assert len(registry.history(root, "ranker")) == 1


def test_a_state_that_cannot_be_read_is_an_error_that_says_what_to_do(root: Root) -> None:
    a_line(root, 1)
    folders(root, "ranker/serving").put("000000000007", {MARK: b'{"version": 1}'})
    with pytest.raises(RegistryUnusable, match=r"serving/000000000007/manifest.json must say wh"):
        current(root)


# --- two writers ------------------------------------------------------------------------------


def test_who_expects_another_version_to_serve_came_late_and_changes_nothing(root: Root) -> None:
    first, second, third = a_line(root, 3)
    registry.point(root, "ranker", second, "by hand", NOW, expected=third)
    with pytest.raises(PointerMoved, match=f"{first} must serve for {third} .*, got {second}"):
        registry.point(root, "ranker", third, "learned", NOW, expected=first)
    assert current(root) == second
    assert len(registry.history(root, "ranker")) == 1


def test_the_first_version_that_is_pointed_at_may_be_the_newest_already(root: Root) -> None:
    first, second = a_line(root, 2)
    assert current(root) == second  # as nobody has said otherwise
    registry.point(root, "ranker", second, "learned from the first", NOW, expected=first)
    third = publish(root, parent=second)
    with pytest.raises(PointerMoved):
        registry.point(root, "ranker", third, "learned from the first", NOW, expected=first)


def test_of_writers_that_saw_the_same_version_serve_one_wins(root: Root) -> None:
    versions = a_line(root, 9)

    def attempt(version: str) -> bool:
        try:
            registry.point(root, "ranker", version, "mine", NOW, expected=versions[-1])
        except PointerMoved:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, versions[:8]))
    assert sum(won) == 1
    assert current(root) == versions[won.index(True)]
    assert len(registry.history(root, "ranker")) == 1


def test_writers_that_do_not_mind_all_get_through(root: Root) -> None:
    versions = a_line(root, 4)

    def write(writer: int) -> None:
        for turn in range(5):
            registry.point(root, "ranker", versions[writer], f"{writer}.{turn}", NOW)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    said = [one.reason for one in registry.history(root, "ranker")]
    assert sorted(said) == sorted(f"{writer}.{turn}" for writer in range(4) for turn in range(5))
    for writer in range(4):
        own = [reason for reason in said if reason.startswith(f"{writer}.")]
        assert own == [f"{writer}.{turn}" for turn in range(5)]


WRITER = """
import sys
from datetime import UTC, datetime
from streamrank.edges import registry
root, mine, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
won = 0
for turn in range(count):
    seen = registry.current(root, "ranker")
    try:
        registry.point(root, "ranker", mine, f"{turn}", datetime.now(UTC), expected=seen, by=mine)
        won += 1
    except registry.PointerMoved:
        pass
print(won)
"""


def test_processes_that_compare_and_set_never_write_over_one_another(tmp_path: Path) -> None:
    versions = a_line(tmp_path, 3)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), version, "12"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in versions
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    won = [int(writer.communicate("go\n", timeout=60)[0]) for writer in writers]
    history = registry.history(tmp_path, "ranker")
    assert len(history) == sum(won)
    assert [sum(one.by == version for one in history) for version in versions] == won
    for before, after in pairwise(history):
        if after.version != before.version:
            assert after.former == before.version


def test_a_full_disk_leaves_the_pointer_as_it_was(tmp_path: Path) -> None:
    first, second = a_line(tmp_path, 2)
    registry.point(tmp_path, "ranker", first, "it serves", NOW)
    states = tmp_path / "ranker" / "serving"
    script = f"""
import resource
from datetime import UTC, datetime
from streamrank.edges import registry
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    registry.point({str(tmp_path)!r}, "ranker", {second!r}, "newer", datetime.now(UTC))
except registry.RegistryUnusable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"registry {tmp_path} cannot be used" in done.stdout
    assert current(tmp_path) == first
    assert [path.name for path in states.iterdir()] == ["000000000001"]
