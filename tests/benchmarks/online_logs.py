"""MovieLens-1M as a log of events: what people rated, in lists, by true time.

    ratings ─▶ lists of ten that one person rated in a row, in no telling order ─▶ likes

A list is dated when its first film was rated; the films that got four stars or more are liked
after it.  Where the time of a rating is not known, the latest known one before it stands for it.

    python tests/benchmarks/online_logs.py FOLDER LOG [--users 1200]

writes such a log, for `streamrank replay --events LOG`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TOGETHER = 10
"""Ratings of a list."""
LIKED = 4
"""Stars of what is liked."""


def write_movielens(folder: Path, log: Path, users: int, seed: int = 0) -> int:
    """Write the log of some of the users, drawn by chance, and return how many lists it has."""
    ratings = pd.read_parquet(folder / "ml1m_events.parquet")
    everybody = np.sort(ratings["user_id"].unique())
    drawn = np.random.default_rng(seed).permutation(everybody)[:users]
    ratings = ratings[ratings["user_id"].isin(drawn)]
    lists = sorted(_lists(ratings, seed), key=lambda one: (one["timestamp"], one["id"]))
    began = lists[0]["timestamp"] - 1
    with log.open("w") as out:
        for event in (*_films(folder, began), *_people(folder, set(drawn.tolist()), began)):
            out.write(json.dumps(event) + "\n")
        for event in sorted(_events(lists), key=lambda one: one["timestamp"]):
            out.write(json.dumps(event) + "\n")
    return len(lists)


def _lists(ratings: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(seed)
    for user, own in ratings.sort_values(["user_id", "seq"]).groupby("user_id"):
        known = own["ts_true"].astype("Float64").fillna(own["ts_lo"].astype("Float64"))
        seconds = known.ffill().bfill().fillna(own["ts_hi"].astype("Float64")).bfill()
        if seconds.isna().any():
            continue  # no time of anything this person rated is known
        times = np.maximum.accumulate(seconds.to_numpy(np.float64)).astype(np.int64)
        for number in range(0, len(own) - 1, TOGETHER):
            part = own.iloc[number : number + TOGETHER]
            order = random.permutation(len(part))
            films, stars = part["movie_id"].to_numpy()[order], part["rating"].to_numpy()[order]
            yield {
                "id": f"u{user}-{number // TOGETHER}",
                "user": f"u{user}",
                "timestamp": int(times[number]) * 1000 + number,  # one after the other
                "films": [f"m{film}" for film in films],
                "liked": [
                    f"m{film}" for film, star in zip(films, stars, strict=True) if star >= LIKED
                ],
            }


def _events(lists: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in lists:
        who = {"user": one["user"], "session": one["user"]}
        yield {
            "event": "ranking",
            "id": one["id"],
            "timestamp": one["timestamp"],
            "items": [{"id": film} for film in one["films"]],
        } | who
        for number, film in enumerate(one["liked"], 1):
            yield {
                "event": "interaction",
                "id": f"{one['id']}-{number}",
                "timestamp": one["timestamp"] + number,
                "type": "like",
                "item": film,
                "ranking": one["id"],
            } | who


def _films(folder: Path, at: int) -> Iterator[dict[str, Any]]:
    for line in (folder / "movies.dat").read_text(encoding="latin-1").splitlines():
        number, title, genres = line.split("::")
        name, year = title[:-7], int(title[-5:-1])  # Toy Story (1995)
        fields = {"title": name, "genres": genres.split("|"), "year": year}
        yield _about("item", f"m{number}", at, fields)


def _people(folder: Path, known: set[int], at: int) -> Iterator[dict[str, Any]]:
    for line in (folder / "users.dat").read_text(encoding="latin-1").splitlines():
        number, gender, age, work, _ = line.split("::")
        if int(number) in known:
            fields = {"gender": gender, "age": f"from {age}", "work": f"w{work}"}
            yield _about("user", f"u{number}", at, fields)


def _about(kind: str, name: str, at: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {"event": kind, "id": f"about-{name}", "timestamp": at, kind: name, "fields": fields}


def main() -> None:
    """Write a log."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of MovieLens-1M with its times")
    parser.add_argument("log", type=Path, help="where the log goes, as JSON lines")
    parser.add_argument("--users", type=int, default=1200, help="drawn by chance")
    asked = parser.parse_args()
    write_movielens(asked.folder, asked.log, asked.users)


if __name__ == "__main__":
    main()
