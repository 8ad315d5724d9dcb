"""The orders that need no model, from what an example holds: a ranker has to beat them."""

from __future__ import annotations

import numpy as np

from streamrank.features import inputs
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example


def simple_orders(example: Example, schema: Schema) -> dict[str, Array]:
    """Return the scores of the orders that need no model.

    Args:
        example: The list.
        schema: What its inputs are made of.

    Returns:
        `as_shown`, the incoming order; `recently_touched`, the item that this user touched last
        first; `popularity`, the item with the most interactions by anybody first, of which one
        counts half after the longest horizon.  What is left equal keeps the incoming order.
    """
    numbers = example.inputs["candidate_numbers"]
    names = [feature.name for feature in inputs.features(schema)]
    deeds = f"window.{schema.horizons[-1]:g}s.deeds"
    return {
        "as_shown": -np.arange(len(numbers), dtype=np.float64),
        "recently_touched": numbers[:, names.index("touch.recency")].astype(np.float64),
        "popularity": numbers[:, names.index(deeds)].astype(np.float64),
    }
