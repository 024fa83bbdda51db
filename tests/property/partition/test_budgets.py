"""Over random graphs, budgets are met at the least cost, or the constraints that conflict are named."""

import random
from dataclasses import replace

import pytest

from factories.graphs import brute_force, random_budgets, random_constraints, random_costs, random_graph, respects
from tierflow.errors import InfeasibleError
from tierflow.partition.budgets import RESOLUTION, constraint_names, optimal, without
from tierflow.partition.heuristic import heuristic
from tierflow.partition.problem import Constraints, Problem


def problem_from(seed: int) -> Problem:
    generator = random.Random(seed)
    graph = random_graph(generator, generator.randrange(1, 6), weights=True)
    constraints = random_constraints(generator, graph) if generator.random() < 0.4 else Constraints()
    return Problem(graph, random_costs(generator, graph), random_budgets(generator, graph, constraints))


@pytest.mark.slow
def test_no_partition_within_the_budgets_is_faster() -> None:
    infeasible = 0
    for seed in range(1_000):
        problem = problem_from(seed)
        best = brute_force(problem)
        if best is None:
            infeasible += 1
            with pytest.raises(InfeasibleError):
                optimal(problem)
            continue
        found = optimal(problem)
        assert respects(problem, found.tiers, found.route), seed
        assert found.latency.total == pytest.approx(best, rel=RESOLUTION), seed
        assert found.optimality_gap == 0.0, seed
    assert 50 < infeasible < 400


def test_the_constraints_that_are_named_conflict_and_none_of_them_is_superfluous() -> None:
    conflicts = 0
    for seed in range(600):
        problem = problem_from(seed)
        if brute_force(problem) is not None:
            continue
        with pytest.raises(InfeasibleError) as raised:
            optimal(problem)
        named = raised.value.constraints
        assert named, seed
        assert all(name in raised.value.message for name in named), seed
        alone = problem.constraints
        for name in constraint_names(problem.constraints):
            if name not in named:
                alone = without(alone, name)
        assert brute_force(replace(problem, constraints=alone)) is None, seed
        for name in named:
            assert brute_force(replace(problem, constraints=without(alone, name))) is not None, (seed, name)
        conflicts += 1
    assert conflicts > 50


def test_the_heuristic_meets_budgets_too() -> None:
    for seed in range(120):
        problem = problem_from(seed)
        if brute_force(problem) is None:
            continue
        found = heuristic(problem)
        assert respects(problem, found.tiers, found.route), seed
        assert found.optimality_gap >= 0.0
