"""When a better plan is worth its disruption: minimum improvement, stabilisation window, minimum interval.

A plan has to be better than the one in force by `minImprovementPercent`, without interruption for
`stabilizationSeconds`, and the plan in force has to be `minIntervalSeconds` old. A figure that changes step by step, or
is measured over a window, makes one plan after the other the best one, so several may prove themselves at a time.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from tierflow.plan import Plan
from tierflow_operator.causes import cause, gain
from tierflow_operator.decision import Decision, Hold, HoldReason, Move, MoveReason
from tierflow_operator.disruption import options, priced, touched
from tierflow_operator.observation import LINKS
from tierflow_operator.observation import measured as measured_as
from tierflow_operator.present import Contender, MeasuredLatency, Present, Rejected, identity, still_holds
from tierflow_operator.rollback import replaced_by_now
from tierflow_operator.situation import Situation, digest_of, taking_part

_CONTENDERS: Final = 3
"""So many plans prove themselves at a time: the first, and the best of those that came later."""

_ANY: Final = 1e-6
"""The least gain that is one where the user asks for no minimum: less is rounding."""

_SAME_CONDITIONS: Final = 1.25
"""While neither a plan that was rejected nor the one in force costs this many times as much or as little as then,
conditions are the same."""

_PATIENCE: Final = 2
"""A plan that has proved itself waits for a better one until it has done so for so many windows."""


def weigh(
    situation: Situation, present: Present, best: Plan, now: float, measured: MeasuredLatency | None = None
) -> Decision:
    """Moves where the gain is worth the disruption, has lasted, and the last plan is old enough.

    Args:
        situation: What is known now.
        present: The plan in force, which differs from `best`.
        best: The best plan now.
        now: Seconds of the Unix epoch.
        measured: What requests took under the plan in force.
    """
    planning = situation.spec.planning
    before = situation.latency_of(present.plan)
    limit = before * (1 - max(planning.min_improvement_percent / 100, _ANY))
    figures = gain(situation, present.plan, best)
    if best.predicted_seconds > limit:
        share = (before - best.predicted_seconds) / before if before > 0 else 0.0
        message = (
            f"{figures}: {share:.1%} is below the {planning.min_improvement_percent} % that a new plan has to gain"
        )
        return Hold(HoldReason.MINIMUM_IMPROVEMENT, message, _without_contenders(present))
    found = options(situation, present.plan, best)
    good = [plan for plan in found[: found.index(best) + 1] if plan.predicted_seconds <= limit]
    allowed = [plan for plan in good if not is_rejected(situation, present, plan, now)]
    if not allowed:
        message = f"{figures}, but that plan was tried under these conditions and given up"
        return Hold(HoldReason.REJECTED_PLAN, message, _without_contenders(present))
    contenders = _contenders(situation, present, allowed[0], limit, now)
    present = msgspec.structs.replace(present, contenders=contenders)
    proven, proving = _proven(situation, present, allowed[0], now)
    pause = present.decided_at + planning.min_interval_seconds - now
    wait = max(proving, pause)
    if wait > 0:
        if proving >= pause:
            message = f"{figures}: has to stay better for {proving:.0f} s more (stabilizationSeconds)"
            return Hold(HoldReason.STABILIZING, message, present, again_after=wait)
        message = f"{figures}: waits {pause:.0f} s more for minIntervalSeconds"
        return Hold(HoldReason.MINIMUM_INTERVAL, message, present, again_after=wait)
    reason, why = cause(situation, present, proven)
    message = f"{why}; {gain(situation, present.plan, proven)}"
    return move(situation, present, proven, reason, message, now, measured)


def move(
    situation: Situation,
    present: Present | None,
    plan: Plan,
    reason: MoveReason,
    message: str,
    now: float,
    measured: MeasuredLatency | None = None,
) -> Move:
    """The move to a plan, with what is to be remembered of it; `measured` makes it one that may be rolled back."""
    epoch = 1 if present is None else present.next_epoch
    is_best = not touched(plan, situation.best())
    found = Present(
        plan=msgspec.structs.replace(plan, epoch=epoch),
        decided_at=now,
        spec=digest_of(situation.spec),
        unavailable=situation.observation.unavailable,
        edge_workers=len(situation.edge_nodes.speeds),
        reason=reason.value,
        message=message,
        optimal_with=situation.edge_nodes if is_best else None,
        replaced=None if present is None else replaced_by_now(situation, present, measured),
        rejected=() if present is None else present.rejected,
    )
    return Move(reason, message, found)


def is_rejected(situation: Situation, present: Present, plan: Plan, now: float) -> bool:
    """Whether a plan was given up under conditions that are still there."""
    spec, unavailable, wanted = digest_of(situation.spec), situation.observation.unavailable, identity(plan)
    return any(
        entry.plan == wanted
        and still_holds(entry, now, spec, unavailable)
        and _costs_as_then(situation, entry, (plan, present.plan))
        for entry in present.rejected
    )


def _costs_as_then(situation: Situation, rejected: Rejected, plans: Sequence[Plan]) -> bool:
    """Whether plans cost what they would have cost with the links and speeds under which one was rejected.

    What a figure's change means is told by the plans, not by its size: on a link that hardly costs anything a
    bandwidth may double from one probe to the next.
    """
    links = {link: rejected.network.link(*link) for link in LINKS}
    then = replace(situation, observation=measured_as(situation.observation, links, rejected.speeds))
    pairs = [(then.latency_of(plan), situation.latency_of(plan)) for plan in plans]
    return all(max(pair) < _SAME_CONDITIONS * min(pair) for pair in pairs)


def _without_contenders(present: Present) -> Present:
    return msgspec.structs.replace(present, contenders=()) if present.contenders else present


def _contenders(situation: Situation, present: Present, best: Plan, limit: float, now: float) -> tuple[Contender, ...]:
    """Those that are still better than the plan in force, and the best one among them, the oldest first."""
    if situation.spec.planning.stabilization_seconds == 0:
        return ()  # nothing has to be remembered that no window is asked of
    left = [each for each in present.contenders if _is_good(situation, present, each.plan, limit, now)]
    if all(_partition(each.plan) != _partition(best) for each in left):
        left.append(Contender(plan=best, since=now))
    if len(left) > _CONTENDERS:
        slowest = max(left[1:], key=lambda each: situation.latency_of(each.plan))
        left.remove(slowest)
    return tuple(left)


def _is_good(situation: Situation, present: Present, plan: Plan, limit: float, now: float) -> bool:
    return (
        not taking_part(plan) & situation.observation.unavailable
        and situation.latency_of(plan) <= limit
        and not is_rejected(situation, present, plan, now)
    )


def _proven(situation: Situation, present: Present, best: Plan, now: float) -> tuple[Plan, float]:
    """The plan to move to, by the figures of now, and in how many seconds it will have proved itself.

    That is the cheapest of those that have; but one that is much better still is waited for, if that isn't for long.
    """
    window = situation.spec.planning.stabilization_seconds
    contenders = present.contenders
    if not contenders:
        return best, 0.0
    ready = [_as_of_now(situation, each, best) for each in contenders if now - each.since >= window]
    first = contenders[0].since
    if not ready:
        return best, first + window - now
    plan = _cheapest(situation, present, ready)
    share = situation.spec.planning.min_improvement_percent / 100
    if best.predicted_seconds < plan.predicted_seconds * (1 - share) and now - first < _PATIENCE * window:
        own = next((each.since for each in contenders if _partition(each.plan) == _partition(best)), now)
        return best, min(own + window, first + _PATIENCE * window) - now
    return plan, 0.0


def _as_of_now(situation: Situation, contender: Contender, best: Plan) -> Plan:
    """A contender by the figures of now."""
    if _partition(contender.plan) == _partition(best):
        return best
    return situation.plan_of(contender.plan.tiers(situation.graph))


def _cheapest(situation: Situation, present: Present, plans: Sequence[Plan]) -> Plan:
    return min(plans, key=lambda plan: priced(situation, present.plan, plan))


def _partition(plan: Plan) -> tuple[str, ...]:
    """What a plan computes where, whatever its tiles."""
    return (plan.route.value, *(part.id for part in plan.segments))
