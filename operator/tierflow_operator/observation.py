"""What is known of the world when a plan is decided, each figure with where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from tierflow.manifest import InferencePipeline, PipelineSpec
from tierflow.manifest_values import assumed_network, assumed_speeds, workers_sharing_tiles
from tierflow.network import NETWORKS, Link, Network, network_of
from tierflow.speeds import DEFAULT_SPEEDS, parse_speeds
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EDGE_NETWORK, EdgeNodes

DEFAULT_NETWORK = "wifi"
"""The name of the network that is assumed where nobody says anything."""

TierLink = tuple[Tier, Tier]
"""A link by its (lower, upper) tier."""

LINKS: tuple[TierLink, TierLink, TierLink] = (
    (Tier.DEVICE, Tier.EDGE),
    (Tier.EDGE, Tier.CLOUD),
    (Tier.DEVICE, Tier.CLOUD),
)


def link_name(link: TierLink) -> str:
    """A link as people write it: `edge-cloud`."""
    return f"{link[0]}-{link[1]}"


class Source(StrEnum):
    """Where a figure comes from."""

    MEASURED = "Measured"
    LAST_PLAN = "LastPlan"
    """Nobody measures it now: as when the plan in force was decided."""
    ASSUMED = "Assumed"
    """Said by the manifest's annotations or by a command's options."""
    NODE_LABELS = "NodeLabels"
    """Said by the labels of the tier's nodes."""
    DEFAULT = "Default"


@dataclass(frozen=True, slots=True)
class ObservedLink:
    """A link's figures."""

    link: Link
    source: Source


@dataclass(frozen=True, slots=True)
class ObservedSpeed:
    """A tier's speed, as a multiple of the profile's machine."""

    speed: float
    source: Source


class MetricsReason(StrEnum):
    """Why measurements are there, or are not; the reason of the condition MetricsAvailable."""

    MEASURED = "Measured"
    NOT_CONFIGURED = "NotConfigured"
    UNREACHABLE = "PrometheusUnreachable"
    NO_DATA = "NoData"
    """Prometheus answers, but knows nothing usable of this pipeline."""
    STALE = "StaleData"


@dataclass(frozen=True, slots=True)
class MetricsState:
    """Whether there are measurements to decide by.

    Attributes:
        available: Whether there are.
        reason: Why, in one word.
        message: The same for people, with the way out.
        age_seconds: Of the oldest measured link; None where nothing was measured.
        holds: Whether the plan in force stays for want of measurements: they should be there, aren't, and
            `spec.metrics.onUnavailable` is HoldPlan. What the user changes and what a lost node forces go on.
    """

    available: bool
    reason: MetricsReason
    message: str
    age_seconds: float | None = None
    holds: bool = False


DOWN_SECONDS: Final = 60.0
"""The round trip that a link is given while it is down: more than any plan saves, and less than drowns its figures."""

NOT_CONFIGURED: Final = MetricsState(
    available=False,
    reason=MetricsReason.NOT_CONFIGURED,
    message="no Prometheus is configured: plans are made from annotations, node labels and defaults; "
    "set spec.metrics.prometheus.url, or the operator's own setting",
)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a plan is decided from.

    Attributes:
        links: The three links by (lower, upper) tier. Without figures of its own, the direct link from device to cloud
            is left out: it is then the path through the edge.
        speeds: By tier.
        ready_nodes: Ready, schedulable nodes by tier.
        edge_speeds: Of the edge's nodes relative to their tier's, the first being that of the edge's own worker;
            nodes beyond them are as fast as the tier.
        edge_link: Between the edge's nodes.
        metrics: Whether there are measurements to decide by.
        unreachable: Tiers that no tier below reaches, by measurements that are fresh.
        down: Links on which the upper tier doesn't answer, though it is reached from elsewhere; in `links` they have a
            round trip of `DOWN_SECONDS`, so that no plan uses one where there is another way.
    """

    links: Mapping[TierLink, ObservedLink]
    speeds: Mapping[Tier, ObservedSpeed]
    ready_nodes: Mapping[Tier, int]
    edge_speeds: tuple[float, ...] = ()
    edge_link: Link = EDGE_NETWORK
    metrics: MetricsState = NOT_CONFIGURED
    unreachable: frozenset[Tier] = frozenset()
    down: frozenset[TierLink] = frozenset()

    def edge_nodes(self, spec: PipelineSpec) -> EdgeNodes:
        """The workers that share tiles: one per ready node of the edge, as far as `spec` allows it; at least one."""
        workers = max(1, workers_sharing_tiles(spec, self.ready_nodes.get(Tier.EDGE, 0)))
        return EdgeNodes(speeds=(*self.edge_speeds, *[1.0] * workers)[:workers], link=self.edge_link)

    @property
    def network(self) -> Network:
        """The links as the planner takes them."""
        direct = self.links.get((Tier.DEVICE, Tier.CLOUD))
        return network_of(
            self.links[(Tier.DEVICE, Tier.EDGE)].link,
            self.links[(Tier.EDGE, Tier.CLOUD)].link,
            None if direct is None else direct.link,
        )

    @property
    def tier_speeds(self) -> dict[Tier, float]:
        """The speeds as the planner takes them."""
        return {tier: self.speeds[tier].speed for tier in TIERS}

    @property
    def unavailable(self) -> frozenset[Tier]:
        """Tiers that can compute nothing, for want of a node or of a way to them.

        The device is always there: requests enter at it.
        """
        without_nodes = {tier for tier in (Tier.EDGE, Tier.CLOUD) if self.ready_nodes.get(tier, 0) == 0}
        return (self.unreachable | without_nodes) - {Tier.DEVICE}


def assumed(
    pipeline: InferencePipeline,
    ready_nodes: Mapping[Tier, int],
    *,
    network: Network | None = None,
    speeds: Mapping[Tier, float] | None = None,
) -> Observation:
    """What to assume before anything was measured: what is given here, else the manifest's annotations or defaults."""
    links = network or assumed_network(pipeline)
    tiers = speeds or assumed_speeds(pipeline)
    link_source = Source.DEFAULT if links is None else Source.ASSUMED
    speed_source = Source.DEFAULT if tiers is None else Source.ASSUMED
    known = links or NETWORKS[DEFAULT_NETWORK]
    known_speeds = tiers or parse_speeds(DEFAULT_SPEEDS)
    return Observation(
        links={link: ObservedLink(known.link(*link), link_source) for link in LINKS},
        speeds={tier: ObservedSpeed(known_speeds[tier], speed_source) for tier in TIERS},
        ready_nodes=dict(ready_nodes),
    )


def measured(
    observation: Observation, links: Mapping[TierLink, Link], speeds: Mapping[Tier, float] | None = None
) -> Observation:
    """The observation with measured figures in the place of assumed ones."""
    return replace(
        observation,
        links={**observation.links, **{link: ObservedLink(found, Source.MEASURED) for link, found in links.items()}},
        speeds={
            **observation.speeds,
            **{tier: ObservedSpeed(speed, Source.MEASURED) for tier, speed in (speeds or {}).items()},
        },
    )
