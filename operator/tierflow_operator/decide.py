"""Whether a pipeline moves to another plan, and why: a pure function of what is wanted, known and running."""

import msgspec

from tierflow.graph import Graph
from tierflow.manifest import PipelineSpec, PlanningMode
from tierflow.plan import Plan
from tierflow.profile import Profile
from tierflow_operator.bounds import may_gain
from tierflow_operator.causes import gain, loss, milliseconds
from tierflow_operator.decision import Decision, Hold, HoldReason, Move, MoveReason
from tierflow_operator.disruption import options, priced, touched
from tierflow_operator.hysteresis import is_rejected, move, weigh
from tierflow_operator.observation import Observation
from tierflow_operator.present import MeasuredLatency, Present
from tierflow_operator.rollback import judged
from tierflow_operator.situation import Situation, digest_of, links_of, taking_part

__all__ = ["Decision", "Hold", "HoldReason", "MeasuredLatency", "Move", "MoveReason", "Present", "decide"]


def decide(
    spec: PipelineSpec,
    graph: Graph,
    profile: Profile,
    observation: Observation,
    present: Present | None,
    now: float,
    measured: MeasuredLatency | None = None,
) -> Decision:
    """Decides whether the pipeline moves to another plan.

    What the user changed and what a lost tier forces is done at once. Without the measurements that there should be
    nothing else is. A plan that measured worse than the one before it is taken back. What would only be better has to
    be worth it (`tierflow_operator.hysteresis`), and so has a tier that can compute again. Edge nodes that come or go
    mostly leave a plan with tiles as it is: the edge's worker shares its runs with those that are there, and all that
    is rendered anew is the number of tile workers.

    Args:
        spec: What the user wants.
        graph: The model's graph.
        profile: Its layer times on the reference machine.
        observation: What is known of links, tiers and nodes.
        present: What the last decision said to remember; None before the first.
        now: Seconds of the Unix epoch; a clock that is set does no harm.
        measured: What requests took under the plan in force; None where that isn't known.

    Raises:
        InvalidInputError: where a pin or a manual cut names a layer that isn't there.
        InfeasibleError: where no plan meets the constraints; a plan in force stays in force.
    """
    if spec.planning.mode is PlanningMode.PAUSED:
        return Hold(HoldReason.PAUSED, "planning is paused by spec.planning.mode", present)
    situation = Situation(spec, graph, profile, observation)
    if present is None:
        first = situation.best()
        return move(
            situation, None, first, MoveReason.INITIAL, f"predicted {milliseconds(first.predicted_seconds)}", now
        )
    present = present.not_after(now)
    forced = _forced(situation, present, now)
    if forced is not None:
        return forced
    if observation.metrics.holds:
        kept = msgspec.structs.replace(present, contenders=())
        return Hold(HoldReason.METRICS_UNAVAILABLE, observation.metrics.message, kept)
    judgement = judged(situation, present, now, measured)
    if judgement is not None:
        if judgement.returns_to is not None:
            return _rolled_back(situation, present, judgement.returns_to, judgement.message, now)
        present = msgspec.structs.replace(present, replaced=None)
    if _is_as_decided(situation, present) and not may_gain(situation, present):
        return _up_to_date(situation, present)
    best = situation.best()
    if not touched(present.plan, best):
        return _up_to_date(situation, present)
    return weigh(situation, present, best, now, measured)


def _forced(situation: Situation, present: Present, now: float) -> Decision | None:
    """What has to be done at once, whatever the figures are; None where nothing has to."""
    if present.plan.model != situation.profile.model:
        best = situation.best()
        message = f"another model; predicted {milliseconds(best.predicted_seconds)}"
        return move(situation, present, best, MoveReason.SPEC_CHANGED, message, now)
    observation = situation.observation
    lost, down = taking_part(present.plan) & observation.unavailable, links_of(present.plan) & observation.down
    is_edited = present.spec != digest_of(situation.spec)
    if not (lost or down or is_edited):
        return None
    plan = _best_with_least_changes(situation, present, now)
    if not touched(present.plan, plan):
        return _up_to_date(situation, present)
    if is_edited:
        reason, message = MoveReason.SPEC_CHANGED, f"the spec changed; {gain(situation, present.plan, plan)}"
    elif lost or not links_of(plan) & observation.down:
        reason = MoveReason.NODES_CHANGED if lost else MoveReason.BANDWIDTH_CHANGED
        message = f"{loss(observation, lost, down)}; predicted {milliseconds(plan.predicted_seconds)}"
    else:
        return None  # there is no way around
    if is_rejected(situation, present, plan, now):
        return Hold(HoldReason.REJECTED_PLAN, f"{message}, but that plan was given up before", present)
    return move(situation, present, plan, reason, message, now)


def _best_with_least_changes(situation: Situation, present: Present, now: float) -> Plan:
    """The cheapest plan with the price of disruption; the present one where that is among them."""
    best = situation.best()
    found = options(situation, present.plan, best)
    allowed = [plan for plan in found if not is_rejected(situation, present, plan, now)] or found
    if situation.is_planned and present.plan.algorithm == best.algorithm and situation.allows(present.plan):
        again = situation.plan_of(present.plan.tiers(situation.graph))
        if not touched(present.plan, again):
            return min(again, allowed[0], key=lambda plan: priced(situation, present.plan, plan))
    return allowed[0]


def _rolled_back(situation: Situation, present: Present, plan: Plan, message: str, now: float) -> Move:
    """Back to the plan before; the one in force isn't tried again while conditions are those of now."""
    observation = situation.observation
    back = move(situation, present, plan, MoveReason.ROLLBACK, message, now)
    remembered = back.present.rejecting(present, now, network=observation.network, speeds=observation.tier_speeds)
    return Move(back.reason, back.message, remembered)


def _is_as_decided(situation: Situation, present: Present) -> bool:
    """Whether spec and tiers are those of the present record; what edits and tiers that return change is looked at."""
    return present.unavailable == situation.observation.unavailable and present.edge_workers == len(
        situation.edge_nodes.speeds
    )


def _up_to_date(situation: Situation, present: Present) -> Hold:
    least = situation.spec.planning.min_improvement_percent
    message = f"no plan is better than the one in force by the {least} % that a new one has to gain"
    spec = digest_of(situation.spec)
    if present.spec == spec and _is_as_decided(situation, present):
        kept = msgspec.structs.replace(present, contenders=())
    else:
        kept = msgspec.structs.replace(
            present,
            spec=spec,
            unavailable=situation.observation.unavailable,
            edge_workers=len(situation.edge_nodes.speeds),
            contenders=(),
            optimal_with=None,
        )
    return Hold(HoldReason.UP_TO_DATE, message, kept)
