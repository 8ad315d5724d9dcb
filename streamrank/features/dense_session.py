"""The dense features that all candidates of a list share: the user, the session and the time."""

from __future__ import annotations

import numpy as np

from streamrank.features.columns import Feature, Group
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View
from streamrank.features.views import Views


def _features(schema: Schema) -> list[Feature]:
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


_LOGGED = [0, 1, 2, 4, 7, 8, 13, 16]
"""Columns of `_session` that are on a log scale."""


def _session(views: Views, out: Array) -> None:
    table = np.array([_session_of(view) for view in views.views], np.float64)
    table[:, _LOGGED] = np.log1p(table[:, _LOGGED])
    angle = table[:, 5].copy()
    table[:, 5], table[:, 6] = np.sin(angle), np.cos(angle)
    own = table.shape[1]
    out[:own], out[own:] = table.T, np.log1p(views.user_counts).T


def _session_of(view: View) -> tuple[float, ...]:
    user, at, touched = view.query.state, view.query.at, view.past.touched
    here = user.session == view.query.session
    start = user.session_start if here else at
    last = user.steps[-1].last if user.steps else at
    before = view.earlier[-1] if view.earlier else ()
    listed = user.current.at if user.current is not None and before else at
    angle = 2 * np.pi * (at % 86_400_000) / 86_400_000
    step = [0.0] * (len(view.schema.interactions) + 1)
    if user.steps:
        step[view.schema.channel(user.steps[-1].type)] = 1.0
    return (
        user.session_steps if here else 0,
        max(0, at - start) / 1000,
        max(0, at - last) / 1000,
        not user.steps,
        view.past.items,
        angle,
        angle,
        view.size,
        len(touched),
        not touched,
        bool(touched) and touched[0].rank == 0,
        1 / (1 + touched[0].place) if touched else 0,
        1 / (1 + max(touch.place for touch in touched)) if touched else 0,
        len(view.labelled),
        bool(before) and before == tuple(view.ids),
        len(view.again) / max(1, view.size),
        max(0, at - listed) / 1000,
        *step,
    )


SESSION = Group("session", _features, _session)
