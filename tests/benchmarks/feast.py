"""The store's way through Feast beside Feast's own calls, in one run.

    python tests/benchmarks/feast.py --report feast.json [--redis 127.0.0.1:6379]

Writes are rows of `item_windows` in batches of 1,000; reads are the windows of 100 items.  Beside
ours stand `FeatureStore.push` (from a data frame) and `get_online_features`, on the same array
and, as a Feast repository would usually have it, on one feature for each count.  Feast's own
calls go to a project of their own, and write to the online store alone, where ours also goes to
the offline log.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BATCH, ITEMS, READ = 1_000, 5_000, 100
NOW = 1_700_000_000_000


def import_seconds() -> float:
    """Return what a process pays for `import feast`."""
    begin = time.perf_counter()
    import feast  # noqa: F401

    return time.perf_counter() - begin


def milliseconds(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Time a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begin))
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def per_row(call: Callable[[int], object], batches: int) -> float:
    """Return microseconds a row, over batches of 1,000."""
    begin = time.perf_counter()
    for batch in range(batches):
        call(batch)
    return round(1e6 * (time.perf_counter() - begin) / (batches * BATCH), 1)


def ours(known: object, path: Path) -> dict[str, object]:
    """Measure `edges.feast.FeastStore`."""
    from streamrank.edges.feast import FeastStore
    from streamrank.edges.store import Row
    from streamrank.features import windows
    from streamrank.settings import Secrets, Settings

    assert isinstance(known, Settings)
    schema = known.feature_schema()
    width = windows.width(len(schema.horizons), len(schema.channels))
    store = FeastStore(known, Secrets(), root=path)
    values = np.random.default_rng(0).random((ITEMS, width))

    def write(batch: int) -> None:
        items = [(batch * BATCH + n) % ITEMS for n in range(BATCH)]
        store.write([Row("item_windows", f"i{i}", NOW + batch, 0, values[i]) for i in items])

    written = per_row(write, 10)
    keys = [f"i{n * 37 % ITEMS}" for n in range(READ)]
    assert all(values is not None for values in store.read("item_windows", keys, NOW))
    read = milliseconds(lambda: store.read("item_windows", keys, NOW), 200)
    store.close()
    return {"width": width, "write_us_per_row": written, "read_100_ms": read}


def feasts_own(config: object, path: Path, width: int, *, as_array: bool) -> dict[str, object]:
    """Measure `push` and `get_online_features` on the same values."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource
    from feast.data_source import PushMode
    from feast.repo_config import RepoConfig
    from feast.types import Array, Float64, String
    from feast.value_type import ValueType

    assert isinstance(config, RepoConfig)
    names = ["values"] if as_array else [f"value_{place}" for place in range(width)]
    item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
    log = FileSource(name="log", path=str(path / "log.parquet"), timestamp_field="event_timestamp")
    view = FeatureView(
        name="plain",
        entities=[item],
        ttl=timedelta(days=1),
        schema=[
            Field(name="item", dtype=String),
            *(Field(name=name, dtype=Array(Float64) if as_array else Float64) for name in names),
        ],
        source=PushSource(name="pushed", batch_source=log),
    )
    feast = FeatureStore(config=config)
    feast.apply([item, view])
    numbers = np.random.default_rng(0).random((ITEMS, width))

    def write(batch: int) -> None:
        items = [(batch * BATCH + n) % ITEMS for n in range(BATCH)]
        moment = datetime.fromtimestamp(NOW / 1000 + batch, UTC)
        columns = (
            {"values": list(numbers[items])}
            if as_array
            else dict(zip(names, numbers[items].T, strict=True))
        )
        keys = [f"i{i}" for i in items]
        frame = pd.DataFrame({"item": keys, "event_timestamp": moment, **columns})
        feast.push("pushed", frame, to=PushMode.ONLINE)

    written = per_row(write, 5)
    rows = {"item": [f"i{n * 37 % ITEMS}" for n in range(READ)]}
    features = [f"plain:{name}" for name in names]
    read = milliseconds(lambda: feast.get_online_features(features, rows).to_dict(), 50)
    return {"write_us_per_row": written, "read_100_ms": read}


def compare(path: Path, **store: Any) -> dict[str, object]:
    """Measure the three ways on one online store."""
    from streamrank.edges import repository
    from streamrank.settings import Secrets, Settings, StoreSection

    def settings_in(folder: str) -> tuple[Settings, Path]:
        here = path / folder
        here.mkdir()
        section = StoreSection(path=here, **store)
        return Settings(project=f"p{uuid.uuid4().hex}", store=section), here

    known, here = settings_in("ours")
    found: dict[str, object] = {"ours": (mine := ours(known, here))}
    for name, as_array in (("feast_one_array", True), ("feast_one_feature_a_count", False)):
        known, here = settings_in(name)
        repository.prepare(known, here)
        config = repository.repo_config(known, Secrets(), here)
        width = mine["width"]
        assert isinstance(width, int)
        found[name] = feasts_own(config, here, width, as_array=as_array)
    return found


def main() -> None:
    """Measure, print and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--redis", help="host:port of a Redis to measure too")
    asked = parser.parse_args()
    # Or `import feast` would find this file.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).parent]
    report: dict[str, object] = {"import_feast_s": round(import_seconds(), 2)}
    with tempfile.TemporaryDirectory() as folder:
        stores = {"sqlite": {}, **({"redis": {"redis": asked.redis}} if asked.redis else {})}
        for online, section in stores.items():
            (Path(folder) / online).mkdir()
            report[online] = compare(Path(folder) / online, online=online, **section)
    print(json.dumps(report, indent=2))
    if asked.report:
        draft = asked.report.with_suffix(".part")
        draft.write_text(json.dumps(report, indent=2))
        draft.replace(asked.report)


if __name__ == "__main__":
    main()
