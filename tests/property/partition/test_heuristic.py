"""Over random graphs, HPA and its local update keep what they promise, and never beat the optimum."""

import random
from dataclasses import replace

import pytest

from factories.graphs import random_constraints, random_costs, random_graph, random_network, respects
from tierflow.errors import InfeasibleError
from tierflow.partition.exact import exact
from tierflow.partition.heuristic import changes, heuristic, update
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Costs, CrossingCost, Partition, Problem
from tierflow.segment import check_monotone

GRAPHS = 1000


def problem_from(seed: int) -> Problem:
    generator = random.Random(seed)
    build = random_graph if seed % 2 else random_network
    graph = build(generator, generator.randrange(1, 30))
    return Problem(graph, random_costs(generator, graph), random_constraints(generator, graph))


def heuristic_or_none(problem: Problem) -> Partition | None:
    try:
        return heuristic(problem)
    except InfeasibleError:
        return None


def disturbed(problem: Problem, generator: random.Random) -> Problem:
    """The problem with one layer or one link slower or faster."""
    costs, factor = problem.costs, 10 ** generator.uniform(-1.5, 1.5)
    if generator.random() < 0.5:
        layer = costs.layer.copy()
        layer[:, generator.randrange(layer.shape[1])] *= factor
        return replace(problem, costs=replace(costs, layer=layer))
    link = generator.choice(("device_edge", "edge_cloud", "device_cloud"))
    cost: CrossingCost = getattr(costs, link)
    changed = CrossingCost(cost.fixed, cost.tensor * factor, cost.result * factor)
    other: Costs = replace(costs, **{link: changed})
    return replace(problem, costs=other)


def test_it_keeps_to_the_constraints_and_its_gap_says_how_much_slower_it_is_than_the_optimum() -> None:
    compared = 0
    for seed in range(1_450):
        problem = problem_from(seed)
        found = heuristic_or_none(problem)
        if found is None:
            continue
        best = exact(problem)
        assert best.latency.total <= found.latency.total * (1 + 1e-9), seed
        assert found.algorithm is Algorithm.HEURISTIC
        check_monotone(problem.graph, found.tiers)
        assert respects(problem, found.tiers, found.route), seed
        assert found.latency == evaluate(problem, found.tiers, found.route), seed
        if best.latency.total > 1e-9:
            gap = found.latency.total / best.latency.total - 1
            assert found.optimality_gap == pytest.approx(gap, rel=1e-6, abs=1e-8), seed
        compared += 1
    assert compared >= GRAPHS


def test_the_same_input_has_the_same_plan() -> None:
    for seed in range(GRAPHS):
        problem = problem_from(seed)
        assert heuristic_or_none(problem) == heuristic_or_none(problem), seed


def test_the_local_update_never_makes_things_worse() -> None:
    improved = 0
    for seed in range(400):
        problem = problem_from(seed)
        before = heuristic_or_none(problem)
        if before is None:
            continue
        new = disturbed(problem, random.Random(seed))
        after = update(new, before, changes(problem, new))
        check_monotone(new.graph, after.tiers)
        assert respects(new, after.tiers, after.route), seed
        kept = evaluate(new, before.tiers, before.route).total
        assert after.latency.total <= kept * (1 + 1e-12), seed
        assert after.latency.total >= exact(new).latency.total * (1 - 1e-9), seed
        improved += after.latency.total < kept
    assert improved > 10


def test_the_local_update_leaves_everything_where_nothing_changed() -> None:
    for seed in range(100):
        problem = problem_from(seed)
        before = heuristic_or_none(problem)
        if before is not None:
            assert update(problem, before, changes(problem, problem)) == before, seed
