"""A broker that demands TLS and a password: who is let in, what is said, and what never is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamrank import settings
from streamrank.edges import kafka, kafka_letters, topics
from streamrank.edges.kafka_letters import Marked, Sender
from streamrank.settings import Secrets, Settings
from tests.services import ROOT, Kafka, Missing, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
USERS_WORD = "correct-horse-battery"
KEYS_WORD = "staple-of-the-key"
BROKERS_WORD = "of-the-broker-itself"
WRONG = {"STREAMRANK_SASL_PASSWORD": "wrong-word-of-a-stranger"}
LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PROPERTIES = f"""
listeners=SASL_SSL://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=SASL_SSL://127.0.0.1:{{port}}
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_SSL
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={LOGIN} username="broker" \\
 password="{BROKERS_WORD}";
listener.name.sasl_ssl.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={{folder}}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={{folder}}/ca.crt
"""


def openssl(folder: Path, *arguments: str) -> None:
    command = ["openssl", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    """Make a certificate authority of one's own."""
    names = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}"]
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names)


def certified(folder: Path, name: str) -> None:
    """Make a key, and a certificate of `ca` for it that holds on loopback."""
    (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    names = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"]
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", *names)
    by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext"]
    signed = ["-in", f"{name}.csr", "-out", f"{name}.crt", "-days", "2"]
    openssl(folder, "x509", "-req", *signed, *by)


@dataclass
class Guarded:
    """A broker that demands TLS, a client's certificate and SCRAM, and settings that fit it."""

    kafka: Kafka
    folder: Path
    known: Settings

    def environment(self, **changes: str) -> dict[str, str]:
        given = {
            "STREAMRANK_SASL_PASSWORD": USERS_WORD,
            "STREAMRANK_SSL_KEY_PASSWORD": KEYS_WORD,
            settings.SETTINGS_VARIABLE: str(self.folder / "streamrank.toml"),
            "OMP_NUM_THREADS": "1",
            "STREAMRANK_LOG": "DEBUG",
            "COLUMNS": "200",
        }
        return os.environ | given | changes

    def streamrank(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "streamrank", *words],
            cwd=ROOT,
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert_no_secret(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr
        return done


def assert_no_secret(text: str) -> None:
    for secret in (USERS_WORD, KEYS_WORD, BROKERS_WORD, "wrong-word-of-a-stranger"):
        assert secret not in text


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority(folder, "ca")
    authority(folder, "stranger")
    certified(folder, "server")
    certified(folder, "client")
    password = f"pass:{KEYS_WORD}"
    openssl(
        folder, "rsa", "-aes256", "-in", "client.key", "-out", "locked.key", "-passout", password
    )
    pem = (folder / "server.key").read_text() + (folder / "server.crt").read_text()
    (folder / "server.pem").write_text(pem)
    users = {"broker": BROKERS_WORD, "shop": USERS_WORD}
    added = [f"SCRAM-SHA-512=[name={name},password={given}]" for name, given in users.items()]
    section = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "shop",
        "ssl_ca_location": str(folder / "ca.crt"),
        "ssl_certificate_location": str(folder / "client.crt"),
        "ssl_key_location": str(folder / "locked.key"),
        "partitions": 1,
        "fetch_wait": "5ms",
    }
    client: dict[str, str | int | float | bool] = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "shop",
        "sasl.password": USERS_WORD,
        "ssl.ca.location": str(folder / "ca.crt"),
        "ssl.certificate.location": str(folder / "client.crt"),
        "ssl.key.location": str(folder / "client.key"),
    }
    try:
        broker = Kafka(
            folder,
            more=PROPERTIES,
            formatting=tuple(word for one in added for word in ("--add-scram", one)),
            client=client,
        )
    except Missing as missing:
        if os.environ.get("STREAMRANK_REQUIRE_SERVICES") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    broker.start()
    changes: Mapping[str, Mapping[str, Any]] = {
        "kafka": section | {"bootstrap_servers": broker.bootstrap},
        "store": {"path": str(folder / "feast")},
        "state": {"path": str(folder / "state"), "every": "200ms"},
        "registry": {"path": str(folder / "registry")},
        "rank": {"provider": "cpu"},
    }
    known = settings.changed(Settings(), changes)
    (folder / "streamrank.toml").write_text(settings.to_toml(known))
    made = Guarded(broker, folder, known)
    created = made.streamrank("topics", "create")
    assert created.returncode == 0, created.stderr
    yield made
    broker.stop(kill=True)


def test_a_flow_behind_tls_and_scram_answers_and_shows_no_secret(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMRANK_SASL_PASSWORD", USERS_WORD)
    monkeypatch.setenv("STREAMRANK_SSL_KEY_PASSWORD", KEYS_WORD)
    connection = kafka.connection(guarded.known.kafka, Secrets())
    asked = {"event": "request", "id": "q1", "timestamp": 1541548939000, "user": "u"}
    bad = b'{"event":"request","id":""}'
    good = json.dumps(asked | {"items": [{"id": "a"}, {"id": "b"}]}).encode()
    with Sender(connection) as sender:
        sender.send(Marked("requests", 0, b"u", value) for value in (good, bad))
    log = guarded.folder / "rank.log"
    command = [sys.executable, "-m", "streamrank", "run", "rank"]
    with log.open("wb") as out:
        flow = subprocess.Popen(
            command, cwd=ROOT, env=guarded.environment(), stdout=out, stderr=out
        )
        try:
            places: list[tuple[str, int]] = [("rankings", 0), ("dead-letters", 0)]
            until(
                lambda: list(kafka_letters.ends(connection, places).values()) == [1, 1],
                120,
                "one answer and one dead letter",
            )
            assert_no_secret(" ".join(psutil.Process(flow.pid).cmdline()))
            flow.send_signal(signal.SIGTERM)
            assert flow.wait(60) == 0, log.read_text()
        finally:
            flow.kill()
            flow.wait()
    assert_no_secret(log.read_text())
    [answer] = kafka_letters.to_the_end(connection, {("rankings", 0): 0})
    assert json.loads(answer.value)["id"] == "q1"
    report = guarded.folder / "letters.json"
    assert guarded.streamrank("letters", "list", "--report", str(report)).returncode == 0
    assert_no_secret(report.read_text())
    assert json.loads(report.read_text())["letters"] == 1


def test_the_doctor_finds_all_well_and_says_which_secrets_there_are(guarded: Guarded) -> None:
    report = guarded.folder / "doctor.json"
    done = guarded.streamrank("doctor", "--report", str(report))
    found = json.loads(report.read_text())
    assert done.returncode == 0, found
    assert_no_secret(report.read_text())
    assert found["settings"]["found"].endswith("secrets given: sasl_password, ssl_key_password")


REFUSALS = [
    (WRONG, "Authentication failed"),
    ({"STREAMRANK_KAFKA__SSL_CA_LOCATION": "stranger.crt"}, "certificate verify failed"),
    ({"STREAMRANK_KAFKA__SSL_CA_LOCATION": "nowhere.crt"}, "nowhere.crt"),
    ({"STREAMRANK_SSL_KEY_PASSWORD": "wrong-word-of-a-stranger"}, "ssl.key.location"),
    ({"STREAMRANK_KAFKA__SECURITY_PROTOCOL": "PLAINTEXT"}, "PLAINTEXT"),
    ({"STREAMRANK_SASL_PASSWORD": None}, "STREAMRANK_SASL_PASSWORD"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSALS, ids=lambda one: str(one)[:60])
def test_who_is_not_let_in_is_told_why(
    guarded: Guarded, changes: dict[str, str | None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment().items():
        monkeypatch.setenv(name, value)
    for name, change in changes.items():
        if change is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, str(guarded.folder / change) if "LOCATION" in name else change)
    with pytest.raises(kafka.KafkaError) as caught:
        topics.reach(settings.load(), Secrets())
    assert said.lower() in str(caught.value).lower()
    assert_no_secret(str(caught.value))


@pytest.mark.parametrize("words", [("topics", "check"), ("run", "rank")])
def test_a_wrong_password_ends_a_command_with_one_line(
    guarded: Guarded, words: tuple[str, ...]
) -> None:
    done = guarded.streamrank(*words, **WRONG)
    assert done.returncode == 1
    assert "Authentication failed" in done.stderr
