"""What infra/ says, held against the program: variables, metrics, ports, topics, commands."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamrank import asyncapi, metrics, metrics_watched, settings
from streamrank.edges.scrape import Scrape
from streamrank.edges.topics import wanted
from streamrank.events import decode, decode_ranking, decode_set_aside
from streamrank.process import FlowName
from streamrank.settings import Secrets, Settings
from tests.services import free_port

INFRA = Path(__file__).parents[1] / "infra"
FLOWS: tuple[FlowName, ...] = ("features", "rank", "learn")
OTHERS = {"kafka", "redis", "topics", "prometheus", "grafana"}


def documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def kubernetes() -> list[Any]:
    return [
        one for path in sorted((INFRA / "kubernetes").glob("*.yaml")) for one in documents(path)
    ]


def compose() -> Any:
    return documents(INFRA / "compose.yaml")[0]


def environments() -> Iterator[dict[str, str]]:
    for name in FLOWS:
        yield compose()["services"][name]["environment"]
    yield next(one["data"] for one in kubernetes() if one["metadata"]["name"] == "streamrank")


def test_every_variable_is_a_setting_and_holds_what_it_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for environment in environments():
        for name, text in environment.items():
            if name != settings.SETTINGS_VARIABLE:
                assert "__" in name
                monkeypatch.setenv(name, text)
        known = settings.load()
        assert known.metrics.port == 9464
        assert known.store.online == "redis"


def test_no_secret_stands_in_a_file() -> None:
    secrets = {f"STREAMRANK_{name.upper()}" for name in Secrets.model_fields}
    for environment in environments():
        assert not secrets & environment.keys()
    [secret] = [one for one in kubernetes() if one["kind"] == "Secret"]
    assert not secret["stringData"]


def exported() -> set[str]:
    class Counted:
        swaps = returns = refused = hits = misses = 0
        serving = ""

        def __len__(self) -> int:
            return 0

    figures = {"join": {"x": 0}, "learner": {"x": 0}, "parity": {"lists": 0, "mismatched": 0}}
    readings = [
        *metrics_watched.model(Counted()),
        *metrics_watched.cache(Counted()),
        *metrics_watched.learning(figures),
        *metrics_watched.lag(lambda: {("events", 0): 0}),
    ]
    found = {f"{one.name}_total" if one.total else one.name for one in readings}
    for family in metrics.REGISTRY.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        found |= {family.name + end for end in endings.get(family.type, [""])}
    return found


@pytest.mark.parametrize("file", ["prometheus/alerts.yml", "grafana/dashboards/streamrank.json"])
def test_every_metric_that_is_named_exists(file: str) -> None:
    named = set(re.findall(r"\bstreamrank_[a-z_]+", (INFRA / file).read_text()))
    assert named
    assert named <= exported()


def test_every_panel_asks_something() -> None:
    board = json.loads((INFRA / "grafana/dashboards/streamrank.json").read_text())
    assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_asks_the_flows_at_their_port() -> None:
    config = documents(INFRA / "prometheus/prometheus.yml")[0]
    targets = [one["targets"][0] for one in config["scrape_configs"][0]["static_configs"]]
    assert targets == [f"{name}:9464" for name in FLOWS]


def test_compose_runs_the_three_flows_and_binds_to_loopback() -> None:
    services = compose()["services"]
    assert services.keys() == OTHERS | set(FLOWS)
    assert [services[name]["command"] for name in FLOWS] == [["run", name] for name in FLOWS]
    ports = [port for one in services.values() for port in one.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for volume in (v for one in services.values() for v in one.get("volumes", [])):
        place = volume.split(":")[0]
        if place.startswith("./"):
            assert (INFRA / place).exists(), place


@pytest.mark.parametrize("name", FLOWS)
def test_each_flow_has_a_set_with_probes_requests_and_a_budget(name: str) -> None:
    mine = {one["kind"]: one for one in documents(INFRA / f"kubernetes/{name}.yaml")}
    assert mine.keys() == {"Service", "StatefulSet", "PodDisruptionBudget"}
    pod = mine["StatefulSet"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["run", name]
    paths = {
        kind: container[kind]["httpGet"]["path"] for kind in ("livenessProbe", "readinessProbe")
    }
    assert paths == {"livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert container["ports"][0]["containerPort"] == 9464
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    selector = mine["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    labels = mine["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()


def test_the_image_is_not_run_by_root_and_has_two_variants() -> None:
    text = (INFRA / "Dockerfile").read_text()
    assert text.count("\nFROM ") == 2 or text.count("FROM ") == 2
    assert "USER 10001" in text.rpartition("FROM ")[2]
    assert "ARG DEVICE=cpu" in text
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((INFRA.parent / part).exists() for part in copied.split())


def test_the_description_of_the_topics_is_the_one_that_the_messages_make() -> None:
    assert (INFRA / "asyncapi.yaml").read_text() == asyncapi.text()


def test_every_topic_is_described_and_every_example_can_be_read() -> None:
    described = documents(INFRA / "asyncapi.yaml")[0]["channels"]
    assert described.keys() == {spec.name for spec in wanted(Settings())}
    readers: dict[str, Any] = {
        "events": decode,
        "requests": decode,
        "rankings": decode_ranking,
        "dead-letters": decode_set_aside,
    }
    for topic, reader in readers.items():
        for name, message in described[topic]["messages"].items():
            payload = json.dumps(message["examples"][0]["payload"]).encode()
            assert type(reader(payload)).__name__ == name


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        missing = f"{program} is not installed: `apt-get install prometheus`"
        if os.environ.get("STREAMRANK_REQUIRE_SERVICES") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@pytest.mark.parametrize(("what", "file"), [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_promtool_takes_the_files(what: str, file: str) -> None:
    command = [need("promtool"), "check", what, str(INFRA / "prometheus" / file)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


@pytest.mark.integration
def test_a_real_prometheus_reads_the_metrics(tmp_path: Path) -> None:
    program, port = need("prometheus"), free_port()
    metrics.timed("scraped", list)([1, 2, 3])
    with Scrape("127.0.0.1", 0, metrics.exposition, lambda: True) as server:
        target = {"targets": [f"127.0.0.1:{server.port}"]}
        job = {"job_name": "streamrank", "scrape_interval": "1s", "static_configs": [target]}
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": [job]}))
        options = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        address = f"127.0.0.1:{port}"
        running = subprocess.Popen(
            [program, *options, f"--web.listen-address={address}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            query = "streamrank_batch_size_sum{step='scraped'}"
            [found] = answered(f"http://{address}/api/v1/query?query={query}")
        finally:
            running.terminate()
            running.wait(10)
    assert found["value"][1] == "3"


def answered(url: str) -> list[Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
                found: list[Any] = json.load(answer)["data"]["result"]
        except OSError:
            found = []
            time.sleep(0.05)
        if found:
            return found
    raise TimeoutError(f"nothing at {url} within 20 s")
