"""Profiles: the time that each layer takes on a tier, and what a segment's borders add.

Values and their scaling live here, and the estimate for a machine that was never measured (`tierflow.estimate`).
Measuring is the worker's (`tierflow_worker.profiling`), since the core runs no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph
from tierflow.network import Link, Network
from tierflow.partition.problem import Array, Costs, CrossingCost
from tierflow.tiers import TIERS, Tier


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What the layers of one graph cost on one machine, in seconds.

    A runtime keeps some tensors to itself: those inside a fused operator never exist, and others have a memory layout
    of its own. A segment that starts or ends at such a *native* tensor pays for it, and so may the layers that follow:
    `torn`, `enters` and `leaves` say how much, `tierflow.segment_time` adds it up.

    Attributes:
        model: The model's identity, as `tierflow.model.Model.identity`.
        source: `measured` or `estimated`.
        machine: What the figures belong to, for people.
        layers: By layer name; the time of a layer that the runtime fuses into another is that other's.
        crossings: By tensor name: what two segments of an otherwise whole model pay more when they are cut at this
            tensor alone, both sides together, `leaves` being the lower side's part. Tensors left out cost nothing more.
        segment: Once per segment that has layers.
        torn: By layer name: the time of a layer that reads native tensors, when it can't read them natively.
        enters: By native tensor: bringing it into the runtime's layout again, for layers that need that and aren't
            in `torn`.
        leaves: By native tensor, all of them: making it an ordinary one.
    """

    model: str
    source: str
    machine: str
    layers: dict[str, float]
    crossings: dict[str, float] = {}
    segment: float = 0.0
    torn: dict[str, float] = {}
    enters: dict[str, float] = {}
    leaves: dict[str, float] = {}

    def scaled(self, speed: float) -> "Profile":
        """The profile of a machine that is `speed` times as fast.

        Raises:
            InvalidInputError: where `speed` is not positive.
        """
        if not speed > 0:
            raise InvalidInputError(f"a tier's speed must be positive, not {speed}", subject="speed")
        return msgspec.structs.replace(
            self,
            machine=f"{self.machine} x {speed:g}",
            layers=_divided(self.layers, speed),
            crossings=_divided(self.crossings, speed),
            segment=self.segment / speed,
            torn=_divided(self.torn, speed),
            enters=_divided(self.enters, speed),
            leaves=_divided(self.leaves, speed),
        )


def encode(profile: Profile) -> bytes:
    """The profile as JSON."""
    return msgspec.json.encode(profile)


def decode(data: bytes) -> Profile:
    """The profile that `encode` wrote.

    Raises:
        InvalidInputError: where the data is none.
    """
    try:
        return msgspec.json.decode(data, type=Profile)
    except msgspec.DecodeError as error:
        raise InvalidInputError(
            f"no profile: {error}; measure again with `tierflow profile`", subject="profile"
        ) from error


def _divided(seconds: Mapping[str, float], speed: float) -> dict[str, float]:
    return {name: value / speed for name, value in seconds.items()}


SPEEDS: Final[Mapping[str, float]] = {
    "microboard": 0.02, "board": 0.05, "phone": 0.15, "laptop": 0.5, "desktop": 0.8, "server": 1.0, "accelerator": 8.0,
}  # fmt: skip
"""Nominal classes of machines by name, as multiples of the reference machine (one core of a current x86-64 server).
They are figures to start planning with, not measurements of products."""


def costs_of(graph: Graph, profiles: Mapping[Tier, Profile], network: Network) -> Costs:
    """The planner's costs from one profile per tier and the network.

    Raises:
        InvalidInputError: where a profile lacks a layer of the graph.
    """
    for tier, profile in profiles.items():
        check_covers(graph, profile, whose=f"the profile of {tier}")
    names = [layer.name for layer in graph.layers]
    seconds: Array = np.array([[profiles[tier].layers[name] for name in names] for tier in TIERS], dtype=np.float64)
    sizes: Array = np.array([tensor.size for tensor in graph.tensors.values()], dtype=np.float64)
    borders = {tier: _Borders.of(graph, profiles[tier]) for tier in TIERS}

    def crossing(lower: Tier, upper: Tier, link: Link) -> CrossingCost:
        back = [graph.tensors[name].size if name in graph.tensors else 0 for name in graph.outputs]
        return CrossingCost(
            fixed=link.round_trip_seconds + profiles[upper].segment,
            tensor=sizes / link.bytes_per_second + (borders[lower].leaves + borders[upper].follows),
            result=np.array(back, dtype=np.float64) / link.bytes_per_second,
        )

    return Costs(
        layer=seconds.reshape(len(TIERS), len(graph.layers)),
        device_edge=crossing(Tier.DEVICE, Tier.EDGE, network.device_edge),
        edge_cloud=crossing(Tier.EDGE, Tier.CLOUD, network.edge_cloud),
        device_cloud=crossing(Tier.DEVICE, Tier.CLOUD, network.device_cloud),
    )


@dataclass(frozen=True, slots=True)
class _Borders:
    """What it costs a tier that the model is cut at a tensor. Shape [tensors] each, in seconds.

    Attributes:
        leaves: Where it is the last tensor of the tier's segment.
        follows: Where the tier's segment starts from it.
    """

    leaves: Array
    follows: Array

    @classmethod
    def of(cls, graph: Graph, profile: Profile) -> "_Borders":
        leaves: Array = np.array([profile.leaves.get(name, 0.0) for name in graph.tensors], dtype=np.float64)
        both: Array = np.array([profile.crossings.get(name, 0.0) for name in graph.tensors], dtype=np.float64)
        # Measured apart from each other, a loss in all can come out smaller than one side's part of it.
        return cls(leaves, np.maximum(both - leaves, 0.0))


def check_covers(graph: Graph, profile: Profile, *, whose: str = "the profile") -> None:
    """Checks that `profile` has a time for each layer of `graph`.

    Raises:
        InvalidInputError: naming the first layer without one.
    """
    if graph.place.keys() <= profile.layers.keys():
        return
    for layer in graph.layers:
        if layer.name not in profile.layers:
            raise InvalidInputError(
                f"{whose} has no time for layer {layer.name}; it belongs to another model: "
                "measure again with `tierflow profile`",
                subject=layer.name,
            )
