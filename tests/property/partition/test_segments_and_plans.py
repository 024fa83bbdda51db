"""Over random graphs and partitions: segments fit together, and ids are equal exactly where the work is."""

import random

from factories.graphs import random_costs, random_graph
from tierflow.graph import Graph
from tierflow.network import NETWORKS
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Partition, Problem
from tierflow.plan import Plan, decode, difference, encode, plan_of
from tierflow.segment import Route, Segment, segment_id, segments_of
from tierflow.tiers import TIERS, Tier

SPEEDS = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}


def random_tiers(generator: random.Random, graph: Graph) -> tuple[Tier, ...]:
    ranks: list[int] = []
    for layer in graph.layers:
        least = max((ranks[graph.producer[name]] for name in layer.inputs if name in graph.producer), default=0)
        ranks.append(least if generator.random() < 0.75 else generator.randrange(least, 3))
    return tuple(TIERS[rank] for rank in ranks)


def plan_for(generator: random.Random, graph: Graph) -> Plan:
    tiers = random_tiers(generator, graph)
    routes = [Route.RELAYED] if Tier.EDGE in tiers else list(Route)
    route = generator.choice(routes)
    latency = evaluate(Problem(graph, random_costs(generator, graph)), tiers, route)
    partition = Partition(tiers, route, latency, 0.0, Algorithm.EXACT)
    return plan_of(graph, partition, model="m", network=NETWORKS["wifi"], speeds=SPEEDS)


def computed(graph: Graph, segment: Segment) -> frozenset[int]:
    """The layers that the segment's tensors ask for: back from what leaves it to what enters it."""
    wanted, found = [*segment.sends, *segment.results], set()
    while wanted:
        name = wanted.pop()
        place = graph.producer.get(name)
        if name not in segment.accepts and place is not None and place not in found:
            found.add(place)
            wanted += graph.layers[place].inputs
    return frozenset(found)


def test_every_tier_can_compute_what_it_is_asked_for_and_all_results_are_made_once() -> None:
    for seed in range(1_000):
        generator = random.Random(seed)
        graph = random_graph(generator, generator.randrange(1, 25))
        plan = plan_for(generator, graph)
        arriving: tuple[str, ...] = graph.inputs
        for segment in segments_of(graph, plan.tiers(graph), plan.route):
            if not segment.takes_part:
                assert segment.layers == segment.sends == segment.results == ()
                continue
            assert segment.accepts == arriving, seed
            made = {name for place in segment.layers for name in graph.layers[place].outputs}
            read = {name for place in segment.layers for name in graph.layers[place].inputs}
            assert read <= made.union(segment.accepts), seed
            assert set(segment.sends) <= made.union(segment.accepts), seed
            assert computed(graph, segment) <= set(segment.layers), seed
            arriving = segment.sends
        results = [name for part in plan.segments for name in part.segment.results]
        assert sorted(results) == sorted(graph.outputs), seed


def test_segment_ids_are_equal_exactly_where_the_computation_is() -> None:
    equal = different = 0
    for seed in range(1_000):
        generator = random.Random(seed)
        graph = random_graph(generator, generator.randrange(1, 9))
        one, other = plan_for(generator, graph), plan_for(generator, graph)
        for tier in TIERS:
            a, b = one.segment(tier).segment, other.segment(tier).segment
            same = all(set(getattr(a, part)) == set(getattr(b, part)) for part in ("accepts", "sends", "results"))
            assert (segment_id("m", a) == segment_id("m", b)) is same, seed
            if same:
                assert computed(graph, a) == computed(graph, b), seed
            equal, different = equal + same, different + (not same)
    assert equal > 100
    assert different > 100


def test_the_difference_names_the_tiers_whose_segment_or_neighbour_changes_and_no_other() -> None:
    for seed in range(1_000):
        generator = random.Random(seed)
        graph = random_graph(generator, generator.randrange(1, 9))
        old, new = plan_for(generator, graph), plan_for(generator, graph)
        assert difference(old, old) == ()
        named = {change.tier: change.reason for change in difference(old, new)}
        for tier in TIERS:
            if old.segment(tier).id != new.segment(tier).id:
                assert named.pop(tier) == "Segment", seed
            elif old.next_tier(tier) != new.next_tier(tier):
                assert named.pop(tier) == "Route", seed
        assert not named, seed


def test_plans_survive_json() -> None:
    for seed in range(200):
        generator = random.Random(seed)
        plan = plan_for(generator, random_graph(generator, generator.randrange(1, 20)))
        assert decode(encode(plan)) == plan, seed
