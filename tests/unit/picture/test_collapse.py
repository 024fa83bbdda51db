"""Which layers share a box."""

import random

import pytest

from factories.graphs import random_graph
from factories.pictures import fan, in_order, long_chain, random_runs, random_tiers, residual_network, tangle
from tierflow.graph import Graph
from tierflow.tiers import Tier
from tierflow_cli.picture.collapse import blocks_of, edges_of, zones_of


@pytest.mark.parametrize("seed", range(10))
def test_every_layer_is_in_one_box_of_its_own_tier_or_run_and_boxes_make_no_cycle(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(100):
        graph = random_graph(generator, generator.randrange(1, 150))
        tiers = random_tiers(generator, graph)
        zones = zones_of(tiers, random_runs(generator, tiers))
        blocks = blocks_of(graph, zones)
        assert sorted(place for block in blocks for place in block.places) == list(range(len(graph.layers)))
        assert all({zones[place] for place in block.places} == {block.zone} for block in blocks)
        assert all(source < target for source, target in edges_of(graph, blocks))


def test_a_small_graph_shows_every_layer() -> None:
    graph = residual_network(4)
    assert [block.places for block in blocks_of(graph, zones_of(in_order(graph, 0.3, 0.6)))] == [
        (place,) for place in range(len(graph.layers))
    ]


def test_a_layer_takes_the_small_layers_behind_it_into_its_box_where_the_graph_is_larger() -> None:
    graph = residual_network(8)
    blocks = blocks_of(graph, zones_of(in_order(graph, 0, 0)))
    named = [[graph.layers[place].name for place in block.places] for block in blocks]
    assert named[0] == ["stem/conv", "stem/relu"]
    assert named[1] == ["block0/conv1", "block0/bn1", "block0/relu1"]
    assert named[2] == ["block0/conv2"]
    assert named[3] == ["block0/add", "block0/relu2"]


def test_a_larger_graph_shows_a_residual_block_as_one_box_and_the_one_that_is_cut_in_full() -> None:
    graph = residual_network(40)
    tiers = tuple(
        Tier.DEVICE if place <= graph.place["block20/conv1"] else Tier.CLOUD for place in range(len(graph.layers))
    )
    blocks = blocks_of(graph, zones_of(tiers))
    named = [[graph.layers[place].name for place in block.places] for block in blocks]
    assert [f"block3/{part}" for part in ("conv1", "bn1", "relu1", "conv2", "add", "relu2")] in named
    assert ["block20/conv1"] in named
    assert ["block20/bn1", "block20/relu1", "block20/conv2"] in named


def test_equal_blocks_that_follow_each_other_become_one_where_there_are_hundreds() -> None:
    graph = residual_network(300)
    blocks = blocks_of(graph, zones_of(in_order(graph, 0.5, 0.5)))
    assert len(blocks) < 20
    assert max(block.repeats for block in blocks) > 100


@pytest.mark.parametrize(
    "graph",
    [residual_network(800), long_chain(5000), tangle(5000, 20), tangle(5000, 3000), fan(5000), fan(40)],
    ids=["residual", "chain", "near tangle", "far tangle", "fan", "small fan"],
)
def test_no_graph_has_more_boxes_than_a_person_can_look_at(graph: Graph) -> None:
    for device, edge in ((0.3, 0.7), (0, 0), (1, 1)):
        blocks = blocks_of(graph, zones_of(in_order(graph, device, edge)))
        assert 1 <= len(blocks) <= 120
        assert len(edges_of(graph, blocks)) <= 400


def test_a_long_chain_is_not_reduced_to_a_box_per_tier() -> None:
    graph = long_chain(1000)
    assert 20 <= len(blocks_of(graph, zones_of(in_order(graph, 0.3, 0.7)))) <= 50


def test_a_run_s_border_is_a_border_of_boxes_however_large_the_graph_is() -> None:
    for graph in (residual_network(8), residual_network(40), residual_network(300), tangle(900, 200)):
        tiers = in_order(graph, 0, 1)
        count = len(graph.layers)
        runs = (range(2, count // 3), range(count // 3, count // 2), range(count // 2 + 5, count - 1))
        zones = zones_of(tiers, runs)
        found = [{zones[place].run for place in block.places} for block in blocks_of(graph, zones)]
        assert all(len(run) == 1 for run in found)
        assert {run for each in found for run in each} == {None, 0, 1, 2}
