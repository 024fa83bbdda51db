"""The reconcile of local mode: observe, decide, render, diff, apply, all but observing and applying the operator's."""

from collections.abc import Callable

import msgspec

from tierflow.graph import Graph
from tierflow.manifest import InferencePipeline, Tiling
from tierflow.plan import Plan
from tierflow.profile import Profile
from tierflow.tiers import Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow_local.cluster import LocalCluster
from tierflow_local.scrape import scrape
from tierflow_operator.decide import Decision, Move, Present, decide
from tierflow_operator.diff import Change, changes
from tierflow_operator.observation import Observation, measured
from tierflow_operator.pods import Release
from tierflow_operator.render import live_descriptors, render


class LocalPipeline:
    """One pipeline in one local cluster.

    Args:
        pipeline: What the user wants.
        graph: The model's graph.
        profile: Its layer times on this machine.
        assumed: What to go by until it has been measured.
        cluster: Where it runs.
        clock: What time it is, in seconds of the Unix epoch.
    """

    def __init__(
        self,
        pipeline: InferencePipeline,
        graph: Graph,
        profile: Profile,
        assumed: Observation,
        cluster: LocalCluster,
        clock: Callable[[], float],
    ) -> None:
        self.pipeline = pipeline
        self.present: Present | None = None
        self._graph = graph
        self._profile = profile
        self._assumed = assumed
        self._cluster = cluster
        self._clock = clock
        self._release = Release(addresses=cluster.addresses, tile_workers=cluster.tile_addresses)

    def observe(self) -> Observation:
        """What is known now: links as the workers measure them, the rest as assumed."""
        found = scrape(
            self._cluster.workers.values(),
            now=self._clock(),
            max_staleness_seconds=self.pipeline.spec.metrics.max_staleness_seconds,
        )
        return measured(self._assumed, found.links)

    def decide(self) -> Decision:
        """Decides by what is known now.

        Raises:
            TierflowError: see `tierflow_operator.decide.decide`.
        """
        decision = decide(self.pipeline.spec, self._graph, self._profile, self.observe(), self.present, self._clock())
        if not isinstance(decision, Move):
            self.present = decision.present
        return decision

    def move(self, decision: Move) -> tuple[Change, ...]:
        """Puts a decided plan in force.

        Returns:
            What was done.

        Raises:
            TierflowError: where a worker doesn't get ready; what was in force before goes on.
        """
        steps = self.apply(decision.plan)
        self.present = decision.present.taking_over(self._clock())
        return steps

    @property
    def edge_nodes(self) -> EdgeNodes:
        """The workers that share tiles."""
        return self._assumed.edge_nodes(self.pipeline.spec)

    def apply(self, plan: Plan, *, edge_workers: int | None = None) -> tuple[Change, ...]:
        """Makes the cluster serve a plan, without remembering it as decided.

        Args:
            plan: The plan.
            edge_workers: How many share its tiles; None for all that there are.
        """
        live = self._cluster.objects
        wanted = render(
            self.pipeline,
            self._graph,
            plan,
            live_descriptors(live),
            self._release,
            edge_workers=edge_workers or len(self.edge_nodes.speeds),
        )
        steps = changes(wanted, live)
        self._cluster.apply(steps)
        return steps


def with_algorithm(pipeline: InferencePipeline, algorithm: str | None) -> InferencePipeline:
    """The pipeline with another planning algorithm; the same where none is given."""
    if algorithm is None:
        return pipeline
    planning = {**msgspec.to_builtins(pipeline.spec.planning), "algorithm": algorithm}
    spec = {**msgspec.to_builtins(pipeline.spec), "planning": planning}
    return msgspec.convert({**msgspec.to_builtins(pipeline), "spec": spec}, InferencePipeline)


def with_edge_workers(pipeline: InferencePipeline, workers: int) -> InferencePipeline:
    """The pipeline with tiling by exactly so many workers allowed at the edge."""
    tiling = Tiling(max_workers=workers)
    tiers = tuple(
        msgspec.structs.replace(tier, tiling=tiling) if tier.name is Tier.EDGE else tier for tier in pipeline.spec.tiers
    )
    return msgspec.structs.replace(pipeline, spec=msgspec.structs.replace(pipeline.spec, tiers=tiers))
