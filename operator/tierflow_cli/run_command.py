"""`tierflow run`: plays a pipeline's three tiers on this machine, and checks that it does what it says."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tierflow_cli.options import (
    AlgorithmOption,
    EdgeNetworkOption,
    EdgeSpeedsOption,
    EdgeWorkersOption,
    InputOption,
    JsonOption,
    NetworkOption,
    Sha256Option,
    SpeedsOption,
    TargetArgument,
    examples,
)

if TYPE_CHECKING:
    from tierflow.manifest import InferencePipeline
    from tierflow.model.model import Model
    from tierflow.profile import Profile
    from tierflow_cli.run_report import RunReport
    from tierflow_cli.target import Target
    from tierflow_local.cluster import Entry
    from tierflow_local.gate import Example
    from tierflow_local.scenario import Scenario
    from tierflow_local.session import Session, Wanted

_CHECK_FAILED: Final = 1
_KEEP_SECONDS: Final = 2.0
_CLIENTS: Final = 2
_SCENARIO: Final = "Scenario"


@dataclass(frozen=True, slots=True)
class _Play:
    """The scenario's options."""

    example: "Example"
    requests: int
    worsen: str | None


@dataclass(frozen=True, slots=True)
class _Planning:
    """What the plan is made from, as the command line says it."""

    network: str | None
    speeds: str | None
    algorithm: str | None
    profile: str
    edge_workers: int | None
    edge_speeds: str | None
    edge_network: str | None


def run(
    target: TargetArgument,
    network: NetworkOption = None,
    speeds: SpeedsOption = None,
    algorithm: AlgorithmOption = None,
    edge_workers: EdgeWorkersOption = None,
    edge_speeds: EdgeSpeedsOption = None,
    edge_network: EdgeNetworkOption = None,
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="cached|measure|estimate|FILE",
            help="Where layer times come from: measured here once and kept, measured anew, estimated from the graph, "
            "or a file that `tierflow profile` wrote.",
            rich_help_panel="Planning",
        ),
    ] = "cached",
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="The photograph to classify. Default: a flower that scikit-learn brings along.",
            rich_help_panel=_SCENARIO,
            show_default=False,
        ),
    ] = None,
    requests: Annotated[
        int,
        typer.Option("--requests", min=3, help="Requests that the plan is measured with.", rich_help_panel=_SCENARIO),
    ] = 20,
    worsen: Annotated[
        str | None,
        typer.Option(
            "--worsen",
            metavar="LINK=RATE[:TIME]|none",
            help="What gets worse while requests run, like edge-cloud=3.1Mbit/s:20ms. Default: the last link of the "
            "plan, to a tenth of its bandwidth.",
            rich_help_panel=_SCENARIO,
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Goes on serving, and planning, until Ctrl-C.", rich_help_panel=_SCENARIO)
    ] = False,
    grpc_port: Annotated[
        int | None,
        typer.Option("--grpc-port", min=0, max=65535, help="Default: 8001, or a free one.", show_default=False),
    ] = None,
    rest_port: Annotated[
        int | None,
        typer.Option("--rest-port", min=0, max=65535, help="Default: 8000, or a free one.", show_default=False),
    ] = None,
    model_input: InputOption = None,
    sha256: Sha256Option = "",
    as_json: JsonOption = False,
) -> int:
    """Plans a pipeline, serves it with real workers on this machine, and checks it against the whole model.

    Links are shaped and tiers slowed to the stated figures. With several edge workers, runs of the edge's layers are
    computed as tiles, and the edge's time is measured with all of them and with fewer. Nothing is left behind at its
    end, nor by Ctrl-C.
    """
    from tierflow_cli.run_report import RunReport
    from tierflow_cli.target import open_target
    from tierflow_local.checks import failures
    from tierflow_local.gate import Example
    from tierflow_local.photograph import inputs_with
    from tierflow_local.session import session
    from tierflow_worker.verification import whole_outputs

    with _ended_by_signals():
        opened = open_target(target, model_input, sha256)
        inputs, photograph = inputs_with(opened.model, image)
        planning = _Planning(network, speeds, algorithm, profile, edge_workers, edge_speeds, edge_network)
        example = Example(inputs, whole_outputs(opened.model, inputs))
        wanted = replace(_wanted(opened, planning, _entry(grpc_port, rest_port)), example=example)
        report = RunReport(wanted, photograph, as_json=as_json)
        with session(wanted, report.worker) as made:
            scenario = _play(made, wanted, _Play(example, requests, worsen), report)
            failed = failures(scenario.results)
            report.concluded(scenario.results, failed)
            if keep:
                _keep(made, wanted, report)
    return _CHECK_FAILED if failed else 0


def _play(made: "Session", wanted: "Wanted", play: _Play, report: "RunReport") -> "Scenario":
    from tierflow_local.client import PipelineClient
    from tierflow_local.scenario import Scenario
    from tierflow_local.worsening import default_worsening, parse_worsening

    graph = wanted.model.graph
    given = None if play.worsen in (None, "none") else parse_worsening(str(play.worsen), made.assumed.network)
    scenario = Scenario(made.local, made.cluster, graph, wanted.profile, made.assumed, report)
    plan = scenario.start()
    report.serving(made.cluster.entry)
    inputs, expected = play.example.inputs, play.example.expected
    with ExitStack() as stack:
        clients = [
            stack.enter_context(PipelineClient(made.cluster.entry.grpc, wanted.pipeline.name, graph, inputs, expected))
            for _ in range(_CLIENTS)
        ]
        scenario.measure_plan(clients[0], plan, play.requests)
        report.classified(expected)
        scenario.measure_shared_edge(clients[0], plan)
        report.shared_edge(scenario.results)
        scenario.measure_alone(clients[0], plan, play.requests)
        report.compared(scenario.results)
        worsening = None if play.worsen == "none" else given or default_worsening(plan)
        if worsening is not None:
            scenario.worsen(clients, worsening)
    return scenario


def _wanted(opened: "Target", planning: _Planning, entry: "Entry | None") -> "Wanted":
    from tierflow.network import parse_network
    from tierflow.speeds import parse_speeds
    from tierflow_cli.edge_nodes import edge_nodes
    from tierflow_local.reconcile import with_algorithm, with_edge_workers
    from tierflow_local.session import Wanted

    edge = edge_nodes(opened.pipeline, planning.edge_workers, planning.edge_speeds, planning.edge_network)
    pipeline = with_algorithm(opened.pipeline or _pipeline_of(opened), planning.algorithm)
    if planning.edge_workers is not None or planning.edge_speeds is not None:
        pipeline = with_edge_workers(pipeline, len(edge.speeds))
    return Wanted(
        pipeline=pipeline,
        model=opened.model,
        profile=_profile(opened.model, planning.profile),
        network=None if planning.network is None else parse_network(planning.network),
        speeds=None if planning.speeds is None else parse_speeds(planning.speeds),
        edge=edge,
        entry=entry,
    )


def _entry(grpc_port: int | None, rest_port: int | None) -> "Entry | None":
    """The ports that are asked for; None where neither is."""
    from tierflow_local.cluster import Entry
    from tierflow_local.session import PREFERRED

    if grpc_port is None and rest_port is None:
        return None
    return Entry(PREFERRED.grpc if grpc_port is None else grpc_port, PREFERRED.rest if rest_port is None else rest_port)


def _pipeline_of(opened: "Target") -> "InferencePipeline":
    """The smallest manifest that names the model."""
    import re

    from tierflow.manifest import API_VERSION, KIND
    from tierflow.manifest_reading import from_object
    from tierflow.tiers import TIERS

    words = re.sub(r"[^a-z0-9]+", "-", Path(opened.uri.rpartition("/")[2]).stem.lower()).strip("-")
    return from_object(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": (words if words[:1].isalpha() else f"model-{words}")[:50].strip("-")},
            "spec": {"model": {"uri": opened.uri}, "tiers": [{"name": tier.value} for tier in TIERS]},
        }
    )


def _profile(model: "Model", source: str) -> "Profile":
    from tierflow_cli.console import progress
    from tierflow_cli.layer_times import layer_times

    if source != "cached":
        return layer_times(model, source)
    from tierflow_worker.profiling import cached_profile

    with progress("measuring layer times") as tell:
        return cached_profile(model, progress=tell)


def _keep(made: "Session", wanted: "Wanted", report: "RunReport") -> None:
    """Serves, and plans again when the workers measure something else, until it is interrupted."""
    from tierflow.errors import TierflowError
    from tierflow_operator.decide import Move

    report.keeping(made.cluster.entry, wanted)
    try:
        while True:
            time.sleep(_KEEP_SECONDS)
            decision = made.local.decide()
            if isinstance(decision, Move):
                report.moving(decision)
                try:
                    made.local.move(decision)
                except TierflowError as error:
                    report.staying(error)
    except KeyboardInterrupt:
        return


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: in order, with nothing left behind."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


RUN_EXAMPLES = examples(
    "tierflow run samples/resnet18.yaml",
    "tierflow run samples/resnet18.yaml --network 4g --requests 20 --worsen none",
    "tierflow run samples/resnet18.yaml --edge-workers 4",
    "tierflow run zoo://alexnet --speeds device=board,edge=laptop,cloud=server --image photograph.jpg",
    "tierflow run samples/resnet18.yaml --json",
    "tierflow run samples/resnet18.yaml --keep",
)
