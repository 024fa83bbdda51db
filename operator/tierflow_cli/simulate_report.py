"""What `tierflow simulate` says, to machines and to people.

The JSON is stable: within a version keys are added, never removed, renamed or given another meaning.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tierflow.graph import Graph
from tierflow.manifest import PipelineSpec
from tierflow.tiers import TIERS
from tierflow_cli.console import out, table_of
from tierflow_cli.wording import plain, plural, seconds_text
from tierflow_operator.decide import Hold, Move
from tierflow_operator.simulation import Step, holds, moves

VERSION: Final = 1
_MOVES_SHOWN: Final = 30


@dataclass(frozen=True, slots=True)
class Course:
    """What became of a pipeline over time.

    Attributes:
        pipeline: Its name.
        graph: Its model's graph.
        spec: Its spec, with the thresholds that it was decided by.
        trace: The trace's file name.
        lines: How many lines that has.
        steps: The looks at it, in order.
    """

    pipeline: str
    graph: Graph
    spec: PipelineSpec
    trace: str
    lines: int
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """How long it took, in seconds of the trace."""
        return self.steps[-1].seconds - self.steps[0].seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """A latency over time.

    Attributes:
        mean: Weighted by how long it lasted, over the times at which all of them are known; None where there is none.
        worst: The largest.
        unserved: Seconds in which a tier that the plan needs could compute nothing.
    """

    mean: float | None
    worst: float | None
    unserved: float


def lasting(steps: Sequence[Step]) -> Iterator[tuple[Step, float]]:
    """Each look with how long it held; the last one held for no time."""
    for step, following in zip(steps, (*steps[1:], steps[-1]), strict=True):
        yield step, following.seconds - step.seconds


def summary(steps: Sequence[Step], latency: Callable[[Step], float | None]) -> Summary:
    """A latency over all looks."""
    shared = known = total = unserved = 0.0
    worst: float | None = None
    for step, seconds in lasting(steps):
        value = latency(step)
        if value is None:
            unserved += seconds
            continue
        worst = value if worst is None else max(worst, value)
        if None not in (step.latency, step.first, step.best):
            shared += seconds
            total += value * seconds
            known = value
    mean = total / shared if shared else known or None
    return Summary(mean, worst, unserved)


def summaries(course: Course) -> dict[str, Summary]:
    """What is compared: the course, never moving, and always the best plan."""
    return {
        "decided": summary(course.steps, lambda step: step.latency),
        "neverMoving": summary(course.steps, lambda step: step.first),
        "alwaysBest": summary(course.steps, lambda step: step.best),
    }


def report_of(course: Course) -> dict[str, Any]:
    """The course as the document of `tierflow simulate --json`."""
    planning = course.spec.planning
    return {
        "version": VERSION,
        "pipeline": course.pipeline,
        "trace": course.trace,
        "seconds": course.seconds,
        "looks": len(course.steps),
        "thresholds": {
            "minImprovementPercent": planning.min_improvement_percent,
            "minIntervalSeconds": planning.min_interval_seconds,
            "stabilizationSeconds": planning.stabilization_seconds,
        },
        "moves": [_move(seconds, move) for seconds, move in moves(course.steps)],
        "holds": [{"reason": reason.value, "seconds": seconds} for reason, seconds in holds(course.steps).items()],
        "infeasibleSeconds": sum(seconds for step, seconds in lasting(course.steps) if step.decision is None),
        "latency": {
            name: {
                "meanMilliseconds": None if each.mean is None else each.mean * 1000,
                "worstMilliseconds": None if each.worst is None else each.worst * 1000,
                "unservedSeconds": each.unserved,
            }
            for name, each in summaries(course).items()
        },
        "plans": [
            {
                "seconds": step.seconds,
                "epoch": step.plan.epoch,
                "layers": {tier.value: step.plan.segment(tier).layers for tier in TIERS},
            }
            for step in course.steps
            if isinstance(step.decision, Move)
        ],
        "steps": [_step(step) for step in course.steps],
    }


def _move(seconds: float, move: Move) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "epoch": move.plan.epoch,
        "reason": move.reason.value,
        "message": move.message,
    }


def _step(step: Step) -> dict[str, Any]:
    decision = step.decision
    return {
        "seconds": step.seconds,
        "epoch": step.plan.epoch,
        "decision": "Infeasible" if decision is None else "Hold" if isinstance(decision, Hold) else "Move",
        "reason": None if decision is None else decision.reason.value,
        "latencyMilliseconds": None if step.latency is None else step.latency * 1000,
        "neverMovingMilliseconds": None if step.first is None else step.first * 1000,
        "alwaysBestMilliseconds": None if step.best is None else step.best * 1000,
    }


def time_text(seconds: float) -> str:
    """A time of the trace: `4:05`, or `1:04:05` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_course(course: Course) -> None:
    """Prints the course for people."""
    console = out()
    planning, found = course.spec.planning, moves(course.steps)
    console.print(
        f"{plain(course.pipeline)}: {plural(len(found), 'move')} in {time_text(course.seconds)} of "
        f"{plain(course.trace)} ({plural(course.lines, 'line')}, {plural(len(course.steps), 'look')})",
        style="bold",
    )
    console.print(
        f"Thresholds   minImprovementPercent {planning.min_improvement_percent}, minIntervalSeconds "
        f"{planning.min_interval_seconds}, stabilizationSeconds {planning.stabilization_seconds}\n"
    )
    _print_plans(course)
    _print_holds(course)
    _print_latency(course)


def _print_plans(course: Course) -> None:
    console = out()
    numbers = ("Time", "Epoch", *(tier.value.capitalize() for tier in TIERS))
    table = table_of(*numbers, "Why", right=numbers)
    planned = [step for step in course.steps if isinstance(step.decision, Move)]
    for step in planned[: _MOVES_SHOWN + 1]:
        if isinstance(step.decision, Move):
            layers = (f"{step.plan.segment(tier).layers:,}" for tier in TIERS)
            why = f"{step.decision.reason}: {step.decision.message}"
            table.add_row(time_text(step.seconds), f"{step.plan.epoch}", *layers, plain(why))
    console.print(table)
    if len(planned) > _MOVES_SHOWN + 1:
        console.print(f"and {plural(len(planned) - _MOVES_SHOWN - 1, 'move')} more (--json has them all)")
    console.print()


def _print_holds(course: Course) -> None:
    console = out()
    table = table_of("Held because of", "For", "Lately", right=("For",))
    for reason, seconds in holds(course.steps).items():
        last = next(
            step.decision.message
            for step in reversed(course.steps)
            if isinstance(step.decision, Hold) and step.decision.reason is reason
        )
        table.add_row(reason.value, time_text(seconds), plain(last))
    if table.row_count:
        console.print(table)
        console.print()


def _print_latency(course: Course) -> None:
    names = {"decided": "as decided", "neverMoving": "never moving", "alwaysBest": "always the best plan"}
    console = out()
    numbers = ("Mean", "Worst", "Not served")
    table = table_of("Predicted latency", *numbers, right=numbers)
    for name, each in summaries(course).items():
        figures = ("-" if value is None else seconds_text(value) for value in (each.mean, each.worst))
        table.add_row(names[name], *figures, time_text(each.unserved) if each.unserved else "-")
    console.print(table)
