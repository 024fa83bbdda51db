"""Random partitions, each from a seed."""

from random import Random

from tierflow.graph import Graph
from tierflow.tiers import TIERS, Tier


def random_tiers(graph: Graph, seed: int) -> list[Tier]:
    """A monotone partition whose branches leave a tier at different places, so that it is no cut of the order."""
    random = Random(seed)
    chance = random.uniform(1, 6) / max(len(graph.layers), 1)
    tiers: list[Tier] = []
    for layer in graph.layers:
        made_by = [graph.producer[name] for name in layer.inputs if name in graph.producer]
        rank = max((tiers[place].rank for place in made_by), default=0)
        while rank < Tier.CLOUD.rank and random.random() < chance:
            rank += 1
        tiers.append(TIERS[rank])
    return tiers
