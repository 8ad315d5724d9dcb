"""The model of `streamrank size` against measurements: how far off it is, and where.

    python tests/benchmarks/growth.py --report growth.json
    python tests/benchmarks/sizing.py --growth growth.json --report sizing.json

What `growth.py` measured on this machine is held against what the model says: the time of a list
by candidates and by history, each against a list of 100 candidates and 50 steps; the bytes of a
silent user's session; and what a user and an item more take in the features flow.  1 is exact, 2
is twice what was measured.  The model's numbers come from such a report, so that a new one says
whether they hold, and the one they come from only whether straight lines do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one
HISTORY, CANDIDATES, LISTS = 50, 100, 5


def compared(axes: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yield what was compared, what the model says, and what was measured."""
    from streamrank import sizing
    from streamrank.features import windows
    from tests.benchmarks import steps

    for axis in ("candidates", "history"):
        usual = next(p for p in axes[axis] if p["size"] == {"candidates": 100, "history": 50}[axis])
        for point in axes[axis]:
            of = {"candidates": CANDIDATES, "history": HISTORY} | {axis: point["size"]}
            measured = sum(point["microseconds"].values()) / sum(usual["microseconds"].values())
            name = f"{point['size']} {axis}"
            yield f"time, {name}", sizing.list_cost(**of), measured
            yield f"session, {name}", sizing.session_bytes(**of, lists=LISTS), point["session"]
    schema = steps.plan_of(HISTORY).schema
    width = 8 * windows.width(len(schema.horizons), len(schema.channels))
    for axis, own in (("users", sizing.USER), ("items", sizing.ITEM)):
        for point in axes[axis]:
            if point["bytes_each"] is not None:
                yield f"{axis} up to {point['size']:,}", own + width, point["bytes_each"]


def main() -> None:
    """Compare, print, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--growth", type=Path, required=True, help="a report of growth.py")
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    given = parser.parse_args()
    known = json.loads(given.growth.read_text())
    ratios = {}
    for name, said, measured in compared(known["axes"]):
        ratios[name] = round(said / measured, 2)
        print(f"{name:24} {said:12,.2f} {measured:12,.2f} {ratios[name]:6.2f}")
    report = {"machine": known["machine"], "ratios": ratios}
    if given.report:
        part = given.report.with_name(given.report.name + ".part")
        part.write_text(json.dumps(report, indent=2) + "\n")
        part.replace(given.report)


if __name__ == "__main__":
    main()
