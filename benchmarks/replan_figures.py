"""A hundred moves back to back between two plans, in local mode, while a standard client asks all the time.

The two plans cut ResNet-18 between edge and cloud at different layers, by the manifest's `manual`, so that each move
replaces two of three workers. All processes share this machine, those that start with those that serve.
"""

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.figure import Figure, at_most
from tierflow.manifest import InferencePipeline, PlanningMode
from tierflow.manifest_reading import from_object
from tierflow.model import open_model
from tierflow_local.cluster import Entry
from tierflow_local.gate import Example
from tierflow_local.links import HOST
from tierflow_local.session import Session, Wanted, session
from tierflow_operator.decide import Hold
from tierflow_worker.profiling import cached_profile
from tierflow_worker.verification import sample_inputs, whole_outputs

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from kindbed.traffic import Load, Outcome, Task

AREA: Final = "replans"
MOVES: Final = 100
_MODEL: Final = "zoo://resnet18"
_EDGES: Final = ("layer2.1/relu", "layer3.1/relu")
"""The last layers of the edge, by which the two plans differ."""
_CLIENTS: Final = 2
_AT_REST: Final = 60
_PATIENCE_SECONDS: Final = 120.0
_GOAL_SECONDS: Final = 10.0


@dataclass
class Measured:
    """What was seen.

    Attributes:
        rest: By plan, when requests were measured without a move.
        moves: When each decision was made, and when its plan was in force.
        changed: How many workers were replaced.
    """

    rest: list[tuple[float, float]] = field(default_factory=list)
    moves: list[tuple[float, float]] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)


def figures() -> Iterator[Figure]:
    """Measures the area `replans`."""
    yield Figure(AREA, "load of the machine before, per core", os.getloadavg()[0] / (os.cpu_count() or 1), "x")
    wanted = _wanted()
    measured = Measured()
    with session(wanted) as made:
        plans = [_cut_at(wanted.pipeline, last) for last in _EDGES]
        _move(made, plans[0])
        example = wanted.example
        if example is None:
            raise RuntimeError("there is nothing to compare answers with")
        task = Task(dict(example.inputs), dict(example.expected))
        with Load(f"{HOST}:{made.cluster.entry.grpc}", wanted.pipeline.name, task, _CLIENTS) as load:
            for pipeline in plans:
                if pipeline is not plans[0]:
                    _move(made, pipeline)
                measured.rest.append(_resting(load))
            for pipeline in islice(cycle(plans), MOVES):
                before = made.cluster.workers
                measured.moves.append(_move(made, pipeline))
                after = made.cluster.workers
                measured.changed.append(sum(before[tier] != after[tier] for tier in after))
            _resting(load)
    yield from _figures(measured, load)


def _figures(measured: Measured, load: Load) -> Iterator[Figure]:
    outcomes = load.outcomes
    took = [until - since for since, until in measured.moves]
    yield Figure(AREA, "moves", len(measured.moves), "count")
    yield Figure(AREA, "moves take, p50", statistics.median(took) * 1e3, "ms")
    yield at_most(AREA, "workers replaced by a move, at the most", max(measured.changed), "count", 2)
    yield Figure(AREA, "requests", len(outcomes), "count")
    yield at_most(AREA, "requests without an answer", len(load.failed), "count", 0)
    yield at_most(AREA, "answers that are not the whole model's", len(load.wrong), "count", 0)
    p99 = [load.quantile(0.99, since, until) for since, until in measured.rest]
    for last, seconds in zip(_EDGES, p99, strict=True):
        yield Figure(AREA, f"latency at rest, edge up to {last}, p99", seconds * 1e3, "ms")
    during = _during(outcomes, measured.moves)
    yield Figure(AREA, "requests during moves", len(during), "count")
    yield at_most(AREA, "latency during moves, p99, of the larger plan's p99", _p99(during) / max(p99), "x", 2)
    yield Figure(AREA, "latency during moves, longest, of the same", max(during) / max(p99), "x")
    first = sorted(_first_on_new_plan(outcomes, moved) - moved[0] for moved in measured.moves)
    yield Figure(AREA, "decision to first request answered by the new plan, p50", statistics.median(first) * 1e3, "ms")
    yield at_most(AREA, "decision to first request answered by the new plan, longest", first[-1], "s", _GOAL_SECONDS)


def _during(outcomes: Sequence[Outcome], moves: Sequence[tuple[float, float]]) -> list[float]:
    """The seconds of each request that was under way during a move."""
    return [
        outcome.answered - outcome.sent
        for outcome in outcomes
        if not outcome.error and any(outcome.sent <= until and outcome.answered >= since for since, until in moves)
    ]


def _first_on_new_plan(outcomes: Sequence[Outcome], moved: tuple[float, float]) -> float:
    """When the first request was answered that was sent once the plan was in force."""
    return min(outcome.answered for outcome in outcomes if outcome.sent >= moved[1] and not outcome.error)


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


def _resting(load: Load) -> tuple[float, float]:
    """When enough requests were answered while nothing else happened."""
    began = time.monotonic()
    while load.answered_since(began) < _AT_REST:
        if time.monotonic() - began > _PATIENCE_SECONDS:
            raise TimeoutError(f"{load.answered_since(began)} requests were answered in {_PATIENCE_SECONDS:g} s")
        time.sleep(0.05)
    return began, time.monotonic()


def _move(made: Session, pipeline: InferencePipeline) -> tuple[float, float]:
    """Has the pipeline be another one; when that was decided, and when it was in force."""
    made.local.pipeline = pipeline
    decision = made.local.decide()
    decided = time.monotonic()
    match decision:
        case Hold(message=message):
            raise RuntimeError(f"another cut was not decided on: {message}")
    made.local.move(decision)
    return decided, time.monotonic()


def _wanted() -> Wanted:
    model = open_model(_MODEL)
    inputs = sample_inputs(model)
    manifest: dict[str, Any] = {
        "apiVersion": "tierflow.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": {
            "name": "resnet18",
            "annotations": {
                "tierflow.dev/network": "device-edge=200Mbit/s:3ms,edge-cloud=100Mbit/s:10ms",
                "tierflow.dev/speeds": "device=0.1,edge=0.2,cloud=0.4",
            },
        },
        "spec": {"model": {"uri": _MODEL}, "tiers": [{"name": tier} for tier in ("device", "edge", "cloud")]},
    }
    return Wanted(
        pipeline=from_object(manifest),
        model=model,
        profile=cached_profile(model),
        entry=Entry(0, 0),
        example=Example(inputs, whole_outputs(model, inputs)),
    )


def _cut_at(pipeline: InferencePipeline, edge_last_layer: str) -> InferencePipeline:
    planning = {
        **msgspec.to_builtins(pipeline.spec.planning),
        "mode": PlanningMode.MANUAL.value,
        "manual": {"deviceLastLayer": "maxpool", "edgeLastLayer": edge_last_layer},
    }
    spec = {**msgspec.to_builtins(pipeline.spec), "planning": planning}
    return msgspec.convert({**msgspec.to_builtins(pipeline), "spec": spec}, InferencePipeline)
