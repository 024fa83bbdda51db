"""Runs, grids and cuts chosen together, against brute force."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest

from tierflow.graph import Graph, Layer, Tensor
from tierflow.network import Link, network_of
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Constraints, Pin, Problem
from tierflow.partition.select import partitioner
from tierflow.profile import Profile, costs_of
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.blocks import Block, blocks_of
from tierflow.tiling.choice import Choice, EdgeNodes, Pricing, choose_for_segment, priced_runs
from tierflow.tiling.joint import joint, tiled

CASES = 120
EXACT = partitioner(Algorithm.EXACT)


@dataclass
class Case:
    """A chain of convolutions and pools, its times and its network."""

    graph: Graph
    profile: Profile
    problem: Problem
    nodes: EdgeNodes


def chain(seed: int, *, layers: int = 5, constraints: Constraints | None = None) -> Case:
    random = np.random.default_rng(seed)
    extent, channels = int(random.integers(12, 40)), 16
    tensors = {"x": Tensor(name="x", dtype="float32", shape=(1, channels, extent, extent))}
    weights, made = {}, []
    previous = "x"
    for place in range(layers):
        pool = bool(random.random() < 0.25) and extent > 8
        kernel = 2 if pool else int(random.choice([1, 3, 5]))
        pad = 0 if pool else kernel // 2
        extent = extent // 2 if pool else extent
        name = f"t{place}"
        tensors[name] = Tensor(name=name, dtype="float32", shape=(1, channels, extent, extent))
        attributes = {"kernel_shape": (kernel, kernel), "strides": (2, 2) if pool else (1, 1), "pads": (pad,) * 4}
        held = () if pool else (f"w{place}",)
        if held:
            shape = (channels, channels, kernel, kernel)
            weights[held[0]] = Tensor(name=held[0], dtype="float32", shape=shape)
        made.append(
            Layer(
                name=f"layer{place}",
                kind="MaxPool" if pool else "Conv",
                inputs=(previous,),
                outputs=(name,),
                weights=held,
                operands=(previous, *held),
                attributes=attributes,
            )
        )
        previous = name
    graph = Graph(
        name="chain", inputs=("x",), outputs=(previous,), layers=tuple(made), tensors=tensors, weights=weights
    )
    profile = Profile(
        model="chain",
        source="estimated",
        machine="test",
        segment=float(random.random()) * 1e-4,
        layers={layer.name: float(random.random()) * 5e-3 for layer in graph.layers},
    )
    speeds = {Tier.DEVICE: 0.05 + random.random() * 0.3, Tier.EDGE: 0.3 + random.random() * 0.4, Tier.CLOUD: 1.0}
    profiles = {tier: profile.scaled(float(speeds[tier])) for tier in TIERS}
    links = [
        Link(bytes_per_second=float(10 ** random.uniform(5.5, 8)), round_trip_seconds=float(random.random()) * 5e-3)
        for _ in range(3)
    ]
    network = network_of(links[0], links[1])
    nodes = EdgeNodes(
        speeds=(1.0, *(float(speed) for speed in 0.4 + random.random(int(random.integers(1, 4))))),
        link=Link(bytes_per_second=1e8, round_trip_seconds=links[2].round_trip_seconds / 20),
    )
    problem = Problem(graph, costs_of(graph, profiles, network), constraints or Constraints())
    return Case(graph, profiles[Tier.EDGE], problem, nodes)


def sets_of_runs(pricing: Pricing, blocks: tuple[Block, ...]) -> float:
    """The least time of the blocks over all sets of runs that don't overlap, by trying all."""
    runs = list(priced_runs(pricing).values())
    least = sum(pricing.untiled)
    for count in range(1, len(blocks) + 1):
        for chosen in combinations(runs, count):
            taken = [place for run in chosen for place in range(run.start, run.stop)]
            if len(taken) == len(set(taken)):
                rest = sum(seconds for at, seconds in enumerate(pricing.untiled) if at not in taken)
                least = min(least, rest + sum(run.cost.seconds for run in chosen))
    return least


def brute_force(case: Case) -> float:
    """The least latency over every cut, every set of runs and every grid."""
    count = len(case.graph.layers)
    least = EXACT(case.problem).latency.total
    for first in range(count):
        for last in range(first + 1, count + 1):
            ranks = [0] * first + [1] * (last - first) + [2] * (count - last)
            latency = evaluate(case.problem, tuple(TIERS[rank] for rank in ranks), Route.RELAYED).total
            start = "x" if first == 0 else case.graph.layers[first - 1].outputs[0]
            end = case.graph.layers[last - 1].outputs[0]
            blocks = blocks_of(case.graph, range(first, last), (start,), (end,), case.profile.layers).blocks
            pricing = Pricing(case.graph, case.profile, blocks, case.nodes)
            least = min(least, latency - sum(pricing.untiled) + sets_of_runs(pricing, blocks))
    return least


def test_cut_runs_and_grids_decided_together_equal_brute_force() -> None:
    for seed in range(CASES):
        case = chain(seed, layers=3 + seed % 3)
        found = joint(case.problem, case.profile, case.nodes, EXACT)
        assert found.best.seconds == pytest.approx(brute_force(case), rel=1e-6), f"seed {seed}"


def test_deciding_together_is_never_worse_than_partitioning_first_and_sometimes_better() -> None:
    gains = []
    for seed in range(CASES):
        case = chain(1000 + seed, layers=8)
        found = joint(case.problem, case.profile, case.nodes, EXACT)
        assert found.best.seconds <= found.partition_then_tile.seconds
        gains.append(found.partition_then_tile.seconds / found.best.seconds)
    assert max(gains) > 1.05


def test_a_tiled_segment_is_never_predicted_slower_than_untiled() -> None:
    for seed in range(CASES):
        case = chain(2000 + seed, layers=10)
        every = tuple(Tier.EDGE for _ in case.graph.layers)
        latency = evaluate(case.problem, every, Route.RELAYED)
        whole = EXACT(case.problem)
        at_edge = tiled(case.problem, case.profile, whole, case.nodes)
        assert at_edge.seconds <= whole.latency.total
        blocks = blocks_of(case.graph, range(10), ("x",), case.graph.outputs, case.profile.layers)
        choice: Choice = choose_for_segment(case.graph, case.profile, blocks, case.nodes)
        assert choice.seconds <= latency.compute[Tier.EDGE] * (1 + 1e-9)
        for run in choice.runs:
            assert run.cost.seconds < run.untiled_seconds


def test_pins_hold_when_tiles_would_move_the_cut() -> None:
    for seed in range(CASES // 4):
        pin = Pin("privacy", "layer2", Tier.DEVICE)
        case = chain(seed, layers=6, constraints=Constraints(pins=(pin,)))
        found = joint(case.problem, case.profile, case.nodes, EXACT)
        assert set(found.best.partition.tiers[:3]) == {Tier.DEVICE}


def test_the_same_question_has_the_same_answer() -> None:
    case = chain(5, layers=8)
    one, two = (joint(case.problem, case.profile, case.nodes, EXACT).best for _ in range(2))
    assert (one.seconds, one.partition.tiers, one.choice) == (two.seconds, two.partition.tiers, two.choice)
