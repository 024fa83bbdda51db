"""What plan a pipeline should have now: reads its model and the nodes, observes, decides, and says what to remember.

Everything that is known of a pipeline during one reconcile is in `World`; what a decision changes is its record, which
the caller writes before anything follows from it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec

from tierflow.errors import InfeasibleError, InvalidInputError, TierflowError, UnreachableError
from tierflow.manifest import InferencePipeline
from tierflow_operator.decide import decide
from tierflow_operator.decision import Decision, Hold, HoldReason, MoveReason
from tierflow_operator.graphs import Graphs, KnownModel
from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube import Kube
from tierflow_operator.moves import Failure, FailureReason, Steps
from tierflow_operator.nodes import assumed_observation, observe_nodes
from tierflow_operator.observation import Observation
from tierflow_operator.pods import Manifest
from tierflow_operator.present import MeasuredLatency, Present
from tierflow_operator.record import Noted, Record
from tierflow_operator.render import approved_config_maps
from tierflow_operator.status import Problem, observed_of
from tierflow_operator.telemetry import Telemetry

_RETRY_FAILED_SECONDS: Final = 600.0
"""A plan whose workers did not get ready may be tried again after that, though nothing else has changed."""
_UNREADABLE: Final = "ModelUnreadable"
_UNREACHABLE: Final = "ModelUnreachable"
_NOTED_HOLDS: Final = frozenset(
    {HoldReason.METRICS_UNAVAILABLE, HoldReason.REJECTED_PLAN, HoldReason.PAUSED, HoldReason.STABILIZING}
)
"""Holds that are news. Others come and go with every measurement, and a pipeline at rest shall cost no write."""

_log: Final = logging.getLogger(__name__)


class Metering(Protocol):
    """Where measurements come from."""

    def observe(
        self,
        key: PipelineKey,
        pipeline: InferencePipeline,
        assumed: Observation,
        present: Present | None,
        now: float,
    ) -> tuple[Observation, MeasuredLatency | None]:
        """The observation with what is measured, and what requests took under the plan in force; never raises."""

    def period(self, pipeline: InferencePipeline) -> float | None:
        """Seconds between two looks at the measurements of a pipeline; None where there never are any."""


class Announcer(Protocol):
    """Tells people what happened: `tierflow_operator.events.Events`."""

    def emit(
        self, pipeline: Manifest, *, kind: Literal["Normal", "Warning"], reason: str, message: str, action: str
    ) -> None:
        """An Event about a pipeline; never raises."""


@dataclass(slots=True)
class World:
    """What one reconcile has read, and what it found out from that.

    Attributes:
        key: Which pipeline.
        manifest: It, as the API server has it.
        pipeline: It, as it reads.
        live: All of its objects.
        record: What is remembered; None before its first plan.
        assumed: What the nodes and the manifest say; None before that was read.
        observation: What plans are decided from; None before that was read.
        model: Its model; None before that was read, or where it can't be.
        problem: What is wrong, where something is.
        steps: What was done last.
        again_after: Seconds after which the decision may be another one though nothing happens.
    """

    key: PipelineKey
    manifest: Manifest
    pipeline: InferencePipeline
    live: tuple[Manifest, ...]
    record: Record | None
    assumed: Observation | None = None
    observation: Observation | None = None
    model: KnownModel | None = None
    problem: Problem | None = None
    steps: Steps | None = None
    again_after: float | None = None


class Planner:
    """Decides what plan a pipeline should have.

    Args:
        kube: Where nodes are read, and where the model's graph is kept.
        events: Tells people what was decided.
        telemetry: Counts.
        graphs: The models' graphs.
        metering: Where measurements come from.
    """

    def __init__(self, kube: Kube, events: Announcer, telemetry: Telemetry, graphs: Graphs, metering: Metering) -> None:
        self._kube = kube
        self._events = events
        self._telemetry = telemetry
        self._graphs = graphs
        self._metering = metering

    def plan(self, world: World, now: float, tell: Callable[[World], None]) -> Record | None:
        """The record as it should be now: with another target where the pipeline is to move.

        Args:
            world: Gets the model, the observation, and what is wrong.
            now: Seconds of the Unix epoch.
            tell: Writes the status, before something that takes long.

        Returns:
            None where there is nothing to go by: `world.problem` says why.

        Raises:
            UnreachableError: where the model's storage doesn't answer.
            KubeError: where the API server fails.
        """
        world.model = self._model(world, tell)
        if world.model is None:
            return world.record
        world.assumed = self._assumed(world)
        observation, measured = self._observed(world, world.assumed, now)
        world.observation = observation
        if world.record is not None and not _may_decide(world.record, observation):
            return world.record
        try:
            decision = _decided(world, world.model, observation, measured, now)
        except (InfeasibleError, InvalidInputError) as error:
            reason = "Infeasible" if isinstance(error, InfeasibleError) else "InvalidSpec"
            world.problem = Problem(reason, error.message, infeasible=True)
            self._warn(world, reason, error.message, "Plan")
            return world.record
        if isinstance(decision, Hold):
            return self._held(world, decision, now)
        return self._moved(world, decision, observation, now)

    def still_rests(self, world: World, now: float) -> bool:
        """Whether a pipeline that was at rest stays there by the figures of now, without asking the API server.

        Args:
            world: As the last reconcile left it, with a settled record; gets what it takes to say when to look again.
            now: Seconds of the Unix epoch.
        """
        if world.model is None or world.assumed is None or world.observation is None or world.record is None:
            return False
        observation, measured = self._observed(world, world.assumed, now)
        if _shown(observation) != _shown(world.observation):
            return False
        try:
            decision = _decided(world, world.model, observation, measured, now)
        except (InfeasibleError, InvalidInputError):
            return False
        if not isinstance(decision, Hold) or _holding(world.record, decision, now) != world.record:
            return False
        self._note(world, decision)
        return True

    def going_back(self, world: World, record: Record, failure: Failure, now: float) -> Record | None:
        """The record that returns to the plan before one that failed; None where there is none to return to."""
        if record.before is None or record.goes_back:
            return None
        again_after = _RETRY_FAILED_SECONDS if failure.reason is FailureReason.DEADLINE else None
        before = record.before.rejecting(record.target, now, again_after=again_after)
        epoch = record.target.plan.epoch
        message = f"epoch {epoch} was given up, epoch {before.plan.epoch} stays: {failure.message}"
        self._telemetry.move(world.key, "failed")
        self._telemetry.decision(world.key, "rollback", failure.reason.value)
        self._warn(world, failure.reason.value, message, "RollBack")
        noted = Noted(time=now, decision="Rollback", reason=failure.reason.value, message=message, epoch=epoch)
        return record.moving_to(before, now).noting(noted)

    def _model(self, world: World, tell: Callable[[World], None]) -> KnownModel | None:
        known = self._graphs.known(world.pipeline, world.live)
        if known is not None:
            return known
        uri = world.pipeline.spec.model.uri
        if not uri.startswith("zoo://") and not _could_not_be_read(world.manifest):
            world.problem = Problem("ReadingModel", f"reads the graph of {uri}", stalled=False)
            tell(world)
            world.problem = None
        try:
            model, keep = self._graphs.read(world.pipeline)
        except UnreachableError:
            raise
        except TierflowError as error:
            world.problem = Problem(_UNREADABLE, error.message, infeasible=True)
            self._warn(world, _UNREADABLE, error.message, "ReadModel")
            return None
        if keep is not None:
            self._kube.create(keep)
        return model

    def _assumed(self, world: World) -> Observation:
        seen = observe_nodes(world.pipeline, self._kube.nodes())
        for problem in seen.problems:
            self._warn(world, "NodeLabelIgnored", problem, "Observe")
        return assumed_observation(world.pipeline, seen)

    def _observed(self, world: World, assumed: Observation, now: float) -> tuple[Observation, MeasuredLatency | None]:
        present = None if world.record is None else world.record.target
        observation, measured = self._metering.observe(world.key, world.pipeline, assumed, present, now)
        if observation.metrics.age_seconds is not None:
            self._telemetry.observed(world.key, observation.metrics.age_seconds)
        # Of a plan that isn't in force yet what requests took says nothing: it answered none of them.
        is_in_force = world.record is not None and world.record.settled
        return observation, measured if is_in_force else None

    def _held(self, world: World, hold: Hold, now: float) -> Record | None:
        self._note(world, hold)
        record = None if world.record is None else _holding(world.record, hold, now)
        if record is None:
            world.problem = Problem(hold.reason.value, hold.message, stalled=False)
            return world.record
        return record

    def _note(self, world: World, hold: Hold) -> None:
        self._telemetry.decision(world.key, "hold", hold.reason.value)
        world.again_after = hold.again_after

    def _moved(self, world: World, decision: Decision, observation: Observation, now: float) -> Record | None:
        record, target = world.record, decision.present
        if target is None:
            return record
        kind: Literal["Move", "Rollback"] = "Rollback" if decision.reason is MoveReason.ROLLBACK else "Move"
        if record is None:
            # Workers that are there all the same, because the record was thrown away, go on with what they serve.
            begun = Record(target=target, progressed_at=now, in_force=approved_config_maps(world.live))
        else:
            begun = record.moving_to(target, now)
            if not record.settled:
                self._telemetry.move(world.key, "superseded")
        self._telemetry.decision(world.key, kind.lower(), decision.reason.value)
        self._events.emit(
            world.manifest,
            kind="Normal",
            reason=decision.reason.value,
            message=f"epoch {target.plan.epoch}: {decision.message}",
            action="Plan",
        )
        begun = msgspec.structs.replace(begun, observed=observed_of(observation))
        return begun.noting(_noted(decision, target, now, kind))

    def _warn(self, world: World, reason: str, message: str, action: str) -> None:
        self._events.emit(world.manifest, kind="Warning", reason=reason, message=message, action=action)


def _decided(
    world: World, model: KnownModel, observation: Observation, measured: MeasuredLatency | None, now: float
) -> Decision:
    present = None if world.record is None else world.record.target
    return decide(world.pipeline.spec, model.graph, model.profile, observation, present, now, measured)


def _could_not_be_read(manifest: Manifest) -> bool:
    """Whether the status says so of the present spec.

    That another try begins is no news then: telling it, and then the failure again, each brings the next try about.
    """
    generation = manifest["metadata"].get("generation")
    return any(
        condition["type"] == "Ready"
        and condition.get("reason") in (_UNREADABLE, _UNREACHABLE)
        and condition.get("observedGeneration") == generation
        for condition in (manifest.get("status") or {}).get("conditions", ())
    )


def _shown(observation: Observation) -> tuple[object, ...]:
    """What a status and a move depend on, beside the decision."""
    metrics = observation.metrics
    return metrics.available, metrics.reason, metrics.message, observation.unavailable


def _holding(record: Record, hold: Hold, now: float) -> Record | None:
    """What to remember of a hold: the record itself where nothing is new; None where there is no plan to hold."""
    if hold.present is None:
        return None
    kept = record if hold.present == record.target else msgspec.structs.replace(record, target=hold.present)
    latest = record.decisions[0] if record.decisions else None
    is_news = latest is None or (latest.decision, latest.reason) != ("Hold", hold.reason.value)
    if hold.reason not in _NOTED_HOLDS or not is_news:
        return kept
    return kept.noting(_noted(hold, hold.present, now, "Hold"))


def _may_decide(record: Record, observation: Observation) -> bool:
    """Whether another plan may supersede the present one.

    Not while workers switch: some of them send what only half of the others know. That ends by itself, by arriving or
    by the deadline; only where a tier is lost that the unfinished plan needs, there is nothing to wait for.
    """
    parts = {part.tier for part in record.target.plan.segments if part.segment.takes_part}
    return not record.switching or bool(parts & observation.unavailable)


def _noted(decision: Decision, present: Present, now: float, kind: Literal["Move", "Hold", "Rollback"]) -> Noted:
    return Noted(
        time=now,
        decision=kind,
        reason=decision.reason.value,
        message=decision.message,
        epoch=present.plan.epoch,
    )
