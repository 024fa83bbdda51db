"""Whether a pipeline moves to another plan, and why: a pure function of what is wanted, known and running."""

import hashlib
from dataclasses import dataclass

import msgspec

from tierflow.graph import Graph
from tierflow.manifest import PipelineSpec, PlanningMode
from tierflow.manifest_values import constraints_of
from tierflow.network import MEGABIT
from tierflow.partition.latency import evaluate
from tierflow.plan import Plan, difference
from tierflow.planning import make_plan, problem_of
from tierflow.profile import Profile
from tierflow.segment import cut
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow.tiling.plans import saved_seconds
from tierflow.units import Seconds
from tierflow_operator.decision import Decision, Hold, HoldReason, Move, MoveReason
from tierflow_operator.manual import plan_for
from tierflow_operator.observation import LINKS, Observation, link_name
from tierflow_operator.present import MeasuredLatency, Present

__all__ = ["Decision", "Hold", "HoldReason", "MeasuredLatency", "Move", "MoveReason", "Present", "decide"]

_NOISE = 1.001
"""A figure that changed by less than this factor did not change."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision is made from, in one value for the steps below."""

    spec: PipelineSpec
    graph: Graph
    profile: Profile
    observation: Observation

    @property
    def edge_nodes(self) -> EdgeNodes:
        """The workers that can share tiles."""
        return self.observation.edge_nodes(self.spec)

    def candidate(self, epoch: int) -> Plan:
        """The best plan now, or the one that the manifest gives by hand."""
        constraints = constraints_of(self.spec, self.observation.unavailable)
        network, speeds = self.observation.network, self.observation.tier_speeds
        planning = self.spec.planning
        if planning.mode is PlanningMode.MANUAL:
            by_hand = planning.manual
            tiers = cut(self.graph, by_hand.device_last_layer or "", by_hand.edge_last_layer or "")
            return plan_for(
                self.graph,
                self.profile,
                network,
                speeds,
                tiers,
                constraints=constraints,
                epoch=epoch,
                nodes=self.edge_nodes,
            )
        return make_plan(
            self.graph,
            self.profile,
            network,
            speeds,
            constraints=constraints,
            algorithm=planning.algorithm,
            epoch=epoch,
            nodes=self.edge_nodes,
        )

    def latency_of(self, plan: Plan) -> Seconds:
        """What `plan` costs now, its tiles shared by the workers that there are now."""
        speeds = self.observation.tier_speeds
        problem = problem_of(self.graph, self.profile, self.observation.network, speeds)
        untiled = evaluate(problem, plan.tiers(self.graph), plan.route).total
        edge = self.profile.scaled(speeds[Tier.EDGE])
        return Seconds(untiled - saved_seconds(self.graph, edge, plan, self.edge_nodes))


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

    What the user changed and what a lost node forces is done at once; what would only be better waits until the
    gain reaches `minImprovementPercent` and `minIntervalSeconds` have passed since the last plan. That goes for a plan
    with tiles as well when edge nodes come or go: the edge's worker shares its runs with those that are there, so the
    plan mostly holds, and all that is rendered anew is the number of tile workers.

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
    candidate = situation.candidate(1 if present is None else present.plan.epoch + 1)
    found = Present(candidate, now, _digest(spec), observation.unavailable, len(situation.edge_nodes.speeds))
    if present is None:
        return Move(MoveReason.INITIAL, f"predicted {_milliseconds(candidate.predicted_seconds)}", found)
    kept = msgspec.structs.replace(
        present, spec=found.spec, unavailable=found.unavailable, edge_workers=found.edge_workers
    )
    if present.plan.model != candidate.model:
        return Move(
            MoveReason.SPEC_CHANGED,
            f"another model; predicted {_milliseconds(candidate.predicted_seconds)}",
            found,
        )
    if not difference(present.plan, candidate):
        return Hold(HoldReason.UP_TO_DATE, "the plan in force is the best one", kept)
    if present.spec != found.spec:
        return Move(MoveReason.SPEC_CHANGED, f"the spec changed; {_gain(situation, present, candidate)}", found)
    lost = sorted(_taking_part(present.plan) & observation.unavailable, key=lambda tier: tier.rank)
    if lost:
        message = f"no ready node is left for {', '.join(lost)}; predicted {_milliseconds(candidate.predicted_seconds)}"
        return Move(MoveReason.NODES_CHANGED, message, found)
    return _weigh(situation, present, found)


def _weigh(situation: Situation, present: Present, found: Present) -> Decision:
    """Moves where the gain is worth the disruption, and the last plan is old enough."""
    planning = situation.spec.planning
    before = situation.latency_of(present.plan)
    gain = (before - found.plan.predicted_seconds) / before if before > 0 else 0.0
    figures = _gain(situation, present, found.plan)
    if gain * 100 < planning.min_improvement_percent:
        message = f"{figures}: {gain:.1%} is below the {planning.min_improvement_percent} % that a new plan has to gain"
        return Hold(HoldReason.MINIMUM_IMPROVEMENT, message, present)
    wait = present.decided_at + planning.min_interval_seconds - found.decided_at
    if wait > 0:
        message = f"{figures}: waits {wait:.0f} s more for minIntervalSeconds"
        return Hold(HoldReason.MINIMUM_INTERVAL, message, present, again_after=wait)
    reason, cause = _cause(situation, present, found)
    return Move(reason, f"{cause}; {figures}", found)


def _cause(situation: Situation, present: Present, found: Present) -> tuple[MoveReason, str]:
    """What changed most since the present plan was decided."""
    observation = situation.observation
    if present.unavailable != observation.unavailable:
        back = ", ".join(sorted(present.unavailable - observation.unavailable))
        return MoveReason.NODES_CHANGED, f"nodes are ready for {back}" if back else "the ready nodes changed"
    if present.edge_workers != found.edge_workers:
        return MoveReason.NODES_CHANGED, f"workers at the edge {present.edge_workers} -> {found.edge_workers}"
    changes: list[tuple[float, MoveReason, str]] = []
    network = observation.network
    for link in LINKS:
        old, new = present.plan.network.link(*link), network.link(*link)
        bandwidth = f"{old.bytes_per_second / MEGABIT:.1f} -> {new.bytes_per_second / MEGABIT:.1f} Mbit/s"
        round_trip = f"{old.round_trip_seconds * 1e3:.1f} -> {new.round_trip_seconds * 1e3:.1f} ms round trip"
        for old_figure, new_figure, text in (
            (old.bytes_per_second, new.bytes_per_second, bandwidth),
            (old.round_trip_seconds, new.round_trip_seconds, round_trip),
        ):
            factor = _factor(old_figure, new_figure)
            changes.append((factor, MoveReason.BANDWIDTH_CHANGED, f"{link_name(link)} link {text}"))
    for tier in TIERS:
        old_speed, new_speed = present.plan.speeds[tier], observation.speeds[tier].speed
        text = f"speed of {tier} {old_speed:.3g} -> {new_speed:.3g}"
        changes.append((_factor(old_speed, new_speed), MoveReason.SPEED_CHANGED, text))
    factor, reason, text = max(changes, key=lambda change: change[0])
    return (reason, text) if factor > _NOISE else (MoveReason.SPEED_CHANGED, "the layers' times changed")


def _factor(old: float, new: float) -> float:
    """How many times the larger is the smaller; infinite where only one is zero."""
    small, large = sorted((old, new))
    return 1.0 if large == small else large / small if small > 0 else float("inf")


def _gain(situation: Situation, present: Present, candidate: Plan) -> str:
    before = situation.latency_of(present.plan)
    return f"predicted {_milliseconds(before)} -> {_milliseconds(candidate.predicted_seconds)}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds * 1e3:.0f} ms"


def _taking_part(plan: Plan) -> frozenset[Tier]:
    return frozenset(part.tier for part in plan.segments if part.segment.takes_part)


def _digest(spec: PipelineSpec) -> str:
    """A digest of what plans depend on: not of the hysteresis, the images, the resources or the number of workers."""
    planning = spec.planning
    memory = {tier.name: tier.memory_budget for tier in spec.tiers}
    tiling = [tier.tiling.mode for tier in spec.tiers if tier.tiling is not None]
    parts = (
        spec.model,
        planning.mode,
        planning.algorithm,
        planning.objective,
        planning.pins,
        planning.backbone_bytes_per_request,
        planning.manual,
        memory,
        tiling,
    )
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]
