"""The join of all users in one place, by the time of a log: what `replay` gets examples from.

The learn flow keeps each user's `Joining` in Bytewax, which rings the alarms; here they ring when
the log's own time has passed them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

from streamrank.events import Interaction, Shown
from streamrank.learning import join
from streamrank.learning.examples import Example
from streamrank.learning.join import Arrival, Joining, Outcome, Rules
from streamrank.served import Served


@dataclass
class Joins:
    """Every user's join.

    Attributes:
        rules: Which feedback counts, and for how long.
        users: What is kept of each.

    Examples:
        >>> joins = Joins(Rules(label="click"))
        >>> click = Interaction(id="e", timestamp=10**12, user="u", type="click", item="i")
        >>> joins.take(click, 10**12), [one.name for one in joins.end()]
        ([], ['no_list_named'])
    """

    rules: Rules
    users: dict[str, Joining] = field(default_factory=dict)
    _alarms: list[tuple[int, str]] = field(default_factory=list)

    def take(self, what: Served | Interaction | Shown, at: int) -> list[Example | Outcome]:
        """Take in what came at a time of the log, ms; give out all that is ready by then."""
        out = self.until(at)
        return out + self._advance(what.key, Arrival(what, at))

    def until(self, at: int) -> list[Example | Outcome]:
        """Let time pass until then, ms; give out what is ready, the earliest first."""
        out: list[Example | Outcome] = []
        while self._alarms and self._alarms[0][0] <= at:
            alarm, user = heappop(self._alarms)
            state = self.users.get(user)
            if state is not None and join.alarm(state, self.rules) == alarm:  # else an old one
                out += self._advance(user, Arrival(None, alarm))
        return out

    def end(self) -> list[Example | Outcome]:
        """Let all the time pass that there is something to wait for."""
        out: list[Example | Outcome] = []
        while self._alarms:
            out += self.until(self._alarms[0][0])
        return out

    def _advance(self, user: str, arrival: Arrival) -> list[Example | Outcome]:
        state, out = join.advance(self.users.get(user, Joining()), arrival, self.rules)
        alarm = join.alarm(state, self.rules)
        if alarm is None:
            self.users.pop(user, None)
            return out
        self.users[user] = state
        heappush(self._alarms, (alarm, user))
        return out
