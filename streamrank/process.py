"""One flow as one process: snapshots, signals, a start-up line and an orderly end."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Literal

from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from streamrank.edges import kafka, topics
from streamrank.errors import StreamRankError
from streamrank.settings import SETTINGS_VARIABLE, Secrets, Settings, StateSection, load

log = logging.getLogger(__name__)
FlowName = Literal["features", "rank", "learn"]
STATE_PARTITIONS = 4
"""Recovery partitions of a flow: as many processes may share its state."""


class StateUnusable(StreamRankError):
    """The snapshots of a flow cannot be read or written: a full disk, a damaged file."""


def run(flow: FlowName, path: Path | None, *, accept_gap: bool = False) -> None:
    """Run a flow until it is told to stop; SIGTERM and SIGINT let it finish what it holds.

    Args:
        flow: Which of the flows.
        path: The settings file; `None` looks where `settings.load` looks.
        accept_gap: Go on where the broker no longer holds what is to be read next.

    Raises:
        StreamRankError: The broker, a topic, the store or the model is not as it must be.
    """
    if path is not None:
        os.environ[SETTINGS_VARIABLE] = str(path)
    os.environ["RUST_BACKTRACE"] = "0"  # an error of ours passes through Bytewax as a panic
    if accept_gap:
        kafka.ACCEPTING_GAPS.set()
    known = load()
    topics.reach(known, Secrets())
    module = importlib.import_module(f"flows.{flow}")
    with _orderly_stop(), _as_the_only_learner(known) if flow == "learn" else nullcontext():
        dataflow = module.main()
        recovery = _recovery(known.state, flow)
        log.info("%s runs on %s", flow, known.kafka.bootstrap_servers)
        try:
            cli_main(dataflow, epoch_interval=known.state.every, recovery_config=recovery)
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


def _recovery(state: StateSection, flow: str) -> RecoveryConfig | None:
    if state.path is None:
        log.warning("state.path is not set: nothing is kept over a restart")
        return None
    folder = state.path / flow
    if not any(folder.glob("*.sqlite3")):
        _prepare(folder)
    return RecoveryConfig(folder, state.every)


def _prepare(folder: Path) -> None:
    """Make the files of the snapshots, all of them or none, whenever this process dies."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    init_db_dir(new, STATE_PARTITIONS)
    new.rename(folder)


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
