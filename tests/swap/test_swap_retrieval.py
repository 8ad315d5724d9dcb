"""What finds candidates changes with the version that serves, and never without it."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrank.edges import registry, registry_retrieval
from streamrank.edges.onnxruntime import AsShown
from streamrank.edges.registry import Manifest, Retrievals
from streamrank.features.schema import Schema
from streamrank.features.trails import Trail
from streamrank.swap import HotSwap, standing_back
from tests.graphs import AFTER, WEIGHTS, a_finding, a_model
from tests.services import until

NOW = datetime(2026, 11, 24, 22, 35, tzinfo=UTC)
ASKED = [Trail(("a", "b"), (1, 1)), Trail((), ())]


def publish(root: Path, factor: float = 1.0, **more: Any) -> Manifest:
    given: dict[str, Any] = {"schema": Schema(), "features": "f1", "now": NOW} | more
    return registry.publish(root, "ranker", a_model(np.float32(factor) * WEIGHTS), **given)


def serving(root: Path, version: str) -> HotSwap:
    load = partial(
        registry.load_verified,
        root,
        "ranker",
        features="f1",
        provider="cpu",
        build=standing_back,
        retrievals=Retrievals(),
    )
    return HotSwap(load(version).scorer, load)


def follow(model: HotSwap, version: str) -> None:
    model.follow(version, "announced")
    until(lambda: model.serving == version, 20, "it takes over")


def test_it_changes_with_the_version_and_back_with_it(tmp_path: Path) -> None:
    first = publish(tmp_path, finds=a_finding()).version
    second = publish(tmp_path, 2.0, finds=a_finding(AFTER[:, ::-1])).version
    third = publish(tmp_path, 3.0).version
    with serving(tmp_path, first) as model:
        found = {first: [["c", "d"], []], second: [["b", "a"], []], third: [[], []]}
        assert model.find(ASKED, 2) == found[first]
        for version in (second, first, third, second):
            follow(model, version)
            assert model.find(ASKED, 2) == found[version]


def test_who_learned_on_finds_on_and_opens_nothing_anew(tmp_path: Path) -> None:
    """The catalogue's file is gone from the child's folder: what serves already is the same."""
    first = publish(tmp_path, finds=a_finding()).version
    child = publish(tmp_path, 2.0, parent=first).version
    with serving(tmp_path, first) as model:
        (tmp_path / "ranker" / child / registry_retrieval.ONNX).unlink()
        follow(model, child)
        assert model.find(ASKED, 2) == [["c", "d"], []]


def test_a_catalogue_that_was_changed_is_refused_and_the_old_version_serves_and_finds_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = publish(tmp_path, finds=a_finding()).version
    bad = publish(tmp_path, 2.0, finds=a_finding(AFTER[:, ::-1])).version
    os.truncate(tmp_path / "ranker" / bad / registry_retrieval.ONNX, 99)
    with serving(tmp_path, first) as model:
        model.follow(bad, "announced")
        until(lambda: model.refused == 1, 20, "it is refused")
        assert (model.serving, model.swaps) == (first, 0)
        assert model.find(ASKED, 2) == [["c", "d"], []]
    [record] = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert f"model {bad} is refused, {first} serves on" in record.message
    assert "retrieval.onnx: must be" in record.message
    assert "99 of" in record.message


def test_without_a_version_nothing_is_found(tmp_path: Path) -> None:
    model = HotSwap(AsShown(), partial(registry.load_verified, tmp_path, "ranker", features="f1"))
    assert model.find(ASKED, 2) == [[], []]
