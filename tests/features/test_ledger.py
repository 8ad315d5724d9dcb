from hypothesis import given
from hypothesis import strategies as st

from streamrank.features.ledger import MOST, Book, Ledger, admit, enter

events = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 100)), max_size=40)


@given(events)
def test_an_id_never_counts_twice_within_the_lateness(deeds: list[tuple[str, int]]) -> None:
    ledger, counted = Ledger(), list[tuple[str, int]]()
    for event_id, at in deeds:
        ledger, verdict = admit(ledger, event_id, at, 10)
        if verdict == "new":
            assert not any(known == event_id and ledger.newest - 10 <= t for known, t in counted)
            counted.append((event_id, at))


@given(events)
def test_what_is_remembered_is_within_the_lateness_of_the_newest(
    deeds: list[tuple[str, int]],
) -> None:
    ledger = Ledger()
    for event_id, at in deeds:
        ledger, _ = admit(ledger, event_id, at, 10)
        assert all(seen >= ledger.newest - 10 for seen in ledger.ids.values())


def test_an_event_on_the_border_counts_and_one_before_it_is_late() -> None:
    ledger, _ = admit(Ledger(), "a", 1_000, 100)
    assert admit(ledger, "b", 900, 100)[1] == "new"
    assert admit(ledger, "b", 899, 100) == (ledger, "late")


@given(events, st.integers(1, 50))
def test_what_is_written_in_place_says_the_same(
    deeds: list[tuple[str, int]], lateness: int
) -> None:
    ledger, book = Ledger(), Book()
    for event_id, at in deeds:
        ledger, verdict = admit(ledger, event_id, at, lateness)
        assert enter(book, event_id, at, lateness) == verdict
        assert book.newest == ledger.newest
        assert book.ids.items() >= ledger.ids.items()


def test_what_is_remembered_in_place_is_little_more_than_the_lateness() -> None:
    book = Book()
    for n in range(10_000):
        enter(book, f"e{n}", n, 100)
        assert len(book.ids) <= 127


def test_of_a_key_that_never_rests_only_the_latest_ids_are_remembered() -> None:
    """All of them at once: none is ever too old."""
    first = {f"e{n}": 5_000 for n in range(MOST)}
    ledger, book = Ledger(5_000, dict(first)), Book(5_000, 5_000, dict(first))
    for n in range(MOST, MOST + 3):
        ledger, verdict = admit(ledger, f"e{n}", 5_000, 1_000)
        assert (verdict, enter(book, f"e{n}", 5_000, 1_000)) == ("new", "new")
    assert list(ledger.ids) == list(book.ids) == [f"e{n}" for n in range(3, MOST + 3)]
