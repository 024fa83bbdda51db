"""How far figures may drift before a pipeline that holds its plan has to be decided on again. Pure.

A plan's latency is a sum of times. Each is proportional to one figure (a layer's to the speed of its tier, a tensor's
to the bandwidth of its link), is a round trip, or is the same for all figures. So where speeds and bandwidths have
changed by the factor f at the most, and round trips by d seconds in all, no latency t is more than f t + d or less than
t / f - d now. A plan that was g times as fast as the one in force, in t seconds, is so by less than
g f^2 (1 + f d / t) / (1 - f d / t). Below what a new plan has to gain, that can't be worth a move, and the planner
needn't be asked.

That holds for the best of plans. A planner that isn't exact might find more by chance; the next reconcile has it look.
"""

import math
from dataclasses import dataclass
from typing import Final

from tierflow.tiers import TIERS
from tierflow_operator.decision import Hold, HoldReason
from tierflow_operator.observation import Observation
from tierflow_operator.situation import Situation

_BY_GAIN: Final = frozenset({HoldReason.UP_TO_DATE, HoldReason.MINIMUM_IMPROVEMENT})
"""Holds for want of a plan that gains enough; all others depend on the time or on a plan's past."""


@dataclass(frozen=True, slots=True)
class Slack:
    """How far figures may drift.

    Attributes:
        observation: The figures that the decision was made from.
        best_seconds: The latency of the best plan then.
        factor: By which the ratio of two plans' latencies may change; infinite where no figure counts.
    """

    observation: Observation
    best_seconds: float
    factor: float

    def covers(self, observation: Observation) -> bool:
        """Whether the decision is the same by the figures of now, whatever the planner would find.

        Args:
            observation: With the same tiers and nodes as that of the decision.
        """
        if math.isinf(self.factor):
            return True
        ratio, seconds = _drift(self.observation, observation)
        share = ratio * seconds / self.best_seconds if self.best_seconds > 0 else math.inf
        return share < 1 and ratio**2 * (1 + share) / (1 - share) < self.factor


def slack_of(situation: Situation, hold: Hold) -> Slack | None:
    """How far the figures of a decision may drift; None where the next one may be another though none does."""
    if hold.reason not in _BY_GAIN or hold.present is None or hold.present.replaced is not None:
        return None
    if not situation.is_planned:
        return Slack(situation.observation, 0.0, math.inf)
    best = situation.best().predicted_seconds
    present = situation.latency_of(hold.present.plan)
    if best <= 0 or present <= 0:
        return None
    wanted = 1 / (1 - min(0.99, situation.spec.planning.min_improvement_percent / 100))
    return Slack(situation.observation, best, wanted * best / present)


def _drift(before: Observation, now: Observation) -> tuple[float, float]:
    """By which factor a speed or a bandwidth has changed at the most, and by how many seconds all round trips have."""
    if before.links.keys() != now.links.keys():
        return math.inf, 0.0
    pairs = [(before.speeds[tier].speed, now.speeds[tier].speed) for tier in TIERS]
    seconds = 0.0
    for between, found in before.links.items():
        old, new = found.link, now.links[between].link
        pairs.append((old.bytes_per_second, new.bytes_per_second))
        seconds += abs(old.round_trip_seconds - new.round_trip_seconds)
    return max(max(pair) / min(pair) for pair in pairs), seconds
