"""The price of disruption: of plans that are nearly as fast, the one that touches the fewest workers.

A plan counts as `PRICE` of the minimum improvement slower for each worker that has to change for it. So the plan that
is chosen is never slower than the best one by more than the price of the workers that it spares; and since no plan
touches more than three, a plan chosen for that is never itself worth leaving for the best one.
"""

from collections.abc import Iterator
from typing import Final

from tierflow.partition.heuristic import changes, update
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Partition
from tierflow.plan import Plan, TierChange, difference
from tierflow.planning import problem_of
from tierflow.tiers import Tier
from tierflow_operator.situation import Situation, taking_part

PRICE: Final = 0.2
"""Of the minimum improvement, per worker that has to change."""


def touched(old: Plan, new: Plan) -> tuple[TierChange, ...]:
    """The tiers whose worker has to change, device first.

    Another grid for the same runs is no reason: the edge's worker takes one that fits the workers that there are, and
    so a change in the number of edge nodes changes the number of tile workers and nothing else.
    """
    same_runs = [run.id for run in old.tiling] == [run.id for run in new.tiling]
    return tuple(change for change in difference(old, new) if not (change.reason == "Tiling" and same_runs))


def price_of(situation: Situation) -> float:
    """How much slower a plan counts for each worker that it touches, as a share of its latency."""
    return PRICE * situation.spec.planning.min_improvement_percent / 100


def priced(situation: Situation, old: Plan, new: Plan) -> float:
    """A plan's latency with the price of moving to it, in seconds."""
    return new.predicted_seconds * (1 + price_of(situation) * len(touched(old, new)))


def options(situation: Situation, old: Plan, best: Plan) -> list[Plan]:
    """The best plan, and those that touch fewer workers, the cheapest first with the price of each; at least one.

    Args:
        situation: What is known now.
        old: The plan in force, of the same model.
        best: The best plan now.
    """
    most = len(touched(old, best))
    found = [best]
    if price_of(situation) > 0 and situation.is_planned and most > 1:
        found += [plan for plan in _sparing(situation, old) if 0 < len(touched(old, plan)) < most]
    return sorted(found, key=lambda plan: priced(situation, old, plan))


def _sparing(situation: Situation, old: Plan) -> Iterator[Plan]:
    """The best plans that leave the device or the cloud as it is, or have other tiles alone, or HPA's local update."""
    part = taking_part(old)
    spared = [Tier.CLOUD, Tier.DEVICE if Tier.EDGE in part else Tier.EDGE]
    for tier in spared:
        plan = situation.keeping(tier, frozenset(old.segment(tier).segment.layers))
        if plan is not None:
            yield plan
    if situation.allows(old):
        if len(situation.edge_nodes.speeds) > 1:
            yield situation.plan_of(old.tiers(situation.graph))
        if situation.spec.planning.algorithm is Algorithm.HEURISTIC:
            yield situation.plan_of(_updated(situation, old).tiers)


def _updated(situation: Situation, old: Plan) -> Partition:
    """The partition that HPA's local update makes of the present one."""
    tiers = old.tiers(situation.graph)
    then = problem_of(situation.graph, situation.profile, old.network, old.speeds)
    latency = evaluate(then, tiers, old.route)
    previous = Partition(tiers, old.route, latency, old.optimality_gap, old.algorithm)
    return update(situation.problem, previous, changes(then, situation.problem))
