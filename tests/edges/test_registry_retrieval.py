"""What a version finds candidates with: verified before it serves, shared by those who learn on."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrank.edges import registry, registry_manifest, registry_publishing, registry_retrieval
from streamrank.edges.registry import Manifest, Retrievals, VersionRefused
from streamrank.edges.registry_folders import MARK, folders
from streamrank.features.schema import Schema
from streamrank.features.trails import Trail
from tests.graphs import AFTER, ITEMS, Finding, a_finding, a_model, linear

NOW = datetime(2026, 11, 24, 22, 35, tzinfo=UTC)
ASKED = [Trail(("a", "b"), (1, 1))]
Root = str | Path


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    return tmp_path / "registry" if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def publish(root: Root, **more: Any) -> Manifest:
    given: dict[str, Any] = {"schema": Schema(), "features": "f1", "now": NOW} | more
    return registry.publish(root, "ranker", a_model(), **given)


def load(root: Root, version: str, retrievals: Retrievals | None = None) -> Any:
    asked = retrievals or Retrievals()
    return registry.load_verified(
        root, "ranker", version, features="f1", provider="cpu", retrievals=asked
    ).scorer


def test_a_version_finds_with_what_was_published_beside_it(root: Root) -> None:
    version = publish(root, finds=a_finding()).version
    assert load(root, version).find(ASKED, 2) == [["c", "d"]]


def test_a_version_without_it_serves_and_finds_nothing(root: Root) -> None:
    scorer = load(root, publish(root).version)
    assert (scorer.retrieval, scorer.find(ASKED, 2)) == (None, [[]])


def test_who_does_not_ask_for_it_does_not_read_it(tmp_path: Path) -> None:
    version = publish(tmp_path, finds=a_finding()).version
    os.truncate(tmp_path / "ranker" / version / registry_retrieval.ONNX, 9)
    scorer = registry.load(tmp_path, "ranker", version, features="f1", provider="cpu")
    assert scorer.find(ASKED, 2) == [[]]


def test_who_learns_on_finds_as_the_parent_does_and_stands_without_it(root: Root) -> None:
    parent = publish(root, finds=a_finding())
    child = publish(root, parent=parent.version, rejected="it is worse")
    grandchild = publish(root, parent=child.version)
    same = registry_retrieval.FILES
    assert {file: grandchild.files[file] for file in same} == {f: parent.files[f] for f in same}
    for gone in (parent, child):
        folders(root, "ranker").remove(gone.version)
    assert load(root, grandchild.version).find(ASKED, 2) == [["c", "d"]]


def test_on_a_disk_the_parents_catalogue_is_there_once(tmp_path: Path) -> None:
    parent = publish(tmp_path, finds=a_finding())
    child = publish(tmp_path, parent=parent.version)
    one, two = (
        (tmp_path / "ranker" / version.version / registry_retrieval.ONNX).stat()
        for version in (parent, child)
    )
    assert one.st_ino == two.st_ino


def test_who_brings_its_own_does_not_take_the_parents(root: Root) -> None:
    parent = publish(root, finds=a_finding())
    child = publish(root, parent=parent.version, finds=a_finding(AFTER[:, ::-1]))
    assert load(root, child.version).find(ASKED, 2) == [["b", "a"]]


def test_without_a_parent_that_can_be_read_it_finds_nothing(root: Root) -> None:
    child = publish(root, parent="20261123T000000000000Z-00000000")
    assert load(root, child.version).find(ASKED, 2) == [[]]


def test_versions_that_share_it_share_one_session(root: Root) -> None:
    parent = publish(root, finds=a_finding())
    child = publish(root, parent=parent.version)
    retrievals = Retrievals()
    before, after = (load(root, one.version, retrievals) for one in (parent, child))
    assert before.retrieval is after.retrieval
    assert load(root, child.version).retrieval is not after.retrieval


def test_what_is_not_as_it_says_is_not_published(tmp_path: Path) -> None:
    good = a_finding()
    few, wrong = good.but(items=("a", "b")), good.but(expected=good.expected + 0.5)
    for bad, rule in (
        (good.but(onnx=b"junk"), "retrieval.onnx: must be a graph that runs here"),
        (good.but(onnx=linear()), "retrieval.onnx: must be a graph that runs here"),
        (few, "retrieval-items.json: must name all items, as far as 4, got 2"),
        (wrong, "retrieval-probe.safetensors: scores must be as expected to 0.001"),
        (good.but(expected=good.expected[:1]), "shape must be"),
        (good.but(expected=np.zeros(0)), "must hold scores that are expected"),
        (good.but(onnx=a_finding(AFTER * np.nan).onnx), "scores must be as expected"),
    ):
        with pytest.raises(VersionRefused, match=rule):
            publish(tmp_path, finds=bad)
    assert registry.versions(tmp_path, "ranker") == []


# --- what is wrong in a folder ----------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", sorted(registry_retrieval.FILES))
@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (flip, r"must be \d+ bytes of sha256 \w+, got \d+ of"),
        (lambda path: os.truncate(path, 9), r"must be \d+ bytes of sha256 \w+, got 9 of"),
        (Path.unlink, "must be there, got no such file"),
    ],
)
def test_a_file_that_was_changed_is_refused(
    tmp_path: Path, file: str, harm: Callable[[Path], None], rule: str
) -> None:
    version = publish(tmp_path, finds=a_finding()).version
    harm(tmp_path / "ranker" / version / file)
    with pytest.raises(VersionRefused, match=f"version {version}: {file}: {rule}"):
        load(tmp_path, version)


def forge(root: Path, files: dict[str, bytes]) -> str:
    """Write a version whose hashes all fit, without the checks of `publish`."""
    model = a_model()
    every = registry_publishing.files_of(model) | files
    record = {
        "name": "ranker",
        "feature_schema": Schema().encode(),
        "features": "f1",
        "heads": model.heads,
        "files": registry_publishing.entries(every),
    }
    manifest = registry_manifest.seal(record, NOW)
    folders(root, "ranker").put(
        manifest.version, {**every, MARK: manifest.model_dump_json().encode()}
    )
    return manifest.version


def but(**changes: bytes) -> dict[str, bytes]:
    names = {"items": registry_retrieval.ITEMS, "probe": registry_retrieval.PROBE}
    return registry_retrieval.files_of(a_finding()) | {
        names[name]: content for name, content in changes.items()
    }


def only_the_graph() -> dict[str, bytes]:
    return {registry_retrieval.ONNX: a_finding().onnx}


def of_others(table: Any = AFTER[:, ::-1]) -> Finding:
    return a_finding().but(onnx=a_finding(table).onnx, items=ITEMS[::-1])


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        (only_the_graph(), r"manifest.json: files must be all of .*, or none, got \['retr"),
        (but(items=b"{"), "retrieval-items.json: must be JSON"),
        (but(items=json.dumps({"a": 1}).encode()), "must be a list of ids, got dict"),
        (but(items=json.dumps([1, 2, 3, 4]).encode()), "must be a list of ids"),
        (but(probe=b"junk"), "retrieval-probe.safetensors: must be safetensors"),
        (registry_retrieval.files_of(of_others(2 * AFTER)), "scores must be as expected"),
    ],
)
def test_what_fits_its_hash_and_is_wrong_is_refused(
    tmp_path: Path, files: dict[str, bytes], rule: str
) -> None:
    version = forge(tmp_path, files)
    with pytest.raises(VersionRefused, match=rule):
        load(tmp_path, version)


def test_a_parent_that_vanishes_while_it_is_taken_from_leaves_nothing_of_the_child(
    tmp_path: Path,
) -> None:
    parent = publish(tmp_path, finds=a_finding()).version
    (tmp_path / "ranker" / parent / registry_retrieval.ITEMS).unlink()
    with pytest.raises(registry.RegistryUnusable, match="cannot be used"):
        publish(tmp_path, parent=parent)
    assert [one.version for one in registry.versions(tmp_path, "ranker")] == [parent]
