"""Why a plan is another one now, in words and figures: `edge-cloud link 18.9 -> 3.1 Mbit/s`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from tierflow.network import MEGABIT, Link
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_operator.decision import MoveReason
from tierflow_operator.observation import DOWN_SECONDS, LINKS, Observation, TierLink, link_name
from tierflow_operator.present import Present
from tierflow_operator.situation import Situation

_NOTHING = 1e-9
"""Seconds: what changes a gain by less does not change it."""


@dataclass(frozen=True, slots=True)
class _Change:
    """One figure that is another one now.

    Attributes:
        text: The figure, as it was and as it is.
        reason: What it counts as.
        undone: What would be known had it not changed.
    """

    text: str
    reason: MoveReason
    undone: Observation


def cause(situation: Situation, present: Present, plan: Plan) -> tuple[MoveReason, str]:
    """What made a plan better than the one in force: of all that changed, that without which it would gain least.

    Args:
        situation: What is known now.
        present: The plan in force, and what was known when it was decided.
        plan: The better one.
    """
    observation, edge_workers = situation.observation, len(situation.edge_nodes.speeds)
    if present.unavailable != observation.unavailable:
        back = ", ".join(_in_order(present.unavailable - observation.unavailable))
        return MoveReason.NODES_CHANGED, f"{back} can compute again" if back else "the ready nodes changed"
    if present.edge_workers != edge_workers:
        return MoveReason.NODES_CHANGED, f"workers at the edge {present.edge_workers} -> {edge_workers}"

    def gained(known: Observation) -> float:
        then = replace(situation, observation=known)
        return then.latency_of(present.plan) - then.latency_of(plan)

    gains = gained(observation)
    shares = [(gains - gained(change.undone), change) for change in _changes(observation, present.plan)]
    share, decisive = max(shares, key=lambda entry: entry[0], default=(0.0, None))
    if decisive is None or share <= _NOTHING:
        return MoveReason.SPEED_CHANGED, "the layers' times changed"
    return decisive.reason, decisive.text


def _changes(observation: Observation, plan: Plan) -> Iterator[_Change]:
    """Each figure that changed since the plan was decided."""
    for between, found in observation.links.items():
        old, new = plan.network.link(*between), found.link
        for before, text in _changes_of_link(old, new):
            links = {**observation.links, between: replace(found, link=before)}
            undone = replace(observation, links=links)
            yield _Change(f"{link_name(between)} link {text}", MoveReason.BANDWIDTH_CHANGED, undone)
    for tier, seen in observation.speeds.items():
        before_speed, now = plan.speeds[tier], seen.speed
        if before_speed != now:
            speeds = {**observation.speeds, tier: replace(seen, speed=before_speed)}
            text = f"speed of {tier} {before_speed:.3g} -> {now:.3g}"
            yield _Change(text, MoveReason.SPEED_CHANGED, replace(observation, speeds=speeds))


def _changes_of_link(old: Link, new: Link) -> Iterator[tuple[Link, str]]:
    """The link without each of its changes, and the change in words."""
    if (new.round_trip_seconds >= DOWN_SECONDS) != (old.round_trip_seconds >= DOWN_SECONDS):
        yield old, "is down" if new.round_trip_seconds >= DOWN_SECONDS else "is up again"
        return
    if new.bytes_per_second != old.bytes_per_second:
        text = f"{old.bytes_per_second / MEGABIT:.1f} -> {new.bytes_per_second / MEGABIT:.1f} Mbit/s"
        yield msgspec.structs.replace(new, bytes_per_second=old.bytes_per_second), text
    if new.round_trip_seconds != old.round_trip_seconds:
        text = f"{old.round_trip_seconds * 1e3:.1f} -> {new.round_trip_seconds * 1e3:.1f} ms round trip"
        yield msgspec.structs.replace(new, round_trip_seconds=old.round_trip_seconds), text


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


def _in_order(tiers: frozenset[Tier]) -> list[Tier]:
    return [tier for tier in TIERS if tier in tiers]
