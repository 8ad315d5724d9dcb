"""The dense features of quantities: a price against its list and against what the user touched."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from streamrank.features.columns import Feature, Group, nearness, ranks, signed_log
from streamrank.features.schema import Schema
from streamrank.features.view import Array
from streamrank.features.views import Views

_NUMBER = {
    "log": "the quantity, log scale",
    "centred": "log scale, against the list's mean in standard deviations",
    "rank": "share of the list that has more of it",
    "over_least": "log ratio to the list's smallest",
    "over_before": "log ratio to the candidate before it",
    "least_so_far": "1 where no candidate before it has less",
    "most_so_far": "1 where no candidate before it has more",
    "less_before": "share of the candidates before it that have less",
    "over_touched": "log ratio to the mean of the touched candidates",
    "over_taste": "log ratio to the mean of all that was touched, in whichever list",
    "over_label_taste": "the same of what had the label",
    "as_taste": "how near its rank is to the mean rank of all that was touched, in its list",
    "as_label_taste": "the same of what had the label",
    "risen": "log ratio to what the user's last list gave for it",
    "over_last": "log ratio to the candidate touched last",
    "over_labelled": "log ratio to the candidate that had the label last",
    "as_touched": "how near its rank is to the mean rank of the touched candidates",
    "unknown": "1 where the quantity is unknown",
}


def _features(schema: Schema) -> list[Feature]:
    return [Feature(f"{n}.{key}", text) for n in schema.numbers for key, text in _NUMBER.items()]


def _quantities(views: Views, out: Array) -> None:
    for n, name in enumerate(views.schema.numbers):
        _number(views, name, out[n * len(_NUMBER) : (n + 1) * len(_NUMBER)])


_COLUMN = {key: place for place, key in enumerate(_NUMBER)}
_OVER = ("over_least", "over_touched", "over_taste", "over_label_taste", "over_last")
_OVER_COLUMNS = [_COLUMN[key] for key in (*_OVER, "over_labelled")]
_AS_COLUMNS = [_COLUMN[key] for key in ("as_taste", "as_label_taste", "as_touched")]


def _number(views: Views, name: str, out: Array) -> None:
    values = views.number(name)
    unknown = np.isnan(values)
    if unknown.all():
        out[_COLUMN["unknown"]] = 1
        return
    logs = signed_log(values)
    least, centred = _against_list(logs, unknown)
    rank = ranks(values) / views.size
    over, as_rank = _references(views, name, logs, rank, unknown)
    columns = np.zeros((len(_NUMBER), *views.shape))
    columns[_COLUMN["log"]] = logs
    columns[_COLUMN["centred"]] = centred
    columns[_COLUMN["rank"]] = rank
    columns[_OVER_COLUMNS] = logs - np.array([least, *over])[:, :, None]
    columns[_COLUMN["over_before"], :, 1:] = logs[:, 1:] - logs[:, :-1]
    distance = np.abs(rank - np.array(as_rank)[:, :, None])
    columns[_AS_COLUMNS] = nearness(views.size * distance)
    cells, before = views.before(name)
    columns[_COLUMN["risen"], *cells] = logs[cells] - signed_log(before)
    np.copyto(out, columns, "same_kind", where=np.isfinite(columns))
    _so_far(values, unknown, out)
    out[_COLUMN["less_before"]] = _less_before(rank, unknown) / np.maximum(1, views.place)
    out[_COLUMN["unknown"]] = unknown


def _so_far(values: Array, unknown: Array, out: Array) -> None:
    """Write where no candidate before has less, or more."""
    low, high = np.where(unknown, np.inf, values), np.where(unknown, -np.inf, values)
    out[_COLUMN["least_so_far"]] = values <= np.minimum.accumulate(low, axis=1)
    out[_COLUMN["most_so_far"]] = values >= np.maximum.accumulate(high, axis=1)


def _against_list(logs: Array, unknown: Array) -> tuple[Array, Array]:
    """Return the least that each list knows, (B,), and all against its mean, (B, C).

    In standard deviations, 1 for 0.
    """
    size = logs.shape[1]
    least, mean = logs.min(1), np.add.reduce(logs, 1) / size
    centred = logs - mean[:, None]
    spread = np.sqrt(np.add.reduce(centred * centred, 1) / size)
    for place in np.nonzero(unknown.any(1))[0].tolist():
        known = logs[place][~unknown[place]]
        if len(known):
            least[place], spread[place] = known.min(), known.std()
            centred[place] = logs[place] - known.mean()
    return least, centred / np.where(spread == 0, 1.0, spread)[:, None]


def _references(
    views: Views, name: str, logs: Array, rank: Array, unknown: Array
) -> tuple[list[Array], list[Array]]:
    """Return what each list's quantities, and their ranks, are held against: NaN for none."""
    log, label_log, its_rank, label_rank = views.tastes(name)
    nothing = unknown.all(1)
    if nothing.any():  # ranks say nothing there
        its_rank, label_rank = (np.where(nothing, np.nan, one) for one in (its_rank, label_rank))
    if not views.touched:
        missing = np.full(len(logs), np.nan)
        return [missing, log, label_log, missing, missing], [its_rank, label_rank, missing]
    touched = views.cells
    if unknown.any():
        known = ~unknown[touched]
        touched = touched[0][known], touched[1][known]
    last, labelled = views.chosen(logs, views.last), views.chosen(logs, views.labelled)
    over = [views.mean(touched, logs), log, label_log, last, labelled]
    return over, [its_rank, label_rank, views.mean(touched, rank)]


def _less_before(rank: Array, unknown: Array) -> Array:
    """Count the candidates before each one that have less, and so a later rank, (B, C)."""
    size = rank.shape[1]
    own = other = np.rint(rank * size).astype(np.int64)
    if unknown.any():  # it has less than none, and none has less than it
        own, other = np.where(unknown, size + 1, own), np.where(unknown, -1, own)
    return _later_before(own, other) if size < _LONG else _later_in_blocks(own, other)


_LONG, _BLOCK = 256, 64
"""Candidates from which on a list is looked at in blocks, and those of a block."""


def _later_before(own: Array, other: Array) -> Array:
    """Count the candidates before each one that have a later rank: all pairs are compared."""
    kind = np.int16 if own.max(initial=0) < 32_000 else np.int64
    own, other = own.astype(kind), other.astype(kind)
    later = other[:, :, None] > own[:, None, :]
    later &= _before(own.shape[1])
    return np.asarray(np.add.reduce(later.view(np.uint8), axis=1, dtype=np.uint8))


@lru_cache(maxsize=256)
def _before(size: int) -> Array:
    """Return which place (the first axis) is before which."""
    return np.ascontiguousarray(np.tri(size, k=-1, dtype=bool).T)


def _later_in_blocks(own: Array, other: Array) -> Array:
    """Count the same in a long list: pairs in each block, ranks alone of the blocks before."""
    lists, size = own.shape
    blocks, ranks_ = -(-size // _BLOCK), size + 3  # from -1 to size + 1
    spare = ((0, 0), (0, blocks * _BLOCK - size))
    own = np.pad(own, spare, constant_values=size + 1).reshape(-1, _BLOCK)
    other = np.pad(other, spare, constant_values=-1).reshape(-1, _BLOCK)
    block = np.arange(len(own))[:, None]
    each = np.bincount((block * ranks_ + other + 1).ravel(), minlength=len(own) * ranks_)
    each = each.reshape(lists, blocks, ranks_)
    upto = np.cumsum(np.cumsum(each, axis=1) - each, axis=2).reshape(-1, ranks_)
    later = upto[:, -1:] - upto[block, own + 1] + _later_before(own, other)
    return np.asarray(later.reshape(lists, -1)[:, :size])


QUANTITIES = Group("number", _features, _quantities)
