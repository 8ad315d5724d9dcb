"""A shown list with its labels: what the model learns from, and the message of `examples`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from streamrank.features.inputs import Array, Inputs
from streamrank.served import Words, check_rows, pack, unpack


class _Words(Words):
    """The part of `Example` that is no array."""

    id: str
    user: str
    at: int
    items: tuple[str, ...]
    model: str
    source: str
    revision: int
    origin: str | None = None


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
        items: The candidates' ids, in incoming order.
        model: The version that served the list, `""` where none did.
        source: `"request"`, `"trigger"`, or `"ranking"` for a list shown elsewhere.
        scores: What that version said, float32 (C, heads).
        shown: Each candidate's place in the list that went out, int64 (C,); -1 where it was
            cut off.
        propensities: With what probability it stood there, float32 (C,).
        revision: Above 0 it corrects the example of the same id that went out before: its
            labels are all that is known now.
        origin: The first record, `topic[partition]@offset`, of the feedback that is new in it:
            lists go out in the order of that, so that feedback of a partition before it has
            gone out by then.
    """

    id: str
    user: str
    at: int
    inputs: Inputs
    labels: Array
    _: KW_ONLY
    items: tuple[str, ...] = ()
    model: str = ""
    source: str = "ranking"
    scores: Array | None = None
    shown: Array | None = None
    propensities: Array | None = None
    revision: int = 0
    origin: str | None = None

    def encode(self) -> bytes:
        """Return the binary payload of topic `examples`: safetensors, with the words inside."""
        words = _Words.model_construct(**{key: getattr(self, key) for key in _Words.model_fields})
        arrays = {f"inputs.{name}": array for name, array in self.inputs.items()}
        found = {name: getattr(self, name) for name in ("labels", *_OPTIONAL)}
        given = {name: array for name, array in found.items() if array is not None}
        return pack("example", words, arrays | given)


_OPTIONAL = ("scores", "shown", "propensities")


def decode_example(payload: bytes) -> Example:
    """Read a record of topic `examples`.

    Raises:
        ValueError: The payload is not what `Example.encode` writes.
    """
    words, arrays = unpack("example", payload, _Words, needs=("labels",))
    labels = arrays.pop("labels")
    scores, shown, propensities = (arrays.pop(name, None) for name in _OPTIONAL)
    rows = words.items or tuple(map(str, range(len(labels))))  # those of a log have no names
    check_rows("example", rows, {"labels": labels, "scores": scores})
    check_rows("example", rows, {"shown": shown, "propensities": propensities}, flat=True)
    return Example(
        **dict(words),
        inputs={name.removeprefix("inputs."): array for name, array in arrays.items()},
        labels=labels,
        scores=scores,
        shown=shown,
        propensities=propensities,
    )
