"""Flows die under load, again and again, with the broker and the store; what is lost or doubled?

    python -m tests.chaos --kills 50 --broker-restarts 5 --redis-restarts 2 --seed 7 --report F

Exit code 1 if anything was lost, doubled or miscounted, or if a flow ended by itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.play import Outcome, Plan, play
from tests.chaos.scene import prepare
from tests.services import Missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--broker-restarts", type=int, default=5)
    parser.add_argument("--redis-restarts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=60.0, help="records a second")
    parser.add_argument("--keep", type=Path, help="a folder that stays, with the flows' logs")
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    given = parser.parse_args()
    plan = Plan(
        given.kills, given.broker_restarts, given.redis_restarts, given.seed, rate=given.rate
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = _played(given.keep or Path(folder), plan)
    _say(outcome)
    text = json.dumps(outcome.report(), indent=2)
    if given.report is not None:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0 if outcome.good else 1


def _played(folder: Path, plan: Plan) -> Outcome:
    try:
        scene = prepare(folder)
    except Missing as missing:
        raise SystemExit(str(missing)) from missing
    try:
        return play(scene, plan)
    finally:
        scene.close()


def _say(outcome: Outcome) -> None:
    found = outcome.verdict
    wrong = {
        "unanswered": found.unanswered,
        "duplicated": found.duplicated,
        "miscounted": [f"{view} {key}: {said}" for (view, key), said in found.miscounted.items()],
        "examples lost": found.examples_lost,
        "dead letters": found.dead_letters,
        "stopped": outcome.stopped_by_themselves,
    }
    for name, some in wrong.items():
        for one in some[:5]:
            sys.stderr.write(f"{name}: {one}\n")


if __name__ == "__main__":
    sys.exit(main())
