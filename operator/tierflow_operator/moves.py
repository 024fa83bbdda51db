"""How a pipeline gets from one plan to the next without losing a request: expand, check, switch, contract.

Expand: all workers that change get their new descriptor at once, the new segment first and the present one behind it,
and start beside those that serve. Check: a pod asks the new workers and compares. Switch: the new workers are approved
from the cloud down to the device, each tier once the one above it is all new; so that no request meets a worker that
doesn't know its boundary. Contract: what is of no more use is deleted.

Pure: `next_steps` says what can be done now, from what is there; the same again after anything that happened between.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from tierflow.tiers import TIERS, Tier
from tierflow_operator.checks import (
    CHECK,
    CheckState,
    check_pod,
    place_of,
    read_check,
    subject_of,
    workers_annotation,
    workers_told,
)
from tierflow_operator.descriptors import TILES
from tierflow_operator.diff import Action, Change, changes
from tierflow_operator.nudges import Nudge, is_nudging, is_telling, tell, tell_again, to_nudge
from tierflow_operator.pods import APPROVAL_SUFFIX, Manifest
from tierflow_operator.record import Record
from tierflow_operator.render import component_of, config_map_of, descriptors_named
from tierflow_operator.rollout import (
    address_of,
    deployments_of,
    failure_of,
    pods_of,
    trouble_of,
    used_config_maps,
)
from tierflow_operator.scene import Scene

_REPLICAS: Final = "spec.replicas"


class Stage(StrEnum):
    """Where a pipeline stands."""

    EXPANDING = "Expanding"
    """Objects are applied, and new workers start."""
    CHECKING = "Checking"
    SWITCHING = "Switching"
    """New workers take over, tier by tier."""
    ROLLING_OUT = "RollingOut"
    """The plan is in force; workers are replaced by ones that serve the same."""
    SETTLED = "Settled"


class FailureReason(StrEnum):
    """Why a move can't go on."""

    MISMATCH = "AnswersDiffer"
    DEADLINE = "ProgressDeadlineExceeded"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a move can't go on, and for people."""

    reason: FailureReason
    message: str


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do now, in this order: remember, change, nudge.

    Attributes:
        record: What to remember; the scene's own where nothing is new.
        stage: Where the pipeline stands.
        message: What it does or waits for.
        changes: To make in their order.
        nudges: Pods to annotate: with an approval that is new, or the workers that are to be checked.
        failure: Why the move can't go on; the caller goes back, or says so.
        nudging: Whether pods may have to be nudged again, in `NUDGE_SECONDS`.
    """

    record: Record
    stage: Stage
    message: str
    changes: tuple[Change, ...] = ()
    nudges: tuple[Nudge, ...] = ()
    failure: Failure | None = field(default=None)
    nudging: bool = False


def next_steps(scene: Scene) -> Steps:
    """What can be done now."""
    if stale := _stale_approvals(scene):
        return Steps(scene.record, Stage.EXPANDING, "forgets what was approved before", stale)
    applied, held = _paced(scene, [*scene.wanted, *scene.approvals])
    if applied:
        names = ", ".join(dict.fromkeys(change.key[2] for change in applied if change.key[0] == "Deployment"))
        stage = Stage.ROLLING_OUT if scene.record.settled else Stage.EXPANDING
        return Steps(scene.record, stage, f"applies {names or 'objects'}", applied, to_nudge(scene))
    if not scene.record.settled:
        return _expired(scene, _move(scene))
    return _settled(scene, held)


def _stale_approvals(scene: Scene) -> tuple[Change, ...]:
    """Approvals of wanted descriptors from a time when they were in force before: their workers are to be checked."""
    right = {entry["metadata"]["name"] for entry in scene.approvals}
    wanted = {name + APPROVAL_SUFFIX for name in scene.config_maps.values()}
    return tuple(
        Change(Action.DELETE, entry)
        for entry in scene.live
        if entry["kind"] == "ConfigMap" and entry["metadata"]["name"] in wanted - right
    )


def _paced(scene: Scene, wanted: Sequence[Manifest]) -> tuple[tuple[Change, ...], bool]:
    """The objects to create and replace now, and whether others have to wait.

    Workers that get another pod but serve the same (another image, say) are replaced one tier at a time.
    """
    steps = [change for change in changes(wanted, _considered(scene.live)) if change.action is not Action.DELETE]
    live = deployments_of(scene.live)
    changing = {component_of(change.manifest) for change in steps if change.key[0] == "Deployment"}
    busy = any(not scene.has_arrived(component) for component in live if component in set(scene.config_maps) - changing)
    now: list[Change] = []
    held = False
    for change in steps:
        if _serves_the_same(change, live):
            if busy:
                held = True
                continue
            busy = True
        now.append(change)
    return tuple(now), held


def _serves_the_same(change: Change, live: Mapping[str, Manifest]) -> bool:
    if change.key[0] != "Deployment" or change.action is not Action.REPLACE or change.fields == (_REPLICAS,):
        return False
    return config_map_of(change.manifest) == config_map_of(live[component_of(change.manifest)])


def _considered(live: Iterable[Manifest]) -> list[Manifest]:
    """The live objects of the kinds that are rendered."""
    return [entry for entry in live if entry["kind"] != "Pod"]


def _move(scene: Scene) -> Steps:
    """A move's next step, once everything is applied."""
    record = scene.record
    config_maps = scene.config_maps
    # What stays as it is has nothing to be checked for, and neither has who computes nothing.
    idle = {tier: config_maps[tier] for tier in TIERS if tier not in scene.parts}
    if any(record.in_force.get(tier) != name for tier, name in idle.items()):
        record = msgspec.structs.replace(record, in_force={**record.in_force, **idle})
        return Steps(record, Stage.EXPANDING, "approves the tiers that stand by")
    waiting = [tier for tier in scene.parts if record.in_force.get(tier) != config_maps[tier]]
    subject = subject_of({tier: config_maps[tier] for tier in scene.parts})
    if waiting and (record.verdict is None or record.verdict.checked != subject):
        return _check(scene, subject)
    if waiting and record.verdict is not None and not record.verdict.holds:
        message = record.verdict.message
        return Steps(
            record, Stage.CHECKING, message, failure=Failure(FailureReason.MISMATCH, f"the answers differ: {message}")
        )
    return _switch(scene)


def _check(scene: Scene, subject: str) -> Steps:
    """Has the new workers checked: the pod that does starts beside them, and is told of them once they run."""
    record = scene.record
    names = {tier: scene.config_maps[tier] for tier in scene.parts}
    workers, awaited = _running_workers(scene)
    stage, message = (Stage.EXPANDING, awaited) if awaited else (Stage.CHECKING, "checks the answers")
    # A plan may be made because nobody gets to a tier.
    avoided = scene.unavailable | (scene.cut_off - set(scene.parts))
    runs_on = place_of(
        descriptors_named(scene.wanted, {str(tier): name for tier, name in names.items()}),
        record.target.plan.network,
        among=[tier for tier in TIERS if tier not in avoided],
    )
    wanted = check_pod(scene.pipeline, scene.release, names, workers=workers, runs_on=runs_on, attempt=record.attempt)
    checks = [entry for entry in scene.live if entry["kind"] == "Pod" and component_of(entry) == CHECK]
    own = next((entry for entry in checks if entry["metadata"]["name"] == wanted["metadata"]["name"]), None)
    others = tuple(Change(Action.DELETE, entry) for entry in checks if entry is not own)
    state, verdict, said = read_check(own, subject)
    if own is None or state is CheckState.MISSING:
        return Steps(record, stage, message, (*others, Change(Action.CREATE, wanted)))
    told = workers_told(own)
    if state is CheckState.RUNNING and not told <= _addresses(scene):
        state, said = CheckState.BROKEN, "the workers that it asks are gone"
    if state is CheckState.RUNNING:
        trouble = "" if awaited else trouble_of(checks)
        nudges: tuple[Nudge, ...] = ()
        if told:
            nudges = tell_again(own, scene.now)
        elif workers is not None:
            nudges = tell(own, workers_annotation(workers), scene.now)
        message = f"{message}{trouble and f': {trouble}'}"
        return Steps(record, stage, message, others, nudges, nudging=is_telling(own))
    if state is CheckState.BROKEN and workers is None:
        return Steps(record, stage, f"{message}; the check could not be made yet: {said}", others)
    if state is CheckState.BROKEN:
        record = msgspec.structs.replace(record, attempt=record.attempt + 1)
        return Steps(record, Stage.CHECKING, f"the check could not be made and is made again: {said}")
    record = msgspec.structs.replace(record, verdict=verdict, progressed_at=scene.now)
    return Steps(record, Stage.CHECKING, f"checked: {said}")


def _addresses(scene: Scene) -> frozenset[tuple[str, str]]:
    """Tier and address of all new workers that run."""
    return frozenset(
        (str(tier), address)
        for tier in scene.parts
        for pod in pods_of(scene.live, tier, scene.config_maps[tier])
        if (address := address_of(pod)) is not None
    )


def _running_workers(scene: Scene) -> tuple[dict[Tier, str] | None, str]:
    """The address of a new worker of each tier that takes part; else None, and whom the check has to wait for."""
    workers: dict[Tier, str] = {}
    for tier in scene.parts:
        pods = pods_of(scene.live, tier, scene.config_maps[tier])
        address = next(filter(None, map(address_of, pods)), None)
        if address is None:
            return None, f"waits for the {tier}'s new worker{_trouble(scene, tier)}"
        workers[tier] = address
    if TILES in scene.config_maps and not scene.has_enough(TILES):
        return None, f"waits for tile workers{_trouble(scene, TILES)}"
    return workers, ""


def _switch(scene: Scene) -> Steps:
    """Has the new workers take over from the cloud down; the last one's being ready ends the move."""
    record = scene.record
    for tier in reversed(scene.parts):
        name = scene.config_maps[tier]
        if record.in_force.get(tier) != name:
            record = msgspec.structs.replace(
                record, in_force={**record.in_force, tier: name}, switching=True, progressed_at=scene.now
            )
            return Steps(record, Stage.SWITCHING, f"the {tier}'s new worker takes over")
        # The next one need not wait for the rollout's status, only its end does.
        if not (scene.has_taken_over(tier) if tier is not scene.parts[0] else scene.has_arrived(tier)):
            message = f"waits until the {tier} serves the new plan{_trouble(scene, tier)}"
            return Steps(record, Stage.SWITCHING, message, nudges=to_nudge(scene), nudging=is_nudging(scene))
    done = msgspec.structs.replace(
        record,
        target=record.target.taking_over(scene.now),
        settled=True,
        before=None,
        switching=False,
        progressed_at=scene.now,
        in_force=scene.config_maps,
        # A plan that came back was checked when it first came.
        lossless=record.verdict or record.lossless,
    )
    return Steps(done, Stage.SETTLED, f"epoch {record.target.plan.epoch} is in force")


def _expired(scene: Scene, steps: Steps) -> Steps:
    """The steps, or the failure where nothing has come further for longer than the deadline."""
    deadline = scene.pipeline.spec.rollout.progress_deadline_seconds
    if steps.failure or steps.record is not scene.record or scene.now - scene.record.progressed_at <= deadline:
        return steps
    failure = Failure(FailureReason.DEADLINE, f"after {deadline} s it still {steps.message}")
    return Steps(steps.record, steps.stage, steps.message, steps.changes, steps.nudges, failure)


def _settled(scene: Scene, held: bool) -> Steps:
    """Deletes what is of no more use, and looks after workers that are replaced by ones that serve the same."""
    wanted = [*scene.wanted, *scene.approvals]
    used = used_config_maps(scene.live)
    gone = [change for change in changes(wanted, _removable(scene.live)) if change.action is Action.DELETE]
    # A worker that leaves reads its descriptor again should its container restart.
    deleted = [change for change in gone if change.key[0] != "ConfigMap" or change.key[2] not in used]
    deleted += [
        Change(Action.DELETE, entry) for entry in scene.live if entry["kind"] == "Pod" and component_of(entry) == CHECK
    ]
    late = [component for component in scene.config_maps if not scene.has_arrived(component)]
    if held or late:
        message = f"replaces workers of {', '.join(late) or 'one tier after the other'}{_trouble(scene, *late)}"
        return Steps(scene.record, Stage.ROLLING_OUT, message, tuple(deleted), to_nudge(scene))
    message = f"epoch {scene.record.target.plan.epoch} is in force"
    return Steps(scene.record, Stage.SETTLED, message, tuple(deleted))


def _removable(live: Iterable[Manifest]) -> list[Manifest]:
    """Objects of workers: not the record and what is known of the model."""
    components = {*TIERS, TILES}
    return [entry for entry in _considered(live) if component_of(entry) in components]


def _trouble(scene: Scene, *components: str) -> str:
    """Why the new workers of these don't get ready, where that is known."""
    live = deployments_of(scene.live)
    for component in components:
        if component in live:
            pods = pods_of(scene.live, component, scene.config_maps.get(component, ""))
            if found := trouble_of(pods) or failure_of(live[component]):
                return f": {found}"
    return ""
