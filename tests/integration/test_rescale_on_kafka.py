"""A flow by one process, by two, and by one again, on Apache Kafka: users keep their sessions."""

from __future__ import annotations

import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from subprocess import Popen

import pytest

from tests.integration.test_flows_on_kafka import STREAMRANK, Project, ids, project
from tests.services import free_port, until

__all__ = ["project"]
pytestmark = [pytest.mark.integration, pytest.mark.slow]
USERS = [f"u{number}" for number in range(12)]
ITEMS = ["a", "b", "c"]


@dataclass
class Ranks:
    """The processes of a rank flow, and where each says what it did."""

    project: Project
    flows: list[Popen[bytes]]
    ports: list[int]

    def stop(self) -> None:
        for flow in self.flows:
            flow.send_signal(signal.SIGTERM)
        assert [flow.wait(30) for flow in self.flows] == [0] * len(self.flows)

    def lists_of_each(self) -> list[int]:
        return [_lists(port) for port in self.ports]


def _lists(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        said = answer.read().decode()
    return sum(int(float(n)) for n in re.findall(r"streamrank_rankings_total{.*} (\S+)", said))


@contextmanager
def ranks(project: Project, monkeypatch: pytest.MonkeyPatch, processes: int) -> Iterator[Ranks]:
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes))
    with ExitStack() as stack:
        flows, ports = [], []
        for number in range(processes):
            ports.append(free_port())
            monkeypatch.setenv("STREAMRANK_METRICS__PORT", str(ports[-1]))
            command = [*STREAMRANK, "run", "rank"]
            if processes > 1:
                command += ["--addresses", addresses, "--process", str(number)]
            flows.append(stack.enter_context(project.running(*command)))
        yield Ranks(project, flows, ports)


def asked(project: Project, round_: int) -> dict[str, list[str]]:
    """Ask for a list for every user, and return them as they were answered."""
    items = [{"id": name} for name in ITEMS]
    names = {f"request{round_}-{user}": user for user in USERS}
    requests = [
        project.event("request", 0, user=u, items=items) | {"id": n} for n, u in names.items()
    ]
    project.send("requests", *requests)

    def answers() -> dict[str, list[str]]:
        return {names[one["id"]]: ids(one) for one in project.got("rankings") if one["id"] in names}

    until(lambda: len(answers()) == len(USERS), 60, "every request is answered")
    return answers()


def everybody(items: str) -> dict[str, list[str]]:
    """Return the same list for every user."""
    return {user: list(items) for user in USERS}


def click(project: Project, round_: int, item: str) -> None:
    """Let every user click, and wait until the lists say that they did."""
    clicks = {f"click{round_}-{user}": user for user in USERS}
    project.send(
        "events",
        *(
            project.event("interaction", 0, type="click", item=item, user=user) | {"id": name}
            for name, user in clicks.items()
        ),
    )

    def ranked() -> set[str]:
        return {str(one.get("trigger")) for one in project.got("rankings")} & clicks.keys()

    until(lambda: len(ranked()) == len(USERS), 30, "every click ranks a list again")


def test_sessions_follow_their_users_from_one_process_to_two_and_back(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that serves puts first what its user touched last."""
    with ranks(project, monkeypatch, 1) as one:
        assert asked(project, 1) == everybody("abc")
        click(project, 1, "c")
        one.stop()
    with ranks(project, monkeypatch, 2) as two:
        assert asked(project, 2) == everybody("cab")
        project.now += 5_000
        click(project, 2, "b")
        assert all(count > 0 for count in two.lists_of_each()), two.lists_of_each()
        two.stop()
    with ranks(project, monkeypatch, 1) as one:
        assert asked(project, 3) == everybody("bca")
        one.stop()
    found = [one["id"] for one in project.got("rankings")]
    assert len(found) == len(set(found))
