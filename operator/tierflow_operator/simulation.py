"""Decisions over time, without a cluster: what `decide` does with a course of events, and what came of it.

The clock is the caller's: an hour takes as long as its decisions do. Moves take effect at once, and predictions come
true, so what is shown is the effect of figures and thresholds alone.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tierflow.errors import InfeasibleError
from tierflow.graph import Graph
from tierflow.manifest import PipelineSpec
from tierflow.network import Link
from tierflow.plan import Plan
from tierflow.profile import Profile
from tierflow.tiers import TIERS
from tierflow_operator.decide import Decision, Hold, HoldReason, Move, Present, decide
from tierflow_operator.observation import LINKS, Observation, ObservedLink, ObservedSpeed, Source
from tierflow_operator.situation import Situation, taking_part

PERIOD_SECONDS: Final = 5.0
"""How often the operator looks at measurements, beside the times that a decision itself asks for."""

_LEAST_PAUSE: Final = 0.1
"""Between two looks, in seconds, however soon a decision asks for the next."""


GRID: Final = 1.1
"""Figures that differ by less than this factor may be the same in the search for the best plan; never for decisions."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What the world is like from a time on, in seconds from the beginning."""

    seconds: float
    observation: Observation


@dataclass(frozen=True, slots=True)
class Step:
    """One look at the world.

    Attributes:
        seconds: When, from the beginning.
        observation: What was known.
        decision: What was decided; None where no plan meets the constraints.
        plan: What is in force after that.
        latency: Of a request under that plan, in seconds, by the figures of that time; None where a tier that it needs
            can compute nothing.
        first: The same of the first plan.
        best: The same of the best plan, whose search takes figures within `GRID` of each other for the same; None where
            none meets the constraints.
    """

    seconds: float
    observation: Observation
    decision: Decision | None
    plan: Plan
    latency: float | None
    first: float | None
    best: float | None


class Simulation:
    """A pipeline that decides over time.

    Args:
        spec: What the user wants.
        graph: The model's graph.
        profile: Its layer times on the reference machine.
    """

    def __init__(self, spec: PipelineSpec, graph: Graph, profile: Profile) -> None:
        self.present: Present | None = None
        self._spec = spec
        self._graph = graph
        self._profile = profile
        self._first: Plan | None = None

    def look(self, moment: Moment) -> Step:
        """Decides at a moment, no earlier than the last one, and puts in force what was decided.

        Raises:
            InvalidInputError: where a pin or a manual cut names a layer that isn't there.
            InfeasibleError: where no plan meets the constraints and none was found before.
        """
        observation, now = moment.observation, moment.seconds
        decision: Decision | None = None
        try:
            decision = decide(self._spec, self._graph, self._profile, observation, self.present, now)
        except InfeasibleError:
            if self.present is None:
                raise
        if decision is not None and decision.present is not None:
            self.present = decision.present
        if self.present is None:
            raise InfeasibleError("a pipeline whose planning is paused has no plan: set spec.planning.mode to Auto")
        self._first = self._first or self.present.plan
        situation = Situation(self._spec, self._graph, self._profile, observation)
        return Step(
            seconds=now,
            observation=observation,
            decision=decision,
            plan=self.present.plan,
            latency=_latency(situation, self.present.plan),
            first=_latency(situation, self._first),
            best=_best(situation, self.present.plan),
        )

    def run(self, moments: Iterable[Moment], *, until: float, period: float = PERIOD_SECONDS) -> Iterator[Step]:
        """Decides as the operator would: when something changes, every `period`, and when a decision asks for it.

        Args:
            moments: In order; each holds until the next.
            until: When it ends, in seconds; nothing is looked at from then on.
            period: Seconds between two looks where nothing else happens.
        """
        rest = iter(moments)
        current, following = next(rest), next(rest, None)
        now = current.seconds
        while now < until:
            while following is not None and following.seconds <= now:
                current, following = following, next(rest, None)
            step = self.look(Moment(now, current.observation))
            yield step
            wait = period
            if isinstance(step.decision, Hold) and step.decision.again_after is not None:
                wait = min(wait, max(step.decision.again_after, _LEAST_PAUSE))
            now = now + wait if following is None else min(now + wait, following.seconds)


def _latency(situation: Situation, plan: Plan) -> float | None:
    if taking_part(plan) & situation.observation.unavailable:
        return None
    return situation.latency_of(plan)


def _best(situation: Situation, present: Plan) -> float | None:
    """The latency of the best plan, or of the present one where that is better still."""
    observation = situation.observation
    network, speeds = observation.network, observation.tier_speeds
    links = {link: ObservedLink(_on_grid(network.link(*link)), Source.MEASURED) for link in LINKS}
    near = {tier: ObservedSpeed(_nearest(speeds[tier]), Source.MEASURED) for tier in TIERS}
    try:
        plan = replace(situation, observation=replace(observation, links=links, speeds=near)).best()
    except InfeasibleError:
        return None
    return min(known for known in (situation.latency_of(plan), _latency(situation, present)) if known is not None)


def _on_grid(link: Link) -> Link:
    return Link(bytes_per_second=_nearest(link.bytes_per_second), round_trip_seconds=_nearest(link.round_trip_seconds))


def _nearest(figure: float) -> float:
    return GRID ** round(math.log(figure, GRID)) if figure > 0 else figure


def moves(steps: Iterable[Step]) -> list[tuple[float, Move]]:
    """The moves after the first plan, with their times."""
    return [(step.seconds, step.decision) for step in steps if isinstance(step.decision, Move)][1:]


def holds(steps: Iterable[Step]) -> dict[HoldReason, float]:
    """For how many seconds each reason kept the plan, the most first; a reason holds until the next look."""
    seconds: dict[HoldReason, float] = {}
    before: Step | None = None
    for step in steps:
        if before is not None and isinstance(before.decision, Hold):
            reason = before.decision.reason
            seconds[reason] = seconds.get(reason, 0.0) + step.seconds - before.seconds
        before = step
    return dict(sorted(seconds.items(), key=lambda entry: -entry[1]))
