"""The integer program of one route, for HiGHS: the same objective as the cut's, and budgets as rows.

Variables, with u = 1, 2 numbering the route's boundaries from the device up:

- x[u, l] = 1 where layer l is above boundary u; integer, ordered along the data's flow and from boundary to boundary;
- y[u, t] >= x[u, reader] - x[u, producer] for each read tensor: it crosses;
- z[u] >= x[u, l] for each layer that none reads: something is above;
- per memory budget: m[w] for each weight that several layers read, at least each one's presence on the tier, and s, at
  least the working set of each layer there. Presence on the tier above boundary u is x[u, l] - x[u + 1, l].

y, z, m and s are continuous: they are pushed down to the right values by the objective and the budgets.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array

from tierflow.graph import Places
from tierflow.partition.allowed import Allowed
from tierflow.partition.demand import Sizes, tensor_sizes, weight_readers, working_sets
from tierflow.partition.latency import Ranks, crossing_cost
from tierflow.partition.problem import Array, Problem
from tierflow.tiers import TIERS, Tier

FEASIBILITY = 1e-6
"""How far HiGHS may overstep a row; rows of budgets are in units of the budget."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What HiGHS found for one route.

    Attributes:
        ranks: None where it found nothing.
        lower_bound: Seconds that no partition of the route is below.
        infeasible: Whether it was proven that there is none.
    """

    ranks: Ranks | None
    lower_bound: float
    infeasible: bool = False


class _Rows:
    """Rows `low <= A v <= inf` of a program, collected as coordinates."""

    def __init__(self) -> None:
        self._coordinates: list[tuple[Places, Places, Array]] = []
        self._lowest: list[Array] = []
        self.count = 0

    def add(self, *terms: tuple[Places, Array | float], at_least: Array | float = 0.0) -> None:
        """Adds one row for each entry of the terms' variables: the sum of factor * variable is >= `at_least`."""
        rows = len(terms[0][0])
        for variables, factors in terms:
            values = np.broadcast_to(np.asarray(factors, dtype=np.float64), (rows,))
            self._coordinates.append((np.arange(rows) + self.count, variables, values))
        self._lowest.append(np.broadcast_to(np.asarray(at_least, dtype=np.float64), (rows,)))
        self.count += rows

    def add_sum(self, variables: Places, factors: Array, *, at_least: float) -> None:
        """Adds one row: the sum of factors * variables is >= `at_least`."""
        self._coordinates.append((np.full(len(variables), self.count), variables, factors))
        self._lowest.append(np.array([at_least]))
        self.count += 1

    def constraint(self, variables: int) -> LinearConstraint:
        """The rows as scipy takes them."""
        rows, columns, values = (np.concatenate(part) for part in zip(*self._coordinates, strict=True))
        matrix = coo_array((values, (rows, columns)), shape=(self.count, variables)).tocsr()
        return LinearConstraint(matrix, np.concatenate(self._lowest), np.inf)


class Program:
    """The integer program of a problem on one route.

    Args:
        problem: Of at least one layer.
        limits: What its pins and unavailable tiers leave.
        ranks: The ranks of tiers that the route uses, at least two.
        budget_share: The share of each budget that may be used.
    """

    def __init__(self, problem: Problem, limits: Allowed, ranks: tuple[int, ...], *, budget_share: float = 1.0) -> None:
        self._problem, self._ranks = problem, ranks
        self._layers, self._tensors = len(problem.graph.layers), len(problem.graph.tensors)
        self._rows = _Rows()
        boundaries = len(ranks) - 1
        per_boundary = self._layers + self._tensors + 1
        self._variables = boundaries * per_boundary
        self._cost = [np.zeros(per_boundary) for _ in range(boundaries)]
        self._low = [np.zeros(per_boundary) for _ in range(boundaries)]
        self._high = [np.ones(per_boundary) for _ in range(boundaries)]
        self._first = [number * per_boundary for number in range(boundaries)]
        for number, (below, above) in enumerate(pairwise(ranks)):
            self._add_boundary(number, below, above)
            pinned = limits.pinned(above)
            self._low[number][: self._layers] = pinned.above
            self._high[number][: self._layers] = ~pinned.below
        for tier, budget in problem.constraints.memory.items():
            if tier.rank in ranks:
                self._add_memory(ranks.index(tier.rank), float(budget) * budget_share)
        if problem.constraints.backbone_bytes is not None and ranks[-1] == Tier.CLOUD.rank:
            self._add_backbone(problem.constraints.backbone_bytes * budget_share)

    def solve(self, *, scale: float, time_limit: float, feasible_only: bool = False) -> Solution:
        """Runs HiGHS.

        Args:
            scale: Seconds, about the size of the optimum, by which the objective is divided.
            time_limit: Seconds after which to return the best that was found.
            feasible_only: Whether any feasible partition will do.
        """
        factor = 0.0 if feasible_only else 1e3 / max(scale, 1e-200)
        cost, low, high = (np.concatenate(part) for part in (self._cost, self._low, self._high))
        integrality = np.zeros(self._variables)
        for first in self._first:
            integrality[first : first + self._layers] = 1
        answer: OptimizeResult = milp(
            cost * factor,
            integrality=integrality,
            bounds=Bounds(low, high),
            constraints=self._rows.constraint(self._variables),
            options={"time_limit": time_limit, "mip_rel_gap": 1e-9},
        )
        base = float(self._problem.costs.layer[self._ranks[0]].sum())
        bound = answer.mip_dual_bound
        lower = base + bound / factor if factor and bound is not None and np.isfinite(bound) else 0.0
        if answer.x is None:
            return Solution(None, lower, infeasible=answer.status == 2)
        above = [answer.x[first : first + self._layers] > 0.5 for first in self._first]
        return Solution(np.array(self._ranks, dtype=np.int8)[np.sum(above, axis=0)], lower)

    def _add_boundary(self, number: int, below: int, above: int) -> None:
        graph, costs, first = self._problem.graph, self._problem.costs, self._first[number]
        cost = crossing_cost(costs, TIERS[below], TIERS[above])
        arrays, own = graph.incidence, self._cost[number]
        returns = np.flatnonzero(arrays.output_producer >= 0)
        own[: self._layers] = costs.layer[above] - costs.layer[below]
        np.add.at(own, arrays.output_producer[returns], cost.result[returns])
        own[self._layers : -1] = cost.tensor
        own[-1] = cost.fixed
        tensor = np.repeat(np.arange(self._tensors), np.diff(arrays.offset))
        producer, crosses = arrays.producer[tensor], first + self._layers + tensor
        made = producer >= 0
        reader, born = first + arrays.reader, first + producer
        self._rows.add((reader[made], 1.0), (born[made], -1.0))
        self._rows.add((crosses[made], 1.0), (reader[made], -1.0), (born[made], 1.0))
        self._rows.add((crosses[~made], 1.0), (reader[~made], -1.0))
        unread = np.ones(self._layers, dtype=np.bool_)
        unread[producer[made]] = False
        last = first + np.flatnonzero(unread)
        self._rows.add((np.full(len(last), first + len(own) - 1), 1.0), (last, -1.0))
        if number:
            places = np.arange(self._layers)
            self._rows.add((self._first[number - 1] + places, 1.0), (first + places, -1.0))

    def _presence(self, level: int) -> tuple[float, list[tuple[int, float]]]:
        """A layer's presence on the tier above boundary `level`: a constant, and (first variable, factor) of x."""
        terms = [(self._first[level - 1], 1.0)] if level else []
        if level < len(self._first):
            terms.append((self._first[level], -1.0))
        return (0.0 if level else 1.0), terms

    def _add_memory(self, level: int, budget: float) -> None:
        graph, unit = self._problem.graph, max(budget, 1.0)
        constant, terms = self._presence(level)
        sets: Array = working_sets(graph).astype(np.float64)
        alone: Sizes = np.zeros(self._layers, dtype=np.int64)
        shared: list[tuple[int, list[int]]] = []
        for name, readers in weight_readers(graph).items():
            if len(readers) == 1:
                alone[readers[0]] += graph.weights[name].size
            else:
                shared.append((graph.weights[name].size, readers))
        held = self._new_variables(len(shared) + 1, highest=np.append(np.ones(len(shared)), np.inf))
        places = np.arange(self._layers)
        parts = [(first + places, factor * -(sets / unit)) for first, factor in terms]
        self._rows.add((np.full(self._layers, held[-1]), 1.0), *parts, at_least=constant * sets / unit)
        for variable, (_, readers) in zip(held, shared, strict=False):
            own = np.array(readers)
            self._rows.add(
                (np.full(len(own), variable), 1.0),
                *((first + own, np.full(len(own), -factor)) for first, factor in terms),
                at_least=constant,
            )
        used = [(first + places, -factor * alone / unit) for first, factor in terms]
        used.append((held, -np.append([size / unit for size, _ in shared], 1.0)))
        self._rows.add_sum(
            np.concatenate([variables for variables, _ in used]),
            np.concatenate([factors for _, factors in used]),
            at_least=constant * float(alone.sum()) / unit - budget / unit,
        )

    def _add_backbone(self, budget: float) -> None:
        unit = max(budget, 1.0)
        crosses = self._first[-1] + self._layers + np.arange(self._tensors)
        self._rows.add_sum(crosses, -tensor_sizes(self._problem.graph) / unit, at_least=-budget / unit)

    def _new_variables(self, count: int, *, highest: Array) -> Places:
        """Continuous variables from 0 to `highest` that cost nothing."""
        places = np.arange(self._variables, self._variables + count)
        self._variables += count
        self._cost.append(np.zeros(count))
        self._low.append(np.zeros(count))
        self._high.append(highest)
        return places
