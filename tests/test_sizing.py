import json
import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamrank import settings, sizing
from streamrank.edges.cache import CachedStore
from streamrank.edges.store import MemoryStore, Row, View
from streamrank.errors import StreamRankError
from streamrank.features import windows
from streamrank.settings import Settings
from streamrank.sizing import MB, Load, Pace

ROOT = Path(__file__).parents[1]
USUAL = Load(users=100_000, items=50_000, events=300, requests=50, reranks=100)
KNOWN = Settings()
DAY = timedelta(days=1)

loads = st.builds(
    Load,
    users=st.integers(0, 10**7),
    items=st.integers(0, 10**6),
    events=st.floats(0, 1e5),
    requests=st.floats(0, 1e4),
    reranks=st.floats(0, 1e4),
    candidates=st.integers(1, 1000),
)


def test_the_cores_of_a_load_are_those_worked_out_by_hand() -> None:
    """150 lists at 400 a core, 300 deeds at a tenth of a list; 100,000 users: 1 + 2 * .35."""
    found = sizing.size(USUAL, KNOWN, Pace(rankings=400, events=10_000))
    assert found["rank"]["cores"] == pytest.approx(150 / 400 + 300 / 4000)
    assert found["features"]["cores"] == pytest.approx(1.7 * (300 + 50 + 250) / 10_000)
    assert found["learn"]["cores"] == pytest.approx(150 * 5 / 400)
    assert found["partitions"] == 4


@given(loads, st.sampled_from(["users", "items", "events", "requests", "reranks", "candidates"]))
def test_more_of_anything_never_needs_less(load: Load, what: str) -> None:
    more = replace(load, **{what: 2 * getattr(load, what)})
    less, found = sizing.size(load, KNOWN), sizing.size(more, KNOWN)
    for flow in ("rank", "features", "learn"):
        assert found[flow]["cores"] >= less[flow]["cores"]
        whole = [one[flow]["memory"] * one[flow]["processes"] for one in (less, found)]
        assert whole[1] >= whole[0]
    assert found["partitions"] >= less["partitions"]


@given(loads)
def test_no_process_is_planned_with_a_whole_core(load: Load) -> None:
    found = sizing.size(load, KNOWN)
    for flow in ("rank", "features"):
        need = found[flow]
        assert need["cores"] / need["processes"] <= sizing.BUSY + 1e-9
        assert found["partitions"] >= need["processes"]
    assert math.isfinite(found["learn"]["cores"])


def test_what_bench_measured_counts(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    report.write_text(
        json.dumps({"rankings_per_second": 800.0, "candidates": 100, "history": 50, "model": "m"})
    )
    slow = sizing.size(USUAL, KNOWN, Pace(rankings=400))
    quick = sizing.size(USUAL, KNOWN, sizing.pace_of(report))
    assert quick["rank"]["cores"] == pytest.approx(slow["rank"]["cores"] / 2)


def test_a_learner_of_half_the_users_has_half_to_do() -> None:
    half = settings.changed(KNOWN, {"learn": {"share": 0.5}})
    found, whole = sizing.size(USUAL, half), sizing.size(USUAL, KNOWN)
    assert found["learn"]["cores"] == pytest.approx(whole["learn"]["cores"] / 2)
    assert found["rank"] == whole["rank"]


def test_a_pace_of_short_lists_says_the_same_of_long_ones() -> None:
    short = 400 / sizing.list_cost(10, 50)
    of_short = sizing.size(USUAL, KNOWN, Pace(rankings=short, candidates=10))
    assert of_short["rank"] == sizing.size(USUAL, KNOWN, Pace(rankings=400))["rank"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError 'rankings_per_second'"),
        ('{"rankings_per_second": 0, "candidates": 1, "history": 1}', "must be positive, got 0"),
    ],
)
def test_what_is_no_report_of_bench_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(StreamRankError, match=why):
        sizing.pace_of(path)
    with pytest.raises(StreamRankError, match="FileNotFoundError"):
        sizing.pace_of(tmp_path / "none.json")


@pytest.mark.parametrize("flow", ["rank", "features", "learn"])
def test_the_manifests_ask_for_what_the_usual_load_needs(flow: str) -> None:
    documents = yaml.safe_load_all((ROOT / f"infra/kubernetes/{flow}.yaml").read_text())
    [every] = [one for one in documents if one["kind"] == "StatefulSet"]
    [container] = every["spec"]["template"]["spec"]["containers"]
    asked = container["resources"]["requests"]
    need = sizing.size(USUAL, KNOWN)[flow]
    assert every["spec"]["replicas"] >= need["processes"]
    assert float(asked["cpu"]) >= min(1.0, need["cores"])
    assert int(asked["memory"].removesuffix("Gi")) * 1024 * MB >= need["memory"]


class Everything(MemoryStore):
    """A store that knows a window and a price of whatever it is asked for."""

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        schema = KNOWN.feature_schema()
        width = windows.width(len(schema.horizons), len(schema.channels))
        if view == "item_windows":
            return [Row(view, key, 1, 0, np.full(width, 1.5)) for key in keys]
        return [Row(view, key, 1, 0, {"price": 1.0}) for key in keys]


def test_an_item_in_the_cache_takes_half_of_what_is_reckoned_where_it_has_a_single_number() -> None:
    schema = settings.changed(KNOWN, {"fields": {"item": {"price": "number"}}}).feature_schema()
    items, cache = 16_000, CachedStore(Everything(schema, DAY), max_rows=100_000, max_age=DAY)
    tracemalloc.start()
    for start in range(0, items, 1_000):
        cache.items(schema, [f"i{n}" for n in range(start, start + 1_000)], 1)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    few, many = (
        sizing.size(replace(USUAL, items=count), KNOWN)["rank"]["memory"] for count in (1, items)
    )
    assert 0.3 < taken / (many - few) < 0.7
