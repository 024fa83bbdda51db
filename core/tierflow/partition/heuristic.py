"""HPA, the horizontal partition algorithm of D3 (arXiv 2101.05952), and its local update at run time.

D3's code was never published, and what follows is built from its description.

The paper's:

- layers are grouped by their longest distance from a virtual input vertex and placed group by group;
- a layer's potential tiers are never closer to the device than the highest tier of its predecessors;
- each layer takes the tier that minimises its processing time plus the transfer of its inputs;
- siblings, the layers of one group whose inputs were already sent to a tier, may follow them there;
- at run time, where a layer's time or the network changed by more than a threshold, that layer, its successors and its
  siblings are evaluated again, and nothing else.

Our reconstruction, where the description is silent or the cost model here is richer:

- the algorithm runs once for each route, relayed over three tiers and direct over two, and the cheaper one stays;
- a tensor is paid for once per boundary, however many layers read it there; the first one to cross a boundary pays its
  fixed cost; a layer that makes a graph output pays for its way back;
- of equal tiers the one nearest to the device is taken;
- pins and unavailable tiers narrow a layer's potential tiers;
- a changed link stands for the layers at both ends of the tensors that cross it, and for those that read the graph's
  inputs; in the update, the transfer of a layer's outputs to readers that stay where they are counts too, and what it
  finds is kept only where it is better than the previous partition at the new costs;
- budgets are unknown to the paper: where HPA's partition breaks one, the integer program decides
  (`tierflow.partition.budgets`), and the partition's algorithm says `Exact`.

Every partition's gap is measured against the optimum, which is found as well (`tierflow.partition.budgets.optimal`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from tierflow.graph import Graph, Mask
from tierflow.partition.allowed import Allowed, allowed
from tierflow.partition.budgets import optimal
from tierflow.partition.demand import meets_budgets
from tierflow.partition.exact import gap
from tierflow.partition.latency import (
    LINKS,
    Ranks,
    check_costs,
    crossing_cost,
    evaluate_ranks,
    ranks_of,
    tiers_of,
)
from tierflow.partition.problem import Algorithm, Array, CrossingCost, Latency, Partition, Problem
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier

THRESHOLD: Final = 0.1
"""Relative change of a layer's time or of a link from which on the local update looks at it."""

_NO_LEVEL: Final = 127


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed beyond a threshold.

    Attributes:
        layers: Places of layers whose time changed on some tier.
        links: Links whose fixed or transfer costs changed.
    """

    layers: frozenset[int] = frozenset()
    links: frozenset[tuple[Tier, Tier]] = frozenset()


def heuristic(problem: Problem) -> Partition:
    """HPA's partition.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a cost is negative or infinite.
        InfeasibleError: where no partition meets the constraints.
    """
    optimum = optimal(problem)
    return _against(optimum, problem, hpa(problem))


def hpa(problem: Problem) -> tuple[Ranks, Route]:
    """HPA alone: neither budgets nor the optimum are looked at.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a cost is negative or infinite.
        InfeasibleError: where pins and unavailable tiers conflict.
    """
    check_costs(problem.graph, problem.costs)
    limits = allowed(problem.graph, problem.constraints)
    groups = _groups(problem.graph)
    found = []
    for route, ranks in limits.routes:
        placement = _Placement(problem, limits, ranks)
        for group in groups:
            placement.place(group)
        own = np.array(placement.ranks, dtype=np.int8)
        found.append((evaluate_ranks(problem.graph, problem.costs, own, route).total, own, route))
    _, best, route = min(found, key=lambda each: each[0])
    return best, route


def update(problem: Problem, previous: Partition, changed: Changes) -> Partition:
    """HPA's local update: evaluates only what changed, its successors and its siblings again.

    Args:
        problem: With the new costs.
        previous: The partition so far; where the constraints no longer allow it, HPA starts over.
        changed: As `changes` finds it.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a cost is negative or infinite.
        InfeasibleError: where no partition meets the constraints.
    """
    optimum = optimal(problem)
    limits = allowed(problem.graph, problem.constraints)
    before = ranks_of(previous.tiers)
    open_ranks = dict(limits.routes).get(previous.route, ())
    fits = (limits.lowest <= before) & (before <= limits.highest) & np.isin(before, open_ranks)
    if not fits.all():
        return _against(optimum, problem, hpa(problem))
    affected = _affected(problem.graph, before, previous.route, changed)
    placement = _Placement(problem, limits, open_ranks, before)
    placement.revise(sorted(affected))
    after = np.array(placement.ranks, dtype=np.int8)
    old = evaluate_ranks(problem.graph, problem.costs, before, previous.route)
    new = evaluate_ranks(problem.graph, problem.costs, after, previous.route)
    return _against(optimum, problem, (after if new.total < old.total else before, previous.route))


def changes(old: Problem, new: Problem, *, threshold: float = THRESHOLD) -> Changes:
    """What changed between two problems on one graph by more than the relative `threshold`."""
    layers = _differs(old.costs.layer, new.costs.layer, threshold).any(axis=0)
    links = set()
    for lower, upper in (*LINKS[Route.RELAYED], *LINKS[Route.DIRECT]):
        before, after = crossing_cost(old.costs, lower, upper), crossing_cost(new.costs, lower, upper)
        parts = [(np.array([before.fixed]), np.array([after.fixed])), (before.tensor, after.tensor)]
        if any(_differs(a, b, threshold).any() for a, b in [*parts, (before.result, after.result)]):
            links.add((lower, upper))
    return Changes(frozenset(np.flatnonzero(layers).tolist()), frozenset(links))


def _differs(before: Array, after: Array, threshold: float) -> Mask:
    return np.abs(after - before) > threshold * before


def _against(optimum: Partition, problem: Problem, found: tuple[Ranks, Route]) -> Partition:
    """The partition that was found, with its gap to the optimum; the optimum where it breaks a budget."""
    ranks, route = found
    if not meets_budgets(problem.graph, problem.constraints, ranks):
        return optimum
    latency: Latency = evaluate_ranks(problem.graph, problem.costs, ranks, route)
    # An optimum under budgets that has a gap of its own bounds the true one from above only.
    bound = optimum.latency.total / (1 + optimum.optimality_gap)
    return Partition(tiers_of(ranks), route, latency, gap(latency.total, bound), Algorithm.HEURISTIC)


def _groups(graph: Graph) -> list[list[int]]:
    """The layers by their longest distance from a virtual input vertex, each group in the graph's order."""
    distance: list[int] = []
    groups: list[list[int]] = []
    producer = graph.producer
    for place, layer in enumerate(graph.layers):
        own = max((distance[producer[name]] + 1 for name in layer.inputs if name in producer), default=0)
        distance.append(own)
        if own == len(groups):
            groups.append([])
        groups[own].append(place)
    return groups


def _affected(graph: Graph, ranks: Ranks, route: Route, changed: Changes) -> set[int]:
    """The layers that the update evaluates again."""
    names = list(graph.tensors)
    origins = set(changed.layers)
    for lower, upper in changed.links:
        if (lower, upper) not in LINKS[route]:
            continue
        crosses = np.flatnonzero(graph.incidence.crossing(ranks >= upper.rank)) if (ranks >= upper.rank).any() else ()
        touched = {names[number] for number in crosses}.union(graph.inputs)
        origins.update(place for name in touched for place in graph.consumers.get(name, ()))
        origins.update(graph.producer[name] for name in touched if name in graph.producer)
    affected = set(origins)
    for place in origins:
        layer = graph.layers[place]
        affected.update(reader for name in layer.outputs for reader in graph.consumers.get(name, ()))
        affected.update(reader for name in layer.inputs for reader in graph.consumers.get(name, ()))
    return affected


class _Placement:
    """A partition in the making. Levels count the route's tiers from 0, ranks are the tiers' own.

    Attributes:
        ranks: One per layer.
    """

    def __init__(self, problem: Problem, limits: Allowed, ranks: Sequence[int], previous: Ranks | None = None) -> None:
        graph, costs = problem.graph, problem.costs
        self._levels = list(ranks)
        self._inputs, self._outputs, self._readers = _wiring(graph)
        self._producer: list[int] = graph.incidence.producer.tolist()
        crossings = [crossing_cost(costs, TIERS[below], TIERS[above]) for below, above in pairwise(ranks)]
        # What it costs to carry each tensor from the lowest level up to each level.
        steps = [np.zeros(len(graph.tensors)), *[cost.tensor for cost in crossings]]
        self._carried: list[list[float]] = np.cumsum(steps, axis=0).tolist()
        self._fixed = [cost.fixed for cost in crossings]
        self._work = _work(graph, costs.layer[list(ranks)], crossings)
        level = {rank: number for number, rank in enumerate(ranks)}
        self._lowest = [level.get(rank, len(ranks)) for rank in limits.lowest.tolist()]
        self._highest = [sum(rank <= high for rank in ranks) - 1 for high in limits.highest.tolist()]
        self._at = [level[rank] for rank in previous.tolist()] if previous is not None else [0] * len(graph.layers)
        # The highest level that has each tensor; the highest that has any layer.
        self._sent = [0] * len(graph.tensors)
        self._opened = 0
        if previous is not None:
            for place in range(len(self._at)):
                self._settle(place)

    @property
    def ranks(self) -> list[int]:
        """One per layer."""
        return [self._levels[level] for level in self._at]

    def place(self, group: Iterable[int]) -> None:
        """Places the layers of a group, then lets siblings follow."""
        for place in group:
            self._at[place] = self._cheapest(place, self._work[place])
        for place in group:
            self._settle(place)
        for place in group:
            level = self._cheapest(place, self._work[place])
            if level > self._at[place]:
                self._at[place] = level
                self._settle(place)

    def revise(self, places: Sequence[int]) -> None:
        """Places layers again, given in the graph's order, while all others stay where they are."""
        bounds = self._bounds(places)
        for place in places:
            self._withdraw(place)
            spent = [
                work + sum(self._onwards(name, level) for name in self._outputs[place])
                for level, work in enumerate(self._work[place])
            ]
            self._at[place] = self._cheapest(place, spent, highest=bounds[place])
            self._settle(place)
            for name in self._outputs[place]:
                self._sent[name] = self._reach(name, self._at[place])

    def _bounds(self, places: Sequence[int]) -> dict[int, int]:
        """For each of the places the lowest level of what depends on it and stays."""
        bounds: dict[int, int] = {}
        waiting = set(places)
        for place in reversed(places):
            readers = [reader for name in self._outputs[place] for reader in self._readers[name]]
            bounds[place] = min(
                (bounds[reader] if reader in waiting else self._at[reader] for reader in readers), default=_NO_LEVEL
            )
        return bounds

    def _reach(self, name: int, level: int) -> int:
        """The highest level that has a tensor which is made at `level`."""
        return max([level, *[self._at[reader] for reader in self._readers[name]]])

    def _onwards(self, name: int, level: int) -> float:
        """What it costs to send a tensor from `level` to all that read it."""
        return self._carried[self._reach(name, level)][name] - self._carried[level][name]

    def _cheapest(self, place: int, spent: Sequence[float], highest: int = _NO_LEVEL) -> int:
        """The level that minimises what is spent there plus the transfer of the inputs."""
        inputs, lowest = self._inputs[place], self._lowest[place]
        for name in inputs:
            origin = self._producer[name]
            if origin >= 0 and self._at[origin] > lowest:
                lowest = self._at[origin]
        best, least = lowest, float("inf")
        for level in range(lowest, min(self._highest[place], highest) + 1):
            total = spent[level]
            if level > self._opened:
                total += sum(self._fixed[self._opened : level])
            for name in inputs:
                if self._sent[name] < level:
                    total += self._carried[level][name] - self._carried[self._sent[name]][name]
            if total < least:
                best, least = level, total
        return best

    def _settle(self, place: int) -> None:
        level = self._at[place]
        self._opened = max(self._opened, level)
        for name in self._outputs[place]:
            self._sent[name] = level
        for name in self._inputs[place]:
            if self._sent[name] < level:
                self._sent[name] = level

    def _withdraw(self, place: int) -> None:
        """Forgets what was sent for this layer alone."""
        for name in self._inputs[place]:
            others = [self._at[reader] for reader in self._readers[name] if reader != place]
            origin = self._at[self._producer[name]] if self._producer[name] >= 0 else 0
            self._sent[name] = max([origin, *others])


def _wiring(graph: Graph) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Each layer's inputs and outputs as numbers of tensors, and each tensor's readers."""
    number = {name: index for index, name in enumerate(graph.tensors)}
    return (
        [[number[name] for name in layer.inputs] for layer in graph.layers],
        [[number[name] for name in layer.outputs] for layer in graph.layers],
        [list(graph.consumers.get(name, ())) for name in graph.tensors],
    )


def _work(graph: Graph, layer: Array, crossings: Sequence[CrossingCost]) -> list[list[float]]:
    """For each layer and level, its time and the way back of the results that it makes."""
    producer = graph.incidence.output_producer
    returns = np.flatnonzero(producer >= 0)
    spent = layer.copy()
    for number, cost in enumerate(crossings):
        for level in range(number + 1, len(spent)):
            np.add.at(spent[level], producer[returns], cost.result[returns])
    work: list[list[float]] = spent.T.tolist()
    return work
