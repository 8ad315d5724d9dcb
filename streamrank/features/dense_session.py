"""The dense features that all candidates of a list share: the user, the session and the time."""

from __future__ import annotations

import math

import numpy as np

from streamrank.features.columns import Feature
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View


def context_features(schema: Schema) -> list[Feature]:
    """List the dense features that a list's candidates share, in the order of their columns."""
    types = (*schema.interactions, "other")
    return [
        Feature("session.steps", "interactions in this session, log"),
        Feature("session.seconds", "seconds since the session began, log"),
        Feature("session.idle", "seconds since the user's last step, log"),
        Feature("session.first", "1 where the user has done nothing yet"),
        Feature("session.items", "distinct items touched, log"),
        Feature("session.hour_sin", "time of day, sine"),
        Feature("session.hour_cos", "time of day, cosine"),
        Feature("list.size", "log of the number of candidates"),
        Feature("list.touched", "log of the candidates that were touched"),
        Feature("list.none_touched", "1 where no candidate was touched"),
        Feature("list.last_touched", "1 where the item touched last is a candidate"),
        Feature("list.last_place", "nearness to the top of the candidate touched last; 0 for none"),
        Feature("list.lowest_place", "the same of the lowest that was touched"),
        Feature("list.labelled", "log of the candidates that had the label"),
        Feature("list.same", "1 where the user's last list was this one"),
        Feature("list.seen", "share of the candidates that the user's last list held"),
        Feature("list.since", "seconds since the user's last list, log"),
        *(Feature(f"step.{t}", f"1 where the user's last step was `{t}`") for t in types),
        *(
            Feature(f"user.{name}", f"decayed `{name}` of this user, longest horizon, log")
            for name in schema.channels
        ),
    ]


def context_numbers(view: View) -> Array:
    """Return the dense features of a list, float32 (G,)."""
    counts = map(math.log1p, view.user_counts)
    return np.array([*_session(view), *counts], np.float32)


def _session(view: View) -> tuple[float, ...]:
    user, at, touched = view.query.state, view.query.at, view.past.touched
    here = user.session == view.query.session
    start = user.session_start if here else at
    last = user.steps[-1].last if user.steps else at
    before = view.earlier[-1] if view.earlier else ()
    listed = user.current.at if user.current is not None and before else at
    angle = 2 * math.pi * (at % 86_400_000) / 86_400_000
    step = [0.0] * (len(view.schema.interactions) + 1)
    if user.steps:
        step[view.schema.channel(user.steps[-1].type)] = 1.0
    return (
        math.log1p(user.session_steps if here else 0),
        math.log1p(max(0, at - start) / 1000),
        math.log1p(max(0, at - last) / 1000),
        not user.steps,
        math.log1p(view.past.items),
        math.sin(angle),
        math.cos(angle),
        math.log1p(view.size),
        math.log1p(len(touched)),
        not touched,
        bool(touched) and touched[0].rank == 0,
        1 / (1 + touched[0].place) if touched else 0,
        1 / (1 + max(touch.place for touch in touched)) if touched else 0,
        math.log1p(len(view.labelled)),
        bool(before) and before == tuple(view.ids),
        len(view.again) / max(1, view.size),
        math.log1p(max(0, at - listed) / 1000),
        *step,
    )
