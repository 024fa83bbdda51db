"""What `tierflow run` shows of a pipeline: served by its plan, by each tier alone, and through a link that gets worse.

Nothing is printed here: a `Listener` is told, and the results are values.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from tierflow.errors import InvalidManifestError
from tierflow.graph import Graph
from tierflow.manifest_values import constraints_of
from tierflow.network import Link
from tierflow.plan import Plan, difference
from tierflow.profile import Profile
from tierflow.tiers import TIERS, Tier
from tierflow_local.client import PipelineClient
from tierflow_local.cluster import LocalCluster, RunningWorker
from tierflow_local.links import Traffic
from tierflow_local.load import Answers, Load, ask
from tierflow_local.reconcile import LocalPipeline
from tierflow_local.scrape import Measurements, scrape
from tierflow_local.shared_edge import SharedEdge, predicted_edge_seconds
from tierflow_local.worsening import Worsening
from tierflow_operator.decide import Decision, Move
from tierflow_operator.diff import tier_of
from tierflow_operator.manual import broken_constraints, plan_for
from tierflow_operator.observation import LINKS, Observation, TierLink

_WARM_UP: Final = 2
_ALONE_SECONDS: Final = 2.0
"""A tier that is much slower than the plan is asked less often."""
_PROBE_SECONDS: Final = 5.0
_LINKS_SECONDS: Final = 10.0
_DECIDE_SECONDS: Final = 30.0
_NOTICED: Final = 1.25
"""A link whose measured bandwidth is within this factor of the true one has been noticed to have changed."""
_TICK_SECONDS: Final = 0.2
_AFTER_REQUESTS: Final = 5
_SETTLED_REQUESTS: Final = 6
_SHARED_REQUESTS: Final = 10
_SHARED_SECONDS: Final = 4.0
_SHARED_WARM_UP: Final = 4
"""Tiles are sized by what the first requests show of each worker's speed."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A plan, and what became of requests under it.

    Attributes:
        name: `plan`; `device-only`, `edge-only`, `cloud-only`; or `new plan`, after a link got worse.
        plan: What was in force.
        answers: What became of the requests.
        traffic: Bytes per link in the same time, probes included.
        segments: Mean time of the segment of each tier that computes, in seconds.
        breaks: Names of the manifest's constraints that the plan breaks; it is there to compare with, then.
    """

    name: str
    plan: Plan
    answers: Answers
    traffic: Mapping[TierLink, Traffic]
    segments: Mapping[Tier, float]
    breaks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replanning:
    """What happened when a link got worse while requests ran.

    Attributes:
        link: Which.
        before: Its shape before.
        after: Its shape after.
        decision: What was decided last: the move, or why the plan held.
        noticed: Whether the workers measured that the link had changed.
        decided_seconds: From the change of the link to the decision.
        rollout_seconds: Until the new plan was in force; 0 where the plan held.
        answers: What became of all requests meanwhile.
        settled: The new plan, measured without other requests; None where the plan held.
        workers: Before and after, by tier.
        wanted: The tiers whose Deployments were written.
        affected: The tiers that differ between the two plans; a worker of any other must not change.
    """

    link: TierLink
    before: Link
    after: Link
    decision: Decision
    noticed: bool
    decided_seconds: float
    rollout_seconds: float
    answers: Answers
    settled: Measurement | None
    workers: Mapping[Tier, tuple[RunningWorker, RunningWorker]]
    wanted: frozenset[Tier]
    affected: frozenset[Tier]

    @property
    def changed(self) -> frozenset[Tier]:
        """The tiers whose workers are others now."""
        return frozenset(tier for tier, (before, after) in self.workers.items() if before != after)


@dataclass(slots=True)
class Results:
    """All that was found out.

    Attributes:
        measurements: The plan's first.
        replanning: None where no link was to get worse.
        seconds: How long each phase took.
        shared_edge: The plan with all edge workers, with one fewer, and so on; () where none share anything.
    """

    measurements: list[Measurement] = field(default_factory=list)
    replanning: Replanning | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    shared_edge: tuple[SharedEdge, ...] = ()


class Listener(Protocol):
    """Who wants to know how it goes."""

    def began(self, what: str) -> None:
        """A phase begins."""

    def planned(self, plan: Plan) -> None:
        """The first plan is there."""

    def measured(self, measurement: Measurement) -> None:
        """A plan was measured."""

    def shared(self, found: SharedEdge) -> None:
        """A plan was measured with so many edge workers."""

    def replanned(self, replanning: Replanning) -> None:
        """A link got worse, and what came of it."""


class Scenario:
    """Runs one pipeline through its paces.

    Args:
        local: The pipeline in its cluster; nothing runs yet.
        cluster: The same cluster.
        graph: The model's graph.
        profile: Its layer times.
        assumed: The links and speeds that the cluster emulates.
        listener: Is told.
    """

    def __init__(
        self,
        local: LocalPipeline,
        cluster: LocalCluster,
        graph: Graph,
        profile: Profile,
        assumed: Observation,
        listener: Listener,
    ) -> None:
        self.results = Results()
        self._local = local
        self._cluster = cluster
        self._graph = graph
        self._profile = profile
        self._assumed = assumed
        self._listener = listener

    def start(self) -> Plan:
        """Decides the first plan and puts it in force.

        Raises:
            TierflowError: where no plan meets the constraints, or a worker doesn't get ready.
        """
        with self._phase("planning"):
            decision = self._local.decide()
        if not isinstance(decision, Move):
            raise InvalidManifestError(
                "spec.planning.mode: a paused pipeline has no plan to run; set `mode: Auto`",
                subject="spec.planning.mode",
            )
        self._listener.planned(decision.plan)
        with self._phase("starting the workers"):
            self._local.move(decision)
            if decision.plan.tiling:
                others = len(self._local.edge_nodes.speeds) - 1
                self._until(lambda: self._scrape().tile_workers == others, _PROBE_SECONDS)
        return decision.plan

    def measure_plan(self, client: PipelineClient, plan: Plan, requests: int) -> Measurement:
        """Measures the plan in force."""
        with self._phase("classifying"):
            return self._measure("plan", client, plan, requests)

    def measure_shared_edge(self, client: PipelineClient, plan: Plan) -> None:
        """Measures the edge with all of its workers, with one fewer, and so on until there is only its own.

        Nothing is done where the plan has no tiles.

        Raises:
            TierflowError: where a worker doesn't get ready.
        """
        nodes = self._local.edge_nodes
        if not plan.tiling:
            return
        with self._phase("sharing the edge"):
            for workers in range(len(nodes.speeds), 0, -1):
                self._local.apply(plan, edge_workers=workers)
                found = self._shared_edge(client, plan, workers)
                self.results.shared_edge += (found,)
                self._listener.shared(found)

    def measure_alone(self, client: PipelineClient, plan: Plan, requests: int) -> None:
        """Measures each tier alone, through the same workers, and puts `plan` in force again.

        Raises:
            TierflowError: where a worker doesn't get ready.
        """
        with self._phase("comparing with single tiers"):
            for tier in TIERS:
                tiers = (tier,) * len(self._graph.layers)
                alone = self._plan_for(tiers)
                self._local.apply(alone)
                rules = constraints_of(self._local.pipeline.spec)
                breaks = tuple(name for name, _ in broken_constraints(self._graph, tiers, rules))
                self._measure(f"{tier}-only", client, alone, requests, most_seconds=_ALONE_SECONDS, breaks=breaks)
            self._local.apply(plan)

    def worsen(self, clients: Sequence[PipelineClient], worsening: Worsening) -> None:
        """Worsens a link while requests run, and lets the pipeline plan again by what its workers measure.

        Raises:
            TierflowError: where a worker doesn't get ready.
        """
        link, shape = worsening
        with self._phase("worsening a link"):
            workers, present = self._cluster.workers, self._local.present
            # A change shows only against what was measured, and links that no request uses are measured at rest.
            self._until(lambda: self._local.observe().metrics.available, _LINKS_SECONDS)
            with Load(clients) as load:
                self._until(lambda: load.answers.sent >= _WARM_UP * len(clients), _DECIDE_SECONDS)
                began = time.perf_counter()
                self._cluster.set_link(link, shape)
                decision, noticed = self._decide_on(link, shape)
                decided = time.perf_counter()
                steps = self._local.move(decision) if isinstance(decision, Move) else ()
                moved = time.perf_counter()
                enough = load.answers.sent + _AFTER_REQUESTS * len(clients)
                self._until(lambda: load.answers.sent >= enough, _DECIDE_SECONDS)
            settled = None
            if isinstance(decision, Move):
                settled = self._measure("new plan", clients[0], decision.plan, _SETTLED_REQUESTS)
        changes = difference(present.plan, decision.plan) if present and isinstance(decision, Move) else ()
        self.results.replanning = Replanning(
            link=link,
            before=self._assumed.links[link].link,
            after=shape,
            decision=decision,
            noticed=noticed,
            decided_seconds=decided - began,
            rollout_seconds=moved - decided,
            answers=load.answers,
            settled=settled,
            workers={tier: (workers[tier], self._cluster.workers[tier]) for tier in TIERS},
            wanted=frozenset(
                tier for step in steps if step.key[0] == "Deployment" and (tier := tier_of(step.manifest))
            ),
            affected=frozenset(change.tier for change in changes),
        )
        self._listener.replanned(self.results.replanning)

    def _plan_for(self, tiers: tuple[Tier, ...]) -> Plan:
        return plan_for(
            self._graph,
            self._profile,
            self._assumed.network,
            self._assumed.tier_speeds,
            tiers,
            nodes=self._local.edge_nodes,
        )

    def _shared_edge(self, client: PipelineClient, plan: Plan, workers: int) -> SharedEdge:
        self._until(lambda: self._scrape().tile_workers == workers - 1, _PROBE_SECONDS)
        first = ask(client, _SHARED_WARM_UP)
        before = self._scrape()
        answers = ask(client, _SHARED_REQUESTS, most_seconds=_SHARED_SECONDS)
        seconds = self._scrape().segment_seconds(Tier.EDGE, plan.segment(Tier.EDGE).id, before)
        predicted = predicted_edge_seconds(self._graph, self._profile, plan, self._local.edge_nodes, workers)
        return SharedEdge(
            workers=workers,
            found=before.tile_workers + 1,
            predicted_seconds=predicted,
            seconds=math.nan if seconds is None else seconds,
            answers=Answers((*first.all, *answers.all)),
        )

    def _measure(
        self,
        name: str,
        client: PipelineClient,
        plan: Plan,
        requests: int,
        *,
        most_seconds: float = float("inf"),
        breaks: tuple[str, ...] = (),
    ) -> Measurement:
        first = ask(client, _WARM_UP)
        before = self._scrape()
        bytes_before = {link: self._cluster.traffic(link) for link in LINKS}
        answers = ask(client, requests, most_seconds=most_seconds)
        traffic = {link: self._cluster.traffic(link).since(seen) for link, seen in bytes_before.items()}
        after = self._scrape()
        segments = {
            part.tier: seconds
            for part in plan.segments
            if part.layers and (seconds := after.segment_seconds(part.tier, part.id, before)) is not None
        }
        unanswered = (*first.lost, *first.wrong)
        found = Measurement(name, plan, Answers((*unanswered, *answers.all)), traffic, segments, breaks)
        self.results.measurements.append(found)
        self._listener.measured(found)
        return found

    def _scrape(self) -> Measurements:
        return scrape(self._cluster.workers.values(), now=time.time(), max_staleness_seconds=60.0)

    def _decide_on(self, link: TierLink, shape: Link) -> tuple[Decision, bool]:
        """Waits until the workers have measured the change, then decides until the plan moves or holds for good.

        Returns:
            The last decision, and whether the change was noticed.
        """
        noticed = self._until(lambda: self._has_noticed(link, shape), _DECIDE_SECONDS)
        deadline = time.perf_counter() + _PROBE_SECONDS
        while True:
            decision = self._local.decide()
            if isinstance(decision, Move) or not noticed:
                return decision, noticed
            if decision.again_after is None and time.perf_counter() > deadline:
                return decision, noticed
            time.sleep(_TICK_SECONDS)

    def _has_noticed(self, link: TierLink, shape: Link) -> bool:
        seen = self._local.observe().links[link].link
        return 1 / _NOTICED < seen.bytes_per_second / shape.bytes_per_second < _NOTICED

    def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Waits until the condition holds; False where that took too long."""
        deadline = time.perf_counter() + seconds
        while not holds():
            if time.perf_counter() > deadline:
                return False
            time.sleep(_TICK_SECONDS)
        return True

    @contextmanager
    def _phase(self, what: str) -> Iterator[None]:
        self._listener.began(what)
        began = time.perf_counter()
        yield
        self.results.seconds[what] = time.perf_counter() - began
