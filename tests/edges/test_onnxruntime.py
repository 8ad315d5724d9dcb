from __future__ import annotations

import logging
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from streamrank.edges.onnxruntime import (
    AsShown,
    ModelRefused,
    OnnxScorer,
    ProviderMissing,
    ScoringFailed,
    cuda_missing,
    groups,
)
from streamrank.features import inputs
from tests.graphs import WEIGHTS, a_list, by_hand, linear

ROOT = Path(__file__).parents[2]
SCORER = OnnxScorer(linear(), version="v1", provider="cpu", threads=1)
needs_no_gpu = pytest.mark.skipif(not cuda_missing(), reason="there is a GPU here")

sizes = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 5)), max_size=8)


@given(sizes)
@settings(max_examples=50, deadline=None)
def test_a_batch_equals_one_by_one_and_both_equal_the_hand(shapes: list[tuple[int, int]]) -> None:
    batch = [a_list(*shape) for shape in shapes]
    together = SCORER.score(batch)
    assert len(together) == len(batch)
    for one, scores in zip(batch, together, strict=True):
        [alone] = SCORER.score([one])
        assert scores.shape == alone.shape == (len(one["candidate_items"]), 2)
        np.testing.assert_allclose(scores, alone, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(scores, by_hand(one), rtol=1e-5, atol=1e-5)


def test_no_lists_give_no_scores() -> None:
    assert SCORER.score([]) == []


def test_a_list_without_candidates_has_scores_of_every_head_and_no_row() -> None:
    empty, full = SCORER.score([a_list(0), a_list(2)])
    assert empty.shape == (0, 2)
    assert full.shape == (2, 2)


@given(st.lists(st.integers(0, 6_000), max_size=60), st.sampled_from([1_024, 4_096]))
def test_every_list_runs_once_and_padding_at_most_doubles_the_work(
    sizes: list[int], most: int
) -> None:
    runs = groups(sizes, most)
    assert sorted(place for run in runs for place in run) == [
        place for place, size in enumerate(sizes) if size
    ]
    for run in runs:
        longest = max(sizes[place] for place in run)
        assert all(longest <= max(32, 2 * sizes[place]) for place in run)
        assert len(run) == 1 or len(run) * longest <= most


def test_a_long_list_does_not_blow_up_the_short_ones() -> None:
    assert groups([10, 1000, 20, 12], most=4_096) == [[0, 2, 3], [1]]


def test_a_list_without_finite_scores_keeps_its_order_and_spoils_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scorer = OnnxScorer(linear(), version="v7", provider="cpu")
    good, bad = a_list(3), a_list(3, seed=1)
    bad["candidate_numbers"][1, 0] = np.nan
    scores = scorer.score([good, bad])
    np.testing.assert_allclose(scores[0], by_hand(good), rtol=1e-5)
    assert scores[1].tolist() == [[0.0, 0.0], [-1.0, -1.0], [-2.0, -2.0]]
    assert scorer.unscored == 1
    [line] = caplog.messages
    assert line.startswith("model v7: scores must be finite; 1 lists")


def test_many_lists_without_finite_scores_do_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scorer = OnnxScorer(linear(np.full((3, 1), np.nan, np.float32)), version="v", provider="cpu")
    scorer.score([a_list(2, seed=seed) for seed in range(100)])
    assert scorer.unscored == 100
    assert len(caplog.messages) == 7  # the 1st, 2nd, 4th ... 64th


@pytest.mark.parametrize(
    ("onnx", "reason"),
    [
        (b"", "must be an ONNX graph"),
        (b"no graph at all", "must be an ONNX graph"),
        (linear()[:200], "must be an ONNX graph"),
        (linear(output="logits"), r"must have an output 'scores', got \['logits'\]"),
        (linear(kind=TensorProto.DOUBLE), r"must be float32 .* got tensor\(double\)"),
    ],
    ids=["empty", "junk", "truncated", "other output", "other type"],
)
def test_what_is_no_graph_of_ours_is_refused(onnx: bytes, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        OnnxScorer(onnx, version="v", provider="cpu")


def test_inputs_that_do_not_fit_the_graph_are_named() -> None:
    wide = a_list(2)
    wide["candidate_numbers"] = np.zeros((2, 5), np.float32)
    with pytest.raises(ScoringFailed, match=r"model v1: .*candidate_numbers.*\(1, 2, 5\)"):
        SCORER.score([wide])
    lacking = a_list(2)
    del lacking["history_numbers"]
    with pytest.raises(ScoringFailed, match="there is no input 'history_numbers'"):
        SCORER.score([lacking])


def test_threads_may_share_a_scorer() -> None:
    batches = [[a_list(size, steps) for size in (1, 40, 5)] for steps in range(32)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(SCORER.score, batches))
    for batch, scores in zip(batches, found, strict=True):
        for one, own in zip(batch, scores, strict=True):
            np.testing.assert_allclose(own, by_hand(one), rtol=1e-5, atol=1e-5)


def test_between_two_runs_the_threads_of_a_session_take_no_time() -> None:
    scorer = OnnxScorer(linear(), version="v", provider="cpu", threads=4)
    scorer.run(inputs.stack([a_list(1000, 50)] * 64))  # enough for all threads
    before = time.process_time()
    subprocess.run([sys.executable, "-c", "pass"], check=True)  # somebody else's turn
    assert time.process_time() - before < 0.03  # spinning, they take .1 s


def test_memory_does_not_grow_with_every_new_shape() -> None:
    scorer = OnnxScorer(linear(), version="v", provider="cpu")
    batches = [inputs.stack([a_list(size, 3)] * 4) for size in range(1, 400)]

    def resident() -> int:
        for batch in batches:
            scorer.run(batch)
        return int(psutil.Process().memory_info().rss)

    first = resident()
    assert resident() - first < 5_000_000


def test_the_scores_do_not_keep_the_padded_batch_alive() -> None:
    [scores] = SCORER.score([a_list(3)])
    assert scores.base is None


def test_without_a_model_lists_keep_their_order() -> None:
    scorer = AsShown()
    scores = scorer.score([a_list(3), a_list(0)])
    assert scores[0].tolist() == [[0.0], [-1.0], [-2.0]]
    assert scores[1].shape == (0, 1)
    assert (scorer.version, scorer.provider) == ("", "none")


# --- the GPU that is not there ----------------------------------------------------------------


@needs_no_gpu
def test_a_gpu_asked_for_and_not_had_is_an_error_that_says_what_is_missing() -> None:
    with pytest.raises(ProviderMissing) as caught:
        OnnxScorer(linear(), version="v", provider="cuda")
    text = str(caught.value)
    assert cuda_missing() in text
    assert "NVIDIA driver" in text or "built without" in text
    assert "set rank.provider to auto or cpu" in text


@needs_no_gpu
def test_the_provider_is_the_one_the_session_uses_and_not_the_one_that_is_listed() -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is the CPU's, which does not list CUDA")
    assert OnnxScorer(linear(), version="v", provider="auto").provider == "cpu"


@needs_no_gpu
def test_auto_says_once_that_it_falls_back_and_nothing_on_stdout() -> None:
    program = (
        "from streamrank.edges.onnxruntime import OnnxScorer, cuda_missing\n"
        "from tests.graphs import linear\n"
        "for _ in range(3): OnnxScorer(linear(), version='v', provider='auto')\n"
        "cuda_missing()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("no CUDA here, the model runs on the CPU") == 1
    assert ran.stdout == ""


def test_asked_for_the_cpu_it_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert OnnxScorer(linear(), version="v", provider="cpu").provider == "cpu"
    assert caplog.messages == []


def test_the_weights_of_these_tests_tell_the_heads_apart() -> None:
    [scores] = SCORER.score([a_list(4)])
    assert WEIGHTS.shape == (3, 2)
    assert not np.allclose(scores[:, 0], scores[:, 1])
