"""Puts what was measured in the place of what was assumed, and says what could not be measured. Pure.

- A link that was measured lately has the measured figures.
- A tier whose segment ran lately is as fast as the plan's figures and the measured time say: planned speed x planned
  time / measured time. One whose segment didn't is as fast as the fixed computation says that every idle worker times,
  if that differs clearly from the plan's figure: of another kind of computation it is a rougher measure.
- A speed near the plan's is the plan's, so that noise moves nothing.
- What isn't measured is as the plan in force was decided from, or, with `onUnavailable: UseDefaults`, as assumed.
- A tier that answers none of the tiers below it is unreachable; this is news, not a lack of measurements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from tierflow.errors import UnreachableError
from tierflow.manifest import OnUnavailable, PipelineSpec
from tierflow.network import Link
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_operator.observation import (
    DOWN_SECONDS,
    LINKS,
    NOT_CONFIGURED,
    MetricsReason,
    MetricsState,
    Observation,
    ObservedLink,
    ObservedSpeed,
    Source,
    TierLink,
    link_name,
)
from tierflow_operator.present import MeasuredLatency
from tierflow_operator.readings import Readings

CALIBRATION_SECONDS: Final = 0.0020
"""The fixed computation of `tierflow_calibration_seconds` on the reference machine: 116 million multiply-accumulates at
the rate of `tierflow.estimate`, and as measured on it."""

_FEWEST_RUNS: Final = 3
_SAME_SPEED: Final = 1.1
"""A speed within this factor of the plan's is the plan's, where the tier's own segment was timed."""
_SAME_CALIBRATION: Final = 1.3
"""The same where only the fixed computation was timed, and the tier has no layers that could tell more."""
_OTHER_CALIBRATION: Final = 2.0
"""The same where the tier has layers, which tell more as soon as requests come."""
_BELIEVED_SPEEDS: Final = (1e-4, 1e3)
_DIGITS: Final = 3
_MOST_NOTES: Final = 3


def observe(
    assumed: Observation,
    readings: Readings | UnreachableError | None,
    *,
    plan: Plan | None,
    spec: PipelineSpec,
    now: float,
) -> Observation:
    """What is known now.

    Args:
        assumed: What to go by before anything was measured, with the nodes that there are.
        readings: What Prometheus says, or why it says nothing; None where none is configured.
        plan: The plan in force; None before the first.
        spec: What the user wants.
        now: Seconds of the Unix epoch.
    """
    if readings is None:
        return replace(assumed, metrics=NOT_CONFIGURED)
    holds = spec.metrics.on_unavailable is OnUnavailable.HOLD_PLAN
    base = _as_planned(assumed, plan) if plan is not None and holds else assumed
    if isinstance(readings, UnreachableError):
        state = MetricsState(available=False, reason=MetricsReason.UNREACHABLE, message=readings.message, holds=holds)
        return replace(base, metrics=state)
    readings = _still_fresh(readings, now)
    unreachable = _unreachable(assumed, readings)
    down = frozenset(link for link, up in readings.link_up.items() if not up and link[1] not in unreachable)
    state = _state(_Expected(assumed.unavailable | unreachable, spec), readings, now)
    return replace(
        base,
        links=_links(base.links, readings, down),
        speeds={tier: _speed(tier, plan, readings) or base.speeds[tier] for tier in TIERS},
        metrics=replace(state, holds=holds and not state.available),
        unreachable=unreachable,
        down=down,
    )


def latency(readings: Readings | UnreachableError | None, *, since: float) -> MeasuredLatency | None:
    """What requests took that were answered after `since`; None where that isn't known."""
    if not isinstance(readings, Readings):
        return None
    counted = readings.requests_since(since)
    if counted is None:
        return None
    return MeasuredLatency(
        seconds=counted.seconds / counted.times, requests=max(1, round(counted.times)), since=counted.begin
    )


def _as_planned(assumed: Observation, plan: Plan) -> Observation:
    """The figures that the plan in force was decided from, so that what isn't measured moves nothing."""
    links: dict[TierLink, ObservedLink] = {}
    for between in LINKS:
        link = plan.network.link(*between)
        if link.round_trip_seconds < DOWN_SECONDS:
            links[between] = ObservedLink(link, Source.LAST_PLAN)
        elif between in assumed.links:
            links[between] = assumed.links[between]
    speeds = {tier: ObservedSpeed(plan.speeds[tier], Source.LAST_PLAN) for tier in TIERS}
    return replace(assumed, links=links, speeds=speeds)


def _still_fresh(readings: Readings, now: float) -> Readings:
    """The readings, or none at all where they were read too long ago."""
    if now - readings.read_at <= readings.max_staleness_seconds:
        return readings
    return replace(readings, links={}, link_up={}, segments={}, calibration_seconds={}, queue_length={}, requests=())


def _unreachable(assumed: Observation, readings: Readings) -> frozenset[Tier]:
    """Tiers that no tier below reaches; one that has no node, or isn't reached itself, is no way to another."""
    lost: set[Tier] = set()
    for upper in (Tier.EDGE, Tier.CLOUD):
        ways = [lower for lower in TIERS[: upper.rank] if lower not in assumed.unavailable | lost]
        # A way that nobody tells of may be open: a worker that has just started knows nothing yet.
        if all(readings.link_up.get((lower, upper)) is False for lower in ways):
            lost.add(upper)
    return frozenset(lost)


def _links(
    base: Mapping[TierLink, ObservedLink], readings: Readings, down: frozenset[TierLink]
) -> dict[TierLink, ObservedLink]:
    links = dict(base)
    for between, reading in readings.links.items():
        link = Link(
            bytes_per_second=_rounded(reading.bytes_per_second),
            round_trip_seconds=_rounded(reading.round_trip_seconds),
        )
        links[between] = ObservedLink(link, Source.MEASURED)
    for between in down:
        known = links.get(between)
        bandwidth = 1.0 if known is None else known.link.bytes_per_second
        links[between] = ObservedLink(
            Link(bytes_per_second=bandwidth, round_trip_seconds=DOWN_SECONDS), Source.MEASURED
        )
    return links


def _speed(tier: Tier, plan: Plan | None, readings: Readings) -> ObservedSpeed | None:
    """The tier's speed as measured; None where it wasn't."""
    calibrated = _believed(_ratio(CALIBRATION_SECONDS, readings.calibration_seconds.get(tier)))
    if plan is None:
        return None if calibrated is None else ObservedSpeed(_rounded(calibrated), Source.MEASURED)
    planned, part = plan.speeds[tier], plan.segment(tier)
    ran = readings.segments.get((tier, part.id))
    if ran is not None and ran.runs >= _FEWEST_RUNS and part.compute_seconds > 0:
        timed = _believed(_ratio(planned * part.compute_seconds, ran.seconds))
        if timed is not None:
            return _near(timed, planned, _SAME_SPEED)
    if calibrated is None:
        return None
    if part.layers and _factor(calibrated, planned) < _OTHER_CALIBRATION:
        return None
    return _near(calibrated, planned, _SAME_CALIBRATION)


def _near(speed: float, planned: float, same: float) -> ObservedSpeed:
    return ObservedSpeed(planned if _factor(speed, planned) < same else _rounded(speed), Source.MEASURED)


def _ratio(reference: float, seconds: float | None) -> float | None:
    return None if not seconds or seconds <= 0 else reference / seconds


def _believed(speed: float | None) -> float | None:
    least, most = _BELIEVED_SPEEDS
    return speed if speed is not None and least <= speed <= most else None


def _factor(one: float, other: float) -> float:
    return max(one, other) / min(one, other)


def _rounded(figure: float) -> float:
    """To as many digits as a measurement is worth, so that equal conditions give equal figures."""
    return float(f"{figure:.{_DIGITS}g}")


@dataclass(frozen=True, slots=True)
class _Expected:
    """What ought to be measured: all links between tiers that can be reached."""

    unavailable: frozenset[Tier]
    spec: PipelineSpec

    @property
    def links(self) -> list[TierLink]:
        return [link for link in LINKS if not self.unavailable & set(link)]


def _state(expected: _Expected, readings: Readings, now: float) -> MetricsState:
    """Whether what ought to be measured is.

    The messages hold no age: they go to the status, which shall not change with every look.
    """
    told = readings.links.keys() | {link for link, up in readings.link_up.items() if not up}
    missing = [link_name(link) for link in expected.links if link not in told]
    ages = [now - readings.links[link].measured_at for link in expected.links if link in readings.links]
    age = max(0.0, *ages) if ages else None
    left_out = f"; left out: {', '.join(readings.notes[:_MOST_NOTES])}" if readings.notes else ""
    if not missing:
        return MetricsState(
            available=True, reason=MetricsReason.MEASURED, message=f"links are measured{left_out}", age_seconds=age
        )
    if not readings.workers:
        message = (
            "Prometheus knows no worker of this pipeline: it has to scrape /metrics of the pods labelled "
            f"tierflow.dev/pipeline, see docs/metrics.md{left_out}"
        )
        return MetricsState(available=False, reason=MetricsReason.NO_DATA, message=message, age_seconds=age)
    limit = expected.spec.metrics.max_staleness_seconds
    message = f"not measured within spec.metrics.maxStalenessSeconds ({limit} s): {', '.join(missing)}{left_out}"
    return MetricsState(available=False, reason=MetricsReason.STALE, message=message, age_seconds=age)
