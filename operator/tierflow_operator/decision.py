"""The answers of `decide`: the present plan stays, or another one takes over, each with a reason and its figures."""

from dataclasses import dataclass
from enum import StrEnum

from tierflow.plan import Plan
from tierflow_operator.present import Present


class MoveReason(StrEnum):
    """Why there is a new plan."""

    INITIAL = "Initial"
    SPEC_CHANGED = "SpecChanged"
    NODES_CHANGED = "NodesChanged"
    BANDWIDTH_CHANGED = "BandwidthChanged"
    SPEED_CHANGED = "SpeedChanged"
    ROLLBACK = "Rollback"
    """The plan in force measured worse than the one before it, which comes back."""


class HoldReason(StrEnum):
    """Why the present plan stays."""

    UP_TO_DATE = "UpToDate"
    MINIMUM_IMPROVEMENT = "MinimumImprovement"
    MINIMUM_INTERVAL = "MinimumInterval"
    STABILIZING = "Stabilizing"
    """A better plan is known, but not for long enough."""
    REJECTED_PLAN = "RejectedPlan"
    """What looks better was tried under these conditions, and was not."""
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    PAUSED = "Paused"


@dataclass(frozen=True, slots=True)
class Hold:
    """The present plan stays.

    Attributes:
        reason: Why.
        message: The same with figures.
        present: What to remember; equal to what was remembered before where nothing happened. None where nothing was
            ever decided.
        again_after: Seconds after which the answer may be another one though nothing else changes; None for never.
    """

    reason: HoldReason
    message: str
    present: Present | None
    again_after: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A new plan takes over; `present` is what to remember once it is in force."""

    reason: MoveReason
    message: str
    present: Present

    @property
    def plan(self) -> Plan:
        """The new plan."""
        return self.present.plan


Decision = Hold | Move
