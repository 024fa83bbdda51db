"""What a plan is compared with: other partitions, with the best tiles for each where the edge has several workers."""

from dataclasses import replace
from functools import partial

from tierflow.partition.explain import Best, Price
from tierflow.partition.latency import Ranks, evaluate_ranks, ranks_of, tiers_of
from tierflow.partition.problem import Algorithm, Latency, Partition
from tierflow.partition.select import partitioner
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.joint import joint, tiled
from tierflow.units import Seconds
from tierflow_cli.planned import Planned


def price_of(made: Planned) -> Price:
    """What other partitions of the same problem cost on the same workers."""
    problem = made.problem
    untiled = partial(evaluate_ranks, problem.graph, problem.costs)
    if not made.has_edge_workers:
        return untiled
    edge = made.edge

    def with_tiles(ranks: Ranks, route: Route) -> Latency:
        latency = untiled(ranks, route)
        partition = Partition(tiers_of(ranks), route, latency, 0.0, Algorithm.EXACT)
        seconds = tiled(problem, edge, partition, made.nodes).seconds
        saved = latency.total - seconds
        compute = {**latency.compute, Tier.EDGE: Seconds(latency.compute[Tier.EDGE] - saved)}
        return replace(latency, total=Seconds(seconds), compute=compute)

    return with_tiles


def best_of(made: Planned) -> Best | None:
    """What the best partition of a problem costs on the same workers; None where they share no tiles."""
    if not made.has_edge_workers:
        return None
    edge = made.edge
    find = partitioner(Algorithm.EXACT)
    return lambda problem: Seconds(joint(problem, edge, made.nodes, find).best.seconds)


def single_tier_latencies(made: Planned) -> dict[Tier, Seconds]:
    """Predicted latency with all layers on one tier, by the cheaper route, whatever the constraints say."""
    price = price_of(made)
    layers = len(made.problem.graph.layers)
    return {
        tier: min(
            price(ranks_of((tier,) * layers), route).total
            for route in ([Route.RELAYED] if tier is Tier.EDGE else list(Route))
        )
        for tier in TIERS
    }
