"""One pipeline from what it is to what it should be: read the world, decide, render, apply the difference, tell.

Level-based: nothing is known here but what was just read, and the record. It may be ended between any two writes: the
record is written before what follows from it, and every step starts from what is there. Only to look whether the
figures of a pipeline at rest still say what they said, what was read last is kept: nothing is ever done on its word.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeGuard

from tierflow.errors import InvalidInputError, InvalidManifestError, TierflowError, UnreachableError
from tierflow.manifest import InferencePipeline
from tierflow.manifest_reading import from_object
from tierflow_operator.diff import Action, Change, key_of
from tierflow_operator.graphs import Graphs
from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube import Kube
from tierflow_operator.kube_errors import (
    ConflictError,
    FencedError,
    KubeError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from tierflow_operator.logs import set_epoch
from tierflow_operator.metering import PrometheusMetering
from tierflow_operator.moves import Stage, Steps, next_steps
from tierflow_operator.nudges import NUDGE_SECONDS, Nudge
from tierflow_operator.planner import Announcer, Metering, Planner, World
from tierflow_operator.pods import Manifest, Release
from tierflow_operator.predecessors import adopted, left_behind, orphans, waiting_for
from tierflow_operator.prometheus import PrometheusSettings
from tierflow_operator.record import Record, name_of_record, read_record, record_manifest
from tierflow_operator.render import descriptors_named, render
from tierflow_operator.scene import Scene
from tierflow_operator.settings import Settings
from tierflow_operator.status import Problem, Standing, status_of, status_of_refused
from tierflow_operator.telemetry import Telemetry

_STEPS_AT_ONCE: Final = 12
"""Steps that follow from one another are done without coming back: that many at the most."""
_WAITING_SECONDS: Final = 2.0
"""Until what has to be waited for is looked at again, should no event say that something happened."""

_log: Final = logging.getLogger(__name__)


class PipelineReconciler:
    """Reconciles pipelines; several threads may reconcile different ones.

    Args:
        kube: The cluster.
        events: Tells people what happened.
        telemetry: Counts.
        graphs: The models' graphs.
        metering: Where measurements come from.
        release: The workers' image.
        clock: Seconds of the Unix epoch.
    """

    def __init__(
        self,
        kube: Kube,
        events: Announcer,
        telemetry: Telemetry,
        graphs: Graphs,
        metering: Metering,
        release: Release,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._events = events
        self._telemetry = telemetry
        self._metering = metering
        self._planner = Planner(kube, events, telemetry, graphs, metering)
        self._release = release
        self._clock = clock
        self._at_rest: dict[PipelineKey, World] = {}
        """What the last reconcile of each pipeline read, where it found nothing to do. Dropped by the next."""

    def look(self, key: PipelineKey) -> float | None:
        """Whether a pipeline at rest stays there by the measurements of now, without a request to the API server.

        Returns:
            Seconds after which to look again; None where it has to be reconciled.
        """
        world = self._at_rest.get(key)
        if world is None or not self._planner.still_rests(world, self._clock()):
            return None
        return self._next_look(world)

    def reconcile(self, key: PipelineKey) -> float | None:
        """Brings one pipeline as far as it gets now.

        Returns:
            Seconds after which to come again though nothing happens; None for the next resync.

        Raises:
            TierflowError: where it makes sense to try again later.
        """
        self._at_rest.pop(key, None)
        manifest = self._kube.pipeline(key)
        if not _is_to_serve(manifest):
            self._telemetry.forget(key)
            return None
        try:
            pipeline = from_object(manifest)
        except InvalidManifestError as error:
            # What serves goes on serving.
            self._events.emit(manifest, kind="Warning", reason="InvalidSpec", message=error.message, action="ReadSpec")
            self._write_status(key, manifest, status_of_refused(manifest, error.message, self._clock()))
            return None
        live = self._kube.owned(key)
        if left := left_behind(pipeline, live):
            self._tell(World(key, manifest, pipeline, live=(), record=None, problem=waiting_for(left)))
            return _WAITING_SECONDS
        if orphans(live) and not _is_to_serve(self._kube.pipeline(key), manifest["metadata"].get("uid")):
            # It was deleted since it was read, and they are to stay: nobody takes them back from whom comes next.
            return None
        world = self._read(key, manifest, pipeline, live)
        try:
            for kept in adopted(pipeline, live):
                self._kube.apply(kept)
            record = self._planner.plan(world, self._clock(), self._tell)
            if record is not None:
                self._remember(world, record)
            self._advance(world)
        except Exception as error:
            self._tell_failure(world, error)
            raise
        self._tell(world)
        again_after = self._next_look(world)
        if again_after is not None and _is_at_rest(world):
            self._at_rest[key] = dataclasses.replace(world, live=())
        return again_after

    def _read(
        self, key: PipelineKey, manifest: Manifest, pipeline: InferencePipeline, live: tuple[Manifest, ...]
    ) -> World:
        name = name_of_record(pipeline.name)
        kept = [entry for entry in live if entry["kind"] == "ConfigMap" and entry["metadata"]["name"] == name]
        try:
            record = read_record(kept[0] if kept else None)
        except InvalidInputError as error:
            _log.warning("plans anew: %s", error.message)
            record = None
        if record is not None and record.settled:
            self._telemetry.plan(key, record.target.plan.epoch)
        if record is not None:
            set_epoch(record.target.plan.epoch)
        return World(key, manifest, pipeline, live, record)

    def _remember(self, world: World, record: Record) -> None:
        """Writes the record where it is another one, so that it stands before anything that follows from it."""
        if record != world.record:
            write = self._kube.create if world.record is None else self._kube.apply
            write(record_manifest(world.pipeline, record))
            world.record = record

    def _advance(self, world: World) -> None:
        """Does the steps that follow from one another; what has to be waited for is left for the next time."""
        for _ in range(_STEPS_AT_ONCE):
            if world.record is None or world.model is None or world.observation is None:
                return
            steps = next_steps(self._scene(world, world.record))
            world.steps = steps
            if steps.failure is not None:
                back = self._planner.going_back(world, world.record, steps.failure, self._clock())
                if back is not None:
                    self._remember(world, back)
                    continue
            is_new, before = steps.record != world.record, world.record
            if steps.record.progressed_at != before.progressed_at:
                took = max(0.0, steps.record.progressed_at - before.progressed_at)
                self._telemetry.move_step(steps.stage.value, took)
            self._remember(world, steps.record)
            self._change(world, steps)
            if steps.record.settled and not before.settled:
                self._arrived(world, steps.record)
            if not is_new and not steps.changes:
                return

    def _scene(self, world: World, record: Record) -> Scene:
        if world.model is None or world.observation is None:
            raise TierflowError("a pipeline is rendered before its model and nodes are known; this is a defect")
        wanted = render(
            world.pipeline,
            world.model.graph,
            record.target.plan,
            descriptors_named(world.live, record.in_force),
            self._release,
            edge_workers=len(world.observation.edge_nodes(world.pipeline.spec).speeds),
        )
        return Scene(
            world.pipeline,
            self._release,
            wanted,
            world.live,
            record,
            unavailable=world.observation.unavailable,
            cut_off=frozenset(upper for _, upper in world.observation.down),
            now=self._clock(),
        )

    def _change(self, world: World, steps: Steps) -> None:
        """Makes the changes; the world is then as the API server answered, which costs no second reading of it."""
        live = {key_of(entry): entry for entry in world.live}
        for change in steps.changes:
            found = self._apply(change)
            live.pop(change.key, None)
            if found is not None:
                live[change.key] = found
        for nudge in steps.nudges:
            live[key_of(nudge.pod)] = self._nudge(nudge)
        world.live = tuple(live.values())

    def _apply(self, change: Change) -> Manifest | None:
        """The object as it is now; None where it is gone."""
        kind, _, name = change.key
        fields = f" ({', '.join(change.fields)})" if change.fields else ""
        if change.action is Action.DELETE:
            self._kube.delete(change.manifest)
            found = None
        else:
            write = self._kube.create if change.action is Action.CREATE else self._kube.apply
            found = write(change.manifest)
        _log.info("%s %s %s%s", change.action.value, kind, name, fields)
        return found

    def _nudge(self, nudge: Nudge) -> Manifest:
        """The pod with its annotations; where they can't be had now, the next look tries again."""
        metadata = nudge.pod["metadata"]
        try:
            self._kube.annotate_pod(nudge.pod, nudge.annotations)
        except (ConflictError, RefusedError) as error:
            _log.info("%s is told a little later: %s", metadata["name"], error.message)
        annotations = {**(metadata.get("annotations") or {}), **nudge.annotations}
        return nudge.pod | {"metadata": metadata | {"annotations": annotations}}

    def _arrived(self, world: World, record: Record) -> None:
        epoch = record.target.plan.epoch
        self._telemetry.move(world.key, "done")
        self._telemetry.plan(world.key, epoch)
        self._events.emit(
            world.manifest, kind="Normal", reason="PlanInForce", message=f"epoch {epoch} is in force", action="Move"
        )

    def _tell(self, world: World) -> None:
        standing = Standing(
            pipeline=world.pipeline,
            record=world.record,
            live=world.live,
            steps=world.steps,
            metrics=None if world.observation is None else world.observation.metrics,
            problem=world.problem,
            now=self._clock(),
        )
        self._write_status(world.key, world.manifest, status_of(standing, world.manifest.get("status") or {}))

    def _tell_failure(self, world: World, error: Exception) -> None:
        """Says why a reconcile could not be finished, as far as the API server lets it; it is tried again."""
        if isinstance(error, UnavailableError | FencedError | NotFoundError):
            return  # nobody to tell: no API server, another leader, or the pipeline is gone
        if isinstance(error, RefusedError):
            world.problem = Problem("WriteRefused", error.message)
        elif isinstance(error, UnreachableError):
            world.problem = Problem("ModelUnreachable", error.message, stalled=False)
        elif isinstance(error, ConflictError):
            return  # somebody wrote at the same time; the next look sees it
        else:
            message = f"an error that the operator did not expect, its log has more: {type(error).__name__}: {error}"
            world.problem = Problem("InternalError", message, stalled=False)
        self._events.emit(
            world.manifest,
            kind="Warning",
            reason=world.problem.reason,
            message=world.problem.message,
            action="Reconcile",
        )
        try:
            self._tell(world)
        except KubeError as second:
            _log.info("the status could not be written: %s", second.message)

    def _write_status(self, key: PipelineKey, manifest: Manifest, status: dict[str, Any]) -> None:
        if status != (manifest.get("status") or {}):
            manifest["status"] = self._kube.patch_status(key, status).get("status") or {}

    def _next_look(self, world: World) -> float | None:
        if world.steps is not None and world.steps.stage is not Stage.SETTLED:
            return NUDGE_SECONDS if world.steps.nudges or world.steps.nudging else _WAITING_SECONDS
        waits = (world.again_after, self._metering.period(world.pipeline))
        return min((wait for wait in waits if wait is not None), default=None)


def _is_to_serve(manifest: Manifest | None, uid: str | None = None) -> TypeGuard[Manifest]:
    """Whether a pipeline is there and stays; with `uid`, whether it is that very one."""
    if manifest is None or manifest["metadata"].get("deletionTimestamp"):
        return False
    return uid is None or manifest["metadata"].get("uid") == uid


def _is_at_rest(world: World) -> bool:
    steps, record = world.steps, world.record
    if steps is None or record is None or world.problem is not None:
        return False
    return record.settled and steps.stage is Stage.SETTLED and not steps.changes


def build_reconciler(kube: Kube, settings: Settings, telemetry: Telemetry, events: Announcer) -> PipelineReconciler:
    """The reconcile of an operator that runs with these settings."""
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    return PipelineReconciler(
        kube,
        events,
        telemetry,
        Graphs(settings.cache_dir),
        PrometheusMetering(
            PrometheusSettings(
                url=settings.prometheus_url,
                window_seconds=settings.prometheus_window_seconds,
                timeout_seconds=settings.prometheus_timeout_seconds,
                token_file=settings.prometheus_token_file,
                ca_file=settings.prometheus_ca_file,
            )
        ),
        Release(
            image=settings.worker_image,
            image_pull_policy=settings.image_pull_policy,
            image_pull_secrets=settings.image_pull_secrets,
            approves=True,
        ),
    )
