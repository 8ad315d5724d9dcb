"""What the flows say of themselves, and who may ask."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamrank import logs, metrics, metrics_watched
from streamrank.edges.scrape import PortTaken, Scrape
from streamrank.metrics import Reading


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_a_timed_step_does_what_it_did_and_counts_its_batches() -> None:
    def triple(batch: list[int]) -> Iterator[int]:
        return (3 * one for one in batch)

    step = metrics.timed("tripling", triple)
    assert step([1, 2]) == [3, 6]
    assert step([5]) == [15]
    assert value("streamrank_batch_size_sum", step="tripling") == 3.0  # 2 and 1
    assert value("streamrank_step_seconds_count", step="tripling") == 2.0


def test_reasons_are_counted_by_field_and_are_bounded_whatever_comes() -> None:
    before = value("streamrank_dead_letters_total", reason="request.items") or 0.0
    metrics.dead_letter("request.items: must hold at most 10 candidates, got 11")
    assert value("streamrank_dead_letters_total", reason="request.items") == before + 1.0
    for number in range(2 * metrics.REASONS):
        metrics.dead_letter(f"event.{number}: is not known")
    assert len(next(iter(metrics.LETTERS.collect())).samples) <= 2 * (metrics.REASONS + 1)
    assert (value("streamrank_dead_letters_total", reason="other") or 0) >= metrics.REASONS


def test_a_source_that_cannot_answer_does_not_fail_the_scrape() -> None:
    def broken() -> Iterator[Reading]:
        raise ConnectionError("the broker is away")

    metrics.watch("broken", broken)
    metrics.watch("sound", lambda: [Reading("streamrank_sound", 7, {"of": "it"}, False, "Sound.")])
    assert b'streamrank_sound{of="it"} 7.0' in metrics.exposition()


class Scorer:
    swaps, returns, refused, serving = 3, 1, 2, "v7"


class Store:
    hits, misses = 9, 1

    def __len__(self) -> int:
        return 10


def test_what_others_count_is_read_when_somebody_scrapes() -> None:
    metrics.watch("model", lambda: metrics_watched.model(Scorer()))
    metrics.watch("cache", lambda: metrics_watched.cache(Store()))
    metrics.watch("lag", lambda: metrics_watched.lag(lambda: {("events", 3): 12}))
    assert value("streamrank_model", version="v7") == 1.0
    assert value("streamrank_swaps_total", outcome="refused") == 2.0
    assert value("streamrank_cache_reads_total", outcome="hit") == 9.0
    assert value("streamrank_lag_records", topic="events", partition="3") == 12.0


def asked(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def test_one_port_answers_metrics_health_and_readiness() -> None:
    ready = [False]
    with Scrape("127.0.0.1", 0, metrics.exposition, lambda: ready[0]) as server:
        status, text = asked(server.port, "/metrics")
        assert status == 200
        assert list(text_string_to_metric_families(text.decode()))
        assert asked(server.port, "/healthz") == (200, b"alive\n")
        assert asked(server.port, "/readyz")[0] == 503
        ready[0] = True
        assert asked(server.port, "/readyz")[0] == 200
        assert asked(server.port, "/etc/passwd")[0] == 404


def test_a_port_that_is_taken_is_named() -> None:
    with (
        Scrape("127.0.0.1", 0, metrics.exposition, lambda: True) as server,
        pytest.raises(
            PortTaken, match=f"metrics.port must be free on 127.0.0.1, got {server.port}"
        ),
    ):
        Scrape("127.0.0.1", server.port, metrics.exposition, lambda: True)


def test_a_log_line_is_one_json_object_whatever_it_says() -> None:
    record = logging.LogRecord("streamrank.x", 30, "", 0, 'a "b"\nc %s', ("é",), None)
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == (
        "WARNING",
        "streamrank.x",
        'a "b"\nc é',
    )
