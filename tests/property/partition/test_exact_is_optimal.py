"""Over random graphs, the cut finds what trying everything and what the integer program find."""

import random
from dataclasses import replace

import numpy as np
import pytest

from factories.graphs import (
    brute_force,
    random_constraints,
    random_costs,
    random_graph,
    random_network,
    respects,
)
from tierflow.errors import InfeasibleError
from tierflow.graph import Graph
from tierflow.partition.budgets import RESOLUTION, integer_program
from tierflow.partition.exact import exact
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Array, Constraints, Costs, CrossingCost, Partition, Problem
from tierflow.segment import Route, check_monotone
from tierflow.tiers import TIERS, Tier

GRAPHS = 1000


def problem_from(seed: int, fewest: int, most: int) -> Problem:
    generator = random.Random(seed)
    build = random_graph if seed % 2 else random_network
    graph = build(generator, generator.randrange(fewest, most))
    constraints = random_constraints(generator, graph) if graph.layers else Constraints()
    return Problem(graph, random_costs(generator, graph), constraints)


def exact_or_none(problem: Problem) -> Partition | None:
    try:
        return exact(problem)
    except InfeasibleError:
        return None


def fresh(graph: Graph) -> Graph:
    """The same graph without what was derived from it."""
    return Graph(**{field: getattr(graph, field) for field in graph.__struct_fields__})


@pytest.mark.parametrize("part", range(4))
def test_no_partition_is_faster_than_the_exact_one(part: int) -> None:
    for seed in range(part, 2 * GRAPHS, 4):
        problem = problem_from(seed, 0, 6)
        best, found = brute_force(problem), exact_or_none(problem)
        if found is None or best is None:
            assert found is best is None, seed
            continue
        assert respects(problem, found.tiers, found.route), seed
        assert found.latency.total == pytest.approx(best, rel=1e-9), seed
        assert found.optimality_gap == 0.0, seed
        assert found.algorithm is Algorithm.EXACT


def test_costs_of_very_different_sizes_are_added_up_to_the_optimum_as_far_as_floats_can_tell() -> None:
    for seed in range(GRAPHS):
        problem = problem_from(seed, 1, 6)
        costs = of_all_sizes(problem, np.random.default_rng(seed))
        problem = replace(problem, costs=costs)
        best, found = brute_force(problem), exact_or_none(problem)
        if found is None or best is None:
            assert found is best is None, seed
            continue
        links = (costs.device_edge, costs.edge_cloud, costs.device_cloud)
        largest = max(costs.layer.max(), *(max(link.fixed, link.tensor.max()) for link in links))
        assert found.latency.total <= best * (1 + 1e-9) + 1e-13 * largest, seed


def of_all_sizes(problem: Problem, numbers: np.random.Generator) -> Costs:
    """From picoseconds to days, and now and then 0."""

    def some(*shape: int) -> Array:
        values: Array = 10.0 ** numbers.uniform(-12, 6, shape)
        values[numbers.random(shape) < 0.2] = 0.0
        return values

    def crossing() -> CrossingCost:
        return CrossingCost(float(some(1)[0]), some(len(problem.graph.tensors)), some(len(problem.graph.outputs)))

    layer = some(len(TIERS), len(problem.graph.layers))
    return Costs(layer=layer, device_edge=crossing(), edge_cloud=crossing(), device_cloud=crossing())


@pytest.mark.slow
def test_the_integer_program_finds_nothing_faster_on_larger_graphs() -> None:
    compared = 0
    for seed in range(1_400):
        problem = problem_from(seed, 10, 20)
        found = exact_or_none(problem)
        if found is None:
            continue
        program = integer_program(problem)
        assert found.latency.total == pytest.approx(program.latency.total, rel=RESOLUTION), seed
        assert found.optimality_gap == program.optimality_gap == 0.0, seed
        compared += 1
    assert compared >= GRAPHS


@pytest.mark.slow
def test_the_integer_program_finds_nothing_faster_where_layers_are_settled_along_long_paths() -> None:
    for seed in range(60):
        generator = random.Random(seed)
        graph = random_graph(generator, generator.randrange(80, 150))
        problem = Problem(graph, random_costs(generator, graph))
        assert exact(problem).latency.total == pytest.approx(integer_program(problem).latency.total, rel=RESOLUTION)


def test_data_flows_upwards_only_and_the_latency_is_the_partitions_own() -> None:
    for seed in range(GRAPHS):
        problem = problem_from(seed, 5, 40)
        found = exact_or_none(problem)
        if found is not None:
            check_monotone(problem.graph, found.tiers)
            assert respects(problem, found.tiers, found.route), seed
            assert evaluate(problem, found.tiers, found.route).total == found.latency.total, seed
            assert not (found.route is Route.DIRECT and Tier.EDGE in found.tiers), seed


def test_the_same_input_has_the_same_plan() -> None:
    for seed in range(GRAPHS):
        problem = problem_from(seed, 3, 25)
        again = replace(problem, graph=fresh(problem.graph))
        assert exact_or_none(problem) == exact_or_none(again), seed


def test_equal_costs_leave_layers_on_the_device() -> None:
    for seed in range(200):
        generator = random.Random(seed)
        graph = random_graph(generator, generator.randrange(1, 30))
        costs = random_costs(generator, graph)
        free = CrossingCost(0.0, 0 * costs.device_edge.tensor, 0 * costs.device_edge.result)
        layer = costs.layer.copy()
        layer[:] = layer[0]
        found = exact(Problem(graph, replace(costs, layer=layer, device_edge=free, edge_cloud=free, device_cloud=free)))
        assert set(found.tiers) <= {Tier.DEVICE}, seed
        assert found.route is Route.RELAYED


def test_costs_in_another_unit_give_the_same_partition() -> None:
    for seed in range(200):
        problem = problem_from(seed, 3, 30)
        found = exact_or_none(problem)
        scaled = exact_or_none(replace(problem, costs=in_units_of(problem, 2.0**40)))
        if found is None or scaled is None:
            assert found is scaled is None, seed
            continue
        assert (scaled.tiers, scaled.route) == (found.tiers, found.route), seed


def in_units_of(problem: Problem, unit: float) -> Costs:
    costs = problem.costs

    def scaled(cost: CrossingCost) -> CrossingCost:
        return CrossingCost(cost.fixed / unit, cost.tensor / unit, cost.result / unit)

    return replace(
        costs,
        layer=costs.layer / unit,
        device_edge=scaled(costs.device_edge),
        edge_cloud=scaled(costs.edge_cloud),
        device_cloud=scaled(costs.device_cloud),
    )


def test_a_tier_that_gets_faster_never_makes_the_optimum_slower() -> None:
    for seed in range(200):
        problem = problem_from(seed, 3, 30)
        found = exact_or_none(problem)
        if found is None:
            continue
        layer = problem.costs.layer.copy()
        layer[seed % len(TIERS)] *= 0.5
        faster = exact(replace(problem, costs=replace(problem.costs, layer=layer)))
        assert faster.latency.total <= found.latency.total * (1 + 1e-9), seed
