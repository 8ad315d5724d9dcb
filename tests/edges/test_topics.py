"""The topics: as wanted, as declared for platform teams, as made and compared."""

from __future__ import annotations

from uuid import uuid4

import pytest
import yaml
from confluent_kafka.admin import AdminClient, NewPartitions

from streamrank.edges import topics as edge
from streamrank.edges.broker import EmbeddedBroker
from streamrank.edges.kafka import BrokerUnreachable, TopicsRefused
from streamrank.settings import KafkaSection, Secrets, Settings
from tests.services import ROOT, Topics, free_port, until

NAMES = ["events", "requests", "rankings", "served", "examples", "dead-letters", "models"]


def settings(bootstrap: str, **changes: int) -> Settings:
    prefix = f"{uuid4().hex[:8]}."
    section = KafkaSection.model_validate(
        {"bootstrap_servers": bootstrap, "prefix": prefix, **changes}
    )
    return Settings(kafka=section)


def test_the_declaration_for_platform_teams_is_what_the_default_settings_want() -> None:
    declared = yaml.safe_load((ROOT / "infra" / "topics.yaml").read_text())["topics"]
    assert declared == [
        {
            "name": spec.name,
            "partitions": spec.partitions,
            "replication": spec.replication,
            "config": {
                key: int(value) if value.isdigit() else value for key, value in spec.config.items()
            },
        }
        for spec in edge.wanted(Settings())
    ]


def test_names_partitions_and_copies_follow_the_settings() -> None:
    section = KafkaSection(prefix="shop.", partitions=12, replication=3)
    found = {spec.name: spec for spec in edge.wanted(Settings(kafka=section))}
    assert list(found) == [f"shop.{name}" for name in NAMES]
    assert {spec.replication for spec in found.values()} == {3}
    assert found["shop.events"].partitions == 12
    assert found["shop.models"].partitions == 1  # one partition keeps announcements in order


def test_what_the_model_saw_is_kept_short_and_dead_letters_long() -> None:
    kept = {
        spec.name: int(spec.config["retention.ms"])
        for spec in edge.wanted(Settings())
        if "retention.ms" in spec.config
    }
    assert min(kept, key=lambda name: kept[name]) == "served"
    assert max(kept, key=lambda name: kept[name]) == "dead-letters"


@pytest.mark.integration
def test_topics_are_created_once_and_then_pass_the_check(kafka_bootstrap: str) -> None:
    known = settings(kafka_bootstrap)
    names = [known.topic(name) for name in NAMES]
    assert edge.check(known, Secrets()) == [f"{name} is missing" for name in names]
    assert sorted(edge.create(known, Secrets())) == sorted(names)
    assert edge.check(known, Secrets()) == []
    assert edge.create(known, Secrets()) == []


@pytest.mark.integration
def test_what_is_missing_is_added_and_what_exists_stays_as_it_is(
    kafka_bootstrap: str, topics: Topics
) -> None:
    known = settings(kafka_bootstrap)
    edge.create(known, Secrets())
    topics.write(known.topic("events"), [b"kept"])
    client = AdminClient({"bootstrap.servers": kafka_bootstrap})
    client.delete_topics([known.topic("served")])[known.topic("served")].result(20)
    until(lambda: bool(edge.check(known, Secrets())), 20, "the deletion reaches the broker")
    assert edge.create(known, Secrets()) == [known.topic("served")]
    assert topics.values(known.topic("events")) == [b"kept"]


@pytest.mark.integration
def test_the_check_names_every_difference(kafka_bootstrap: str, topics: Topics) -> None:
    known = settings(kafka_bootstrap)
    edge.create(known, Secrets())
    client = AdminClient({"bootstrap.servers": kafka_bootstrap})
    events, served, models = (known.topic(name) for name in ("events", "served", "models"))
    client.create_partitions([NewPartitions(events, 6)])[events].result(20)
    topics.configure(served, "retention.ms", "1000")
    topics.configure(models, "cleanup.policy", "delete")
    until(lambda: len(edge.check(known, Secrets())) == 3, 20, "the changes reach the broker")
    assert edge.check(known, Secrets()) == [
        f"{events} has 6 partitions, wanted 4",
        f"{served} has retention.ms 1000, wanted 21600000",
        f"{models} has cleanup.policy delete, wanted compact",
    ]
    assert edge.ready(known, Secrets()) == [f"{events} has 6 partitions, wanted 4"]


@pytest.mark.integration
def test_more_copies_than_brokers_are_refused_with_the_reason(kafka_bootstrap: str) -> None:
    with pytest.raises(TopicsRefused, match=r"events: .*[Rr]eplication factor"):
        edge.create(settings(kafka_bootstrap, replication=3), Secrets())


def test_reach_names_the_brokers_or_the_address_where_none_is() -> None:
    with EmbeddedBroker() as broker:
        found = edge.reach(settings(broker.bootstrap), Secrets())
        assert found == f"1 broker(s): {broker.bootstrap}"
    nowhere = f"127.0.0.1:{free_port()}"
    with pytest.raises(BrokerUnreachable, match=f"no Kafka broker answers at {nowhere}"):
        edge.reach(settings(nowhere), Secrets())
