"""Everything that a local run stands on, set up in order and taken down again whatever happens."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tierflow.errors import InvalidInputError
from tierflow.manifest import InferencePipeline
from tierflow.model.model import Model
from tierflow.model.opening import default_cache
from tierflow.network import Network
from tierflow.profile import Profile
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow_local.cluster import Entry, LocalCluster, Report
from tierflow_local.gate import Example, Gate
from tierflow_local.links import Proxies
from tierflow_local.reconcile import LocalPipeline
from tierflow_local.run_directory import RunDirectory, live_runs, runs_directory
from tierflow_operator.observation import Observation, assumed

PREFERRED: Entry = Entry(grpc=8001, rest=8000)
"""The ports of the protocol's usual servers; where they are in use, and nobody insists, others are taken."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to run, and how.

    Attributes:
        pipeline: The manifest.
        model: Its model, opened.
        profile: The model's layer times on this machine.
        network: In place of what the manifest says to assume; None leaves that.
        speeds: The same for the tiers' speeds.
        edge: The edge's nodes, its own worker's first; with one nothing is tiled.
        entry: The ports for clients; None takes the preferred ones where they are free.
        cache_dir: Where workers keep models and segments; None for the user's cache.
        example: What new workers are asked before they take over; None makes one.
    """

    pipeline: InferencePipeline
    model: Model
    profile: Profile
    network: Network | None = None
    speeds: Mapping[Tier, float] | None = None
    edge: EdgeNodes = field(default_factory=EdgeNodes)
    entry: Entry | None = None
    cache_dir: Path | None = None
    example: Example | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A local run: nothing serves yet."""

    local: LocalPipeline
    cluster: LocalCluster
    assumed: Observation


@contextmanager
def session(wanted: Wanted, report: Report | None = None) -> Iterator[Session]:
    """Sets up a cluster for one pipeline; at the end nothing of it is left.

    Raises:
        InvalidInputError: where a tier is to be faster than this machine, or a port is in use.
    """
    ready = {**dict.fromkeys(TIERS, 1), Tier.EDGE: len(wanted.edge.speeds)}
    observation = replace(
        assumed(wanted.pipeline, ready, network=wanted.network, speeds=wanted.speeds),
        edge_speeds=wanted.edge.speeds,
        edge_link=wanted.edge.link,
    )
    base = runs_directory(os.environ)

    def cluster(proxies: Proxies, directory: Path, entry: Entry) -> LocalCluster:
        return LocalCluster(
            directory,
            proxies,
            observation.network,
            observation.tier_speeds,
            nodes=observation.edge_nodes(wanted.pipeline.spec),
            cache_dir=wanted.cache_dir or default_cache(),
            entry=entry,
            report=report,
        )

    with RunDirectory(wanted.pipeline.name, base) as directory, Proxies() as proxies:
        made = _with_ports(lambda entry: cluster(proxies, directory.path, entry), wanted.entry, base)
        directory.tell(made.entry.grpc, made.entry.rest)
        local = LocalPipeline(
            wanted.pipeline,
            wanted.model.graph,
            wanted.profile,
            observation,
            made,
            Gate(wanted.model, wanted.example),
            time.time,
        )
        try:
            yield Session(local, made, observation)
        finally:
            made.close()


def _with_ports(make: Callable[[Entry], LocalCluster], entry: Entry | None, base: Path) -> LocalCluster:
    """The cluster on the ports that are wanted, or on free ones where nobody insists."""
    try:
        return make(entry or PREFERRED)
    except InvalidInputError as error:
        if not error.subject.startswith("port "):
            raise
        if entry is None:
            return make(Entry(0, 0))
        port = int(error.subject.removeprefix("port "))
        other = next((run for run in live_runs(base) if port in run.ports), None)
        if other is None:
            raise
        raise InvalidInputError(
            f"{error.message} (it serves the pipeline {other.pipeline} of another `tierflow run`, process {other.pid})",
            subject=error.subject,
        ) from error
