"""What a decision is made from, in one value, and the plans that follow from it.

Plans are pure functions of it and take milliseconds to find, with tiles or budgets tenths of a second: those of the
latest situations are remembered, so that looking again at a world that did not change costs nothing.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final, TypeVar

import msgspec

from tierflow.errors import InfeasibleError
from tierflow.graph import Graph
from tierflow.manifest import PipelineSpec, PlanningMode
from tierflow.manifest_values import constraints_of
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Constraints, Problem
from tierflow.plan import Plan
from tierflow.planning import make_plan, problem_of
from tierflow.profile import Profile
from tierflow.segment import cut
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow.tiling.plans import saved_seconds
from tierflow.units import Seconds
from tierflow_operator.manual import broken_constraints, plan_for
from tierflow_operator.observation import Observation, TierLink
from tierflow_operator.present import identity

Found = TypeVar("Found")

_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision is made from.

    Attributes:
        spec: What the user wants.
        graph: The model's graph.
        profile: Its layer times on the reference machine.
        observation: What is known of links, tiers and nodes.
    """

    spec: PipelineSpec
    graph: Graph
    profile: Profile
    observation: Observation

    @property
    def edge_nodes(self) -> EdgeNodes:
        """The workers that can share tiles."""
        return self.observation.edge_nodes(self.spec)

    @property
    def constraints(self) -> Constraints:
        """What a plan has to respect now."""
        return constraints_of(self.spec, self.observation.unavailable)

    @property
    def is_planned(self) -> bool:
        """Whether the planner decides, and not the manifest's `manual`."""
        return self.spec.planning.mode is not PlanningMode.MANUAL

    @property
    def problem(self) -> Problem:
        """What the planner is asked, tiles aside."""
        observation = self.observation
        return problem_of(self.graph, self.profile, observation.network, observation.tier_speeds, self.constraints)

    def best(self) -> Plan:
        """The best plan now, or the one that the manifest gives by hand.

        Raises:
            InvalidInputError: where a pin or a manual cut names a layer that isn't there.
            InfeasibleError: where no plan meets the constraints.
        """
        if self.is_planned:
            return self._made(self.constraints)
        by_hand = self.spec.planning.manual
        return self.plan_of(cut(self.graph, by_hand.device_last_layer or "", by_hand.edge_last_layer or ""))

    def keeping(self, tier: Tier, layers: frozenset[int]) -> Plan | None:
        """The best plan in which device or cloud has exactly these layers; None where none meets the constraints.

        The edge can keep nothing but no layers at all.
        """
        rules = self.constraints
        if tier is Tier.EDGE:
            rules = replace(rules, unavailable=rules.unavailable | {Tier.EDGE})
        else:
            rules = replace(rules, kept={tier: layers})
        try:
            found = self._made(rules)
        except InfeasibleError:
            return None
        return self.plan_of(found.tiers(self.graph))  # its distance to the optimum is that to the optimum of all

    def plan_of(self, tiers: tuple[Tier, ...]) -> Plan:
        """The plan of a given partition by the figures of now, with the tiles that are best now.

        Raises:
            InfeasibleError: naming the constraint that the partition breaks.
        """
        plan = self._remembered(
            ("given", tiers, _key_of(self.constraints)),
            lambda: plan_for(
                self.graph,
                self.profile,
                self.observation.network,
                self.observation.tier_speeds,
                tiers,
                constraints=self.constraints,
                nodes=self.edge_nodes,
            ),
        )
        algorithm = self.spec.planning.algorithm
        return msgspec.structs.replace(plan, algorithm=algorithm) if self.is_planned else plan

    def allows(self, plan: Plan) -> bool:
        """Whether a plan meets the constraints of now."""
        if taking_part(plan) & self.observation.unavailable:
            return False
        return next(broken_constraints(self.graph, plan.tiers(self.graph), self.constraints), None) is None

    def latency_of(self, plan: Plan) -> Seconds:
        """What a plan costs now, its tiles shared by the workers that there are now."""
        grids = tuple((run.rows, run.columns) for run in plan.tiling)
        return self._remembered(("latency", identity(plan), grids), lambda: self._latency_of(plan))

    def _latency_of(self, plan: Plan) -> Seconds:
        untiled = evaluate(self.problem, plan.tiers(self.graph), plan.route).total
        if not plan.tiling:
            return untiled
        edge = self.profile.scaled(self.observation.tier_speeds[Tier.EDGE])
        return Seconds(untiled - saved_seconds(self.graph, edge, plan, self.edge_nodes))

    def _made(self, rules: Constraints) -> Plan:
        algorithm = self.spec.planning.algorithm
        return self._remembered(
            ("made", algorithm, _key_of(rules)),
            lambda: make_plan(
                self.graph,
                self.profile,
                self.observation.network,
                self.observation.tier_speeds,
                constraints=rules,
                algorithm=algorithm,
                nodes=self.edge_nodes,
            ),
        )

    def _remembered(self, what: Hashable, find: Callable[[], Found]) -> Found:
        observation = self.observation
        speeds = tuple(observation.tier_speeds[tier] for tier in TIERS)
        figures = (observation.network, speeds, self.edge_nodes)
        return _known.get((what, figures), self.graph, self.profile, find)


class _Known:
    """What was found lately for graphs and profiles; these are told apart by identity, since they are large."""

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, tuple[Graph, Profile, object]] = OrderedDict()
        self._lock = Lock()

    def get(self, what: Hashable, graph: Graph, profile: Profile, find: Callable[[], Found]) -> Found:
        """What `find` returns for `what`, or has returned before."""
        key = (id(graph), id(profile), what)
        with self._lock:
            entry = self._found.get(key)
            if entry is not None:
                self._found.move_to_end(key)
                return entry[2]  # type: ignore[return-value] # what a key stands for has one type
        found = find()
        with self._lock:
            # With the graph and the profile, so that no other ones get their ids meanwhile.
            self._found[key] = (graph, profile, found)
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return found


_known: Final = _Known()


def taking_part(plan: Plan) -> frozenset[Tier]:
    """The tiers that requests reach."""
    return frozenset(part.tier for part in plan.segments if part.segment.takes_part)


def links_of(plan: Plan) -> frozenset[TierLink]:
    """The links that requests cross."""
    ways = ((tier, plan.next_tier(tier)) for tier in TIERS)
    return frozenset((tier, following) for tier, following in ways if following is not None)


def digest_of(spec: PipelineSpec) -> str:
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


def _key_of(rules: Constraints) -> Hashable:
    return (
        rules.pins,
        tuple(sorted(rules.memory.items())),
        rules.backbone_bytes,
        rules.unavailable,
        tuple(sorted((tier, layers) for tier, layers in rules.kept.items())),
    )
