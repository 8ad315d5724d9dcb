"""A request without items, from a log to the list: what people go on to is found for others."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from streamrank import deployment, replay, settings, study, versions_retrieval
from streamrank.edges import registry, registry_retrieval
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown
from streamrank.features.trails import Trails
from streamrank.model.artifact import Exported
from streamrank.settings import Settings
from streamrank.steps import Read
from streamrank.steps_ranking import Scorer
from streamrank.swap import HotSwap
from tests.services import until
from tests.test_cli import in_process, lines_of

pytestmark = pytest.mark.slow  # it trains a version
NOW = 1_700_000_000_000
TIME = datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(days=1)
ITEMS, STRIDE, PEOPLE = 30, 7, 150
KNOWN = settings.changed(
    Settings(),
    {
        "events": {"interactions": ["view", "click"], "label": "click"},
        "model": {"epochs": 1},
        "rank": {"provider": "cpu"},
        "windows": {"popular": 20},
        "retrieval": {"enabled": True, "found": 5, "width": 32, "epochs": 60},
    },
)


def item(number: int) -> str:
    return f"i{number % ITEMS}"


def deed(who: str, number: int, what: str, at: int, **more: Any) -> dict[str, Any]:
    return {
        "event": "interaction",
        "id": f"{who}-{number}",
        "timestamp": NOW + at,
        "user": who,
        "type": "view",
        "item": what,
    } | more


def planted() -> list[dict[str, Any]]:
    """Whoever touches an item goes on to the one seven places on; sometimes a list is clicked."""
    random = np.random.default_rng(0)
    events = []
    for person in range(PEOPLE):
        start, at, who = int(random.integers(ITEMS)), person * 60_000, f"u{person}"
        steps = [item(start + STRIDE * step) for step in range(int(random.integers(3, 8)))]
        events += [deed(who, n, one, at + 1000 * n) for n, one in enumerate(steps)]
        if person % 3 == 0:
            shown = [{"id": one} for one in dict.fromkeys([steps[-1], "i0", "i1", "i2"])]
            about = {"timestamp": NOW + at + 10_000, "user": who}
            events.append({"event": "ranking", "id": f"r{person}", "items": shown} | about)
            click = {"type": "click", "ranking": f"r{person}"}
            events.append(deed(who, 99, steps[-1], at + 11_000, **click))
    return events


def records(events: Sequence[dict[str, Any]]) -> list[Incoming]:
    return [Incoming(replay.TOPIC, 0, n, json.dumps(one).encode()) for n, one in enumerate(events)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A registry with a version by `streamrank train`, and what the command said."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "log.jsonl").write_text(lines_of(planted()))
    (folder / "streamrank.toml").write_text(settings.to_toml(at(folder / "registry")))
    done = in_process("train", "--events", "log.jsonl", folder=folder)
    assert done.exit_code == 0, done.stderr
    return folder / "registry", " ".join(done.stderr.split())


@pytest.fixture
def root(trained: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of that registry."""
    return Path(shutil.copytree(trained[0], tmp_path / "registry"))


@pytest.fixture(scope="module")
def relearned(trained: tuple[Path, str]) -> Exported:
    """What a learner that goes on from that version publishes."""
    known = at(trained[0])
    return study.begin(known, version_in(trained[0])).learner.exported()


def publish(root: Path, exported: Exported, **more: Any) -> str:
    """Publish a version and let it serve."""
    plan, now = deployment.plan_of(KNOWN), datetime.now(UTC)
    given: dict[str, Any] = {"schema": plan.schema, "features": plan.features, "now": now} | more
    version = registry.publish(root, "ranker", exported, **given).version
    registry.point(root, "ranker", version, "announced", now)
    return version


def at(root: Path, **retrieval: Any) -> Settings:
    changes = {"registry": {"path": str(root)}, "retrieval": retrieval}
    return settings.changed(KNOWN, changes)


def candidates(scorer: Scorer, touched: Sequence[str], known: Settings = KNOWN) -> list[str]:
    """Return the candidates of a request without items by somebody who touched these."""
    lane = replay.lane_of(known, scorer, TIME)
    asked = {"event": "request", "id": "q", "timestamp": NOW + 5000, "user": "v", "items": []}
    deeds = [deed("v", n, one, 1000 * n) for n, one in enumerate(touched)]
    others = [deed("w", n, "popular", 10 * n) for n in range(3)]
    found: list[str] = []
    for record in records([*others, *deeds, asked]):
        read = lane.read(record)
        assert isinstance(read, Read)
        for scored in lane.take(read):
            found = [one.id for one in scored.query.candidates]
    return found


def version_in(root: Path) -> str:
    version = registry.current(root, "ranker")
    assert version is not None
    return version


def test_what_others_go_on_to_is_found_first_then_the_touched_and_the_popular(root: Path) -> None:
    scorer = deployment.scorer_of(at(root))
    assert scorer.version == version_in(root)
    for start in (3, 11, 26):
        ids = candidates(scorer, [item(start - STRIDE), item(start)])
        assert item(start + STRIDE) in ids[:3]
        assert ids[5:7] == [item(start), item(start - STRIDE)]
        assert ids[7] == "popular"
        assert len(ids) == len(set(ids)) <= KNOWN.windows.popular


def test_what_came_after_the_training_is_passed_over_in_the_history(root: Path) -> None:
    scorer = deployment.scorer_of(at(root))
    assert "i10" in candidates(scorer, ["i3", "brand new"])[:3]
    assert candidates(scorer, ["brand new"]) == ["brand new", "popular"]


def test_where_it_is_not_asked_for_a_request_gets_what_it_got_before(root: Path) -> None:
    known = at(root, enabled=False)
    scorer = deployment.scorer_of(known)
    assert scorer.version == version_in(root)
    assert candidates(scorer, ["i3"], known) == ["i3", "popular"]


def test_a_version_without_it_serves_as_before(root: Path, relearned: Exported) -> None:
    version = publish(root, relearned)
    scorer = deployment.scorer_of(at(root))
    assert scorer.version == version
    assert candidates(scorer, ["i3"]) == ["i3", "popular"]


def test_the_command_and_the_manifest_say_how_well_it_finds(trained: tuple[Path, str]) -> None:
    root, said = trained
    assert f"retrieval: {ITEMS} items, by {PEOPLE} people: ndcg@10 " in said
    metrics = registry.manifest(root, "ranker", version_in(root)).metrics["retrieval"]
    assert isinstance(metrics, dict)
    assert (metrics["items"], metrics["sequences"]) == (ITEMS, PEOPLE)
    assert float(str(metrics["hr@10"])) > 0.9  # the rule has no exception


def test_a_version_that_the_learner_made_finds_as_the_one_that_it_went_on_from(
    root: Path, relearned: Exported
) -> None:
    known, first, now = at(root), version_in(root), datetime.now(UTC)
    publisher = study.outside_of(known, None, lambda: None).publisher
    child = publisher.publish(relearned, parent=first, now=now).version
    load = deployment.loader_of(known)
    with HotSwap(deployment.scorer_of(known, load), load, slower=1000.0) as model:
        before = candidates(model, ["i3"])
        publisher.announce(child, "gate: it is better", now, expected=first)
        model.follow(version_in(root), "announced")
        until(lambda: model.serving == child, 60, "the child takes over")
        assert candidates(model, ["i3"]) == before
        assert "i10" in before[:3]


def test_a_changed_catalogue_is_refused_and_the_version_before_serves_and_finds(
    root: Path, relearned: Exported, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that starts takes the parent of a version that it refuses."""
    known, first = at(root), version_in(root)
    bad = publish(root, relearned, parent=first)
    graph = root / "ranker" / bad / registry_retrieval.ONNX
    content = graph.read_bytes()
    graph.unlink()  # it is the parent's as well, by another name
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    scorer = deployment.scorer_of(known)
    assert scorer.version == first
    assert "i10" in candidates(scorer, ["i3"])[:3]
    assert f"version {bad}: retrieval.onnx: must be {len(content)} bytes of sha256" in caplog.text


# --- without training -------------------------------------------------------------------------


def test_a_replay_learns_from_what_people_did_before_the_first_measured_list() -> None:
    log, known = records(planted()), at(Path("unused"))
    lane, learned_from = replay.lane_of(known, AsShown(), TIME), list[int]()

    def train(examples: object) -> Scorer:
        assert lane.trails is not None
        histories = lane.trails.histories(lane.trails.catalogue(1000))
        learned_from.append(sum(len(one["items"]) for one in histories))
        return AsShown()

    found = replay.survey(log, known, TIME)
    replay.Replay(known, found, 0.5, lane, train=train).run(log)
    border = found.labelled[len(found.labelled) // 2]
    events = planted()
    end = next(n for n, one in enumerate(events) if one["id"] == border)
    before = [one for one in events[:end] if one["event"] == "interaction"]
    clicks = sum(one["type"] == "click" for one in before)  # on the item that was touched before
    assert learned_from == [len(before) - clicks]


def test_late_deeds_and_the_same_one_twice_leave_no_trail() -> None:
    known = at(Path("unused"))
    lane = replay.lane_of(known, AsShown(), TIME)
    late = deed("u", 2, "c", -86_400_000)
    for record in records([deed("u", 1, "a", 0), deed("u", 1, "b", 5), late]):
        read = lane.read(record)
        assert isinstance(read, Read)
        lane.take(read)
    assert lane.trails is not None
    assert lane.trails.catalogue(10) == ("a",)
    assert replay.lane_of(at(Path("unused"), enabled=False), AsShown(), TIME).trails is None


def test_who_touched_too_little_teaches_nothing_and_the_ranker_is_made_without() -> None:
    said, trails = io.StringIO(), Trails()
    for number, touched in enumerate("aab"):
        trails.take("u", number, touched, 1)
        trails.take("v", number, "c", 1)
    made = versions_retrieval.train(trails, KNOWN, Console(file=said, width=200))
    assert made is None
    assert "must have touched three items, one after the other, got nobody of 2" in said.getvalue()
