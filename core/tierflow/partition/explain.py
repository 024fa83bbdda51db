"""Why a plan is as it is: what its latency is made of, what lies beside it, and what would change it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np

from tierflow.errors import InfeasibleError
from tierflow.graph import Graph
from tierflow.network import Link, Network, network_of
from tierflow.partition.allowed import allowed, constraint_name
from tierflow.partition.budgets import constraint_names, optimal, without
from tierflow.partition.demand import demands, tensor_sizes
from tierflow.partition.latency import LINKS, Ranks, crossing_cost, evaluate_ranks, ranks_of
from tierflow.partition.problem import Constraints, Costs, CrossingCost, Latency, Partition, Problem
from tierflow.plan import Plan
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier
from tierflow.units import Seconds

Price = Callable[[Ranks, Route], Latency]
"""The latency of a partition by a route."""

Best = Callable[[Problem], Seconds]
"""The lowest latency that a problem allows."""

_RANKS: Final = {Route.RELAYED: (0, 1, 2), Route.DIRECT: (0, 2)}
_STEP: Final = 1.3
"""Factor between the bandwidths that are looked at first; changes that cancel out within one step go unseen."""
_SPAN: Final = 1000.0
"""Bandwidths are looked at from the current one divided by this to the current one times this."""
_PRECISION: Final = 0.01
"""Relative precision of the bandwidth that flips a plan."""
_SECONDS_PER_PROGRAM: Final = 2.0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the latency.

    Attributes:
        name: A tier (`device`) or a link (`edge-cloud`).
        kind: `compute` or `transfer`.
        seconds: What it takes.
        share: Of the whole latency, from 0 to 1.
    """

    name: str
    kind: str
    seconds: float
    share: float


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """Another partition, and what it would cost.

    Attributes:
        name: What is different: `device-only`, or like `device-edge boundary one layer down`.
        layers: How many layers device, edge and cloud would have.
        last_layers: Names of the last layers of device and edge, "" where there are none.
        route: How tensors would get to the cloud.
        predicted_seconds: Its latency.
        change: Relative to the plan: 0.1 is ten per cent slower.
        broken: The constraints that forbid it.
    """

    name: str
    layers: tuple[int, int, int]
    last_layers: tuple[str, str]
    route: Route
    predicted_seconds: float
    change: float
    broken: tuple[str, ...] = ()


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """The bandwidth of a link from which on another partition is optimal, all else being equal.

    Attributes:
        link: Like `edge-cloud`.
        direction: `slower` or `faster` than now.
        bytes_per_second: The first bandwidth, within a hundredth, that has another optimum; None where there is none
            within a factor of a thousand.
        layers: How many layers device, edge and cloud would have then.
    """

    link: str
    direction: str
    bytes_per_second: float | None
    layers: tuple[int, int, int] | None = None


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """How much a constraint binds.

    Attributes:
        name: Like `planning.pins[privacy]`.
        limit: Its budget in bytes; None where it is no budget.
        used: The bytes of it that the plan uses; None where it is no budget.
        costs_seconds: How much lower the optimum would be without it.
    """

    name: str
    limit: int | None
    used: int | None
    costs_seconds: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a plan is as it is.

    Attributes:
        predicted_seconds: The plan's latency.
        parts: What it is made of, the largest first; their seconds add up to it.
        single_tiers: All layers on one tier, by the better route.
        neighbours: Each boundary moved by one layer, and to the next boundary of another size, down and up.
        flips: For each link of the network, slower and faster, without tiles.
        constraints: How much each constraint binds.
    """

    predicted_seconds: float
    parts: tuple[Part, ...]
    single_tiers: tuple[Alternative, ...]
    neighbours: tuple[Alternative, ...]
    flips: tuple[Flip, ...]
    constraints: tuple[Binding, ...]


def explain(problem: Problem, plan: Plan, *, price: Price | None = None, best: Best | None = None) -> Explanation:
    """Explains a plan.

    Args:
        problem: What the plan answers.
        plan: Of the problem's graph; its network is the one that the problem's costs were made from.
        price: What partitions cost, for one whose edge computes tiles; by default the problem's own costs.
        best: What the best of them costs; by default without tiles.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there.
        InfeasibleError: where no partition meets the constraints.
    """
    ranks = ranks_of(plan.tiers(problem.graph))
    priced = price or partial(evaluate_ranks, problem.graph, problem.costs)
    latency = priced(ranks, plan.route)
    beside = _Beside(problem, latency, priced)
    return Explanation(
        predicted_seconds=latency.total,
        parts=_parts(latency),
        single_tiers=tuple(_single_tiers(beside)),
        neighbours=tuple(_neighbours(beside, ranks, plan.route)),
        flips=tuple(_flips(problem, plan.network)),
        constraints=tuple(_bindings(problem, ranks, best or _untiled_best)),
    )


def _parts(latency: Latency) -> tuple[Part, ...]:
    named = [("compute", str(tier), seconds) for tier, seconds in latency.compute.items() if seconds]
    named += [("transfer", f"{lower}-{upper}", seconds) for (lower, upper), seconds in latency.transfer.items()]
    whole = latency.total or 1.0
    parts = [Part(name=name, kind=kind, seconds=seconds, share=seconds / whole) for kind, name, seconds in named]
    return tuple(sorted(parts, key=lambda part: -part.seconds))


@dataclass(frozen=True, slots=True)
class _Beside:
    """Makes alternatives to a plan."""

    problem: Problem
    latency: Latency
    price: Price

    def alternative(self, name: str, ranks: Ranks, route: Route) -> Alternative:
        """What another partition would cost."""
        graph = self.problem.graph
        seconds = self.price(ranks, route).total
        return Alternative(
            name=name,
            layers=_counts(ranks),
            last_layers=(_last(graph, ranks, Tier.DEVICE), _last(graph, ranks, Tier.EDGE)),
            route=route,
            predicted_seconds=seconds,
            change=(seconds - self.latency.total) / (self.latency.total or 1.0),
            broken=tuple(_broken(self.problem, ranks, route)),
        )


def _single_tiers(beside: _Beside) -> Iterator[Alternative]:
    layers = len(beside.problem.graph.layers)
    for tier in TIERS:
        routes = [route for route in Route if tier.rank in _RANKS[route]]
        made = [
            beside.alternative(f"{tier}-only", np.full(layers, tier.rank, dtype=np.int8), route) for route in routes
        ]
        yield min(made, key=lambda each: (len(each.broken), each.predicted_seconds))


def _neighbours(beside: _Beside, ranks: Ranks, route: Route) -> Iterator[Alternative]:
    for below, above in pairwise(_RANKS[route]):
        name = f"{TIERS[below]}-{TIERS[above]} boundary"
        for direction, rank in (("down", above), ("up", below)):
            moved = _moved(ranks, above, rank, 1)
            if moved is None:
                continue
            yield beside.alternative(f"{name} one layer {direction}", moved, route)
            further = _next_size(beside.problem.graph, ranks, above, rank)
            if further is not None and not np.array_equal(further, moved):
                yield beside.alternative(f"{name} to the next size {direction}", further, route)


def _moved(ranks: Ranks, boundary: int, rank: int, layers: int) -> Ranks | None:
    """The ranks with a boundary moved by some layers of the graph's order; None where there are not as many.

    Moved down, the last layers below it go above; moved up, the first layers above it go below.
    """
    is_down = rank >= boundary
    candidates = np.flatnonzero(ranks < boundary if is_down else ranks >= boundary)
    if layers > len(candidates):
        return None
    moved = ranks.copy()
    chosen = candidates[-layers:] if is_down else candidates[:layers]
    moved[chosen] = rank
    return moved


def _next_size(graph: Graph, ranks: Ranks, boundary: int, rank: int) -> Ranks | None:
    """The ranks with a boundary moved until what crosses it has another size; None where it never has."""
    sizes = tensor_sizes(graph)

    def size(own: Ranks) -> int:
        above = own >= boundary
        return int(sizes[graph.incidence.crossing(above)].sum()) if above.any() else 0

    now, layers = size(ranks), 1
    while (moved := _moved(ranks, boundary, rank, layers)) is not None:
        if size(moved) != now:
            return moved
        layers += 1
    return None


def _broken(problem: Problem, ranks: Ranks, route: Route) -> Iterator[str]:
    """The names of the constraints that a partition breaks."""
    graph, constraints = problem.graph, problem.constraints
    for pin in constraints.pins:
        own = allowed(graph, Constraints(pins=(pin,)))
        if ((ranks < own.lowest) | (ranks > own.highest)).any():
            yield constraint_name(pin)
    relays = route is Route.RELAYED and bool((ranks == Tier.CLOUD.rank).any())
    for tier in TIERS:
        if tier in constraints.unavailable and ((ranks == tier.rank).any() or (tier is Tier.EDGE and relays)):
            yield f"tiers[{tier}]"
    yield from (name for name, budget, asked in demands(graph, constraints, ranks) if asked > budget)


def _untiled_best(problem: Problem) -> Seconds:
    return optimal(problem).latency.total


def _bindings(problem: Problem, ranks: Ranks, best_of: Best) -> Iterator[Binding]:
    best = best_of(problem)
    budgets = {name: (budget, asked) for name, budget, asked in demands(problem.graph, problem.constraints, ranks)}
    for name in constraint_names(problem.constraints):
        free = best_of(replace(problem, constraints=without(problem.constraints, name)))
        limit, used = budgets.get(name, (None, None))
        yield Binding(name=name, limit=limit, used=used, costs_seconds=max(best - free, 0.0))


def _flips(problem: Problem, network: Network) -> Iterator[Flip]:
    def best(changed: Network) -> Partition | None:
        try:
            return optimal(
                replace(problem, costs=_with_network(problem, network, changed)), time_limit=_SECONDS_PER_PROGRAM
            )
        except InfeasibleError:
            return None

    now = best(network)
    derived = network_of(network.device_edge, network.edge_cloud).device_cloud == network.device_cloud
    links = [*LINKS[Route.RELAYED]] if derived else [*LINKS[Route.RELAYED], *LINKS[Route.DIRECT]]
    for lower, upper in links:
        link = network.link(lower, upper)

        def at(bytes_per_second: float, own: Link = link, ends: tuple[Tier, Tier] = (lower, upper)) -> Partition | None:
            changed = msgspec.structs.replace(own, bytes_per_second=bytes_per_second)
            return best(_replaced(network, ends, changed, derived=derived))

        for direction, step in (("slower", 1 / _STEP), ("faster", _STEP)):
            found = _nearest_change(at, now, link.bytes_per_second, step)
            if found is None:
                yield Flip(link=f"{lower}-{upper}", direction=direction, bytes_per_second=None)
            else:
                value, partition = found
                yield Flip(
                    link=f"{lower}-{upper}",
                    direction=direction,
                    bytes_per_second=value,
                    layers=_counts(ranks_of(partition.tiers)),
                )


def _nearest_change(
    at: Callable[[float], Partition | None], now: Partition | None, start: float, step: float
) -> tuple[float, Partition] | None:
    """The value nearest to `start` in steps of a factor at which the optimum is another one than now."""
    same, value = start, start * step
    while 1 / _SPAN <= value / start <= _SPAN:
        other = at(value)
        if other is not None and not _is_same(other, now):
            while abs(value / same - 1) > _PRECISION:
                middle = (value * same) ** 0.5
                found = at(middle)
                if found is None or _is_same(found, now):
                    same = middle
                else:
                    value, other = middle, found
            return value, other
        same, value = value, value * step
    return None


def _is_same(one: Partition, other: Partition | None) -> bool:
    return other is not None and one.tiers == other.tiers and one.route is other.route


def _replaced(network: Network, ends: tuple[Tier, Tier], link: Link, *, derived: bool) -> Network:
    """The network with another link; a direct link that follows from the other two follows again."""
    links = {
        pair: link if pair == ends else network.link(*pair) for pair in (*LINKS[Route.RELAYED], *LINKS[Route.DIRECT])
    }
    direct = None if derived else links[(Tier.DEVICE, Tier.CLOUD)]
    return network_of(links[(Tier.DEVICE, Tier.EDGE)], links[(Tier.EDGE, Tier.CLOUD)], direct)


def _with_network(problem: Problem, old: Network, new: Network) -> Costs:
    """The problem's costs with the bandwidths of another network."""
    graph, costs = problem.graph, problem.costs
    sizes = tensor_sizes(graph).astype(np.float64)
    results = np.array(
        [graph.tensors[name].size if name in graph.tensors else 0 for name in graph.outputs], dtype=np.float64
    )

    def changed(lower: Tier, upper: Tier) -> CrossingCost:
        cost = crossing_cost(costs, lower, upper)
        before, after = old.link(lower, upper).bytes_per_second, new.link(lower, upper).bytes_per_second
        if before == after:
            return cost
        torn = np.maximum(cost.tensor - sizes / before, 0.0)
        return CrossingCost(fixed=cost.fixed, tensor=sizes / after + torn, result=results / after)

    return Costs(
        layer=costs.layer,
        device_edge=changed(Tier.DEVICE, Tier.EDGE),
        edge_cloud=changed(Tier.EDGE, Tier.CLOUD),
        device_cloud=changed(Tier.DEVICE, Tier.CLOUD),
    )


def _counts(ranks: Ranks) -> tuple[int, int, int]:
    device, edge, cloud = np.bincount(ranks, minlength=3).tolist()
    return device, edge, cloud


def _last(graph: Graph, ranks: Ranks, tier: Tier) -> str:
    own = np.flatnonzero(ranks == tier.rank)
    return graph.layers[int(own[-1])].name if len(own) else ""
