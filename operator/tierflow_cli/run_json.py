"""What `tierflow run --json` says.

The JSON is stable: within a version keys are added, never removed, renamed or given another meaning.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

from tierflow.network import MEGABIT, Link
from tierflow.plan import Plan
from tierflow.tiers import TIERS
from tierflow_local.scenario import Measurement, Replanning, Results
from tierflow_local.shared_edge import SharedEdge, is_identical
from tierflow_operator.decide import Move
from tierflow_operator.observation import LINKS

VERSION: Final = 1


def report_of(
    results: Results, failures: Sequence[str], *, pipeline: str, photograph: str, tiling: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All results as one document; `tiling` is what `tierflow plan` says of the plan's tiles."""
    first = results.measurements[0].plan
    return {
        "version": VERSION,
        "pipeline": pipeline,
        "model": first.model,
        "input": photograph,
        "plan": _plan(first),
        "tiling": tiling,
        "sharedEdge": _shared_edge(results.shared_edge),
        "measurements": [_measurement(found) for found in results.measurements],
        "replanning": None if results.replanning is None else _replanning(results.replanning),
        "seconds": results.seconds,
        "failures": list(failures),
        "holds": not failures,
    }


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "epoch": plan.epoch,
        "algorithm": plan.algorithm.value,
        "route": plan.route.value,
        "predictedLatencyMilliseconds": plan.predicted_seconds * 1e3,
        "optimalityGapPercent": plan.optimality_gap * 100,
        "backboneBytes": plan.backbone_bytes,
        "segments": [
            {
                "tier": part.tier.value,
                "layers": part.layers,
                "lastLayer": part.last_layer or None,
                "boundaryBytes": part.boundary_bytes,
                "computeMilliseconds": part.compute_seconds * 1e3,
                "segment": part.id,
            }
            for part in plan.segments
        ],
    }


def _measurement(found: Measurement) -> dict[str, Any]:
    answers = found.answers
    return {
        "name": found.name,
        "predictedLatencyMilliseconds": found.plan.predicted_seconds * 1e3,
        "p50Milliseconds": _milliseconds(answers.quantile(0.5)),
        "p99Milliseconds": _milliseconds(answers.quantile(0.99)),
        "requests": answers.sent,
        "lost": len(answers.lost),
        "wrong": len(answers.wrong),
        "bitIdentical": answers.largest_difference == 0,
        "largestRelativeDifference": _number(answers.largest_difference),
        "links": [
            {
                "from": link[0].value,
                "to": link[1].value,
                "bytesUp": found.traffic[link].up,
                "bytesDown": found.traffic[link].down,
            }
            for link in LINKS
        ],
        "segmentMilliseconds": {tier.value: seconds * 1e3 for tier, seconds in found.segments.items()},
        "breaks": list(found.breaks),
    }


def _shared_edge(measured: Sequence[SharedEdge]) -> dict[str, Any] | None:
    """The edge with one worker and with more; None where nothing is shared."""
    if not measured:
        return None
    return {
        "bitIdentical": is_identical(measured),
        "edgeWorkers": [
            {
                "workers": found.workers,
                "predictedMilliseconds": found.predicted_seconds * 1e3,
                "measuredMilliseconds": _milliseconds(found.seconds),
                "latencyP50Milliseconds": _milliseconds(found.answers.quantile(0.5)),
                "requests": found.answers.sent,
                "lost": len(found.answers.lost),
                "wrong": len(found.answers.wrong),
            }
            for found in reversed(measured)
        ],
    }


def _replanning(replanning: Replanning) -> dict[str, Any]:
    decision = replanning.decision
    return {
        "link": {"from": replanning.link[0].value, "to": replanning.link[1].value},
        "before": _link(replanning.before),
        "after": _link(replanning.after),
        "moved": isinstance(decision, Move),
        "reason": decision.reason.value,
        "message": decision.message,
        "plan": _plan(decision.plan) if isinstance(decision, Move) else None,
        "decidedAfterSeconds": replanning.decided_seconds,
        "rolloutSeconds": replanning.rollout_seconds,
        "sent": replanning.answers.sent,
        "lost": len(replanning.answers.lost),
        "wrong": len(replanning.answers.wrong),
        "resent": replanning.answers.resent,
        "workers": [
            {
                "tier": tier.value,
                "changed": tier in replanning.changed,
                "processBefore": replanning.workers[tier][0].pid,
                "processAfter": replanning.workers[tier][1].pid,
            }
            for tier in TIERS
        ],
    }


def _link(link: Link) -> dict[str, float]:
    return {
        "megabitsPerSecond": link.bytes_per_second / MEGABIT,
        "roundTripMilliseconds": link.round_trip_seconds * 1e3,
    }


def _milliseconds(seconds: float) -> float | None:
    return _number(seconds * 1e3)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
