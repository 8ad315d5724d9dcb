"""How many messages a second are read, beside the JSON parsers alone, on one core.

    python tests/benchmarks/events.py --report events.json

`decode` is everything a flow does to a record before its first step: parsed, checked field by
field, and a frozen object of it made.  `json` is the standard library's parser and `jiter` the
one inside pydantic, both of which check nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from pydantic_core import from_json

from streamrank.events import decode

SECONDS, ROUNDS = 0.3, 5
AT = 1541548939000
_ITEM = {"id": "i3", "fields": {"price": 71}}
_KINDS: dict[str, dict[str, object]] = {
    "item": {"event": "item", "item": "i3", "fields": {"title": "Sea view", "price": 71}},
    "user": {"event": "user", "user": "u1", "fields": {"country": "FR"}},
    "interaction": {
        "event": "interaction",
        "user": "u1",
        "session": "s1",
        "type": "click",
        "item": "i3",
        "ranking": "r1",
    },
    "search": {"event": "interaction", "user": "u1", "type": "search", "fields": {"q": "paris"}},
    "request of 100": {
        "event": "request",
        "user": "u1",
        "items": [_ITEM | {"id": f"i{n}"} for n in range(100)],
    },
}
PAYLOADS = {
    name: json.dumps({"id": "81f46c34-a4bb-469c-8708", "timestamp": AT} | keys).encode()
    for name, keys in _KINDS.items()
}


def rate(read: Callable[[bytes], object], payload: bytes) -> float:
    """Return how often a second `read` reads a payload: the best of some rounds."""
    begin = time.perf_counter()
    for _ in range(100):
        read(payload)
    repeats = max(100, int(100 * SECONDS / (time.perf_counter() - begin)))
    best = 0.0
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(repeats):
            read(payload)
        best = max(best, repeats / (time.perf_counter() - begin))
    return round(best)


def main() -> None:
    """Measure, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    report = parser.parse_args().report
    readers: dict[str, Callable[[bytes], object]] = {
        "decode": decode,
        "json": json.loads,
        "jiter": from_json,
    }
    found = {
        kind: {"bytes": len(payload)}
        | {name: rate(read, payload) for name, read in readers.items()}
        for kind, payload in PAYLOADS.items()
    }
    print(f"{'a second':16}{'bytes':>8}" + "".join(f"{name:>12}" for name in readers))
    for kind, row in found.items():
        print(f"{kind:16}{row['bytes']:8}" + "".join(f"{row[name]:12,.0f}" for name in readers))
    if report:
        report.write_text(json.dumps({"events_per_second": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
