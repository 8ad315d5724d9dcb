"""One flow as a process, or as several: snapshots, signals, a start-up line and an orderly end."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from streamrank import clock, heap
from streamrank.edges import kafka, topics
from streamrank.errors import StreamRankError
from streamrank.settings import SETTINGS_VARIABLE, Secrets, Settings, StateSection, load

log = logging.getLogger(__name__)
FlowName = Literal["features", "rank", "learn"]


class StateUnusable(StreamRankError):
    """The snapshots of a flow cannot be read or written: a full disk, a damaged file."""


class NoCluster(StreamRankError):
    """The processes that are to share a flow are not named as they must be."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The processes that share a flow, and which of them this is.

    They start and stop together. Each keeps the snapshots of its share of the users, in a folder
    of its own or in one that they share.

    Attributes:
        process: This one, counted from 0.
        addresses: Where each of them listens for the others.
    """

    process: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return max(1, len(self.addresses))

    def share(self, partitions: int) -> frozenset[int]:
        """Return which recovery partitions this process makes where there are none yet.

        Examples:
            >>> [sorted(Cluster(one, ("a:1", "b:1")).share(6)) for one in range(2)]
            [[0, 2, 4], [1, 3, 5]]
        """
        return frozenset(range(self.process, partitions, self.size))


ALONE = Cluster()


def cluster(process: int | None, addresses: str | None) -> Cluster:
    """Read which process of a flow this is.

    Args:
        process: Its number, from 0; `None` where it is alone.
        addresses: `host:port` of each process, with `;` between them.

    Raises:
        NoCluster: One is given without the other, or they do not fit.

    Examples:
        >>> cluster(1, "one:2101;two:2101")
        Cluster(process=1, addresses=('one:2101', 'two:2101'))
    """
    if process is None and addresses is None:
        return ALONE
    if process is None or addresses is None:
        raise NoCluster("--process and --addresses must be given together")
    found = tuple(addresses.split(";"))
    for address in found:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or found.count(address) > 1:
            raise NoCluster(f"--addresses must be different host:port, got {address!r}")
    if process not in range(len(found)):
        raise NoCluster(f"--process must be within 0..{len(found) - 1}, got {process}")
    return Cluster(process, found)


def run(
    flow: FlowName, path: Path | None, *, accept_gap: bool = False, cluster: Cluster = ALONE
) -> None:
    """Run a flow until it is told to stop; SIGTERM and SIGINT let it finish what it holds.

    Args:
        flow: Which of the flows.
        path: The settings file; `None` looks where `settings.load` looks.
        accept_gap: Go on where the broker no longer holds what is to be read next.
        cluster: The processes that share the flow.

    Raises:
        StreamRankError: The broker, a topic, the store or the model is not as it must be.
    """
    heap.share()  # before the first thread of a library: it would keep a heap of its own
    if flow == "rank":
        heap.give_back()
    if flow == "learn" and cluster.size > 1:
        raise NoCluster("the learn flow must be one process: a model has one learner")
    if path is not None:
        os.environ[SETTINGS_VARIABLE] = str(path)
    os.environ["RUST_BACKTRACE"] = "0"  # an error of ours passes through Bytewax as a panic
    if accept_gap:
        kafka.ACCEPTING_GAPS.set()
    known = load()
    if cluster.size > known.state.partitions:
        rule = f"--addresses must be at most {known.state.partitions} (state.partitions)"
        raise NoCluster(f"{rule}, got {cluster.size}")
    for difference in topics.ready(known, Secrets()):
        log.warning("%s (kafka.partitions)", difference)
    module = importlib.import_module(f"flows.{flow}")
    alone = _as_the_only_learner(known) if flow == "learn" else nullcontext()
    with _orderly_stop(), clock.watched(), alone:
        dataflow = module.main()
        recovery = _recovery(known.state, flow, cluster)
        log.info("%s runs on %s", flow, known.kafka.bootstrap_servers)
        try:
            cli_main(
                dataflow,
                process_id=cluster.process if cluster.size > 1 else None,
                addresses=list(cluster.addresses) if cluster.size > 1 else None,
                epoch_interval=known.state.every,
                recovery_config=recovery,
            )
        except RuntimeError as error:
            raise _cause(error, known.state, flow) from error
    log.info("%s stopped", flow)


@contextmanager
def _as_the_only_learner(known: Settings) -> Iterator[None]:
    """Stand back, for serving comes first; and refuse to be a second learner of the model."""
    from streamrank.edges import registry

    os.nice(known.learn.nice)
    with registry.learner_lock(known.registry.path, known.model.name):
        yield


def _cause(error: RuntimeError, state: StateSection, flow: str) -> BaseException:
    """Return what Bytewax wrapped: ours, which says what to do, or else its own."""
    _, found, said = str(error).partition("SqliteFailure")
    if found and state.path is not None:
        return StateUnusable(
            f"the snapshots in {state.path / flow} must be readable and writable: {said}. "
            "Nothing is lost: make room, and start the flow again. If a file is damaged, bring "
            "back a copy of the whole folder, or remove it: the flow then goes on where its "
            "consumer group is, and knows nothing of what was before"
        )
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, StreamRankError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def _recovery(state: StateSection, flow: str, cluster: Cluster) -> RecoveryConfig | None:
    if state.path is None:
        log.warning("state.path is not set: nothing is kept over a restart")
        return None
    folder = state.path / flow
    share = cluster.share(state.partitions)
    if not any((folder / _part(index)).exists() for index in share):
        _prepare(folder, cluster, state.partitions)
    return RecoveryConfig(folder, state.every)


def _part(index: int) -> str:
    return f"part-{index}.sqlite3"


def _prepare(folder: Path, cluster: Cluster, partitions: int) -> None:
    """Make the files of the snapshots: those of one process all or none, whenever it dies.

    Of several processes each makes its own, so that it does not matter whether they share the
    folder.
    """
    new = folder.with_name(f".{folder.name}.new-{cluster.process}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    init_db_dir(new, partitions)
    if cluster.size == 1:
        new.rename(folder)
        return
    folder.mkdir(exist_ok=True)
    for index in sorted(cluster.share(partitions)):
        (new / _part(index)).rename(folder / _part(index))
    shutil.rmtree(new)


@contextmanager
def _orderly_stop() -> Iterator[None]:
    """Let the sources end at the first signal; a second one ends the process at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if kafka.STOPPING.is_set():
            os._exit(128 + number)
        kafka.STOPPING.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
