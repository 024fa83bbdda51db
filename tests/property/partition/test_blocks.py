"""Over random graphs, no block can be crossed for less than is said when blocks are left out of a cut."""

import random

import numpy as np

from factories.graphs import random_costs, random_graph, random_network
from tierflow.graph import Graph, Mask
from tierflow.partition.allowed import Pinned
from tierflow.partition.blocks import Blocks, block_costs, blocks_of, boundary_of, least_costs
from tierflow.tiers import Tier

GRAPHS = 1000


def random_choice(generator: random.Random, graph: Graph, blocks: Blocks) -> Mask:
    """In each block its bottleneck above, and some layers with all that follow from them there."""
    layers = len(graph.layers)
    share = generator.random()
    above = blocks.bottleneck | np.array([generator.random() < share for _ in range(layers)])
    for place in range(layers):
        if above[place] and not blocks.bottleneck[place]:
            for name in graph.layers[place].outputs:
                above[list(graph.consumers.get(name, ()))] = True
    return above


def test_no_choice_in_a_block_costs_less_than_its_least_cost() -> None:
    tight = 0
    for seed in range(GRAPHS):
        generator = random.Random(seed)
        build = random_graph if seed % 2 else random_network
        graph = build(generator, generator.randrange(1, 25))
        costs = random_costs(generator, graph)
        nothing = np.zeros(len(graph.layers), dtype=np.bool_)
        difference = costs.layer[Tier.EDGE.rank] - costs.layer[Tier.DEVICE.rank]
        boundary = boundary_of(graph, costs.device_edge, difference, Pinned(below=nothing, above=nothing))
        blocks = blocks_of(graph)
        least = least_costs(boundary, blocks)
        for _ in range(10):
            above = random_choice(generator, graph, blocks)
            is_crossed = np.logical_or.reduceat(above, blocks.first)  # the last block may be crossed nowhere
            distance = (block_costs(boundary, blocks, above) - least)[:-1][is_crossed]
            assert (distance >= -1e-9).all(), seed
            tight += int((distance <= 1e-9).any())
    assert tight > GRAPHS
