"""Which nodes each tier has, and what their labels say of machines and links until these have been measured.

Pure: the nodes come from a list of the API server, as plain manifests. Labels that are read, all optional:

- `tierflow.dev/speed`: the node's speed as a multiple of the reference machine (`"0.5"`), or a class of
  `tierflow.profile.SPEEDS` (`phone`);
- `tierflow.dev/link-edge`, `tierflow.dev/link-cloud`: the path from this node to that tier, bandwidth and round trip
  with `_` between (`84Mbit_3ms`, as a label holds no `:` nor `/`), or a name of
  `tierflow.network.NETWORKS` (`4g`). Between the edge's own nodes it is `tierflow.dev/link-edge` as well.

A label that can't be read is left out and reported, since a typing error on one node must not stop a pipeline.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any, Final

from tierflow.errors import InvalidInputError
from tierflow.manifest import InferencePipeline, Toleration
from tierflow.manifest_values import assumed_network, assumed_speeds
from tierflow.network import NETWORKS, Link
from tierflow.segment import closest
from tierflow.speeds import parse_speed
from tierflow.tiers import TIERS, Tier
from tierflow.units import parse_bandwidth, parse_duration
from tierflow_operator.observation import (
    LINKS,
    Observation,
    ObservedLink,
    ObservedSpeed,
    Source,
    TierLink,
    assumed,
)

SPEED_LABEL: Final = "tierflow.dev/speed"
LINK_LABELS: Final[Mapping[Tier, str]] = {
    Tier.EDGE: "tierflow.dev/link-edge",
    Tier.CLOUD: "tierflow.dev/link-cloud",
}
"""By the tier that the link leads to."""

Node = Mapping[str, Any]
"""A Kubernetes Node, as its manifest reads."""

_REPELLING: Final = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class NodesSeen:
    """The nodes of a pipeline's tiers, and what their labels say.

    Attributes:
        names: The ready, schedulable nodes of each tier, sorted.
        speeds: By node, of those whose label says one.
        tier_speeds: The median of a tier's labelled nodes; a tier without any is left out.
        links: The median of what a lower tier's labels say; links that none describes are left out.
        edge_link: Between the edge's nodes; None where no label says it.
        problems: Labels that could not be read, one sentence each.
    """

    names: Mapping[Tier, tuple[str, ...]]
    speeds: Mapping[str, float]
    tier_speeds: Mapping[Tier, float]
    links: Mapping[TierLink, Link]
    edge_link: Link | None = None
    problems: tuple[str, ...] = ()

    @property
    def ready_nodes(self) -> dict[Tier, int]:
        """How many nodes each tier has."""
        return {tier: len(self.names[tier]) for tier in TIERS}

    @property
    def edge_speeds(self) -> tuple[float, ...]:
        """Of the edge's nodes relative to their tier's, the fastest first; () where all are alike.

        Where its own worker runs is the scheduler's choice; the planner's figures are those of the tier's median.
        """
        of_tier = self.tier_speeds.get(Tier.EDGE)
        if of_tier is None:
            return ()
        relative = sorted((self.speeds.get(name, of_tier) / of_tier for name in self.names[Tier.EDGE]), reverse=True)
        if not relative or relative[0] == relative[-1]:
            return ()
        # The edge's own worker stands first and is the tier's measure; the others follow, as far as there are some.
        relative.remove(min(relative, key=lambda speed: abs(speed - 1.0)))
        return (1.0, *relative)


def observe_nodes(pipeline: InferencePipeline, nodes: Iterable[Node]) -> NodesSeen:
    """The nodes that each tier of `pipeline` can use now: those selected, ready, schedulable and tolerated."""
    reading = _Labels()
    names: dict[Tier, tuple[str, ...]] = {}
    speeds: dict[str, float] = {}
    tier_speeds: dict[Tier, float] = {}
    told: dict[TierLink, list[Link]] = {}
    usable = sorted((node for node in nodes if _is_ready(node)), key=_name)
    for tier in TIERS:
        spec = pipeline.spec.tier(tier)
        members = [node for node in usable if _is_selected(node, spec.selector) and _accepts(node, spec.tolerations)]
        names[tier] = tuple(map(_name, members))
        own = {_name(node): speed for node in members if (speed := reading.speed(node)) is not None}
        if own:
            tier_speeds[tier] = median_low(own.values())
        speeds.update(own)
        for upper in LINK_LABELS if tier is not Tier.CLOUD else ():
            links = [link for node in members if (link := reading.link(node, upper)) is not None]
            if links:
                told[(tier, upper)] = links
    typical = {between: _median(links) for between, links in told.items()}
    return NodesSeen(
        names=names,
        speeds=speeds,
        tier_speeds=tier_speeds,
        links={between: link for between, link in typical.items() if between in LINKS},
        edge_link=typical.get((Tier.EDGE, Tier.EDGE)),
        problems=tuple(dict.fromkeys(reading.problems)),
    )


def assumed_observation(pipeline: InferencePipeline, seen: NodesSeen) -> Observation:
    """What to go by before anything was measured: the manifest's annotations, else node labels, else defaults.

    Raises:
        InvalidManifestError: where an annotation can't be read.
    """
    base = assumed(pipeline, seen.ready_nodes)
    links, speeds = dict(base.links), dict(base.speeds)
    if assumed_network(pipeline) is None and seen.links:
        # The direct link's default belongs to the other defaults; without it, it is the path through the edge.
        links.pop((Tier.DEVICE, Tier.CLOUD))
        links.update({between: ObservedLink(link, Source.NODE_LABELS) for between, link in seen.links.items()})
    if assumed_speeds(pipeline) is None:
        speeds.update({tier: ObservedSpeed(speed, Source.NODE_LABELS) for tier, speed in seen.tier_speeds.items()})
    return replace(
        base,
        links=links,
        speeds=speeds,
        edge_speeds=seen.edge_speeds,
        edge_link=seen.edge_link or base.edge_link,
    )


class _Labels:
    """Reads the labels of nodes, and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def speed(self, node: Node) -> float | None:
        """The node's speed; None where no label says one."""
        text = _labels(node).get(SPEED_LABEL)
        if text is None:
            return None
        try:
            return parse_speed(text, field=_field(node, SPEED_LABEL))
        except InvalidInputError as error:
            self.problems.append(error.message)
            return None

    def link(self, node: Node, upper: Tier) -> Link | None:
        """The path from the node to the tier `upper`; None where no label says one."""
        label = LINK_LABELS[upper]
        text = _labels(node).get(label)
        if text is None:
            return None
        try:
            return _link(text, upper, field=_field(node, label))
        except InvalidInputError as error:
            self.problems.append(error.message)
            return None


def _link(text: str, upper: Tier, *, field: str) -> Link:
    if text in NETWORKS:
        network = NETWORKS[text]
        return network.device_edge if upper is Tier.EDGE else network.edge_cloud
    bandwidth, _, round_trip = text.partition("_")
    try:
        return Link(
            bytes_per_second=parse_bandwidth(bandwidth, field=field),
            round_trip_seconds=parse_duration(round_trip or "0ms", field=field),
        )
    except InvalidInputError as error:
        hint = closest(text, NETWORKS)
        raise InvalidInputError(
            f"{field}: {text!r} is no link{hint}; write it like 84Mbit_3ms, or one of {', '.join(NETWORKS)}",
            subject=field,
        ) from error


def _field(node: Node, label: str) -> str:
    return f"label {label} of node {_name(node)}"


def _median(links: list[Link]) -> Link:
    return Link(
        bytes_per_second=median_low(link.bytes_per_second for link in links),
        round_trip_seconds=median_low(link.round_trip_seconds for link in links),
    )


def _name(node: Node) -> str:
    return str(node["metadata"]["name"])


def _labels(node: Node) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _is_ready(node: Node) -> bool:
    """Whether the node takes pods at all: its kubelet answers, and nobody cordons or removes it."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    is_up = any(entry.get("type") == "Ready" and entry.get("status") == "True" for entry in conditions)
    leaves = bool(node["metadata"].get("deletionTimestamp"))
    return is_up and not leaves and not _spec(node).get("unschedulable")


def _spec(node: Node) -> Mapping[str, Any]:
    return node.get("spec") or {}


def _is_selected(node: Node, selector: Mapping[str, str]) -> bool:
    labels = _labels(node)
    return all(labels.get(key) == value for key, value in selector.items())


def _accepts(node: Node, tolerations: tuple[Toleration, ...]) -> bool:
    """Whether a pod with these tolerations may be placed on the node and stay there."""
    taints = [taint for taint in _spec(node).get("taints") or () if taint.get("effect") in _REPELLING]
    return all(any(_tolerates(toleration, taint) for toleration in tolerations) for taint in taints)


def _tolerates(toleration: Toleration, taint: Mapping[str, str]) -> bool:
    """By Kubernetes' rules, but for a toleration with an end: its pods are evicted, so nothing is planned on them."""
    if toleration.effect not in ("", taint["effect"]):
        return False
    if taint["effect"] == "NoExecute" and toleration.toleration_seconds is not None:
        return False
    if toleration.operator == "Exists":
        return toleration.key in ("", taint.get("key", ""))
    return toleration.key == taint.get("key", "") and toleration.value == (taint.get("value") or "")
