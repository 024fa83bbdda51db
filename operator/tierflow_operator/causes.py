"""Why a plan is another one now, in words and figures: `edge-cloud link 18.9 -> 3.1 Mbit/s`."""

from tierflow.network import MEGABIT
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_operator.decision import MoveReason
from tierflow_operator.observation import DOWN_SECONDS, LINKS, Observation, TierLink, link_name
from tierflow_operator.present import Present
from tierflow_operator.situation import Situation

_NOISE = 1.001
"""A figure that changed by less than this factor did not change."""


def cause(observation: Observation, present: Present, edge_workers: int) -> tuple[MoveReason, str]:
    """What changed most since the present plan was decided.

    Args:
        observation: What is known now.
        present: The plan in force, and what was known when it was decided.
        edge_workers: How many can share tiles now.
    """
    if present.unavailable != observation.unavailable:
        back = ", ".join(_in_order(present.unavailable - observation.unavailable))
        return MoveReason.NODES_CHANGED, f"{back} can compute again" if back else "the ready nodes changed"
    if present.edge_workers != edge_workers:
        return MoveReason.NODES_CHANGED, f"workers at the edge {present.edge_workers} -> {edge_workers}"
    factor, reason, text = max(_changes(observation, present.plan), key=lambda change: change[0])
    return (reason, text) if factor > _NOISE else (MoveReason.SPEED_CHANGED, "the layers' times changed")


def _changes(observation: Observation, plan: Plan) -> list[tuple[float, MoveReason, str]]:
    """Each figure's factor of change since the plan was decided, as what it counts and in words."""
    changes: list[tuple[float, MoveReason, str]] = []
    network = observation.network
    for link in LINKS:
        old, new = plan.network.link(*link), network.link(*link)
        if new.round_trip_seconds >= DOWN_SECONDS > old.round_trip_seconds:
            changes.append((float("inf"), MoveReason.BANDWIDTH_CHANGED, f"{link_name(link)} link is down"))
            continue
        if old.round_trip_seconds >= DOWN_SECONDS > new.round_trip_seconds:
            changes.append((float("inf"), MoveReason.BANDWIDTH_CHANGED, f"{link_name(link)} link is up again"))
            continue
        bandwidth = f"{old.bytes_per_second / MEGABIT:.1f} -> {new.bytes_per_second / MEGABIT:.1f} Mbit/s"
        round_trip = f"{old.round_trip_seconds * 1e3:.1f} -> {new.round_trip_seconds * 1e3:.1f} ms round trip"
        for old_figure, new_figure, text in (
            (old.bytes_per_second, new.bytes_per_second, bandwidth),
            (old.round_trip_seconds, new.round_trip_seconds, round_trip),
        ):
            factor = _factor(old_figure, new_figure)
            changes.append((factor, MoveReason.BANDWIDTH_CHANGED, f"{link_name(link)} link {text}"))
    for tier in TIERS:
        old_speed, new_speed = plan.speeds[tier], observation.speeds[tier].speed
        text = f"speed of {tier} {old_speed:.3g} -> {new_speed:.3g}"
        changes.append((_factor(old_speed, new_speed), MoveReason.SPEED_CHANGED, text))
    return changes


def loss(observation: Observation, tiers: frozenset[Tier], links: frozenset[TierLink]) -> str:
    """Which tiers can't compute any more, and why, and which links are down."""
    without_nodes = _in_order(tiers - observation.unreachable)
    unreachable = _in_order(tiers & observation.unreachable)
    parts = [f"no ready node is left for {', '.join(without_nodes)}"] if without_nodes else []
    parts += [f"{', '.join(unreachable)} can't be reached"] if unreachable else []
    parts += [f"{link_name(link)} link is down" for link in LINKS if link in links]
    return "; ".join(parts)


def gain(situation: Situation, old: Plan, new: Plan) -> str:
    """Both plans' latencies by the figures of now."""
    return f"predicted {milliseconds(situation.latency_of(old))} -> {milliseconds(new.predicted_seconds)}"


def milliseconds(seconds: float) -> str:
    """A latency as messages have it: `212 ms`."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds * 1e3:.0f} ms"


def _factor(old: float, new: float) -> float:
    """How many times the larger is the smaller; infinite where only one is zero."""
    small, large = sorted((old, new))
    return 1.0 if large == small else large / small if small > 0 else float("inf")


def _in_order(tiers: frozenset[Tier]) -> list[Tier]:
    return [tier for tier in TIERS if tier in tiers]
