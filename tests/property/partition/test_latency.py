"""The evaluated latency against its definition, written once more as plain loops."""

import random

import pytest

from factories.graphs import random_costs, random_graph
from tierflow.graph import Graph
from tierflow.partition.latency import LINKS, crossing_cost, evaluate
from tierflow.partition.problem import Problem
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier


def random_partition(generator: random.Random, graph: Graph) -> tuple[tuple[Tier, ...], Route]:
    route = generator.choice(list(Route))
    ranks: list[int] = []
    for layer in graph.layers:
        least = max((ranks[graph.producer[name]] for name in layer.inputs if name in graph.producer), default=0)
        stays = generator.random() < 0.7
        ranks.append(least if stays else generator.choice([r for r in (0, 1, 2) if r >= least]))
    tiers = tuple(Tier.CLOUD if rank == 1 and route is Route.DIRECT else TIERS[rank] for rank in ranks)
    return tiers, route


def by_definition(problem: Problem, tiers: tuple[Tier, ...], route: Route) -> float:
    graph, costs = problem.graph, problem.costs
    total = sum(float(costs.layer[tier.rank, place]) for place, tier in enumerate(tiers))
    for lower, upper in LINKS[route]:
        cost = crossing_cost(costs, lower, upper)
        if any(tier.rank >= upper.rank for tier in tiers):
            total += cost.fixed
        for number, name in enumerate(graph.tensors):
            made = tiers[graph.producer[name]].rank if name in graph.producer else 0
            needed = [tiers[reader].rank for reader in graph.consumers.get(name, ())]
            if made < upper.rank and any(rank >= upper.rank for rank in needed):
                total += float(cost.tensor[number])
        for number, name in enumerate(graph.outputs):
            if name in graph.producer and tiers[graph.producer[name]].rank >= upper.rank:
                total += float(cost.result[number])
    return total


def test_the_latency_is_what_its_equation_says() -> None:
    for seed in range(1_000):
        generator = random.Random(seed)
        graph = random_graph(generator, generator.randrange(0, 25))
        problem = Problem(graph, random_costs(generator, graph))
        tiers, route = random_partition(generator, graph)
        latency = evaluate(problem, tiers, route)
        assert latency.total == pytest.approx(by_definition(problem, tiers, route), rel=1e-9, abs=1e-12), seed
        parts = sum(latency.compute.values()) + sum(latency.transfer.values())
        assert latency.total == pytest.approx(parts, rel=1e-12, abs=1e-15)
