"""Which tiers the pins and the unavailable tiers leave to each layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierflow.errors import InfeasibleError, InvalidInputError
from tierflow.graph import Graph
from tierflow.partition.latency import Ranks
from tierflow.partition.problem import Constraints, Pin
from tierflow.segment import Route, closest
from tierflow.tiers import Tier


@dataclass(frozen=True, slots=True)
class Allowed:
    """What pins and unavailable tiers leave.

    Attributes:
        lowest: Shape [layers]: the lowest rank of each layer; grows along the data's flow.
        highest: Shape [layers]: the highest rank of each layer; grows along the data's flow.
        routes: The routes that are open, and the ranks that each can use.
    """

    lowest: Ranks
    highest: Ranks
    routes: tuple[tuple[Route, tuple[int, ...]], ...]

    def pinned(self, rank: int) -> "Pinned":
        """What must be below, and what above, the boundary to the tier of `rank`."""
        return Pinned(below=self.highest < rank, above=self.lowest >= rank)


@dataclass(frozen=True, slots=True)
class Pinned:
    """Shape [layers] each: which must be below a boundary, and which above; with all before, and all after them."""

    below: NDArray[np.bool_]
    above: NDArray[np.bool_]


def allowed(graph: Graph, constraints: Constraints) -> Allowed:
    """Works out what the constraints, budgets aside, leave. An unavailable edge relays nothing either.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or the device is said to be unavailable.
        InfeasibleError: where two pins, a pin and an unavailable tier, or anything and a kept tier, conflict.
    """
    if Tier.DEVICE in constraints.unavailable:
        raise InvalidInputError("the device can't be unavailable: requests enter there", subject="tiers[device]")
    closures = [_up_to(graph, pin) for pin in constraints.pins]
    _check_conflicts(graph, constraints, closures)
    lowest = np.zeros(len(graph.layers), dtype=np.int8)
    highest = np.full(len(graph.layers), Tier.CLOUD.rank, dtype=np.int8)
    for pin, layers in zip(constraints.pins, closures, strict=True):
        lowest[layers] = highest[layers] = pin.tier.rank
    if lowest.any():
        _raise_along_flow(graph, lowest)
    _keep(constraints, lowest, highest)
    return Allowed(lowest, highest, _routes(constraints))


def constraint_name(pin: Pin) -> str:
    """How a pin is named among conflicting constraints."""
    return f"planning.pins[{pin.name}]"


def _up_to(graph: Graph, pin: Pin) -> list[int]:
    """The places of the pinned layers: the one that is named and all that it depends on."""
    if pin.layers_up_to not in graph.place:
        raise InvalidInputError(
            f"{constraint_name(pin)}: {graph.name} has no layer {pin.layers_up_to!r}"
            f"{closest(pin.layers_up_to, graph.place)}; `tierflow plan MODEL --layers` lists them",
            subject=constraint_name(pin),
        )
    found = {graph.place[pin.layers_up_to]}
    waiting = list(found)
    while waiting:
        for name in graph.layers[waiting.pop()].inputs:
            before = graph.producer.get(name)
            if before is not None and before not in found:
                found.add(before)
                waiting.append(before)
    return sorted(found)


def _check_conflicts(graph: Graph, constraints: Constraints, closures: Sequence[Sequence[int]]) -> None:
    for number, pin in enumerate(constraints.pins):
        if pin.tier in constraints.unavailable:
            raise InfeasibleError(
                f"{constraint_name(pin)} wants layers on {pin.tier}, but tiers[{pin.tier}] has no node for them; "
                "drop the pin or add a node",
                constraints=(constraint_name(pin), f"tiers[{pin.tier}]"),
            )
        for other in range(number):
            rival = constraints.pins[other]
            shared = set(closures[number]).intersection(closures[other])
            if shared and rival.tier is not pin.tier:
                layer = graph.layers[min(shared)].name
                raise InfeasibleError(
                    f"{constraint_name(rival)} wants layer {layer} on {rival.tier}, {constraint_name(pin)} wants it "
                    f"on {pin.tier}: a pin includes all that its layer depends on; drop one of them",
                    constraints=(constraint_name(rival), constraint_name(pin)),
                )


def _keep(constraints: Constraints, lowest: Ranks, highest: Ranks) -> None:
    """Narrows what is allowed to the kept tiers' layers.

    Raises:
        InvalidInputError: where the edge is to be kept.
        InfeasibleError: where a pin or an unavailable tier stands in the way.
    """
    for tier, layers in constraints.kept.items():
        is_own = np.zeros(len(lowest), dtype=np.bool_)
        is_own[list(layers)] = True
        if tier is Tier.DEVICE:
            highest[is_own] = Tier.DEVICE.rank
            lowest[~is_own] = np.maximum(lowest[~is_own], Tier.EDGE.rank)
        elif tier is Tier.CLOUD:
            lowest[is_own] = Tier.CLOUD.rank
            highest[~is_own] = np.minimum(highest[~is_own], Tier.EDGE.rank)
        else:
            raise InvalidInputError(f"the layers of {tier} can't be kept: they lie between two tiers", subject="kept")
        if (lowest > highest).any() or constraints.unavailable & _needed_to_keep(tier, layers):
            raise InfeasibleError(
                f"{tier} can't keep its layers: a pin or an unavailable tier stands in the way",
                constraints=(f"kept[{tier}]",),
            )


def _needed_to_keep(tier: Tier, layers: frozenset[int]) -> frozenset[Tier]:
    """The tiers that a plan in which `tier` keeps its layers can't do without."""
    if tier is Tier.DEVICE:
        return frozenset({Tier.EDGE})
    return frozenset({tier}) if layers else frozenset()


def _raise_along_flow(graph: Graph, lowest: Ranks) -> None:
    """No layer is below one that it depends on."""
    for place, layer in enumerate(graph.layers):
        for name in layer.inputs:
            before = graph.producer.get(name)
            if before is not None and lowest[before] > lowest[place]:
                lowest[place] = lowest[before]


def _routes(constraints: Constraints) -> tuple[tuple[Route, tuple[int, ...]], ...]:
    pinned = {pin.tier for pin in constraints.pins}
    pinned.update(*(_needed_to_keep(tier, layers) for tier, layers in constraints.kept.items()))
    edge = Tier.EDGE not in constraints.unavailable
    cloud = Tier.CLOUD not in constraints.unavailable
    routes: list[tuple[Route, tuple[int, ...]]] = []
    if edge or Tier.CLOUD not in pinned:
        routes.append((Route.RELAYED, (0, 1, 2) if edge and cloud else (0, 1) if edge else (0,)))
    if cloud and Tier.EDGE not in pinned:
        routes.append((Route.DIRECT, (0, 2)))
    return tuple(routes)
