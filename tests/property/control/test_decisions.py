"""Laws of decisions, over random networks whose links and tiers change at random."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from factories.courses import PROMETHEUS_DOWN, spec
from factories.graphs import chain, random_network
from factories.pipelines import ONE_NODE_EACH, network, observation, profile
from tierflow.errors import InfeasibleError
from tierflow.graph import Graph
from tierflow.manifest import PipelineSpec
from tierflow.network import Link
from tierflow.profile import Profile
from tierflow.segment import cut
from tierflow.tiers import Tier
from tierflow_operator.bounds import may_gain
from tierflow_operator.decide import Decision, Hold, MeasuredLatency, Move, MoveReason, Present, decide
from tierflow_operator.disruption import options, price_of, touched
from tierflow_operator.observation import Observation
from tierflow_operator.present import decode, encode
from tierflow_operator.situation import Situation

WALKS = range(8)
LOOKS = 40


def pipeline_of(generator: random.Random) -> tuple[Graph, Profile, PipelineSpec]:
    """A network with tensors of kilobytes, its layer times, and thresholds."""
    drawn = random_network(generator, generator.randrange(3, 14))
    tensors = {
        name: msgspec.structs.replace(each, shape=(each.elements * generator.randrange(200, 2000),))
        for name, each in drawn.tensors.items()
    }
    graph = msgspec.structs.replace(drawn, tensors=tensors)
    times = [generator.uniform(0.001, 0.02) for _ in graph.layers]
    wanted = spec(
        minImprovementPercent=generator.choice((0, 1, 10, 10, 30)),
        minIntervalSeconds=generator.choice((0, 20, 60)),
        stabilizationSeconds=generator.choice((0, 0, 15, 45)),
        algorithm=generator.choice(("Exact", "Exact", "Heuristic")),
    )
    return graph, profile(graph, times), wanted


def shrinking(generator: random.Random) -> tuple[Graph, Profile]:
    """A chain whose tensors get smaller little by little, so that many cuts are nearly as good as the best."""
    length = generator.randrange(10, 25)
    sizes = [int(200_000 * 0.8**place * generator.uniform(0.9, 1.1)) + 10 for place in range(length + 1)]
    graph = chain(length, sizes=sizes)
    return graph, profile(graph, [generator.uniform(0.001, 0.01) for _ in graph.layers])


def world(generator: random.Random) -> Observation:
    def scale() -> float:
        return float(10 ** generator.uniform(-0.5, 2.7))

    speeds = tuple(generator.uniform(0.05, 1) * factor for factor in (0.3, 1, 2))
    return observation(network(scale(), scale(), generator.uniform(0.0005, 0.02)), speeds=speeds)


def noisy(generator: random.Random, seen: Observation, spread: float) -> Observation:
    """The same world with each figure up to a factor more or less."""

    def some(figure: float) -> float:
        return figure * spread ** generator.uniform(-1, 1)

    links = {
        link: replace(
            each, link=Link(**{name: some(value) for name, value in msgspec.structs.asdict(each.link).items()})
        )
        for link, each in seen.links.items()
    }
    speeds = {tier: replace(each, speed=some(each.speed)) for tier, each in seen.speeds.items()}
    return replace(seen, links=links, speeds=speeds)


def walk(generator: random.Random, *, tiers_fail: bool = False) -> Iterator[tuple[float, Observation]]:
    """Figures that stay, jump, or swing between two worlds, at times of their own."""
    now, worlds = generator.uniform(0, 1e9), [world(generator), world(generator)]
    for _ in range(LOOKS):
        seen = worlds[generator.randrange(2)]
        if generator.random() < 0.1:
            worlds[generator.randrange(2)] = world(generator)
        if tiers_fail and generator.random() < 0.3:
            gone = generator.choice(((Tier.EDGE,), (Tier.CLOUD,), (Tier.EDGE, Tier.CLOUD)))
            seen = replace(seen, ready_nodes={**ONE_NODE_EACH, **dict.fromkeys(gone, 0)})
        yield now, seen
        now += generator.choice((1.0, 5.0, 5.0, 10.0, 40.0))


def remembered(decision: Decision, before: Present | None) -> Present:
    present = decision.present or before
    assert present is not None
    return present


@pytest.mark.parametrize("seed", WALKS)
def test_a_pipeline_moves_at_most_once_per_interval(seed: int) -> None:
    generator = random.Random(seed)
    graph, times, wanted = pipeline_of(generator)
    present: Present | None = None
    moved: list[float] = []
    for now, seen in walk(generator):
        decision = decide(wanted, graph, times, seen, present, now)
        moved += [now] * isinstance(decision, Move)
        present = remembered(decision, present)
    interval = wanted.planning.min_interval_seconds
    assert all(later - earlier >= interval for earlier, later in pairwise(moved))


@pytest.mark.parametrize("seed", WALKS)
def test_a_decision_is_a_fixed_point_on_its_own_result(seed: int) -> None:
    generator = random.Random(seed)
    graph, times, wanted = pipeline_of(generator)
    present: Present | None = None
    for now, seen in walk(generator, tiers_fail=True):
        decision = decide(wanted, graph, times, seen, present, now)
        present = remembered(decision, present)
        if isinstance(decision, Move):
            for later in (0.0, 1.0, 1e6):
                again = decide(wanted, graph, times, seen, present, now + later)
                assert isinstance(again, Hold), (decision, again)
                assert again.present is not None
                assert again.present.plan == present.plan
        else:
            assert decide(wanted, graph, times, seen, present, now) == replace(decision, present=present)


@pytest.mark.parametrize("seed", WALKS)
def test_a_record_that_was_written_and_read_decides_the_same(seed: int) -> None:
    generator = random.Random(seed)
    graph, times, wanted = pipeline_of(generator)
    present: Present | None = None
    for now, seen in walk(generator, tiers_fail=True):
        kept = None if present is None else decode(encode(present))
        assert kept == present
        measured = MeasuredLatency(seconds=generator.uniform(0.01, 1), requests=100, since=now)
        decision = decide(wanted, graph, times, seen, kept, now, measured)
        assert decision == decide(wanted, graph, times, seen, present, now, measured)
        present = remembered(decision, present)


@pytest.mark.parametrize("seed", WALKS)
def test_without_metrics_no_figure_moves_anything(seed: int) -> None:
    generator = random.Random(seed)
    graph, times, wanted = pipeline_of(generator)
    present = remembered(decide(wanted, graph, times, world(generator), None, 0.0), None)
    for now, seen in walk(generator):
        decision = decide(wanted, graph, times, replace(seen, metrics=PROMETHEUS_DOWN), present, now)
        assert decision.present == present


@pytest.mark.parametrize("seed", WALKS)
def test_a_clock_that_jumps_makes_no_endless_wait(seed: int) -> None:
    generator = random.Random(seed)
    graph, times, wanted = pipeline_of(generator)
    planning = wanted.planning
    longest = max(planning.min_interval_seconds, 2 * planning.stabilization_seconds)
    present: Present | None = None
    for _, seen in walk(generator):
        now = generator.uniform(-1e6, 1e9)
        decision = decide(wanted, graph, times, seen, present, now)
        present = remembered(decision, present)
        if isinstance(decision, Hold) and decision.again_after is not None:
            assert 0 < decision.again_after <= longest


def test_the_chosen_plan_is_slower_by_no_more_than_the_price_and_touches_no_more_workers() -> None:
    spared = 0
    for seed in range(150):
        generator = random.Random(seed)
        graph, times = shrinking(generator)
        now = Situation(spec(minImprovementPercent=generator.choice((10, 30, 50))), graph, times, world(generator))
        first, second = sorted(generator.sample(range(len(graph.layers)), 2))
        old = now.plan_of(cut(graph, graph.layers[first].name, graph.layers[second].name))
        best = now.best()
        if not touched(old, best):
            continue
        chosen = options(now, old, best)[0]
        saved = len(touched(old, best)) - len(touched(old, chosen))
        assert saved >= 0, seed
        assert now.allows(chosen), seed
        assert chosen.predicted_seconds <= best.predicted_seconds * (1 + price_of(now) * saved) * (1 + 1e-9), seed
        spared += saved > 0
    assert spared >= 10


def test_what_is_settled_without_a_search_would_be_found_by_none() -> None:
    settled = 0
    for seed in WALKS:
        generator = random.Random(seed)
        graph, times, wanted = pipeline_of(generator)
        wanted = spec(minImprovementPercent=wanted.planning.min_improvement_percent)
        seen = world(generator)
        present = remembered(decide(wanted, graph, times, seen, None, 0.0), None)
        for _ in range(LOOKS):
            spread = generator.choice((1.01, 1.05, 1.5))
            now = Situation(wanted, graph, times, noisy(generator, seen, spread))
            if not may_gain(now, present):
                least = 1 - wanted.planning.min_improvement_percent / 100
                assert now.best().predicted_seconds > now.latency_of(present.plan) * least * (1 - 1e-9)
                settled += 1
    assert settled > 50


def test_every_move_gains_what_the_user_asks_for_or_is_forced() -> None:
    gained = 0
    for seed in WALKS:
        generator = random.Random(seed)
        graph, times, wanted = pipeline_of(generator)
        present: Present | None = None
        for now, seen in walk(generator, tiers_fail=True):
            try:
                decision = decide(wanted, graph, times, seen, present, now)
            except InfeasibleError:
                continue
            if isinstance(decision, Move) and present is not None:
                lost = {part.tier for part in present.plan.segments if part.segment.takes_part} & seen.unavailable
                before = Situation(wanted, graph, times, seen).latency_of(present.plan)
                if lost:
                    assert decision.reason is MoveReason.NODES_CHANGED
                else:
                    least = 1 - wanted.planning.min_improvement_percent / 100
                    assert decision.plan.predicted_seconds <= before * least + 1e-12
                    gained += 1
            present = remembered(decision, present)
    assert gained > 10
