"""Whether any plan can be enough better at all, without looking for it.

A plan's latency is a sum of times, each in proportion to one figure: a round trip, or the inverse of a bandwidth or a
speed. Where no figure has improved by more than a factor, no plan has, the best one included: what was the best latency
when the present plan was decided, divided by that factor, is what none is below now. That settles most looks at noisy
measurements, for which an integer program (budgets) or the prices of all tiles would be too much to ask each time.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from tierflow.tiers import TIERS
from tierflow_operator.observation import LINKS, ObservedLink, ObservedSpeed, Source
from tierflow_operator.present import Present
from tierflow_operator.situation import Situation

_LEAST: Final = 0.1
"""Where the user asks for more, better plans are looked for all the same, to say how much they would gain."""


def may_gain(situation: Situation, present: Present) -> bool:
    """Whether some plan may be better than the present one by the minimum improvement; False where none can be.

    Args:
        situation: What is known now, under the spec and with the tiers that `present` was decided for.
        present: The plan in force.
    """
    nodes = present.optimal_with
    if nodes is None or len(nodes.speeds) != len(situation.edge_nodes.speeds) or not situation.is_planned:
        return True
    then = _then(situation, present, nodes.speeds)
    if not math.isclose(then.latency_of(present.plan), present.plan.predicted_seconds, rel_tol=1e-6):
        return True  # other layer times
    best_then = present.plan.predicted_seconds / (1 + present.plan.optimality_gap)
    factor = max(1.0, *_improvements(situation, present))
    share = min(_LEAST, situation.spec.planning.min_improvement_percent / 100)
    return situation.latency_of(present.plan) * (1 - share) >= best_then / factor


def _then(situation: Situation, present: Present, edge_speeds: tuple[float, ...]) -> Situation:
    """The situation with the figures that the present plan was decided from."""
    plan = present.plan
    links = {link: ObservedLink(plan.network.link(*link), Source.LAST_PLAN) for link in LINKS}
    speeds = {tier: ObservedSpeed(plan.speeds[tier], Source.LAST_PLAN) for tier in TIERS}
    link = situation.edge_nodes.link if present.optimal_with is None else present.optimal_with.link
    observation = replace(situation.observation, links=links, speeds=speeds, edge_speeds=edge_speeds, edge_link=link)
    return replace(situation, observation=observation)


def _improvements(situation: Situation, present: Present) -> Iterator[float]:
    """By what factor each figure is better than when the present plan was decided."""
    old, new = present.plan.network, situation.observation.network
    links = [(old.link(*link), new.link(*link)) for link in LINKS]
    if present.optimal_with is not None:
        links.append((present.optimal_with.link, situation.edge_nodes.link))
        yield from (
            now / then for then, now in zip(present.optimal_with.speeds, situation.edge_nodes.speeds, strict=True)
        )
    for before, after in links:
        yield after.bytes_per_second / before.bytes_per_second
        yield before.round_trip_seconds / after.round_trip_seconds if after.round_trip_seconds else math.inf
    for tier in TIERS:
        yield situation.observation.tier_speeds[tier] / present.plan.speeds[tier]
