"""The dense features of quantities: a price against its list and against what the user touched."""

from __future__ import annotations

import math

import numpy as np

from streamrank.features.columns import Feature, Group, ranks
from streamrank.features.compiled import Columns, Integers, Reals, compiled
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View

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


def _quantities(view: View, out: Array) -> None:
    for n, name in enumerate(view.schema.numbers):
        values = view.number(name)
        again, before = view.before(name)
        _quantity(
            values,
            ranks(values[None])[0],
            view.touched,
            view.last,
            view.last_labelled,
            np.array(view.history.taste(name)),
            again,
            before,
            out[:, n * len(_NUMBER) : (n + 1) * len(_NUMBER)],
        )


_NO_SPREAD = 1e-9
"""Standard deviations, log scale, that are rounding alone."""


@compiled
def _quantity(
    values: Reals,
    ranked: Reals,
    touched: Integers,
    last: int,
    labelled: int,
    taste: Reals,
    again: Integers,
    before: Reals,
    out: Columns,
) -> None:
    """Write the columns in the order of `_NUMBER`; what is not known of two is 0."""
    size, known = len(values), ~np.isnan(values)
    if not known.any():
        out[:, -1] = 1.0
        return
    logs = np.copysign(np.log1p(np.abs(values)), values)
    mean, least = logs[known].mean(), logs[known].min()
    spread = logs[known].std()
    if spread < _NO_SPREAD:
        spread = 1.0
    rank = ranked / size
    risen = np.full(size, math.nan)
    risen[again] = logs[again] - np.copysign(np.log1p(np.abs(before)), before)
    log_of_touched = rank_of_touched = math.nan
    of_touched = touched[known[touched]]
    if len(of_touched):
        log_of_touched, rank_of_touched = logs[of_touched].mean(), rank[of_touched].mean()
    low, high = math.inf, -math.inf
    for c in range(size):
        own = logs[c]
        if known[c]:
            low, high = min(low, values[c]), max(high, values[c])
        less = 0
        for other in values[:c]:
            less += other < values[c]
        columns = (
            own,
            (own - mean) / spread,
            rank[c],
            own - least,
            own - logs[c - 1] if c else 0.0,
            1.0 if values[c] <= low else 0.0,
            1.0 if values[c] >= high else 0.0,
            less / max(1, c),
            own - log_of_touched,
            own - taste[0],
            own - taste[1],
            1 / (1 + size * abs(rank[c] - taste[2])),
            1 / (1 + size * abs(rank[c] - taste[3])),
            risen[c],
            own - logs[last] if last >= 0 else math.nan,
            own - logs[labelled] if labelled >= 0 else math.nan,
            1 / (1 + size * abs(rank[c] - rank_of_touched)),
            0.0 if known[c] else 1.0,
        )
        for column, value in enumerate(columns):
            if math.isfinite(value):
                out[c, column] = value


QUANTITIES = Group("number", _features, _quantities)
