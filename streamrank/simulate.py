"""Shoppers with known tastes, for demos and for tests that need the truth.

A `World` has a catalogue of places to stay and shoppers who ask for lists, look at them from the
top and click on what they like.  How much shopper s, who is after category c, likes item i at
time t is

    z = CATEGORY * taste(s, t)[category of i]  +  TAGS * mean of taste(s, t)[tags of i]
      - ((log price of i - budget(s, t)) / TOLERANCE)^2 / 2
      + INTENT * (1 if c is the category of i) + appeal of i - RESERVE

Clicks follow the position-based model: the item at place p = 0, 1, … of a list is looked at with
probability (1 + p)^-BIAS, and clicked on, if looked at, with probability sigmoid(z).  So the order
by sigmoid(z), which is `World.utility`, gets the most clicks that any order can expect.  What is
clicked on goes into the cart, and what is in the cart is bought, with probabilities that rise
with z as well.

Tastes drift: taste(s, t) = A cos w + B sin w, with A and B drawn independently for each shopper
(in part for each kind of traveller) and w = 2 pi t / turn.  Such a taste has the same spread at
all times, and after a quarter of a turn nothing of it is left.  `World.shift` turns all tastes by
that quarter at once.

Everything is drawn from the seed, and time is an argument.  What a shopper does with a list
depends on the list and its order alone, not on what was asked of the world in between.

References:
    Craswell, Zoeter, Taylor, Ramsey, WSDM 2008, "An experimental comparison of click
    position-bias models" (the position-based model, and the cascade that it is held against).
    Joachims, Swaminathan, Schnabel, WSDM 2017, "Unbiased learning-to-rank with biased feedback"
    (examination as a power of the place).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from streamrank.events import Candidate, Event, Interaction, Item, Request, Shown, User

Array = np.ndarray[Any, Any]

CATEGORIES = ("beach", "city", "mountain", "lake", "island", "vineyard", "forest", "desert")
TAGS = ("quiet", "lively", "historic", "modern", "family", "romantic", "pool", "view")
KINDS = ("solo", "couple", "family", "business")
"""Kinds of travellers, who share a part of their tastes."""

CATEGORY_WEIGHT, TAGS_WEIGHT, INTENT_WEIGHT = 0.9, 0.9, 1.6
TOLERANCE = 0.6
"""How far from the budget, in log price, a price costs half a point."""
RESERVE = 1.2
BIAS = 0.7
SHARED = 0.8
"""How much of a taste is that of the kind of traveller; the rest makes the sum of squares 1."""
RETURNS = 0.7
"""How often the next list is of somebody who is in the middle of a visit, where there is one."""
SECOND = 1000

_NOUNS = {
    "beach": ("beach house", "surf lodge", "bungalow", "seaside hotel"),
    "city": ("loft", "city hotel", "townhouse", "studio"),
    "mountain": ("chalet", "alpine lodge", "cabin", "summit hotel"),
    "lake": ("lake house", "boathouse", "pier hotel", "lakeside inn"),
    "island": ("villa", "island lodge", "lighthouse", "harbour inn"),
    "vineyard": ("wine estate", "farmhouse", "country inn", "manor"),
    "forest": ("treehouse", "forest lodge", "log cabin", "hunting lodge"),
    "desert": ("desert camp", "riad", "adobe house", "oasis hotel"),
}
_NAMES = (
    *("Alma", "Bela", "Cora", "Dora", "Elba", "Flora", "Gala", "Hera", "Iris", "Juno"),
    *("Kaya", "Luna", "Mira", "Nova", "Opal", "Petra", "Rhea", "Stella", "Tara", "Vega"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a world is.

    Attributes:
        items: Items of the catalogue.
        shoppers: People.
        candidates: Items of a list.
    """

    items: int = 100
    shoppers: int = 100
    candidates: int = 20


class World:
    """A catalogue, and people who ask for lists of it.

    Args:
        seed: What all chance comes from.
        size: How many items and people there are.
        turn: How long a taste takes to come round; a quarter of it changes it altogether.
        noise: How little the incoming order has to do with the items' appeal.

    Examples:
        >>> world = World(seed=1)
        >>> request = world.request(1_700_000_000_000)
        >>> likes = world.utility(request)
        >>> best = sorted(likes, key=likes.get, reverse=True)
        >>> deeds = world.feedback(request, best, request.timestamp)
        >>> {deed.type for deed in deeds} <= {"click", "cart", "purchase"}
        True
        >>> all(deed.ranking == request.id and deed.item in likes for deed in deeds)
        True
    """

    def __init__(
        self,
        seed: int = 0,
        size: Size = Size(),
        *,
        turn: timedelta = timedelta(days=40),
        noise: float = 2.0,
    ) -> None:
        self.size = size
        self._seed = seed
        self._turn = turn / timedelta(milliseconds=1)
        self._noise = noise
        self._shifts: list[int] = []
        self._random = np.random.default_rng(seed)
        self._stock(self._random)
        self._populate(self._random)
        self._asked = 0
        # Of each shopper: visits so far, lists left in this one, and when free for the next list.
        self._visits = np.zeros(size.shoppers, np.int64)
        self._left = np.zeros(size.shoppers, np.int64)
        self._free = np.zeros(size.shoppers, np.int64)

    def _stock(self, random: np.random.Generator) -> None:
        count = self.size.items
        self._category = np.arange(count) % len(CATEGORIES)
        tags = random.random((count, len(TAGS))).argsort(axis=1) < 2  # two of them each
        self._tags = tags / 2.0
        usual = random.normal(4.6, 0.3, len(CATEGORIES))
        self._price = np.exp(usual[self._category] + random.normal(0, 0.5, count)).round()
        self._appeal = random.normal(0, 0.5, count)
        self._index = {f"i{number}": number for number in range(count)}

    def _populate(self, random: np.random.Generator) -> None:
        shape = (2, self.size.shoppers, len(CATEGORIES) + len(TAGS) + 1)
        self._kind = random.integers(len(KINDS), size=self.size.shoppers)
        shared = random.normal(size=(2, len(KINDS), shape[2]))[:, self._kind]
        own = random.normal(size=shape)
        self._tastes = SHARED * shared + (1 - SHARED**2) ** 0.5 * own  # A and B of each

    # --- what there is ------------------------------------------------------------------------

    def title(self, item: str) -> str:
        """Return the title of an item."""
        number = self._index[item]
        nouns = _NOUNS[CATEGORIES[self._category[number]]]
        turn = number // len(CATEGORIES)
        name = _NAMES[turn // len(nouns) % len(_NAMES)]
        again = turn // len(nouns) // len(_NAMES)
        return f"{name} {nouns[turn % len(nouns)]}" + (f" {again + 1}" if again else "")

    def fields(self, item: str) -> dict[str, Any]:
        """Return what the catalogue says of an item."""
        number = self._index[item]
        return {
            "title": self.title(item),
            "category": CATEGORIES[self._category[number]],
            "price": float(self._price[number]),
            "tags": tuple(TAGS[tag] for tag in np.flatnonzero(self._tags[number])),
        }

    def catalogue(self, at: int) -> Iterator[Item | User]:
        """Return the `item` and `user` events that make this world known, dated `at`."""
        for item in self._index:
            yield Item(id=f"c-{item}-{at}", timestamp=at, item=item, fields=self.fields(item))
        for number in range(self.size.shoppers):
            fields = {"kind": KINDS[self._kind[number]]}
            yield User(id=f"c-u{number}-{at}", timestamp=at, user=f"u{number}", fields=fields)

    # --- the truth ----------------------------------------------------------------------------

    def shift(self, at: int) -> None:
        """Change all tastes at once, from `at` (ms) on."""
        self._shifts.append(at)

    def tastes(self, user: str, at: int) -> dict[str, float]:
        """Return what a shopper likes at `at` (ms): categories, tags, and the log of a budget."""
        names = (*CATEGORIES, *TAGS, "budget")
        taste = self._taste(int(user[1:]), at)
        return dict(zip(names, [*taste[:-1].tolist(), _budget(taste)], strict=True))

    def utility(self, request: Request) -> dict[str, float]:
        """Return how probable a click on each candidate is, once it is looked at."""
        likes = _sigmoid(self._liking(request))
        return {item.id: float(p) for item, p in zip(request.items, likes, strict=True)}

    def _taste(self, shopper: int, at: int) -> Array:
        quarters = sum(at >= shift for shift in self._shifts)
        angle = 2 * np.pi * at / self._turn + quarters * np.pi / 2
        first, second = self._tastes[:, shopper]
        return np.asarray(first * np.cos(angle) + second * np.sin(angle))

    def _intent(self, request: Request) -> int:
        """Return the category that a visit is about: more often one that the shopper likes."""
        shopper, visit = map(int, (request.session or "")[1:].split("-"))
        chance = np.random.default_rng((self._seed, 1, shopper, visit)).gumbel(size=len(CATEGORIES))
        return int(np.argmax(self._taste(shopper, request.timestamp)[: len(CATEGORIES)] + chance))

    def _liking(self, request: Request) -> Array:
        """Return z of each candidate, shape (C,)."""
        items = np.array([self._index[candidate.id] for candidate in request.items], np.int64)
        taste = self._taste(int((request.user or "")[1:]), request.timestamp)
        category, tags = taste[: len(CATEGORIES)], taste[len(CATEGORIES) : -1]
        dear = (np.log(self._price[items]) - _budget(taste)) / TOLERANCE
        return np.asarray(
            CATEGORY_WEIGHT * category[self._category[items]]
            + TAGS_WEIGHT * self._tags[items] @ tags
            - dear**2 / 2
            + INTENT_WEIGHT * (self._category[items] == self._intent(request))
            + self._appeal[items]
            - RESERVE
        )

    # --- what people do -----------------------------------------------------------------------

    def request(self, now: int) -> Request:
        """Return the wish of the next shopper, for a list in the incoming order.

        Args:
            now: The time, milliseconds.
        """
        shopper = self._next(now)
        self._free[shopper] = now + 30 * SECOND  # for `feedback` to say better
        self._asked += 1
        drawn = self._random.choice(self.size.items, self.size.candidates, replace=False)
        popular = self._appeal[drawn] + self._noise * self._random.normal(size=len(drawn))
        request = Request(
            id=f"r{self._asked}",
            timestamp=now,
            user=f"u{shopper}",
            session=f"s{shopper}-{self._visits[shopper]}",
            items=tuple(Candidate(id=f"i{number}") for number in drawn[np.argsort(-popular)]),
        )
        device = "phone" if shopper % 3 else "desktop"
        fields = {"device": device, "search": CATEGORIES[self._intent(request)]}
        return request.model_copy(update={"fields": fields})

    def _next(self, now: int) -> int:
        """Choose who comes: somebody in the middle of a visit, or somebody new."""
        free = self._free <= now
        back, new = np.flatnonzero(free & (self._left > 0)), np.flatnonzero(free & (self._left < 1))
        if len(back) and (self._random.random() < RETURNS or not len(new)):
            shopper = int(self._random.choice(back))
        else:
            shopper = int(self._random.choice(new)) if len(new) else int(self._free.argmin())
            self._left[shopper] = self._random.integers(2, 6)
            self._visits[shopper] += 1
        self._left[shopper] -= 1
        return shopper

    def feedback(self, request: Request, shown: Sequence[str], now: int) -> list[Interaction]:
        """Return what the shopper does with a list, in the order of time.

        Args:
            request: What was asked.
            shown: The items as they were shown, best first.
            now: When they were shown, milliseconds.
        """
        chance = np.random.default_rng((self._seed, 2, int(request.id[1:])))
        luck = chance.random((3, len(request.items)))
        pauses = chance.integers(400, 1500, size=3 * len(request.items) + 1)
        deeds = self._deeds(request, shown, luck)
        at, found = now, []
        for number, (deed, pause) in enumerate(zip(deeds, pauses, strict=False)):
            at += int(pause)
            found.append(
                Interaction(
                    id=f"{request.id}-{number}",
                    timestamp=at,
                    user=request.user,
                    session=request.session,
                    **deed,
                )
            )
        self._free[int((request.user or "")[1:])] = at + SECOND
        return found

    def _deeds(
        self, request: Request, shown: Sequence[str], luck: Array
    ) -> Iterator[Mapping[str, Any]]:
        """Give the shopper's deeds, item by item from the top.

        The luck belongs to the item, whatever its place: two orders differ by the orders alone.
        """
        liking = dict(zip((c.id for c in request.items), self._liking(request), strict=True))
        drawn = dict(zip(liking, luck.T, strict=True))
        looked = dict(zip(shown, examination(len(shown)), strict=True))
        if luck[2, 0] < 0.2:
            yield {"type": "filter", "fields": {"category": CATEGORIES[self._intent(request)]}}
        for item in shown:
            z, (click, cart, purchase) = liking[item], drawn[item]
            if click >= looked[item] * _sigmoid(z):
                continue
            about = {"item": item, "ranking": request.id}
            yield {"type": "click", **about}
            if cart < _sigmoid(z - 1):
                yield {"type": "cart", **about}
                if purchase < _sigmoid(z):
                    yield {"type": "purchase", **about}

    def history(
        self, lists: int, until: int, span: timedelta = timedelta(days=2)
    ) -> Iterator[Event]:
        """Return a log of the time before: the catalogue, lists in the incoming order, deeds.

        Args:
            lists: How many lists.
            until: When the log ends, milliseconds.
            span: How long it lasts.
        """
        began = until - span // timedelta(milliseconds=1)
        yield from self.catalogue(began)
        ahead: list[tuple[int, str, Event]] = []  # what shoppers will do, by time
        for at in np.linspace(began, until, lists + 2)[1:-1].astype(np.int64).tolist():
            while ahead and ahead[0][0] <= at:
                yield heapq.heappop(ahead)[2]
            request = self.request(at)
            shown = [candidate.id for candidate in request.items]
            yield as_shown(request)
            for deed in self.feedback(request, shown, at):
                heapq.heappush(ahead, (deed.timestamp, deed.id, deed))
        yield from (heapq.heappop(ahead)[2] for _ in range(len(ahead)) if ahead[0][0] <= until)


def as_shown(request: Request) -> Shown:
    """Return a request's list as one that was shown in the incoming order."""
    known = dict(request)
    del known["k"]
    return Shown(**known | {"event": "ranking"})


def examination(size: int) -> Array:
    """Return how probable a look at each place of a list is, shape (size,).

    Examples:
        >>> examination(3).round(3).tolist()
        [1.0, 0.616, 0.463]
    """
    return np.asarray((1.0 + np.arange(size)) ** -BIAS)


def _budget(taste: Array) -> float:
    """Return the log price that is liked best."""
    return 4.6 + 0.5 * float(taste[-1])


def _sigmoid(z: Array | float) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.asarray(z))))
