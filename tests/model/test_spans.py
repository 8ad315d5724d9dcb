import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.model.spans import spans


def runs(hidden: np.ndarray) -> list[int]:
    """Return the lengths of runs of hidden steps."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int), [0]])))
    return [int(length) for length in edges[1::2] - edges[::2]]


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.floats(1, 8), st.integers(0, 1000))
def test_as_many_steps_are_hidden_as_asked_and_at_least_one(
    size: int, share: float, mean: float, seed: int
) -> None:
    hidden = spans(size, share, mean, np.random.default_rng(seed))
    assert hidden.shape == (size,)
    assert hidden.sum() == max(1, round(share * size))


def test_spans_are_whole() -> None:
    """Of one span of mean length 4 in a long sequence, all steps lie side by side."""
    random = np.random.default_rng(0)
    lengths = [runs(spans(10_000, 0.0004, 1e9, random)) for _ in range(20)]
    assert lengths == [[4]] * 20


def test_spans_are_as_long_as_asked_in_the_mean() -> None:
    hidden = spans(200_000, 0.02, 4.0, np.random.default_rng(0))
    assert np.mean(runs(hidden)) == pytest.approx(4.0, abs=0.4)
