import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from streamrank.features import inputs
from streamrank.features.schema import Schema
from streamrank.features.state import UserState
from streamrank.model import artifact, export, training
from streamrank.model.artifact import Exported
from streamrank.model.export import ExportFailed
from streamrank.model.injection import Graph
from streamrank.model.training import Recipe, Trained
from tests.lists import NOW, example, query, step

SCHEMA = Schema(interactions=("view", "click"), label="click", item={"colour": "category"})


@pytest.fixture(scope="module")
def trained() -> Trained:
    random = np.random.default_rng(0)
    lists = []
    for n in range(60):
        shown = [f"i{k}" for k in random.permutation(30)[: random.integers(2, 9)]]
        user = UserState((step("view", shown[-1], 30),) if n % 3 else ())
        lists.append(example(SCHEMA, query(shown, user, at=NOW + n, name=f"r{n}"), shown[-1]))
    return training.train(lists, SCHEMA, recipe=Recipe(epochs=1))


@pytest.fixture(scope="module")
def exported(trained: Trained) -> Exported:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return artifact.exported(trained)


@pytest.fixture(scope="module")
def session(exported: Exported) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])


def test_the_graph_takes_what_stack_returns(
    exported: Exported, session: onnxruntime.InferenceSession
) -> None:
    assert {one.name for one in session.get_inputs()} == set(exported.probe)
    [scores] = session.get_outputs()
    assert (scores.name, scores.shape[2]) == ("scores", 1)


def test_the_probe_gives_what_is_expected(
    exported: Exported, session: onnxruntime.InferenceSession
) -> None:
    [found] = session.run(["scores"], exported.probe)
    assert found == pytest.approx(exported.expected, abs=1e-4)


def test_nothing_tells_where_it_was_made(trained: Trained, exported: Exported) -> None:
    for made in (export.to_onnx(trained.ranker), exported.onnx):
        assert not any(node.metadata_props for node in onnx.load_from_string(made).graph.node)
        assert b"ranker.py" not in made


def test_folded_constants_change_nothing(trained: Trained) -> None:
    graph = export.to_onnx(trained.ranker)
    before, after = (export.session_of(one) for one in (graph, export.folded(graph)))
    for shape in ((2, 9, 7), (1, 0, 1), (1, 50, 100)):
        batch = export.random_inputs(trained.ranker.config, *shape)
        [wanted], [found] = before.run(["scores"], batch), after.run(["scores"], batch)
        assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("lists", "steps", "candidates"),
    [(1, 0, 1), (1, 0, 1000), (1, 50, 1), (3, 1, 1), (1, 200, 300), (17, 9, 2)],
)
def test_graph_and_model_agree_at_every_shape(
    trained: Trained,
    session: onnxruntime.InferenceSession,
    lists: int,
    steps: int,
    candidates: int,
) -> None:
    """All ids and words are random: nobody has seen them."""
    batch = export.random_inputs(trained.ranker.config, lists, steps, candidates)
    [found] = session.run(["scores"], batch)
    assert found == pytest.approx(export.run(trained.ranker, batch), abs=1e-4)


def test_one_word_and_sixteen_are_both_taken(
    trained: Trained, session: onnxruntime.InferenceSession
) -> None:
    two, one = query({"a": {"colour": "red"}, "b": {}}), query(["a"])
    batch = inputs.stack([example(SCHEMA, asked).inputs for asked in (two, one)])
    assert batch["candidate_tokens"].shape == (2, 2, 1)
    [found] = session.run(["scores"], batch)
    assert found == pytest.approx(export.run(trained.ranker, batch), abs=1e-4)


def test_the_weights_are_the_models(trained: Trained, exported: Exported) -> None:
    state = trained.ranker.state_dict()
    assert exported.weights.keys() == state.keys()
    assert all(np.array_equal(exported.weights[name], state[name].numpy()) for name in state)
    assert exported.heads == ("click",)


def test_the_graph_holds_the_weights_by_their_names(trained: Trained, exported: Exported) -> None:
    """Weights that are equal, such as fresh biases, may be there once for all."""
    stored = {
        one.name: numpy_helper.to_array(one)
        for one in onnx.load_from_string(export.to_onnx(trained.ranker)).graph.initializer
    }
    large = {name: array for name, array in exported.weights.items() if array.ndim > 1}
    del large["encoder.transformer.embeddings.word_embeddings.weight"]  # never used
    assert large.keys() <= stored.keys()
    assert all(np.array_equal(array, stored[name]) for name, array in large.items())


def test_a_graph_that_differs_is_never_handed_out(trained: Trained, exported: Exported) -> None:
    other = training.fresh(trained.ranker.config, trained.examples).eval()
    torch.nn.init.normal_(other.dense.bias, std=9.0)
    with pytest.raises(ExportFailed, match="must agree within"):
        export.check(exported.onnx, other, [exported.probe])


def test_what_is_no_graph_is_never_handed_out(trained: Trained, exported: Exported) -> None:
    with pytest.raises(ExportFailed, match="graph must run"):
        export.check(exported.onnx[:-9], trained.ranker, [exported.probe])


def test_its_structure_takes_its_weights(trained: Trained, exported: Exported) -> None:
    assert exported.structure is not None
    graph = Graph.decode(exported.structure, trained.ranker)
    export.check(graph.with_weights(exported.weights), trained.ranker, [exported.probe])
