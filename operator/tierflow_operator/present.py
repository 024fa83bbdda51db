"""What a decision leaves for the next one: the plan in force, and what hysteresis has to remember beside it.

Values and their JSON, which the operator keeps in a ConfigMap so that a restart forgets nothing. Times are seconds of
the Unix epoch. Nothing here decides.
"""

from typing import Final, Literal

import msgspec

from tierflow.errors import InvalidInputError
from tierflow.network import Network
from tierflow.plan import Plan
from tierflow.tiers import Tier
from tierflow.tiling.choice import EdgeNodes

VERSION: Final = 1

_REJECTIONS: Final = 8
"""So many rejected plans are remembered, the latest."""


class MeasuredLatency(msgspec.Struct, frozen=True, kw_only=True):
    """What requests took under the plan in force, from the request at the device to the answer there.

    Attributes:
        seconds: Their mean.
        requests: How many there were.
        since: When the time began in which they were counted.
    """

    seconds: float
    requests: int
    since: float


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that would be better, and since when it has been so without interruption."""

    plan: Plan
    since: float


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """The plan before the one in force.

    Attributes:
        plan: The plan.
        predicted_seconds: Its latency as predicted when it was replaced, by the figures of that time.
        measured_seconds: What requests took under it before that.
    """

    plan: Plan
    predicted_seconds: float
    measured_seconds: float


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that proved worse than predicted, or couldn't be put in force, and the conditions of that.

    Attributes:
        plan: Its segments and runs, as `identity` of it.
        spec: Digest of the spec then.
        network: The links then.
        speeds: The tiers' speeds then.
        unavailable: The tiers that could compute nothing then.
        at: When that was.
        epoch: Its number, which no later plan has.
        again_after: Seconds after which it may be tried again though nothing changed; None for never.
    """

    plan: str
    spec: str
    network: Network
    speeds: dict[Tier, float]
    unavailable: frozenset[Tier]
    at: float
    epoch: int = 0
    again_after: float | None = None


class Present(msgspec.Struct, frozen=True):
    """The plan in force and what it was decided from, beside the figures that it carries itself.

    Attributes:
        plan: The plan.
        decided_at: When it was decided, or took over.
        spec: Digest of those parts of the spec that plans depend on.
        unavailable: Tiers that could compute nothing then.
        edge_workers: How many could share tiles then.
        reason: Why it was moved to, a `MoveReason`.
        message: The same with figures.
        optimal_with: The edge's nodes with which the plan was the best by the figures that it carries, under the spec
            and the tiers of above; None where it wasn't, or isn't known to be.
        contenders: Plans that would be better and have to prove it for the stabilisation window, the oldest first.
        replaced: What was in force before, while this plan may still be rolled back.
        rejected: Plans that are not to be tried again under the conditions of then, the latest last.
    """

    plan: Plan
    decided_at: float
    spec: str
    unavailable: frozenset[Tier] = frozenset()
    edge_workers: int = 1
    reason: str = ""
    message: str = ""
    optimal_with: EdgeNodes | None = None
    contenders: tuple[Contender, ...] = ()
    replaced: Replaced | None = None
    rejected: tuple[Rejected, ...] = ()
    version: Literal[1] = VERSION

    @property
    def next_epoch(self) -> int:
        """The number of the next plan."""
        return 1 + max(self.plan.epoch, *(each.epoch for each in self.rejected), 0)

    def taking_over(self, at: float) -> "Present":
        """The same, its plan being in force from `at` on: intervals count from there, not from the decision."""
        return msgspec.structs.replace(self, decided_at=at)

    def rejecting(
        self,
        other: "Present",
        at: float,
        *,
        again_after: float | None = None,
        network: Network | None = None,
        speeds: dict[Tier, float] | None = None,
    ) -> "Present":
        """This plan stays, or comes back, and `other`, which didn't get in force or proved worse, is not tried again.

        Args:
            other: What was moved to: the `present` of that decision.
            at: When it was given up.
            again_after: Seconds after which it may be tried again under the same conditions; None for never.
            network: The links at that time; those that it was decided from where left out.
            speeds: The tiers' speeds likewise.
        """
        added = Rejected(
            plan=identity(other.plan),
            spec=other.spec,
            network=network or other.plan.network,
            speeds=speeds or other.plan.speeds,
            unavailable=other.unavailable,
            at=at,
            epoch=other.plan.epoch,
            again_after=again_after,
        )
        others = [entry for entry in self.rejected if entry.plan != added.plan]
        return msgspec.structs.replace(self, contenders=(), rejected=(*others, added)[-_REJECTIONS:])

    def not_after(self, now: float) -> "Present":
        """The same with no time in the future, which a clock that was set back would make endless waits of."""
        times = (self.decided_at, *(each.since for each in self.contenders), *(each.at for each in self.rejected))
        if max(times) <= now:
            return self
        replace = msgspec.structs.replace
        return replace(
            self,
            decided_at=min(self.decided_at, now),
            contenders=tuple(replace(each, since=min(each.since, now)) for each in self.contenders),
            rejected=tuple(replace(each, at=min(each.at, now)) for each in self.rejected),
        )


def identity(plan: Plan) -> str:
    """What a plan computes where, as a text: equal for plans that differ in epoch, figures and grids alone."""
    return " ".join([plan.route.value, *(part.id for part in plan.segments), *(run.id for run in plan.tiling)])


def still_holds(rejected: Rejected, now: float, spec: str, unavailable: frozenset[Tier]) -> bool:
    """Whether spec and tiers are those with which a plan was rejected, and its time isn't over."""
    is_over = rejected.again_after is not None and now - rejected.at >= rejected.again_after
    return not is_over and (rejected.spec, rejected.unavailable) == (spec, unavailable)


def encode(present: Present) -> bytes:
    """What to remember, as JSON; equal values give equal bytes."""
    return msgspec.json.encode(present, order="deterministic")


def decode(data: bytes | str) -> Present:
    """What `encode` wrote.

    Raises:
        InvalidInputError: where the data is none, or of another version.
    """
    try:
        return msgspec.json.decode(data, type=Present)
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"no record of version {VERSION}: {error}; plan anew", subject="present") from error
