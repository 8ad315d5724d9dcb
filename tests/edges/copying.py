"""A flow as a process that tests kill: copies a topic to another, with the payload as id.

python -m tests.edges.copying BROKER FROM TO STATE EPOCH_MS
"""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig
from bytewax.testing import run_main

from streamrank.edges.kafka import Incoming, KafkaSink, KafkaSource, Outgoing


def copied(record: Incoming) -> tuple[str, Outgoing]:
    key = (record.key or b"").decode()
    return key, Outgoing(key, record.value, record.value.decode())


def build(broker: str, source: str, target: str) -> Dataflow:
    connection: dict[str, str | int] = {
        "bootstrap.servers": broker,
        "message.timeout.ms": 30_000,
    }
    flow = Dataflow("copying")
    read = op.input("in", flow, KafkaSource(connection, [source], group=f"{source}-copying"))
    op.output("out", op.map("copy", read, copied), KafkaSink(connection, target))
    return flow


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    broker, source, target, state, epoch = sys.argv[1:]
    run_main(
        build(broker, source, target),
        epoch_interval=timedelta(milliseconds=int(epoch)),
        recovery_config=RecoveryConfig(Path(state)),
    )
