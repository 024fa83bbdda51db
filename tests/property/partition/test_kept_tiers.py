"""A tier that keeps its layers: what is found is the best of all partitions that leave it as it is."""

import itertools
import random
from dataclasses import replace

import pytest

from factories.graphs import (
    monotone_assignments,
    random_constraints,
    random_costs,
    random_graph,
    random_network,
    respects,
)
from tierflow.errors import InfeasibleError, InvalidInputError
from tierflow.partition.budgets import integer_program, optimal
from tierflow.partition.heuristic import heuristic
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Partitioner, Pin, Problem
from tierflow.segment import Route
from tierflow.tiers import Tier

SEEDS = range(400)


def problem_from(seed: int) -> Problem:
    """A problem, one tier of which keeps the layers that some monotone partition gives it."""
    generator = random.Random(seed)
    build = random_graph if seed % 2 else random_network
    graph = build(generator, generator.randrange(1, 6))
    problem = Problem(graph, random_costs(generator, graph), random_constraints(generator, graph))
    tiers = generator.choice(list(itertools.islice(monotone_assignments(graph), 200)))
    tier = generator.choice((Tier.DEVICE, Tier.CLOUD))
    kept = frozenset(place for place, own in enumerate(tiers) if own is tier)
    return replace(problem, constraints=replace(problem.constraints, kept={tier: kept}))


def best_of_all(problem: Problem) -> float | None:
    """The latency of the best partition that keeps what is to be kept, by trying everything."""
    ((tier, kept),) = problem.constraints.kept.items()
    totals = []
    for tiers, route in itertools.product(monotone_assignments(problem.graph), Route):
        if frozenset(place for place, own in enumerate(tiers) if own is tier) != kept:
            continue
        if tier is Tier.DEVICE and (route is Route.DIRECT or Tier.EDGE in problem.constraints.unavailable):
            continue
        if (route is Route.DIRECT and Tier.EDGE in tiers) or not respects(problem, tiers, route):
            continue
        totals.append(evaluate(problem, tiers, route).total)
    return min(totals, default=None)


@pytest.mark.parametrize("find", [optimal, heuristic, integer_program])
def test_the_best_partition_that_leaves_a_tier_alone_is_found(find: Partitioner) -> None:
    found_some = 0
    for seed in SEEDS:
        problem = problem_from(seed)
        best = best_of_all(problem)
        try:
            found = find(problem)
        except InfeasibleError:
            assert best is None, seed
            continue
        ((tier, kept),) = problem.constraints.kept.items()
        assert frozenset(place for place, own in enumerate(found.tiers) if own is tier) == kept, seed
        assert best is not None, seed
        if find is heuristic:
            assert found.latency.total >= best * (1 - 1e-9), seed
        else:
            assert found.latency.total == pytest.approx(best, rel=1e-6), seed
        found_some += 1
    assert found_some > len(SEEDS) / 3


def test_the_edge_has_no_layers_to_keep() -> None:
    problem = problem_from(1)
    kept = replace(problem, constraints=replace(problem.constraints, pins=(), kept={Tier.EDGE: frozenset({0})}))
    with pytest.raises(InvalidInputError, match="edge can't be kept"):
        optimal(kept)


@pytest.mark.parametrize(("tier", "unavailable"), [(Tier.DEVICE, Tier.EDGE), (Tier.CLOUD, Tier.CLOUD)])
def test_a_tier_keeps_nothing_that_unavailable_tiers_leave_it_no_way_to(tier: Tier, unavailable: Tier) -> None:
    problem = problem_from(2)
    kept = {tier: frozenset(range(len(problem.graph.layers)))}
    rules = replace(problem.constraints, pins=(), unavailable=frozenset({unavailable}), kept=kept)
    with pytest.raises(InfeasibleError, match=f"{tier} can't keep its layers"):
        optimal(replace(problem, constraints=rules))


def test_a_pin_to_another_tier_leaves_nothing_to_keep() -> None:
    problem = problem_from(2)
    last = problem.graph.layers[-1].name
    kept = {Tier.CLOUD: frozenset(range(len(problem.graph.layers)))}
    rules = replace(problem.constraints, pins=(Pin("p", last, Tier.EDGE),), unavailable=frozenset(), kept=kept)
    with pytest.raises(InfeasibleError, match="a pin or an unavailable tier stands in the way"):
        optimal(replace(problem, constraints=rules))
