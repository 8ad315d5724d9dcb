from streamrank.events import Interaction
from streamrank.features.schema import Schema
from streamrank.learning.feedback import Feedback

NOW = 1_700_000_000_000
SCHEMA = Schema(interactions=("view", "click", "buy"), label="click", conversion="buy")


def deed(kind: str, item: str | None, ranking: str | None) -> Interaction:
    return Interaction(id="e", timestamp=NOW, user="u", type=kind, item=item, ranking=ranking)


def test_labels_stand_by_candidate_and_head() -> None:
    feedback = Feedback(SCHEMA)
    for event in (deed("click", "b", "r"), deed("buy", "b", "r"), deed("click", "c", "r")):
        assert feedback.take(event) == "r"
    assert feedback.labels("r", ["a", "b", "c"]).tolist() == [[0, 0], [1, 1], [1, 0]]
    assert feedback.clicked("r") == {"b", "c"}


def test_what_names_no_list_or_no_item_or_is_no_label_is_no_feedback() -> None:
    feedback = Feedback(SCHEMA)
    for event in (deed("click", "a", None), deed("click", None, "r"), deed("view", "a", "r")):
        assert feedback.take(event) is None
    assert feedback.labels("r", ["a"]).tolist() == [[0, 0]]


def test_without_a_conversion_there_is_one_head() -> None:
    feedback = Feedback(Schema(interactions=("click",), label="click"))
    feedback.take(deed("click", "a", "r"))
    assert feedback.labels("r", ["a", "b"]).tolist() == [[1], [0]]
    assert feedback.labels("unknown", []).shape == (0, 1)
