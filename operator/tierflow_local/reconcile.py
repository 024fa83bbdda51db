"""The reconcile of local mode: observe, decide, render, diff, apply, all but observing and applying the operator's."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import MismatchError, TierflowError
from tierflow.graph import Graph
from tierflow.manifest import InferencePipeline, Tiling
from tierflow.plan import Plan
from tierflow.profile import Profile
from tierflow.tiers import Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow_local.cluster import Judge, LocalCluster
from tierflow_local.gate import Gate
from tierflow_local.history import History
from tierflow_operator.decide import Decision, Move, Present, decide
from tierflow_operator.diff import Change, changes
from tierflow_operator.measurements import latency, observe
from tierflow_operator.observation import Observation
from tierflow_operator.pods import Release
from tierflow_operator.readings import Readings
from tierflow_operator.render import live_descriptors, render

_RETRY_SECONDS: Final = 60.0
"""A plan whose workers did not get ready may be tried again after that, though nothing else has changed."""


class LocalPipeline:
    """One pipeline in one local cluster.

    Args:
        pipeline: What the user wants.
        graph: The model's graph.
        profile: Its layer times on this machine.
        assumed: What to go by until it has been measured.
        cluster: Where it runs.
        gate: Compares new workers' answer with the whole model's.
        clock: What time it is, in seconds of the Unix epoch.
    """

    def __init__(
        self,
        pipeline: InferencePipeline,
        graph: Graph,
        profile: Profile,
        assumed: Observation,
        cluster: LocalCluster,
        gate: Gate,
        clock: Callable[[], float],
    ) -> None:
        self.pipeline = pipeline
        self.present: Present | None = None
        self._graph = graph
        self._profile = profile
        self._assumed = assumed
        self._cluster = cluster
        self._gate = gate
        self._history = History()
        self._clock = clock
        self._release = Release(addresses=cluster.addresses, tile_workers=cluster.tile_addresses)

    def observe(self) -> Observation:
        """What is known now: what the workers measure, read as the operator does, and the rest as assumed."""
        return self._observed(self._read())

    def decide(self) -> Decision:
        """Decides by what is known now.

        Raises:
            TierflowError: see `tierflow_operator.decide.decide`.
        """
        readings, present = self._read(), self.present
        measured = None if present is None else latency(readings, since=present.decided_at)
        observation, now = self._observed(readings), self._clock()
        decision = decide(self.pipeline.spec, self._graph, self._profile, observation, present, now, measured)
        if not isinstance(decision, Move):
            self.present = decision.present
        return decision

    def move(self, decision: Move) -> tuple[Change, ...]:
        """Puts a decided plan in force, once its workers have answered as the whole model does.

        Returns:
            What was done.

        Raises:
            MismatchError: where they answer otherwise; what was in force goes on, and that plan isn't tried again.
            TierflowError: where a worker doesn't get ready; what was in force goes on, and it is tried again later.
        """
        try:
            steps = self._apply(decision.plan, judge=self._judge)
        except TierflowError as error:
            if self.present is not None:
                again_after = None if isinstance(error, MismatchError) else _RETRY_SECONDS
                self.present = self.present.rejecting(decision.present, self._clock(), again_after=again_after)
                self.apply(self.present.plan)
            raise
        self.present = decision.present.taking_over(self._clock())
        # While workers leave, others say for a moment that they don't answer.
        self._history = History()
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
        return self._apply(plan, edge_workers=edge_workers)

    def _apply(self, plan: Plan, *, edge_workers: int | None = None, judge: Judge | None = None) -> tuple[Change, ...]:
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
        self._cluster.apply(steps, judge)
        return steps

    def _judge(self, workers: Mapping[Tier, tuple[WorkerDescriptor, str]]) -> None:
        self._gate.check(workers, self.pipeline.spec.rollout.progress_deadline_seconds)

    def _read(self) -> Readings:
        now = self._clock()
        self._history.scrape(self._cluster.workers.values(), now)
        return self._history.readings(now, self.pipeline.spec.metrics.max_staleness_seconds)

    def _observed(self, readings: Readings) -> Observation:
        plan = None if self.present is None else self.present.plan
        return observe(self._assumed, readings, plan=plan, spec=self.pipeline.spec, now=self._clock())


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
