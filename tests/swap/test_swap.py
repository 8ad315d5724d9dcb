"""A model that changes while it serves, and everything that must not take over."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import psutil
import pytest
from onnx import helper

from streamrank import swap
from streamrank.edges import registry, registry_manifest, registry_publishing
from streamrank.edges.onnxruntime import AsShown
from streamrank.edges.registry import Manifest, VersionRefused
from streamrank.edges.registry_folders import MARK, folders
from streamrank.features.schema import Schema
from streamrank.steps_ranking import Scorer
from streamrank.swap import HotSwap
from tests.graphs import WEIGHTS, Model, a_list, a_model, by_hand, linear
from tests.services import until

NOW = datetime(2026, 11, 24, 22, 35, tzinfo=UTC)
SOON = timedelta(milliseconds=50)
T = TypeVar("T")


def publish(root: Path, factor: float = 1.0, **more: Any) -> Manifest:
    given: dict[str, Any] = {"schema": Schema(), "features": "f1", "now": NOW} | more
    return registry.publish(root, "ranker", a_model(np.float32(factor) * WEIGHTS), **given)


def loader(root: Path, features: str = "f1") -> Callable[..., registry.Verified]:
    return partial(registry.load_verified, root, "ranker", features=features, provider="cpu")


def serving(root: Path, version: str, **more: Any) -> HotSwap:
    load = loader(root)
    return HotSwap(load(version).scorer, load, retry=SOON, **more)


def scores(scorer: Scorer) -> Any:
    return scorer.score([a_list(3)])[0]


# --- from one version to the next -------------------------------------------------------------


def test_another_version_takes_over_between_two_batches(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path, 2.0)
    with serving(tmp_path, first.version) as model:
        np.testing.assert_allclose(scores(model), by_hand(a_list(3)), rtol=1e-5)
        assert model.version == first.version
        model.follow(second.version, "learned")
        until(lambda: model.serving == second.version, 20, "it takes over")
        assert model.version == first.version  # which scored the last batch
        np.testing.assert_allclose(scores(model), by_hand(a_list(3), 2 * WEIGHTS), rtol=1e-5)
        assert model.version == second.version
    assert (model.swaps, model.refused, model.returns) == (1, 0, 0)


def test_the_first_version_takes_over_from_the_incoming_order(tmp_path: Path) -> None:
    first = publish(tmp_path)
    with HotSwap(AsShown(), loader(tmp_path)) as model:
        assert (scores(model).tolist(), model.version) == ([[0.0], [-1.0], [-2.0]], "")
        model.follow(first.version, "the first one")
        until(lambda: model.serving == first.version, 20, "it takes over")


def test_back_to_the_version_before_is_at_once_and_needs_no_registry(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path, 2.0)
    with serving(tmp_path, first.version) as model:
        model.follow(second.version, "learned")
        until(lambda: model.serving == second.version, 20, "it takes over")
        for manifest in (first, second):
            folders(tmp_path, "ranker").remove(manifest.version)
        model.follow(first.version, "rolled back")
        assert model.serving == first.version
        np.testing.assert_allclose(scores(model), by_hand(a_list(3)), rtol=1e-5)
        model.follow(second.version, "and forth")
        assert model.serving == second.version
    assert (model.swaps, model.returns) == (3, 2)


def test_what_serves_is_not_built_again(tmp_path: Path) -> None:
    first = publish(tmp_path)
    with serving(tmp_path, first.version) as model:
        model.follow(first.version, "said again")
        assert (model.swaps, model.refused) == (0, 0)


def test_a_batch_is_scored_by_the_version_that_it_is_said_to_be_scored_by(tmp_path: Path) -> None:
    """Four threads score, as workers of one process do, while versions take turns."""
    factors = [1.0, 2.0, 3.0]
    published = {publish(tmp_path, factor).version: factor for factor in factors}
    wanted = by_hand(a_list(3)) - by_hand(a_list(3), 0 * WEIGHTS)
    past = by_hand(a_list(3), 0 * WEIGHTS)
    done = threading.Event()

    def score(model: HotSwap) -> set[str]:
        seen = set()
        while not done.is_set():
            found = scores(model)
            seen.add(model.version)
            np.testing.assert_allclose(found, past + published[model.version] * wanted, rtol=1e-4)
        return seen

    versions = list(published)
    with serving(tmp_path, versions[0]) as model, ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(score, model) for _ in range(4)]
        try:
            for turn in range(1, 13):
                version = versions[turn % 3]
                model.follow(version, f"turn {turn}")
                until(lambda version=version: model.serving == version, 20, "it takes over")  # type: ignore[misc]
        finally:
            done.set()
        for worker in workers:
            assert worker.result(20) == set(versions)
    assert model.swaps == 12


def test_of_versions_wanted_in_a_row_the_last_one_serves(tmp_path: Path) -> None:
    published = [publish(tmp_path, 1.0 + number).version for number in range(5)]
    gate = threading.Event()
    built: list[str] = []

    def load(version: str) -> registry.Verified:
        built.append(version)
        assert gate.wait(20)
        return loader(tmp_path)(version)

    with HotSwap(AsShown(), load) as model:
        model.follow(published[0], "first")
        until(lambda: built == [published[0]], 20, "it is being built")
        for version in published[1:]:
            model.follow(version, "next")
        gate.set()
        until(lambda: model.serving == published[-1], 20, "the last one takes over")
    assert built == [published[0], published[-1]]
    assert model.swaps == 1


def test_a_session_is_built_by_a_thread_that_stands_back(tmp_path: Path) -> None:
    first = publish(tmp_path)
    niceness: list[int] = []

    def niced(make: Callable[[], T], /) -> T:
        def noted() -> T:
            niceness.append(own_niceness())
            return make()

        return swap.standing_back(noted)

    load = partial(loader(tmp_path), build=niced)
    before = own_niceness()
    with HotSwap(AsShown(), load) as model:
        model.follow(first.version, "first")
        until(lambda: model.serving == first.version, 20, "it takes over")
    assert niceness == [min(19, before + swap.NICE) if sys.platform == "linux" else before]
    assert own_niceness() == before


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_what_fails_while_it_stands_back_fails_for_who_waits() -> None:
    def fail() -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        swap.standing_back(fail)


# --- what must not take over ------------------------------------------------------------------


def forge(root: Path, model: Model, **changes: object) -> str:
    """Write a version whose hashes all fit, without the checks of `publish`."""
    files = registry_publishing.files_of(model.but(weights={}))
    record = {
        "name": "ranker",
        "feature_schema": Schema().encode(),
        "features": "f1",
        "heads": model.heads,
        "files": registry_publishing.entries(files),
    }
    manifest = registry_manifest.seal(record | changes, NOW + timedelta(seconds=1))
    mark = manifest.model_dump_json().encode()
    folders(root, "ranker").put(manifest.version, {**files, MARK: mark})
    return manifest.version


def harmed(root: Path, harm: Callable[[Path], object]) -> str:
    version = publish(root, 2.0).version
    harm(root / "ranker" / version)
    return version


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(folder: Path) -> None:
    record = json.loads((folder / MARK).read_text())
    record["files"]["ranker.onnx"]["sha256"] = 64 * "0"
    (folder / MARK).write_text(json.dumps(record))


def slow() -> Model:
    """The same scores, by way of a product that takes milliseconds."""
    model = a_model()
    graph = onnx.load_from_string(model.onnx)
    side = 700
    big = np.full((side, side), 1.0 / side, np.float32)
    graph.graph.initializer.append(helper.make_tensor("big", 1, big.shape, big.ravel()))
    graph.graph.initializer.append(helper.make_tensor("row", 1, [side, side], big.ravel()))
    graph.graph.initializer.append(helper.make_tensor("none", 1, [], [0.0]))
    nodes = list(graph.graph.node)
    nodes[-1].input[0] = "slowed"
    # What depends on an input is not folded into a constant.
    work = [
        helper.make_node("ReduceSum", ["candidate_numbers"], ["total"], keepdims=0),
        helper.make_node("Add", ["big", "total"], ["moved"]),
        helper.make_node("MatMul", ["moved", "row"], ["product"]),
        helper.make_node("ReduceSum", ["product"], ["one"], keepdims=0),
        helper.make_node("Mul", ["one", "none"], ["zero"]),
        helper.make_node("Add", ["sum", "zero"], ["slowed"]),
    ]
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes[:-1], *work, nodes[-1]])
    return model.but(onnx=graph.SerializeToString())


NAN = np.full((3, 2), np.nan, np.float32)
WIDE = a_model().probe | {"candidate_numbers": np.zeros((2, 3, 9), np.float32)}
FAULTS: list[tuple[str, Callable[[Path], str], str]] = [
    ("corrupt graph", lambda r: harmed(r, lambda f: flip(f / "ranker.onnx")), "of sha256"),
    ("cut graph", lambda r: harmed(r, lambda f: os.truncate(f / "ranker.onnx", 99)), "99 of"),
    ("cut probe", lambda r: harmed(r, lambda f: os.truncate(f / "probe.safetensors", 9)), "9 of"),
    ("wrong hash", lambda r: harmed(r, edit), "must hash to its version"),
    ("no graph", lambda r: forge(r, a_model().but(onnx=b"junk")), "must be a graph that runs"),
    ("NaN weights", lambda r: forge(r, a_model().but(onnx=linear(NAN))), "scores must be finite"),
    ("input shape", lambda r: forge(r, a_model().but(probe=WIDE)), "must fit the graph"),
    ("other scores", lambda r: forge(r, a_model().but(onnx=linear(2 * WEIGHTS))), "a difference"),
    ("other features", lambda r: publish(r, features="f2").version, "features must be f1"),
    ("slower", lambda r: forge(r, slow()), r"at most 3 times as long .* \(rank.slower\)"),
    ("no version", lambda r: "../../etc", "version must be like"),
]


@pytest.mark.parametrize(
    ("make", "rule"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_what_fails_verification_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], str], rule: str
) -> None:
    first = publish(tmp_path)
    bad = make(tmp_path)
    with serving(tmp_path, first.version) as model:
        model.follow(bad, "announced")
        until(lambda: model.refused == 1, 30, "it is refused")
        np.testing.assert_allclose(scores(model), by_hand(a_list(3)), rtol=1e-5)
        assert (model.version, model.serving, model.swaps) == (first.version, first.version, 0)
        good = publish(tmp_path, 3.0)
        model.follow(good.version, "announced")
        until(lambda: model.serving == good.version, 20, "a good one takes over all the same")
    [record] = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert record.message.startswith(f"model {bad} is refused, {first.version} serves on: ")
    assert re.search(rule, record.message)


def test_a_version_that_cannot_be_read_now_is_tried_again(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path, 2.0)
    (tmp_path / "ranker" / second.version).rename(tmp_path / "away")
    with serving(tmp_path, first.version) as model:
        model.follow(second.version, "announced before it was there")
        until(lambda: model.refused == 1, 20, "it is missing")
        (tmp_path / "away").rename(tmp_path / "ranker" / second.version)
        until(lambda: model.serving == second.version, 20, "it takes over")
        assert model.refused == 1


def test_a_version_that_stays_away_does_not_keep_the_next_one_waiting(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path, 2.0)
    load = loader(tmp_path)
    with HotSwap(load(first.version).scorer, load, retry=timedelta(minutes=5)) as model:
        model.follow("20261124T223500000000Z-00000000", "never published")
        until(lambda: model.refused == 1, 20, "it is missing")
        model.follow(second.version, "learned")
        until(lambda: model.serving == second.version, 20, "the next one takes over")


# --- the start --------------------------------------------------------------------------------


def test_a_worker_that_starts_serves_what_all_others_do(tmp_path: Path) -> None:
    first = publish(tmp_path)
    publish(tmp_path, 2.0, parent=first.version)
    registry.rollback(tmp_path, "ranker", now=NOW)
    found = swap.first(registry.line(tmp_path, "ranker"), loader(tmp_path))
    assert found is not None
    assert found.manifest == first


def test_where_that_one_is_bad_its_nearest_good_ancestor_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = publish(tmp_path)
    second = publish(tmp_path, 2.0, parent=first.version)
    third = publish(tmp_path, 3.0, parent=second.version)
    for bad in (second, third):
        flip(tmp_path / "ranker" / bad.version / "ranker.onnx")
    found = swap.first(registry.line(tmp_path, "ranker"), loader(tmp_path))
    assert found is not None
    assert found.manifest == first
    assert [one.levelno for one in caplog.records] == [logging.ERROR, logging.ERROR]


def test_where_none_is_good_the_worker_does_not_start(tmp_path: Path) -> None:
    publish(tmp_path)
    with pytest.raises(VersionRefused, match="features must be f2"):
        swap.first(registry.line(tmp_path, "ranker"), loader(tmp_path, "f2"))
    assert swap.first([], loader(tmp_path)) is None


# --- memory and threads -----------------------------------------------------------------------


@pytest.mark.slow
def test_memory_is_flat_over_many_swaps(tmp_path: Path) -> None:
    """Graphs of 4 MB: of sixty, three sessions at most are there at any time."""
    wide = np.zeros((1_000_000, 1), np.float32)
    model = a_model()
    graph = onnx.load_from_string(model.onnx)
    graph.graph.initializer.append(helper.make_tensor("wide", 1, wide.shape, wide.ravel()))
    graph.graph.node.insert(0, helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0))
    graph.graph.node.insert(1, helper.make_node("Mul", ["most", "weights"], ["nothing"]))
    heavy = model.but(onnx=graph.SerializeToString())
    published = [forge_at(tmp_path, heavy, number) for number in range(3)]
    process, memory = psutil.Process(), list[float]()
    with HotSwap(AsShown(), loader(tmp_path)) as swapping:
        for turn in range(60):
            version = published[turn % 3]
            swapping.follow(version, "its turn")
            until(lambda version=version: swapping.serving == version, 30, "it takes over")  # type: ignore[misc]
            scores(swapping)
            memory.append(process.memory_info().rss)
    assert np.mean(memory[-10:]) < 1.03 * np.mean(memory[10:20])


def forge_at(root: Path, model: Model, number: int) -> str:
    more: dict[str, Any] = {"schema": Schema(), "features": "f1", "lists_seen": number}
    return registry.publish(root, "ranker", model, now=NOW, **more).version


def test_its_thread_ends_with_it(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with serving(tmp_path, publish(tmp_path).version):
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) <= before
