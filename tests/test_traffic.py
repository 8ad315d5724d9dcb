"""What a demo sends, and when: never an effect before its cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrank.edges.kafka import Incoming
from streamrank.events import (
    Candidate,
    DeadLetter,
    Event,
    Interaction,
    Item,
    Placed,
    Ranking,
    Request,
    Shown,
    decode,
)
from streamrank.simulate import Size, World
from streamrank.steps import Read
from streamrank.traffic import LogTraffic, Send, ShopperTraffic, Traffic, scores_of

NOW = 1_700_000_000_000


def read(event: Event | Request) -> Read:
    return Read(event, Incoming("events", 0, 0, event.encode()))


def shown(name: str, user: str = "u1", items: str = "abc") -> Shown:
    return Shown(
        id=name, timestamp=NOW, user=user, items=tuple(Candidate(id=item) for item in items)
    )


def click(name: str, user: str = "u1", item: str = "a", ranking: str | None = None) -> Interaction:
    return Interaction(id=name, timestamp=NOW, user=user, type="click", item=item, ranking=ranking)


def answer(request: Request, order: Sequence[str] | None = None) -> Ranking:
    """Return the ranked list of a request, in the incoming order if in no other."""
    items = order or [item.id for item in request.items]
    return Ranking(
        id=request.id,
        timestamp=NOW,
        user=request.user,
        request=request.id,
        items=tuple(Placed(id=item, score=1.0, propensity=1.0) for item in items),
        model="",
        policy="greedy",
        features="f",
        latency_ms=1.0,
    )


def log_of(*events: Event | Request, pace: float | None = None, held: int = 10_000) -> LogTraffic:
    return LogTraffic(iter([read(event) for event in events]), {}, frozenset(), pace, held)


def names(sends: Iterable[Send]) -> list[str]:
    return [f"{send.topic}:{send.event.id}" for send in sends if send.event is not None]


def requests(sends: Iterable[Send]) -> list[Request]:
    return [send.event for send in sends if isinstance(send.event, Request)]


def play(traffic: Traffic, room: int = 100) -> list[Send]:
    """Let a log happen, each list answered once nothing else is due, the oldest one first."""
    sent: list[Send] = []
    open_lists: list[Request] = []
    for _ in range(10_000):
        new = list(traffic.due(NOW, room - len(open_lists)))
        if not new and open_lists:
            new = list(traffic.answered(answer(open_lists.pop(0)), NOW))
        sent += new
        open_lists += requests(new)
        if traffic.done:
            return sent
    raise AssertionError("the traffic never ends")


# --- a log --------------------------------------------------------------------------------------


def test_a_shown_list_is_sent_as_a_request_with_all_that_is_known_of_it() -> None:
    [send] = log_of(shown("r1")).due(NOW, 9)
    assert (send.topic, send.key) == ("requests", "u1")
    assert decode(send.payload) == send.event
    assert send.event == Request(
        id="r1", timestamp=NOW, user="u1", items=tuple(Candidate(id=item) for item in "abc")
    )


def test_other_events_are_sent_as_they_were_written() -> None:
    payload = b'{"timestamp":1700000000000, "event":"user","id":"e1","user":"u1"}'
    one = Read(decode(payload), Incoming("events", 0, 0, payload))
    [send] = LogTraffic(iter([one]), {}, frozenset()).due(NOW, 9)
    assert (send.topic, send.key, send.payload) == ("events", "u1", payload)


def test_what_a_user_does_after_a_list_waits_for_its_answer() -> None:
    traffic = log_of(shown("r1"), click("e1", ranking="r1"), click("e2"), shown("r2"), click("e3"))
    first = list(traffic.due(NOW, 9))
    assert names(first) == ["requests:r1"]
    assert not traffic.done
    [request] = requests(first)
    second = list(traffic.answered(answer(request), NOW))
    assert names(second) == ["events:e1", "events:e2", "requests:r2"]
    assert names(traffic.due(NOW, 9)) == []
    [request] = requests(second)
    assert names(traffic.answered(answer(request), NOW)) == ["events:e3"]
    assert traffic.done


def test_other_people_and_the_catalogue_do_not_wait() -> None:
    item = Item(id="e2", timestamp=NOW, item="u1")  # an item may be called like a user
    traffic = log_of(shown("r1"), click("e1", user="u2"), item, shown("r2", user="u2"))
    assert names(traffic.due(NOW, 9)) == ["requests:r1", "events:e1", "events:e2", "requests:r2"]


def test_no_more_lists_are_asked_for_than_there_is_room() -> None:
    traffic = log_of(*(shown(f"r{n}", user=f"u{n}") for n in range(5)))
    assert names(traffic.due(NOW, 2)) == ["requests:r0", "requests:r1"]
    assert names(traffic.due(NOW, 0)) == []
    assert names(traffic.due(NOW, 1)) == ["requests:r2"]


def test_a_list_that_the_log_tells_twice_is_asked_for_once() -> None:
    sent = play(log_of(shown("r1"), shown("r1"), click("e1"), shown("r1")))
    assert names(sent) == ["requests:r1", "events:r1", "events:e1", "events:r1"]


def test_a_request_of_the_log_is_a_request() -> None:
    asked = Request(id="r1", timestamp=NOW, user="u1", k=2, items=(Candidate(id="a"),))
    assert [send.event for send in play(log_of(asked))] == [asked]


def test_what_cannot_be_read_is_sent_as_it_is() -> None:
    letter = DeadLetter(reason="bad", origin="events[0]@7", payload=b"\xff{", timestamp=NOW)
    [send] = LogTraffic(iter([letter]), {}, frozenset()).due(NOW, 9)
    assert send == Send("events", "events[0]@7", b"\xff{", None)


def test_a_log_is_paced_by_the_clock() -> None:
    """Ten records a second: at the start none is due, one after 0.1 s, ten after a second."""
    traffic = log_of(*(click(f"e{number}", user=f"u{number}") for number in range(20)), pace=10.0)
    due = [len(list(traffic.due(NOW + ms, 9))) for ms in (0, 50, 100, 1_000, 1_000, 60_000)]
    assert due == [0, 1, 0, 9, 0, 10]


def test_no_more_of_a_log_is_read_than_may_be_held() -> None:
    events = iter([read(shown("r1")), *(read(click(f"e{number}")) for number in range(10))])
    traffic = LogTraffic(events, {}, frozenset(), held=3)
    [asked] = requests(traffic.due(NOW, 9))
    assert len(list(events)) == 7
    assert names(traffic.answered(answer(asked), NOW)) == ["events:e0", "events:e1", "events:e2"]


def test_an_empty_log_is_done() -> None:
    traffic = log_of()
    assert names(traffic.due(NOW, 9)) == []
    assert traffic.done


_EVENTS = st.lists(
    st.tuples(st.sampled_from("LED"), st.sampled_from(["u1", "u2", "u3"])), max_size=40
)


@given(told=_EVENTS, room=st.integers(1, 4))
def test_every_record_is_sent_once_and_in_the_order_of_its_user(
    told: list[tuple[str, str]], room: int
) -> None:
    """L is a list, E an event, D the list before told again."""
    events: list[Event] = []
    for number, (kind, user) in enumerate(told):
        lists = [event for event in events if isinstance(event, Shown) and event.user == user]
        if kind == "D" and lists:
            events.append(lists[-1])
        else:
            events.append(shown(f"r{number}", user) if kind == "L" else click(f"e{number}", user))
    sent = play(log_of(*events), room)
    for user in ("u1", "u2", "u3"):
        of_user = [send.event.id for send in sent if send.key == user and send.event is not None]
        assert of_user == [event.id for event in events if event.key == user]
    asked = [request.id for request in requests(sent)]
    assert sorted(asked) == sorted({event.id for event in events if isinstance(event, Shown)})


@given(told=_EVENTS)
def test_nothing_of_a_user_goes_out_while_a_list_of_theirs_is_open(
    told: list[tuple[str, str]],
) -> None:
    events = [
        shown(f"e{number}", user) if kind == "L" else click(f"e{number}", user)
        for number, (kind, user) in enumerate(told)
    ]
    traffic, waiting = log_of(*events), dict[str, Request]()
    new = list(traffic.due(NOW, 100))
    while True:
        for send in new:
            assert send.key not in waiting
            if isinstance(send.event, Request):
                waiting[send.key] = send.event
        if not waiting:
            break
        _, request = waiting.popitem()
        new = list(traffic.answered(answer(request), NOW))
    assert traffic.done


def test_quality_is_of_the_measured_lists_that_got_feedback_alone() -> None:
    """The clicked item is third of three as shown (mrr 1/3) and first as ranked (mrr 1)."""
    events = [shown(name, user=name) for name in ("learned", "measured", "silent")]
    labels = {"learned": frozenset("a"), "measured": frozenset("c")}
    measured = frozenset({"measured", "silent"})
    traffic = LogTraffic(iter(map(read, events)), labels, measured)
    for request in requests(traffic.due(NOW, 9)):
        list(traffic.answered(answer(request, "cab"), NOW))
    quality = traffic.quality()
    assert quality["streamrank"]["lists"] == quality["as_shown"]["lists"] == 1
    assert quality["streamrank"]["mrr"] == 1.0
    assert quality["as_shown"]["mrr"] == pytest.approx(1 / 3)


def test_a_ranked_list_that_leaves_the_clicked_item_out_is_measured_below_all_that_it_has() -> None:
    """Two of three are ranked, the clicked one is not among them: it counts as the last."""
    traffic = LogTraffic(iter([read(shown("r1"))]), {"r1": frozenset("a")}, frozenset({"r1"}))
    [request] = requests(traffic.due(NOW, 9))
    list(traffic.answered(answer(request, "cb"), NOW))
    assert traffic.quality()["streamrank"]["mrr"] == pytest.approx(1 / 3)


# --- shoppers -----------------------------------------------------------------------------------


def crowd(pace: float = 20.0, seconds: float = 5.0) -> ShopperTraffic:
    world = World(seed=4, size=Size(items=30, shoppers=200, candidates=10))
    return ShopperTraffic(world, pace, seconds)


def shop(traffic: ShopperTraffic, best: bool, step: int = 20) -> list[tuple[int, Send]]:
    """Let shoppers act until they are done, each list answered at once; return what they sent."""
    sent: list[tuple[int, Send]] = []
    now = NOW
    while not traffic.done:
        for send in list(traffic.due(now, 32)):
            sent.append((now, send))
            if isinstance(send.event, Request):
                likes = traffic.world.utility(send.event)
                order = sorted(likes, key=likes.__getitem__, reverse=best)
                assert list(traffic.answered(answer(send.event, order), now)) == []
        now += step
        assert now < NOW + 600_000, "the shoppers never end"
    return sent


def test_shoppers_ask_at_their_pace_until_the_time_is_up_and_act_a_little_longer() -> None:
    """Twenty a second for five seconds."""
    sent = shop(crowd(), best=True)
    asked = [now for now, send in sent if send.topic == "requests"]
    assert 95 <= len(asked) <= 100
    assert max(asked) < NOW + 5_000
    assert max(now for now, _ in sent) > NOW + 5_000  # the deeds on the last lists


def test_no_deed_is_sent_before_it_happens() -> None:
    deeds = [(now, send.event) for now, send in shop(crowd(), best=True) if send.topic == "events"]
    assert deeds
    for now, deed in deeds:
        assert deed is not None
        assert 0 <= now - deed.timestamp < 20


def test_shoppers_wait_for_their_answers() -> None:
    traffic = crowd(seconds=1.0)
    list(traffic.due(NOW, 9))
    [*asked] = requests(traffic.due(NOW + 500, 9))
    assert len(asked) == 9
    assert list(traffic.due(NOW + 900_000, 9)) == []
    assert not traffic.done
    for request in asked:
        list(traffic.answered(answer(request), NOW + 900_000))
    assert len(list(traffic.due(NOW + 2_000_000, 9))) > 0
    assert traffic.done


def test_before_the_first_answer_there_is_no_true_order_to_be_near_to() -> None:
    quality = crowd().quality()
    assert quality.keys() == {"streamrank", "as_shown"}
    assert all("ndcg@10_of_true_order" not in arm for arm in quality.values())


def test_every_list_is_counted_in_the_arm_that_it_was_seen_in() -> None:
    traffic = crowd(pace=100.0)
    sent = shop(traffic, best=True)
    asked = sum(send.topic == "requests" for _, send in sent)
    clicks = sum(
        isinstance(send.event, Interaction) and send.event.type == "click" for _, send in sent
    )
    arms = traffic.arms
    assert arms["streamrank"].lists + arms["as_shown"].lists == asked
    assert arms["streamrank"].clicks + arms["as_shown"].clicks == clicks
    assert arms["streamrank"].shown == 10 * arms["streamrank"].lists
    assert arms["streamrank"].lists == pytest.approx(asked / 2, abs=4 * (asked / 4) ** 0.5)


def test_the_true_order_has_ndcg_one_and_gets_more_clicks_than_the_incoming_one() -> None:
    traffic = crowd(pace=100.0)
    shop(traffic, best=True)
    quality = traffic.quality()
    assert quality["streamrank"]["ndcg@10_of_true_order"] == pytest.approx(1.0)
    assert quality["as_shown"]["ndcg@10_of_true_order"] < 0.95
    assert quality["streamrank"]["ctr"] > quality["as_shown"]["ctr"]


def test_the_worst_order_is_worse_than_the_incoming_one() -> None:
    traffic = crowd(pace=100.0)
    shop(traffic, best=False)
    quality = traffic.quality()
    for figure in ("ndcg@10_of_true_order", "ctr"):
        assert quality["streamrank"][figure] < quality["as_shown"][figure]


# --- orders as scores -----------------------------------------------------------------------------


@settings(deadline=timedelta(seconds=2))
@given(order=st.permutations("abcdef"), size=st.integers(0, 6))
def test_scores_put_items_in_their_order_and_what_is_left_out_last(
    order: list[str], size: int
) -> None:
    scores = dict(zip("abcdef", scores_of(order[:size], "abcdef"), strict=True))
    kept = [scores[item] for item in order[:size]]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == size
    assert all(scores[item] < min(kept, default=0.0) for item in order[size:])
