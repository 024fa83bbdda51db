"""What `tierflow run` says to people while it goes, and to machines at its end."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from rich.console import Console

from tierflow.errors import TierflowError
from tierflow.plan import Plan
from tierflow.tiers import TIERS
from tierflow_cli.console import out, print_json, table_of
from tierflow_cli.run_json import report_of
from tierflow_cli.runs import grid_text
from tierflow_cli.tiles_report import nodes_text, tiling_of
from tierflow_cli.wording import bandwidth_text, bytes_text, plain, plural, seconds_text
from tierflow_local.cluster import Entry
from tierflow_local.links import HOST
from tierflow_local.load import Answers
from tierflow_local.photograph import image_input
from tierflow_local.scenario import Measurement, Replanning, Results
from tierflow_local.session import Wanted
from tierflow_local.shared_edge import SharedEdge, is_identical
from tierflow_operator.decide import Move
from tierflow_operator.observation import LINKS, link_name

_STARTS: Final = "starting the workers"


class RunReport:
    """Says what happens; a `tierflow_local.scenario.Listener`.

    Args:
        wanted: What is run.
        photograph: What the requests carry, in words.
        as_json: Prints one document at the end instead; the steps then go to standard error, on a terminal.
    """

    def __init__(self, wanted: Wanted, photograph: str, *, as_json: bool) -> None:
        self._wanted = wanted
        self._photograph = photograph
        self._as_json = as_json
        self._console = Console(stderr=True, quiet=not sys.stderr.isatty(), markup=False) if as_json else out()
        self._phase = ""
        self._began = time.perf_counter()

    def began(self, what: str) -> None:
        """A phase begins."""
        self._phase, self._began = what, time.perf_counter()
        if what != "planning":
            self._say(f"{what[0].upper()}{what[1:]}", style="bold")

    def worker(self, name: str, what: str) -> None:
        """Something happens to a worker."""
        if self._phase == _STARTS or what == "ready":
            self._say(f"  {time.perf_counter() - self._began:5.1f} s  {name} {what}", style="dim")

    def planned(self, plan: Plan) -> None:
        """The first plan is there."""
        graph, profile = self._wanted.model.graph, self._wanted.profile
        self._say(
            f"{plain(self._wanted.pipeline.name)}: {plain(graph.name)}, {plural(len(graph.layers), 'layer')}, "
            f"{bytes_text(graph.weight_bytes)} of weights; layer times {profile.source}, {plain(profile.machine)}",
            style="bold",
        )
        links = ", ".join(
            f"{link_name(link)} {bandwidth_text(shape.bytes_per_second)} {seconds_text(shape.round_trip_seconds)}"
            for link in LINKS
            for shape in [plan.network.link(*link)]
        )
        self._say(f"Links played: {links}")
        self._plan_table(plan)
        self._tiles(plan)
        gap = f"{plan.optimality_gap:.1%} above the optimum" if plan.optimality_gap else "optimal"
        self._say(f"Predicted {seconds_text(plan.predicted_seconds)} per request, {gap} ({plan.algorithm.value})\n")

    def serving(self, entry: Entry) -> None:
        """Clients can reach the pipeline."""
        self._say(f"  serving gRPC on {HOST}:{entry.grpc} and REST on {HOST}:{entry.rest}\n")

    def measured(self, measurement: Measurement) -> None:
        """A plan was measured."""
        answers = measurement.answers
        self._say(
            f"  {measurement.name}: {plural(answers.sent, 'request')}, "
            f"predicted {seconds_text(measurement.plan.predicted_seconds)}, "
            f"measured {seconds_text(answers.quantile(0.5))} (p50), {seconds_text(answers.quantile(0.99))} (p99)"
        )

    def classified(self, expected: Mapping[str, Any]) -> None:
        """The photograph was classified."""
        name, scores = next(iter(expected.items()))
        what = f"  {plain(self._photograph)}"
        if image_input(self._wanted.model.graph) is not None and scores.dtype.kind == "f" and scores.ndim > 1:
            what += f": {plain(name)} is largest at {int(np.argmax(scores[0]))}"
        if self._wanted.pipeline.spec.model.uri.startswith("zoo://"):
            what += "; the zoo's weights are made up, so the number means nothing beyond being the same everywhere"
        self._say(what + "\n")

    def shared(self, found: SharedEdge) -> None:
        """A plan was measured with so many edge workers."""
        self._say(
            f"  {plural(found.workers, 'edge worker')}: {plural(found.answers.sent, 'request')}, the edge predicted "
            f"{seconds_text(found.predicted_seconds)}, measured {seconds_text(found.seconds)}"
        )

    def shared_edge(self, results: Results) -> None:
        """The edge was measured with all of its workers and with fewer; nothing where it has one."""
        measured = results.shared_edge
        if not measured:
            return
        alone = measured[-1]
        numbers = ("Predicted", "Measured", "Predicted speed-up", "Speed-up", "Latency p50")
        table = table_of("Edge workers", *numbers, right=("Edge workers", *numbers))
        for found in reversed(measured):
            table.add_row(
                f"{found.workers}",
                seconds_text(found.predicted_seconds),
                seconds_text(found.seconds),
                f"{alone.predicted_seconds / found.predicted_seconds:.2f}x",
                f"{alone.seconds / found.seconds:.2f}x",
                seconds_text(found.answers.quantile(0.5)),
            )
        self._print()
        self._print(table)
        same = "are the same bit for bit" if is_identical(measured) else "differ"
        self._say(f"Times are those of the edge's segment. The answers of 1 to {len(measured)} edge workers {same}.\n")

    def compared(self, results: Results) -> None:
        """The plan and each tier alone were measured."""
        columns = ("Predicted", "p50", "p99", *(link_name(link) for link in LINKS), "Requests", "Difference")
        table = table_of("", *columns, "Breaks", right=columns)
        for found in results.measurements:
            answers = found.answers
            table.add_row(
                found.name,
                seconds_text(found.plan.predicted_seconds),
                seconds_text(answers.quantile(0.5)),
                seconds_text(answers.quantile(0.99)),
                *(bytes_text(found.traffic[link].up / max(answers.sent, 1)) for link in LINKS),
                f"{answers.sent}",
                _difference(answers),
                ", ".join(found.breaks) or "-",
            )
        self._print()
        self._print(table)
        self._say("Bytes are those that went up each link per request, as its proxy counted them, probes included.")
        segments = ", ".join(
            f"{part.tier} {seconds_text(part.compute_seconds)} -> {seconds_text(seconds)}"
            for part in results.measurements[0].plan.segments
            if (seconds := results.measurements[0].segments.get(part.tier)) is not None
        )
        self._say(f"Segments of the plan, predicted -> measured: {segments}\n")

    def replanned(self, replanning: Replanning) -> None:
        """A link got worse, and what came of it."""
        decision = replanning.decision
        name = link_name(replanning.link)
        self._say(
            f"  {name} link: {bandwidth_text(replanning.before.bytes_per_second)} -> "
            f"{bandwidth_text(replanning.after.bytes_per_second)}, round trip "
            f"{seconds_text(replanning.after.round_trip_seconds)}"
        )
        verb = "moved" if isinstance(decision, Move) else "held"
        self._say(f"  {verb} after {replanning.decided_seconds:.1f} s, {decision.reason}: {decision.message}")
        if isinstance(decision, Move):
            self._plan_table(decision.plan)
            self._say(f"  in force after {replanning.rollout_seconds:.1f} s more; from the cloud down:")
        for tier in reversed(TIERS):
            before, after = replanning.workers[tier]
            since = time.strftime("%H:%M:%S", time.localtime(before.started_at))
            fate = f"replaced by {after.pid}" if before != after else "not touched"
            self._say(f"    {tier:6}  process {before.pid}, running since {since}: {fate}")
        answers = replanning.answers
        self._say(
            f"  meanwhile {plural(answers.sent, 'request')}: {answers.sent - len(answers.lost)} answered, "
            f"{len(answers.lost)} lost, {len(answers.wrong)} wrong; {answers.resent} sent again by the client when a "
            "worker left\n"
        )

    def concluded(self, results: Results, failures: Sequence[str]) -> None:
        """All is done; `failures` did not hold."""
        if self._as_json:
            wanted = self._wanted
            tiling = tiling_of(wanted.model.graph, results.measurements[0].plan, wanted.edge)
            document = report_of(
                results, failures, pipeline=wanted.pipeline.name, photograph=self._photograph, tiling=tiling
            )
            print_json(document)
            return
        for failure in failures:
            self._say(f"FAILED  {plain(failure)}", style="bold red")
        if not failures:
            every = [found.answers for found in results.measurements]
            every += [found.answers for found in results.shared_edge]
            if results.replanning is not None:
                every.append(results.replanning.answers)
            together = Answers(tuple(answer for answers in every for answer in answers.all))
            self._say(
                f"Holds: {together.sent} requests, none lost; every answer is the whole model's, "
                f"{_difference(together, long=True)}"
                + ("" if results.replanning is None else "; only what had to change did"),
                style="bold green",
            )

    def keeping(self, entry: Entry, wanted: Wanted) -> None:
        """The pipeline goes on serving."""
        name = wanted.pipeline.name
        tensor = wanted.model.graph.tensors[wanted.model.graph.inputs[0]]
        self._say(
            f"\nServing until Ctrl-C. From another shell:\n\n"
            f"  curl -s http://{HOST}:{entry.rest}/v2/models/{name}\n\n"
            f"  pip install 'tritonclient[grpc]'\n"
            f"  python - <<'END'\n"
            f"  import numpy, tritonclient.grpc as triton\n"
            f"  tensor = triton.InferInput({tensor.name!r}, {list(tensor.shape)}, 'FP32')\n"
            f"  tensor.set_data_from_numpy(numpy.random.rand(*{tensor.shape}).astype('float32'))\n"
            f"  answer = triton.InferenceServerClient('{HOST}:{entry.grpc}').infer({name!r}, [tensor])\n"
            f"  print(answer.as_numpy({wanted.model.graph.outputs[0]!r}))\n"
            f"  END\n"
        )

    def moving(self, decision: Move) -> None:
        """A kept pipeline moves to another plan."""
        self._say(f"{decision.reason}: {decision.message}", style="bold")

    def staying(self, error: TierflowError) -> None:
        """The other plan could not be put in force."""
        self._say(f"The plan before stays in force: {error.message}", style="bold red")

    def _plan_table(self, plan: Plan) -> None:
        numbers = ("Layers", "Speed", "Compute", "Sends on")
        table = table_of("Tier", *numbers, "Last layer", right=numbers)
        for part in plan.segments:
            table.add_row(
                part.tier.value,
                f"{part.layers}",
                f"{plan.speeds[part.tier]:g}",
                seconds_text(part.compute_seconds) if part.layers else "-",
                bytes_text(part.boundary_bytes) if part.boundary_bytes else "-",
                plain(part.last_layer) or "-",
            )
        self._print(table)

    def _tiles(self, plan: Plan) -> None:
        """The plan's runs; nothing where the edge has one worker."""
        wanted = self._wanted
        if len(wanted.edge.speeds) < 2:
            return
        runs = [
            f"  {plain(run.first_layer)} to {plain(run.last_layer)}: {grid_text(run)}, halo {run.halo_factor:.2f}, "
            f"{bytes_text(run.scatter_bytes)} out and {bytes_text(run.gather_bytes)} back, "
            f"{seconds_text(run.untiled_seconds)} -> {seconds_text(run.predicted_seconds)}"
            for run in plan.tiling
        ]
        self._say(f"Tiles on {nodes_text(wanted.edge)}:" + ("" if runs else " none, since none is faster"))
        for run in runs:
            self._say(run)

    def _say(self, text: str, *, style: str | None = None) -> None:
        self._console.print(text, style=style, soft_wrap=True)

    def _print(self, *things: Any) -> None:
        self._console.print(*things)


def _difference(answers: Answers, *, long: bool = False) -> str:
    if answers.largest_difference == 0:
        return "bit for bit" if long else "none"
    worst = f"{answers.largest_difference:.1e}"
    return f"within {worst} of its largest output" if long else worst
