"""A shown list with its labels: what the model learns from."""

from __future__ import annotations

from dataclasses import dataclass

from streamrank.features.inputs import Array, Inputs


@dataclass(frozen=True, slots=True)
class Example:
    """One list, with the inputs as they were logged at scoring time.

    Attributes:
        id: The ranking's id.
        user: Whose list it was.
        at: When it was scored, epoch milliseconds.
        inputs: What the model saw, as `features.inputs.build` returns it, C candidates.
        labels: 1.0 where the candidate got the feedback, float32 (C, heads); the first head
            is the label, the second (where there is one) the conversion.
    """

    id: str
    user: str
    at: int
    inputs: Inputs
    labels: Array
