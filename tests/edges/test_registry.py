from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import safetensors.numpy

from streamrank.edges import registry, registry_manifest, registry_publishing
from streamrank.edges.onnxruntime import OnnxScorer
from streamrank.edges.registry import (
    Manifest,
    NameRefused,
    RegistryUnusable,
    VersionMissing,
    VersionRefused,
    VersionTaken,
)
from streamrank.edges.registry_folders import MARK, DiskFolders, folders
from streamrank.features.schema import Schema
from tests.graphs import WEIGHTS, Model, a_list, a_model, by_hand, linear

NOW = datetime(2026, 11, 24, 22, 35, tzinfo=UTC)
SCHEMA = Schema(item={"price": "number"})
ROOT = Path(__file__).parents[2]
Root = str | Path


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    """A registry on a disk, and one in a store that has no rename."""
    return tmp_path / "registry" if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def publish(root: Root, model: Model | None = None, now: datetime = NOW, **more: Any) -> Manifest:
    model = model or a_model()
    known: dict[str, Any] = {"schema": SCHEMA, "features": "f1", "now": now} | more
    return registry.publish(root, "ranker", model, **known)


def load(root: Root, version: str, **more: Any) -> OnnxScorer:
    known: dict[str, Any] = {"features": "f1", "provider": "cpu"} | more
    return registry.load(root, "ranker", version, **known)


# --- what it is for ---------------------------------------------------------------------------


def test_what_is_published_is_found_verified_and_scores(root: Root) -> None:
    manifest = publish(
        root,
        metrics={"mrr": 0.63, "as_shown": {"mrr": 0.44}},
        parent="20261123T000000000000Z-00000000",
        gate={"published": True},
        lists_seen=6685,
        offsets={"examples[0]": 17},
    )
    assert manifest.version.startswith("20261124T223500000000Z-")
    assert registry.latest(root, "ranker") == manifest.version
    assert registry.manifest(root, "ranker", manifest.version) == manifest
    assert registry.versions(root, "ranker") == [manifest]
    assert manifest.schema_used() == SCHEMA
    scorer = load(root, manifest.version)
    assert (scorer.version, scorer.provider) == (manifest.version, "cpu")
    [scores] = scorer.score([a_list(5)])
    np.testing.assert_allclose(scores, by_hand(a_list(5)), rtol=1e-5)
    [weight] = registry.weights(root, "ranker", manifest.version).values()
    np.testing.assert_array_equal(weight, WEIGHTS)


def test_a_version_says_which_lists_it_knows_where_a_learner_made_it(root: Root) -> None:
    by_a_log = publish(root)
    assert registry.learned(root, "ranker", by_a_log.version) is None
    known = {"lists": np.arange(6), "base": np.array([7])}
    by_a_learner = publish(root, learned=known)
    found = registry.learned(root, "ranker", by_a_learner.version)
    assert found is not None
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in known.items()
    }
    assert load(root, by_a_learner.version).version == by_a_learner.version
    shelf = folders(root, "ranker")
    content = shelf.read(by_a_learner.version, registry_manifest.LEARNED)
    damaged = {
        registry_manifest.LEARNED: content[:-1],
        MARK: shelf.read(by_a_learner.version, MARK),
    }
    shelf.remove(by_a_learner.version)
    shelf.put(by_a_learner.version, damaged)
    with pytest.raises(VersionRefused, match=r"learned.safetensors: must be \d+ bytes"):
        registry.learned(root, "ranker", by_a_learner.version)


def test_a_version_may_hold_its_structure_for_a_learner(root: Root) -> None:
    assert registry.structure(root, "ranker", publish(root).version) is None
    held = publish(root, a_model().but(structure=b"no weights")).version
    assert registry.structure(root, "ranker", held) == b"no weights"
    assert load(root, held).version == held
    shelf = folders(root, "ranker")
    damaged = {registry_manifest.STRUCTURE: b"NO weights", MARK: shelf.read(held, MARK)}
    shelf.remove(held)
    shelf.put(held, damaged)
    with pytest.raises(VersionRefused, match=r"structure\.onnx: must be 10 bytes of sha256"):
        registry.structure(root, "ranker", held)


def test_a_registry_that_is_not_there_has_no_versions(root: Root) -> None:
    assert registry.latest(root, "ranker") is None
    assert registry.versions(root, "ranker") == []
    with pytest.raises(VersionMissing, match=r"there is no version .* of ranker"):
        load(root, "20261124T223500000000Z-00000000")


def test_versions_stand_in_the_order_in_which_they_were_published(root: Root) -> None:
    clock = [NOW, NOW, NOW - timedelta(days=1), NOW + timedelta(seconds=1)]
    published = [publish(root, now=now).version for now in clock]
    assert [one.version for one in registry.versions(root, "ranker")] == published
    assert registry.latest(root, "ranker") == published[-1]


def test_models_of_two_names_do_not_meet(root: Root) -> None:
    publish(root)
    assert registry.latest(root, "other") is None


def test_a_rejected_version_is_kept_with_its_reason_and_does_not_serve(root: Root) -> None:
    good = publish(root)
    bad = publish(root, rejected="mrr .61 is below its parent's .63")
    assert registry.latest(root, "ranker") == good.version
    assert registry.versions(root, "ranker") == [good, bad]
    assert registry.manifest(root, "ranker", bad.version).rejected == bad.rejected


def test_what_was_rejected_because_its_graph_is_not_the_model_is_kept_all_the_same(
    root: Root,
) -> None:
    model = a_model()
    wrong = model.but(expected=model.expected + np.float32(1.0))
    with pytest.raises(VersionRefused, match="scores must be as expected"):
        publish(root, wrong)
    reason = "graph and PyTorch must agree to 0.001, got 1"
    bad = publish(root, wrong, rejected=reason)
    assert registry.manifest(root, "ranker", bad.version).rejected == reason
    assert registry.latest(root, "ranker") is None


def test_a_folder_holds_what_the_readme_says_and_nothing_else(tmp_path: Path) -> None:
    version = publish(tmp_path).version
    assert sorted(path.name for path in (tmp_path / "ranker" / version).iterdir()) == [
        "manifest.json",
        "probe.safetensors",
        "ranker.onnx",
        "weights.safetensors",
    ]
    assert [path.name for path in (tmp_path / "ranker").iterdir()] == [version]


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../ranker", "", ".", "a/b", "/etc", "a\0", "a\n", "x" * 65])
def test_a_name_that_could_lead_out_of_the_registry_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NameRefused, match="model name must be of letters"):
        registry.latest(tmp_path, name)


@pytest.mark.parametrize("version", ["../x", "", "latest", "20261124T223500000000Z-0000000G"])
def test_a_version_is_named_as_versions_are(tmp_path: Path, version: str) -> None:
    with pytest.raises(NameRefused, match="version must be like"):
        load(tmp_path, version)


# --- what is wrong in a folder ----------------------------------------------------------------

Harm = Callable[[Path], object]


def cut(file: str) -> Harm:
    return lambda folder: os.truncate(folder / file, 100)


def flip(file: str) -> Harm:
    def harm(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        content[-1] ^= 1
        (folder / file).write_bytes(content)

    return harm


def edit(**changes: object) -> Harm:
    def harm(folder: Path) -> None:
        record = json.loads((folder / MARK).read_text())
        (folder / MARK).write_text(json.dumps(record | changes))

    return harm


@pytest.mark.parametrize(
    ("harm", "file", "rule", "value"),
    [
        (cut("ranker.onnx"), "ranker.onnx", "must be .* bytes of sha256", "100 of"),
        (flip("ranker.onnx"), "ranker.onnx", "must be .* bytes of sha256", " of "),
        (flip("probe.safetensors"), "probe.safetensors", "must be .* bytes of sha256", " of "),
        (flip("weights.safetensors"), "weights.safetensors", "bytes of sha256", " of "),
        (
            lambda folder: (folder / "ranker.onnx").unlink(),
            "ranker.onnx",
            "must be there",
            "no such file",
        ),
        (cut(MARK), MARK, "must be a manifest", "Invalid JSON"),
        (lambda folder: (folder / MARK).write_bytes(b"\xff"), MARK, "must be a manifest", ""),
        (edit(metrics={"mrr": 0.99}), MARK, "must hash to its version", "Z-"),
        (edit(extra=1), MARK, "must be a manifest", "extra: Extra inputs"),
        (edit(format=2), MARK, "must be a manifest", "format: Input should be 1"),
    ],
    ids=[
        "cut graph",
        "changed graph",
        "changed probe",
        "changed weights",
        "missing graph",
        "cut manifest",
        "manifest of bytes",
        "edited metric",
        "unknown key",
        "other format",
    ],
)
def test_a_changed_folder_is_refused(
    tmp_path: Path, harm: Harm, file: str, rule: str, value: str
) -> None:
    version = publish(tmp_path).version
    harm(tmp_path / "ranker" / version)
    with pytest.raises(VersionRefused, match=rule) as caught:
        load(tmp_path, version)
    assert (caught.value.version, caught.value.file) == (version, file)
    assert value in str(caught.value.value)
    assert f"version {version}: {file}: " in str(caught.value)


def test_a_version_made_for_other_features_is_refused(root: Root) -> None:
    version = publish(root).version
    with pytest.raises(VersionRefused, match=r"features must be f2, .* got f1"):
        load(root, version, features="f2")


def test_a_version_copied_under_another_model_is_refused(tmp_path: Path) -> None:
    version = publish(tmp_path).version
    shutil.copytree(tmp_path / "ranker", tmp_path / "other")
    with pytest.raises(VersionRefused, match="must be of other, got ranker"):
        registry.load(tmp_path, "other", version, features="f1")


def test_a_half_written_folder_is_no_version(tmp_path: Path) -> None:
    version = publish(tmp_path).version
    half = tmp_path / "ranker" / "20271124T223500000000Z-00000000"
    shutil.copytree(tmp_path / "ranker" / version, half)
    (half / MARK).unlink()
    (tmp_path / "ranker" / ".DS_Store").touch()
    (tmp_path / "ranker" / "notes").mkdir()
    assert [one.version for one in registry.versions(tmp_path, "ranker")] == [version]
    assert registry.latest(tmp_path, "ranker") == version
    with pytest.raises(VersionMissing):
        load(tmp_path, half.name)


def test_where_the_newest_cannot_be_read_the_one_before_serves_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, broken = publish(tmp_path).version, publish(tmp_path).version
    cut(MARK)(tmp_path / "ranker" / broken)
    assert registry.latest(tmp_path, "ranker") == good
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert f"version {broken}: manifest.json: must be a manifest" in record.message


# --- what a faulty writer could have published ------------------------------------------------


def forge(root: Root, model: Model, **changes: object) -> str:
    """Write a version whose hashes all fit, without the checks of `publish`."""
    files = registry_publishing.files_of(model.but(weights={}))  # the writer's own hands
    record = {
        "name": "ranker",
        "feature_schema": SCHEMA.encode(),
        "features": "f1",
        "heads": model.heads,
        "files": registry_publishing.entries(files),
    }
    manifest = registry_manifest.seal(record | changes, NOW)
    mark = manifest.model_dump_json().encode()
    folders(root, "ranker").put(manifest.version, {**files, MARK: mark})
    return manifest.version


NAN = np.full((3, 2), np.nan, np.float32)
WIDE = a_model().probe | {"candidate_numbers": np.zeros((2, 3, 9), np.float32)}
FAULTS = [
    (a_model().but(onnx=b"junk"), "ranker.onnx", "must be a graph that runs here"),
    (a_model().but(onnx=linear(NAN)), "probe.safetensors", "scores must be finite"),
    (a_model().but(onnx=linear(2 * WEIGHTS)), "probe.safetensors", "a difference of "),
    (a_model().but(probe=WIDE), "probe.safetensors", "must fit the graph"),
    (a_model().but(expected=np.zeros((2, 4, 2), np.float32)), "probe.safetensors", "shape must"),
    (a_model().but(expected=np.zeros((0, 0, 2), np.float32)), "probe.safetensors", "must hold"),
    (a_model().but(heads=("click",)), "ranker.onnx", "heads must be"),
]
IDS = ["no graph", "NaN weights", "other scores", "input shape", "scores' shape", "empty", "heads"]


@pytest.mark.parametrize(("model", "file", "rule"), FAULTS, ids=IDS)
def test_a_version_that_is_not_what_its_probe_says_is_refused(
    root: Root, model: Model, file: str, rule: str
) -> None:
    version = forge(root, model)
    with pytest.raises(VersionRefused, match=rule) as caught:
        load(root, version)
    assert caught.value.file == file


@pytest.mark.parametrize(("model", "file", "rule"), FAULTS, ids=IDS)
def test_nor_is_it_published_in_the_first_place(
    root: Root, model: Model, file: str, rule: str
) -> None:
    with pytest.raises(VersionRefused, match=rule) as caught:
        publish(root, model)
    assert caught.value.file == file
    assert registry.versions(root, "ranker") == []


def test_a_probe_may_be_off_by_what_another_processor_rounds_and_not_by_more(root: Root) -> None:
    model = a_model()
    near = forge(root, model.but(expected=model.expected + np.float32(5e-4)))
    assert load(root, near).version == near
    far = forge(root, model.but(expected=model.expected * np.float32(1.01)))
    with pytest.raises(VersionRefused, match=r"scores must be as expected to 0\.001, got a diff"):
        load(root, far)


def test_weights_and_metrics_that_are_not_finite_are_not_published(tmp_path: Path) -> None:
    with pytest.raises(VersionRefused, match=r"weights.safetensors: embed must be finite"):
        publish(tmp_path, a_model().but(weights={"embed": NAN}))
    with pytest.raises(VersionRefused, match=r"manifest.json: .*metrics.*finite number"):
        publish(tmp_path, metrics={"auc": float("nan")})
    assert list(tmp_path.rglob("*")) == []


def test_a_probe_that_is_a_pickle_is_refused_and_not_run(root: Root) -> None:
    files = registry_publishing.files_of(a_model())
    files["probe.safetensors"] = b"\x80\x04cposix\nsystem\n(S'exit 1'\ntR."
    record = {
        "name": "ranker",
        "feature_schema": SCHEMA.encode(),
        "features": "f1",
        "heads": ("click", "buy"),
        "files": registry_publishing.entries(files),
    }
    manifest = registry_manifest.seal(record, NOW)
    mark = manifest.model_dump_json().encode()
    folders(root, "ranker").put(manifest.version, {**files, MARK: mark})
    with pytest.raises(VersionRefused, match=r"probe.safetensors: must be safetensors"):
        load(root, manifest.version)


# --- two at once, and death in the middle -----------------------------------------------------


def test_of_writers_of_one_folder_one_wins_and_its_files_are_whole(root: Root) -> None:
    def put(writer: int) -> bool:
        content = f"{writer}".encode() * 10_000
        try:
            folders(root, "ranker").put("v", {"a": content, "b": content, MARK: content})
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put, range(8))) == 1
    assert folders(root, "ranker").names() == ["v"]
    if not isinstance(root, str):  # in a bucket the names of two contents differ by their hash
        files = {path.read_bytes() for path in (root / "ranker" / "v").iterdir()}
        assert len(files) == 1
        assert [path.name for path in (root / "ranker").iterdir()] == ["v"]


def test_publishers_at_the_same_moment_do_not_write_over_one_another(root: Root) -> None:
    def attempt(writer: int) -> str | None:
        try:
            return publish(root, a_model(WEIGHTS * (1 + writer % 4))).version
        except VersionTaken:
            return None

    with ThreadPoolExecutor(8) as pool:
        published = [version for version in pool.map(attempt, range(16)) if version]
    assert published
    assert sorted(published) == [one.version for one in registry.versions(root, "ranker")]
    for version in published:
        load(root, version)


WRITER = """
import sys, itertools
from datetime import UTC, datetime, timedelta
import numpy as np
from streamrank.edges import registry
from streamrank.features.schema import Schema
from tests.graphs import a_model
big = np.zeros(3_000_000, np.float32)
model = a_model().but(weights={"head": a_model().weights["head.weight"], "big": big})
now = datetime(2026, 11, 24, tzinfo=UTC)
for count in itertools.count():
    registry.publish(sys.argv[1], "ranker", model, schema=Schema(), features="f1", now=now)
    print(count, flush=True)
"""


def test_a_publisher_killed_at_any_step_leaves_no_half_version(tmp_path: Path) -> None:
    for kill_on in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()  # the first one is there, the next one is on its way
        _until_writing(tmp_path / "ranker", files=kill_on)
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        child.stdout.close()
        found = registry.versions(tmp_path, "ranker")
        assert len(found) >= 1 + kill_on
        assert load(tmp_path, found[-1].version).version == registry.latest(tmp_path, "ranker")
    for one in registry.versions(tmp_path, "ranker"):
        load(tmp_path, one.version)
    registry.retain(tmp_path, "ranker", keep=99, now=NOW + timedelta(days=2))
    assert not list((tmp_path / "ranker").glob(".*"))


def _until_writing(folder: Path, files: int) -> None:
    """Wait until a draft has so many files."""
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while datetime.now(UTC) < deadline:
        if any(_files(draft) >= files for draft in folder.glob(".draft-*")):
            return
    raise AssertionError("the child wrote nothing")


def _files(draft: Path) -> int:
    try:
        return len(list(draft.iterdir()))
    except FileNotFoundError:  # it has become a version in between
        return -1


def test_leftovers_of_the_dead_go_and_drafts_of_the_living_stay(root: Root) -> None:
    old, young = "20261101T000000000000Z-00000000", "20261124T223000000000Z-00000000"
    system, path = fsspec.url_to_fs(str(root))
    prefix = f"{path}/ranker/" + (".draft-" if isinstance(root, Path) else "")
    for name in (old, young):
        system.makedirs(f"{prefix}{name}", exist_ok=True)
        system.pipe_file(f"{prefix}{name}/ranker.onnx", b"half")
    publish(root)
    assert not system.exists(f"{prefix}{old}")
    assert system.exists(f"{prefix}{young}/ranker.onnx")


# --- a registry that cannot be used -----------------------------------------------------------


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let the system refuse larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    before = publish(tmp_path).version
    big = a_model().but(weights={"big": np.zeros(100_000, np.float32)})
    with (
        files_at_most(50_000),
        pytest.raises(RegistryUnusable, match=r"registry .* cannot be used"),
    ):
        publish(tmp_path, big)
    assert [path.name for path in (tmp_path / "ranker").iterdir()] == [before]
    assert registry.latest(tmp_path, "ranker") == before


def test_a_root_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryUnusable, match=rf"registry {tmp_path}/file cannot be used"):
        publish(tmp_path / "file")


def test_an_address_that_nobody_knows_is_an_error_that_names_it() -> None:
    with pytest.raises(RegistryUnusable, match="registry foo://bar cannot be opened"):
        registry.latest("foo://bar", "ranker")


# --- retention --------------------------------------------------------------------------------


def test_retention_keeps_the_newest_the_serving_one_and_its_parent(root: Root) -> None:
    parent: str | None = None
    published: list[str] = []
    for _ in range(6):
        parent = publish(root, parent=parent).version
        published.append(parent)
    gone = registry.retain(root, "ranker", keep=1, now=NOW, serving=[published[2]])
    assert gone == [published[0], published[3]]
    left = [one.version for one in registry.versions(root, "ranker")]
    assert left == [published[1], published[2], published[4], published[5]]
    with pytest.raises(VersionMissing):
        load(root, published[0])


def test_retention_by_age_spares_what_serves_with_its_parent_and_what_served_before(
    root: Root,
) -> None:
    published: list[str] = []
    for day in range(6):
        parent = published[-1] if published else None
        published.append(publish(root, now=NOW + timedelta(days=day), parent=parent).version)
    registry.point(root, "ranker", published[0], "it served", NOW)
    registry.point(root, "ranker", published[3], "it serves", NOW)
    now = NOW + timedelta(days=5)
    gone = registry.retain(root, "ranker", keep=99, max_age=timedelta(hours=30), now=now)
    assert gone == [published[1]]  # 2 is the parent of 3, 0 served before; 4 is that of 5
    gone = registry.retain(root, "ranker", keep=1, max_age=timedelta(days=900), now=now)
    assert gone == []


def test_rejected_versions_do_not_push_out_the_one_that_serves(root: Root) -> None:
    good = publish(root).version
    rejected = [publish(root, rejected="worse").version for _ in range(3)]
    assert registry.retain(root, "ranker", keep=1, now=NOW) == rejected[:2]
    assert registry.latest(root, "ranker") == good


def test_retention_keeps_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        registry.retain(tmp_path, "ranker", keep=0, now=NOW)


def test_a_folder_vanishes_at_once(tmp_path: Path) -> None:
    shelf = DiskFolders(tmp_path)
    shelf.put("v", {"weights": b"", MARK: b""})
    shelf.remove("v")
    assert list(tmp_path.iterdir()) == []


def test_the_probe_file_is_safetensors_with_the_expected_scores(tmp_path: Path) -> None:
    version = publish(tmp_path).version
    arrays = safetensors.numpy.load_file(tmp_path / "ranker" / version / "probe.safetensors")
    np.testing.assert_array_equal(arrays.pop("expected"), a_model().expected)
    assert arrays.keys() == a_model().probe.keys()
