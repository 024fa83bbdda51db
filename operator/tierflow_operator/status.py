"""A pipeline's status, from what is remembered and what is there: by the conventions of kstatus.

`Ready`, `PlanFeasible`, `MetricsAvailable` and `Lossless` are always there, `Reconciling` and `Stalled` only while they
are true. While nothing happens nothing in a status changes, so that a pipeline at rest costs no write: its figures are
those of the plan's decision.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tierflow.manifest import InferencePipeline
from tierflow.network import MEGABIT
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_operator.moves import Failure, FailureReason, Stage, Steps
from tierflow_operator.observation import MetricsState, Observation
from tierflow_operator.pods import GRPC_PORT, REST_PORT, Manifest
from tierflow_operator.present import Present
from tierflow_operator.record import Noted, Record
from tierflow_operator.rollout import deployments_of, is_available

Status = dict[str, Any]

_LONGEST_MESSAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a pipeline from being planned or applied as it is.

    Attributes:
        reason: In one word.
        message: What to do about it.
        infeasible: Whether it is the plan that can't be made: the spec has to change, or the world.
        stalled: Whether nothing will come of trying again.
    """

    reason: str
    message: str
    infeasible: bool = False
    stalled: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """All that a status tells.

    Attributes:
        pipeline: What the user wants.
        record: What is remembered; None before the first plan.
        live: The pipeline's objects.
        steps: What was done or is waited for; None where nothing was tried.
        metrics: Whether there are measurements; None where that isn't known yet.
        problem: What is wrong, where something is.
        now: Seconds of the Unix epoch.
    """

    pipeline: InferencePipeline
    record: Record | None
    live: tuple[Manifest, ...]
    steps: Steps | None
    metrics: MetricsState | None
    problem: Problem | None
    now: float


def status_of(standing: Standing, previous: Mapping[str, Any]) -> Status:
    """The status; conditions that didn't change keep their time of `previous`."""
    pipeline, record = standing.pipeline, standing.record
    status: Status = {
        "observedGeneration": pipeline.metadata.generation,
        "conditions": _dated(
            _conditions(standing), previous.get("conditions") or (), pipeline.metadata.generation, standing.now
        ),
        "endpoint": {
            "grpc": f"{pipeline.name}.{pipeline.namespace}.svc:{GRPC_PORT}",
            "rest": f"http://{pipeline.name}.{pipeline.namespace}.svc:{REST_PORT}",
        },
    }
    if record is not None:
        shown = record.present or record.target
        status["plan"] = _plan(shown, standing.live)
        status["lastPlanTime"] = _time(shown.decided_at)
        if record.observed:
            status["observed"] = record.observed
        status["decisions"] = [_decision(noted) for noted in record.decisions]
    return status


def observed_of(observation: Observation) -> dict[str, Any]:
    """What a plan is decided from, for the status."""
    return {
        "links": [
            {
                "from": str(lower),
                "to": str(upper),
                "kilobitsPerSecond": round(found.link.bytes_per_second / MEGABIT * 1000),
                "roundTripMicroseconds": round(found.link.round_trip_seconds * 1e6),
                "source": str(found.source),
            }
            for (lower, upper), found in observation.links.items()
        ],
        "speeds": [
            {"tier": str(tier), "percent": max(1, round(found.speed * 100)), "source": str(found.source)}
            for tier, found in observation.speeds.items()
        ],
        "nodes": [{"tier": str(tier), "ready": observation.ready_nodes.get(tier, 0)} for tier in TIERS],
    }


def _conditions(standing: Standing) -> list[tuple[str, str, str, str]]:
    found = [_ready(standing), _feasible(standing), _metrics(standing), _lossless(standing)]
    problem, steps, record = standing.problem, standing.steps, standing.record
    failure = None if steps is None else steps.failure
    if problem is not None and problem.stalled:
        found.append(("Stalled", "True", problem.reason, problem.message))
    elif failure is not None and (record is None or record.before is None or record.goes_back):
        found.append(("Stalled", "True", failure.reason.value, failure.message))
    elif steps is not None and steps.stage is not Stage.SETTLED:
        found.append(("Reconciling", "True", steps.stage.value, steps.message))
    elif problem is not None:
        found.append(("Reconciling", "True", problem.reason, problem.message))
    return found


def _ready(standing: Standing) -> tuple[str, str, str, str]:
    record = standing.record
    if record is None or record.present is None:
        if standing.problem is not None:
            return "Ready", "False", standing.problem.reason, standing.problem.message
        if standing.steps is None:
            return "Ready", "False", "Planning", "there is no plan yet"
        failure = standing.steps.failure
        if failure is not None:
            return "Ready", "False", failure.reason.value, failure.message
        return "Ready", "False", standing.steps.stage.value, standing.steps.message
    plan = record.present.plan
    parts = _parts(plan)
    live = deployments_of(standing.live)
    missing = [tier for tier in parts if not is_available(live.get(tier))]
    if missing:
        names = ", ".join(missing)
        return "Ready", "False", "WorkersUnavailable", f"no worker of {names} is available"
    tiers = f"{len(parts)} tier{'s' if len(parts) > 1 else ''}"
    return "Ready", "True", "ServingPlan", f"epoch {plan.epoch} on {tiers}"


def _feasible(standing: Standing) -> tuple[str, str, str, str]:
    problem = standing.problem
    if problem is not None and problem.infeasible:
        kept = " (the plan in force goes on)" if standing.record is not None else ""
        return "PlanFeasible", "False", problem.reason, f"{problem.message}{kept}"
    if standing.record is None:
        return "PlanFeasible", "Unknown", "NotPlanned", "there is no plan yet"
    return "PlanFeasible", "True", "Planned", "a plan meets all constraints"


def _metrics(standing: Standing) -> tuple[str, str, str, str]:
    metrics = standing.metrics
    if metrics is None:
        return "MetricsAvailable", "Unknown", "NotRead", "nothing was read yet"
    return "MetricsAvailable", "True" if metrics.available else "False", metrics.reason.value, metrics.message


def _lossless(standing: Standing) -> tuple[str, str, str, str]:
    record = standing.record
    failure: Failure | None = None if standing.steps is None else standing.steps.failure
    if record is None or record.lossless is None:
        if failure is not None and failure.reason is FailureReason.MISMATCH:
            return "Lossless", "False", failure.reason.value, failure.message
        return "Lossless", "Unknown", "NotChecked", "the workers' answer was not compared yet"
    if record.lossless.bit_identical:
        return "Lossless", "True", "BitIdentical", "the workers' answer has the bits of the whole model's"
    difference = record.lossless.largest_relative_difference
    return "Lossless", "True", "WithinTolerance", f"the workers' answer differs from the whole model's by {difference}"


def _dated(
    conditions: Iterable[tuple[str, str, str, str]],
    previous: Iterable[Mapping[str, Any]],
    generation: int,
    now: float,
) -> list[dict[str, Any]]:
    before = {condition["type"]: condition for condition in previous}
    dated = []
    for kind, status, reason, message in conditions:
        known = before.get(kind)
        same = known is not None and known["status"] == status
        dated.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}...",
                "observedGeneration": generation,
                "lastTransitionTime": known["lastTransitionTime"] if known and same else _time(now),
            }
        )
    return dated


def _plan(present: Present, live: Iterable[Manifest]) -> dict[str, Any]:
    plan = present.plan
    found: dict[str, Any] = {
        "epoch": plan.epoch,
        "algorithm": plan.algorithm.value,
        "reason": present.reason,
        "message": present.message,
        "predictedLatencyMilliseconds": max(1, round(plan.predicted_seconds * 1e3)),
        "optimalityGapPercent": round(plan.optimality_gap * 100),
        "backboneBytesPerRequest": plan.backbone_bytes,
        "segments": [
            {
                "tier": str(part.tier),
                "layers": part.layers,
                "lastLayer": part.last_layer,
                "boundaryBytes": part.boundary_bytes,
                "segment": part.id,
            }
            for part in plan.segments
        ],
    }
    if plan.tiling:
        tiles = deployments_of(live).get("tiles")
        found["tiling"] = {
            "workers": 1 + (0 if tiles is None else int(tiles["spec"].get("replicas", 0))),
            "runs": [
                {"firstLayer": run.first_layer, "lastLayer": run.last_layer, "grid": f"{run.rows}x{run.columns}"}
                for run in plan.tiling
            ],
        }
    return found


def _decision(noted: Noted) -> dict[str, Any]:
    return {
        "time": _time(noted.time),
        "decision": noted.decision,
        "reason": noted.reason,
        "message": noted.message,
        "epoch": noted.epoch,
        "count": noted.count,
    }


def _parts(plan: Plan) -> list[Tier]:
    return [part.tier for part in plan.segments if part.segment.takes_part]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status_of_refused(manifest: Manifest, message: str, now: float) -> Status:
    """The status of a pipeline whose spec can't be read: what it said before, and why nothing follows from the spec."""
    previous = dict(manifest.get("status") or {})
    generation = manifest["metadata"].get("generation", 0)
    before = list(previous.get("conditions") or ())
    ready = next((condition for condition in before if condition["type"] == "Ready"), None)
    serves = ready is not None and ready["status"] == "True"
    new = [
        ("Ready", "True" if serves else "False", "ServingPlan" if serves else "InvalidSpec", message),
        ("PlanFeasible", "False", "InvalidSpec", message),
        ("Stalled", "True", "InvalidSpec", message),
    ]
    kept = [entry for entry in before if entry["type"] in ("MetricsAvailable", "Lossless")]
    return previous | {"observedGeneration": generation, "conditions": _dated(new, before, generation, now) + kept}
