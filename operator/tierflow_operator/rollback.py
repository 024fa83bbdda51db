"""Whether a plan proved worse than the one before it.

Predictions can be wrong in ways that no figure shows: layers that disturb each other, a link that many share. What
requests took under both plans decides. What they took under the one before is brought up to date by how its prediction
has changed since, so that no plan is blamed for a link that got slower meanwhile. A plan is judged once, by requests of
its own and after the minimum interval; from then on only predictions move it, since what it would have to be compared
with gets old. See decisions/0009-rollback-by-measured-latency.md.
"""

import math
from dataclasses import dataclass
from typing import Final

from tierflow.errors import InfeasibleError
from tierflow.plan import Plan
from tierflow_operator.causes import milliseconds
from tierflow_operator.present import MeasuredLatency, Present, Replaced
from tierflow_operator.situation import Situation

FEWEST_REQUESTS: Final = 20
"""A mean of fewer requests judges no plan."""

_LEAST_THRESHOLD: Final = 0.05
"""Measurements of the same plan differ by so much, whatever the user would move for."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a plan's measurements say of it.

    Attributes:
        returns_to: The plan before, by the figures of now, where it would be faster; None where the plan stays.
        message: The figures.
    """

    returns_to: Plan | None
    message: str


def seconds_of(present: Present, measured: MeasuredLatency | None) -> float | None:
    """What requests took under the plan in force; None where that isn't known, or of too few, or of other plans too."""
    if measured is None or measured.since < present.decided_at or measured.requests < FEWEST_REQUESTS:
        return None
    return measured.seconds if math.isfinite(measured.seconds) and measured.seconds > 0 else None


def replaced_by_now(situation: Situation, present: Present, measured: MeasuredLatency | None) -> Replaced | None:
    """What to remember of the plan in force when another replaces it; None where it was never measured."""
    seconds = seconds_of(present, measured)
    if seconds is None:
        return None
    predicted = situation.latency_of(present.plan)
    return Replaced(plan=present.plan, predicted_seconds=predicted, measured_seconds=seconds)


def judged(situation: Situation, present: Present, now: float, measured: MeasuredLatency | None) -> Judgement | None:
    """Judges the plan in force by the one before; None where there is nothing to judge by, or not yet."""
    before = present.replaced
    age = now - present.decided_at
    if before is None or not situation.is_planned or age < situation.spec.planning.min_interval_seconds:
        return None
    seconds = seconds_of(present, measured)
    if seconds is None:
        return None
    expected = before.measured_seconds * situation.latency_of(before.plan) / before.predicted_seconds
    threshold = max(_LEAST_THRESHOLD, situation.spec.planning.min_improvement_percent / 100)
    message = (
        f"measured {milliseconds(seconds)} per request, and {milliseconds(before.measured_seconds)} under epoch "
        f"{before.plan.epoch}, which would be {milliseconds(expected)} by the figures of now"
    )
    if seconds <= expected * (1 + threshold):
        return Judgement(None, message)
    try:
        return Judgement(situation.plan_of(before.plan.tiers(situation.graph)), message)
    except InfeasibleError:
        return Judgement(None, message)
