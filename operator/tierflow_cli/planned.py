"""From what the user named and wished to a plan: the manifest's fields, what flags put in their place, and defaults."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tierflow.errors import InvalidInputError
from tierflow.manifest import PlanningMode
from tierflow.manifest_values import assumed_network, assumed_speeds, constraints_of
from tierflow.network import NETWORKS, Network, parse_network
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Constraints, Latency, Partition, Partitioner, Pin, Problem
from tierflow.partition.select import partitioner
from tierflow.plan import Plan, plan_of
from tierflow.planning import problem_of
from tierflow.profile import Profile
from tierflow.segment import closest, cut
from tierflow.speeds import DEFAULT_SPEEDS, parse_speeds
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow.tiling.joint import TiledPartition, joint, tiled
from tierflow.tiling.plans import with_tiles
from tierflow.units import Bytes, Seconds, parse_bytes
from tierflow_cli.console import progress
from tierflow_cli.edge_nodes import edge_nodes
from tierflow_cli.layer_times import layer_times
from tierflow_cli.options import DEFAULT_NETWORK
from tierflow_cli.target import Target


@dataclass(frozen=True, slots=True)
class Wishes:
    """The planning flags as they were given; None where one wasn't."""

    network: str | None = None
    speeds: str | None = None
    algorithm: str | None = None
    profile: str = "estimate"
    pins: Sequence[str] = ()
    memory: Sequence[str] = ()
    backbone_bytes: str | None = None
    edge_workers: int | None = None
    edge_speeds: str | None = None
    edge_network: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and everything that it was made from.

    Attributes:
        target: What the user named.
        profile: Layer times of the reference machine.
        problem: Graph, costs and constraints, without tiles.
        plan: The plan.
        latency: What its predicted latency is made of, tiles included.
        seconds: How long it took from graph and costs to the plan.
        by_hand: Whether the manifest gave the cut.
        nodes: The edge's workers.
        cut_before_tiles: What the paper's order gives, where the cut and the tiles were decided together.
    """

    target: Target
    profile: Profile
    problem: Problem
    plan: Plan
    latency: Latency
    seconds: float
    by_hand: bool
    nodes: EdgeNodes
    cut_before_tiles: Plan | None = None

    @property
    def has_edge_workers(self) -> bool:
        """Whether several workers can share the edge's layers."""
        return len(self.nodes.speeds) > 1

    @property
    def edge(self) -> Profile:
        """Layer times of the edge tier."""
        return self.profile.scaled(self.plan.speeds[Tier.EDGE])


def planned(target: Target, wishes: Wishes) -> Planned:
    """Plans what the user named.

    Raises:
        InvalidInputError: naming the flag or the manifest's field that is wrong.
        InfeasibleError: where no plan meets the constraints.
    """
    network, speeds = network_for(target, wishes), speeds_for(target, wishes)
    constraints = constraints_for(target, wishes)
    profile = layer_times(target.model, wishes.profile)
    problem = problem_of(target.model.graph, profile, network, speeds, constraints)
    nodes = edge_nodes(target.pipeline, wishes.edge_workers, wishes.edge_speeds, wishes.edge_network)
    by_hand = _cut_by_hand(target) if wishes.algorithm is None else None
    request = _Request(problem, profile, network, speeds, nodes)
    before: Plan | None = None
    with progress("planning"):  # budgets may take the integer program seconds, and many edge workers as well
        began = time.perf_counter()
        if by_hand is not None:
            plan = _plan_by_hand(request, by_hand)
        else:
            plan, before = _plan_with(request, partitioner(_algorithm(target, wishes)))
        seconds = time.perf_counter() - began
    latency = _latency_of(problem, plan)
    return Planned(target, profile, problem, plan, latency, seconds, by_hand is not None, nodes, before)


@dataclass(frozen=True, slots=True)
class _Request:
    """What a plan is made from."""

    problem: Problem
    profile: Profile
    network: Network
    speeds: dict[Tier, float]
    nodes: EdgeNodes

    @property
    def edge(self) -> Profile:
        return self.profile.scaled(self.speeds[Tier.EDGE])

    def plan_of(self, partition: Partition) -> Plan:
        return plan_of(
            self.problem.graph, partition, model=self.profile.model, network=self.network, speeds=self.speeds
        )

    def tiled_plan_of(self, found: TiledPartition) -> Plan:
        return with_tiles(self.plan_of(found.partition), self.problem.graph, found)


def _plan_with(request: _Request, find: Partitioner) -> tuple[Plan, Plan | None]:
    """The plan, and with several edge workers the one that the paper's order gives."""
    if len(request.nodes.speeds) < 2:
        return request.plan_of(find(request.problem)), None
    found = joint(request.problem, request.edge, request.nodes, find)
    return request.tiled_plan_of(found.best), request.tiled_plan_of(found.partition_then_tile)


def _plan_by_hand(request: _Request, tiers: tuple[Tier, ...]) -> Plan:
    from tierflow_operator.manual import plan_for

    problem = request.problem
    plan = plan_for(
        problem.graph, request.profile, request.network, request.speeds, tiers, constraints=problem.constraints
    )
    if len(request.nodes.speeds) < 2:
        return plan
    latency = evaluate(problem, tiers, plan.route)
    partition = Partition(tiers, plan.route, latency, plan.optimality_gap, plan.algorithm)
    return with_tiles(plan, problem.graph, tiled(problem, request.edge, partition, request.nodes))


def _latency_of(problem: Problem, plan: Plan) -> Latency:
    latency = evaluate(problem, plan.tiers(problem.graph), plan.route)
    edge = Seconds(plan.segment(Tier.EDGE).compute_seconds)
    return replace(latency, total=Seconds(plan.predicted_seconds), compute={**latency.compute, Tier.EDGE: edge})


def _cut_by_hand(target: Target) -> tuple[Tier, ...] | None:
    """The tier of each layer, where the manifest gives the cut itself."""
    if target.pipeline is None or target.pipeline.spec.planning.mode is not PlanningMode.MANUAL:
        return None
    manual = target.pipeline.spec.planning.manual
    return cut(target.model.graph, manual.device_last_layer or "", manual.edge_last_layer or "")


def _algorithm(target: Target, wishes: Wishes) -> Algorithm:
    if wishes.algorithm is not None:
        return Algorithm(wishes.algorithm)
    return target.pipeline.spec.planning.algorithm if target.pipeline else Algorithm.EXACT


def network_for(target: Target, wishes: Wishes) -> Network:
    """The links: the flag's, else the manifest's, else those of `DEFAULT_NETWORK`."""
    if wishes.network is not None:
        return parse_network(wishes.network)
    stated = assumed_network(target.pipeline) if target.pipeline else None
    return stated or NETWORKS[DEFAULT_NETWORK]


def speeds_for(target: Target, wishes: Wishes) -> dict[Tier, float]:
    """The tiers' speeds: the flag's, else the manifest's, else the default ones."""
    if wishes.speeds is not None:
        return parse_speeds(wishes.speeds)
    stated = assumed_speeds(target.pipeline) if target.pipeline else None
    return stated or parse_speeds(DEFAULT_SPEEDS)


def constraints_for(target: Target, wishes: Wishes) -> Constraints:
    """The manifest's constraints, with the flags' pins added and the flags' budgets in place of its own."""
    stated = constraints_of(target.pipeline.spec) if target.pipeline else Constraints()
    backbone = wishes.backbone_bytes
    return replace(
        stated,
        pins=(*stated.pins, *parse_pins(wishes.pins)),
        memory={**stated.memory, **parse_memory(wishes.memory)},
        backbone_bytes=stated.backbone_bytes if backbone is None else parse_bytes(backbone, field="--backbone-bytes"),
    )


def parse_pins(texts: Sequence[str]) -> tuple[Pin, ...]:
    """Reads pins like `layer1.0/relu=device`; a layer's name may have = in it.

    Raises:
        InvalidInputError: where a text is none, or names no tier.
    """
    pins = []
    for text in texts:
        layer, equals, tier = text.rpartition("=")
        if not equals or not layer:
            raise InvalidInputError(f"--pin: {text!r} is no pin; write it like conv1=device", subject="--pin")
        pins.append(Pin(text, layer, _tier(tier, "--pin")))
    return tuple(pins)


def parse_memory(texts: Sequence[str]) -> Mapping[Tier, Bytes]:
    """Reads memory budgets like `device=512Mi`.

    Raises:
        InvalidInputError: where a text is none, names no tier, or a tier is named twice.
    """
    budgets: dict[Tier, Bytes] = {}
    for text in texts:
        name, equals, size = text.partition("=")
        if not equals:
            raise InvalidInputError(f"--memory: {text!r} is no budget; write it like device=512Mi", subject="--memory")
        tier = _tier(name, "--memory")
        if tier in budgets:
            raise InvalidInputError(f"--memory: {tier} is given twice; leave one out", subject="--memory")
        budgets[tier] = parse_bytes(size, field=f"--memory {tier}")
    return budgets


def _tier(text: str, field: str) -> Tier:
    if text not in list(TIERS):
        raise InvalidInputError(
            f"{field}: there is no tier {text!r}{closest(text, TIERS)}; there are {', '.join(TIERS)}", subject=field
        )
    return Tier(text)
