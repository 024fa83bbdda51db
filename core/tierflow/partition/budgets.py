"""The optimum under budgets of memory and of backbone bytes, which a minimum cut can't express.

The cut comes first: where its optimum meets the budgets it is the optimum under them too. Otherwise HiGHS solves the
same objective as an integer program (`tierflow.partition.program`), exact to `RESOLUTION` of the latency, for at
most `TIME_LIMIT_SECONDS` per route; where the time is up, the best partition so far is returned with its distance to
the best bound. A budget counts as met only where whole bytes meet it: HiGHS works to a millionth of
it, so that a partition that oversteps by less is looked for again with that much less to spend.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from tierflow.errors import InfeasibleError
from tierflow.partition.allowed import Allowed, allowed, constraint_name
from tierflow.partition.demand import BACKBONE, demands, meets_budgets, memory_name
from tierflow.partition.exact import Answer, exact, partition_of
from tierflow.partition.latency import Ranks, check_costs, evaluate_ranks, ranks_of
from tierflow.partition.problem import Algorithm, Constraints, Partition, Problem
from tierflow.partition.program import FEASIBILITY, Program
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier

RESOLUTION: Final = 1e-6
"""Relative distance to the bound up to which a partition counts as optimal: HiGHS's own tolerances."""
TIME_LIMIT_SECONDS: Final = 20.0

_ATTEMPTS: Final = 4


def optimal(problem: Problem, *, time_limit: float = TIME_LIMIT_SECONDS) -> Partition:
    """The optimal partition, by the cut alone where that is enough.

    Args:
        problem: With or without budgets.
        time_limit: Seconds for each route's integer program.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a cost is negative or infinite.
        InfeasibleError: where no partition meets the constraints; names a smallest set that conflicts.
    """
    relaxed = exact(problem)
    if meets_budgets(problem.graph, problem.constraints, ranks_of(relaxed.tiers)):
        return relaxed
    return integer_program(problem, time_limit=time_limit, scale=relaxed.latency.total)


def integer_program(
    problem: Problem, *, time_limit: float = TIME_LIMIT_SECONDS, scale: float | None = None
) -> Partition:
    """The optimal partition by the integer program, also where there are no budgets.

    Args:
        problem: With or without budgets.
        time_limit: Seconds for each route.
        scale: Seconds, about the size of the optimum; looked up where it isn't given.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a cost is negative or infinite.
        InfeasibleError: where no partition meets the constraints, or none was found in time.
    """
    check_costs(problem.graph, problem.costs)
    limits = allowed(problem.graph, problem.constraints)
    size = scale or max(float(problem.costs.layer.max(axis=0).sum()), 1e-12)
    answers: list[Answer | float | None] = []
    for route, ranks in limits.routes:
        known = min((answer.latency.total for answer in answers if isinstance(answer, Answer)), default=math.inf)
        least = _least_of_direct(problem) if route is Route.DIRECT and known < math.inf else 0.0
        is_beaten = least >= known
        answers.append(least if is_beaten else _best_of_route(problem, limits, route, ranks, size, time_limit))
    found = [answer for answer in answers if isinstance(answer, Answer)]
    if found:
        # A route without an answer was proven empty, or its bound is as good as an answer's.
        bound = min([answer.lower_bound for answer in found] + [each for each in answers if isinstance(each, float)])
        answers_with_bound = [replace(answer, lower_bound=bound) for answer in found]
        return partition_of(answers_with_bound, Algorithm.EXACT, resolution=RESOLUTION)
    if all(answer is None for answer in answers):
        raise _conflict(problem, time_limit)
    raise InfeasibleError(
        f"no partition that meets the budgets was found within {time_limit:g} s per route; loosen a budget",
        constraints=tuple(constraint_names(problem.constraints)),
    )


def _least_of_direct(problem: Problem) -> float:
    """What no partition of the direct route is below: its optimum without budgets, which a cut finds quickly."""
    unavailable = problem.constraints.unavailable | {Tier.EDGE}
    rules = replace(_without_budgets(problem.constraints), unavailable=unavailable)
    return exact(replace(problem, constraints=rules)).latency.total


def _best_of_route(
    problem: Problem, limits: Allowed, route: Route, ranks: tuple[int, ...], scale: float, time_limit: float
) -> Answer | float | None:
    """The best answer of a route; its lower bound where none was found in time; None where there is none."""
    graph, constraints = problem.graph, problem.constraints
    if len(ranks) == 1 or not graph.layers:
        is_met = meets_budgets(graph, constraints, limits.lowest)
        return _answer(problem, route, limits.lowest, math.inf) if is_met else None
    lower_bound = 0.0
    for attempt in range(_ATTEMPTS):
        program = Program(problem, limits, ranks, budget_share=1.0 - 2 * FEASIBILITY * attempt)
        solution = program.solve(scale=scale, time_limit=time_limit)
        lower_bound = lower_bound if attempt else solution.lower_bound
        if solution.ranks is None:
            return None if solution.infeasible else lower_bound
        if meets_budgets(graph, constraints, solution.ranks):
            return _answer(problem, route, solution.ranks, lower_bound)
    return lower_bound


def _answer(problem: Problem, route: Route, ranks: Ranks, lower_bound: float) -> Answer:
    latency = evaluate_ranks(problem.graph, problem.costs, ranks, route)
    return Answer(route, ranks, latency, min(lower_bound, latency.total))


def constraint_names(constraints: Constraints) -> Iterator[str]:
    """How constraints are named where they conflict."""
    yield from (constraint_name(pin) for pin in constraints.pins)
    yield from (memory_name(tier) for tier in TIERS if tier in constraints.memory)
    if constraints.backbone_bytes is not None:
        yield BACKBONE
    yield from (f"tiers[{tier}]" for tier in TIERS if tier in constraints.unavailable)


def without(constraints: Constraints, name: str) -> Constraints:
    """The constraints without the one of that name."""
    return Constraints(
        pins=tuple(pin for pin in constraints.pins if constraint_name(pin) != name),
        memory={tier: budget for tier, budget in constraints.memory.items() if memory_name(tier) != name},
        backbone_bytes=None if name == BACKBONE else constraints.backbone_bytes,
        unavailable=frozenset(tier for tier in constraints.unavailable if f"tiers[{tier}]" != name),
    )


def _conflict(problem: Problem, time_limit: float) -> InfeasibleError:
    """Names a smallest set of constraints that conflict: dropping any one of them would leave a partition."""
    constraints = problem.constraints
    for name in list(constraint_names(constraints)):
        fewer = without(constraints, name)
        if not _is_feasible(replace(problem, constraints=fewer), time_limit):
            constraints = fewer
    names = tuple(constraint_names(constraints))
    cheapest = exact(replace(problem, constraints=_without_budgets(constraints)))
    asked = {name: (budget, use) for name, budget, use in demands(problem.graph, constraints, ranks_of(cheapest.tiers))}
    figures = "; ".join(
        f"without budgets {name} would be {use} bytes, not {budget}" for name, (budget, use) in asked.items()
    )
    return InfeasibleError(
        f"no partition meets {' and '.join(names)} together ({figures}): loosen or drop one of them",
        constraints=names,
    )


def _without_budgets(constraints: Constraints) -> Constraints:
    return replace(constraints, memory={}, backbone_bytes=None)


def _is_feasible(problem: Problem, time_limit: float) -> bool:
    """Whether some partition meets the constraints; True where that isn't known in time."""
    try:
        limits = allowed(problem.graph, problem.constraints)
    except InfeasibleError:
        return False
    for _, ranks in limits.routes:
        if len(ranks) == 1:
            if meets_budgets(problem.graph, problem.constraints, limits.lowest):
                return True
            continue
        solution = Program(problem, limits, ranks).solve(scale=1.0, time_limit=time_limit, feasible_only=True)
        if not solution.infeasible and (
            solution.ranks is None or meets_budgets(problem.graph, problem.constraints, solution.ranks)
        ):
            return True
    return False
