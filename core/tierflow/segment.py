"""The segments of a partition: which tensors each tier accepts, sends on, and returns.

Values only; cutting a model's file into the models of its segments is `tierflow.model.extract`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph, Mask
from tierflow.tiers import TIERS, Tier
from tierflow.units import Bytes


class Route(StrEnum):
    """How tensors get from device to cloud: through the edge's worker, or directly where the edge computes nothing."""

    RELAYED = "relayed"
    DIRECT = "direct"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """What one tier does for a request.

    It is sent the tensors `accepts`, computes `layers` (places in the graph, ascending), sends the tensors `sends` to
    the next tier that takes part, and adds the graph outputs `results` to the answer on its way back. A tensor both in
    `accepts` and in `sends` is relayed. With no layers the segment relays all it accepts, or, when `accepts` is empty
    as well, takes no part. The device's segment accepts the graph's inputs and always takes part.
    """

    tier: Tier
    layers: tuple[int, ...] = ()
    accepts: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def takes_part(self) -> bool:
        """Whether requests reach this segment at all."""
        return bool(self.accepts) or bool(self.layers)


def check_monotone(graph: Graph, tiers: Sequence[Tier]) -> None:
    """Checks that `tiers` gives each layer a tier and that no tensor flows back towards the device.

    Raises:
        InvalidInputError: naming the first layer that breaks the order.
    """
    _monotone(graph, tiers)


def _monotone(graph: Graph, tiers: Sequence[Tier]) -> NDArray[np.int8]:
    """The ranks of tiers that are monotone; see `check_monotone`."""
    if len(tiers) != len(graph.layers):
        raise InvalidInputError(f"a partition of {graph.name} needs {len(graph.layers)} tiers, not {len(tiers)}")
    arrays, ranks = graph.incidence, _ranks(tiers)
    origin = arrays.producer[arrays.tensor_of_read]
    flows_back = (origin >= 0) & (ranks[origin] > ranks[arrays.reader]) if len(ranks) else origin >= 0
    if flows_back.any():
        place = int(arrays.reader[flows_back].min())
        layer = graph.layers[place]
        origins = {name: graph.producer[name] for name in layer.inputs if name in graph.producer}
        name, before = next((n, p) for n, p in origins.items() if ranks[p] > ranks[place])
        raise InvalidInputError(
            f"layer {layer.name} on {tiers[place]} reads {name} from {graph.layers[before].name} on "
            f"{tiers[before]}: data flows only from device to edge to cloud",
            subject=layer.name,
        )
    return ranks


def boundary_tensors(graph: Graph, tiers: Sequence[Tier], below: Tier) -> tuple[str, ...]:
    """The tensors that cross from tiers up to `below` to those above it, graph inputs first, then in layer order."""
    return _boundary(graph, _ranks(tiers) > below.rank)


def _boundary(graph: Graph, above: Mask) -> tuple[str, ...]:
    if not above.any():
        return ()
    arrays, names = graph.incidence, list(graph.tensors)
    numbers = np.flatnonzero(arrays.crossing(above))
    crossing = {names[number] for number in numbers.tolist()}
    born = [name for name in graph.inputs if name in crossing]
    makers = sorted({place for place in arrays.producer[numbers].tolist() if place >= 0})
    return tuple(born + [name for place in makers for name in graph.layers[place].outputs if name in crossing])


def _ranks(tiers: Sequence[Tier]) -> NDArray[np.int8]:
    rank = {tier: tier.rank for tier in TIERS}
    return np.array([rank[tier] for tier in tiers], dtype=np.int8)


def segments_of(graph: Graph, tiers: Sequence[Tier], route: Route = Route.RELAYED) -> tuple[Segment, Segment, Segment]:
    """The segments of device, edge and cloud under a partition.

    Args:
        graph: The whole graph.
        tiers: The tier of each layer, monotone along the data's flow.
        route: `DIRECT` leaves the edge out; it must have no layers then.

    Raises:
        InvalidInputError: where the partition is not monotone, or `DIRECT` is asked for with layers at the edge.
    """
    ranks = _monotone(graph, tiers)
    layers = {tier: tuple(np.flatnonzero(ranks == tier.rank).tolist()) for tier in TIERS}
    if route is Route.DIRECT and layers[Tier.EDGE]:
        first = graph.layers[layers[Tier.EDGE][0]].name
        raise InvalidInputError(f"the direct route leaves the edge out, but layer {first} is on it", subject=first)
    part = [Tier.DEVICE]
    if layers[Tier.CLOUD]:
        part = [Tier.DEVICE, Tier.CLOUD] if route is Route.DIRECT else list(TIERS)
    elif layers[Tier.EDGE]:
        part = [Tier.DEVICE, Tier.EDGE]
    segments = {tier: Segment(tier=tier) for tier in TIERS}
    arriving = graph.inputs
    for tier in part:
        sends = () if tier is part[-1] else _boundary(graph, ranks > tier.rank)
        segments[tier] = Segment(
            tier=tier, layers=layers[tier], accepts=arriving, sends=sends, results=_results(graph, ranks, tier)
        )
        arriving = sends
    return segments[Tier.DEVICE], segments[Tier.EDGE], segments[Tier.CLOUD]


def _results(graph: Graph, ranks: NDArray[np.int8], tier: Tier) -> tuple[str, ...]:
    """The graph outputs made on `tier`; those that no layer makes (inputs, constants) are the device's."""
    makers = graph.incidence.output_producer.tolist()
    made = [Tier.DEVICE.rank if place < 0 else ranks[place] for place in makers]
    return tuple([name for name, rank in zip(graph.outputs, made, strict=True) if rank == tier.rank])


def tensors_size(graph: Graph, names: Iterable[str]) -> Bytes:
    """Bytes of the named activations together."""
    return Bytes(sum(graph.tensors[name].size for name in names))


def boundary_id(model: str, tensors: Iterable[str], pending: Iterable[str] = ()) -> str:
    """A boundary's name on the wire: 16 hexadecimal digits, equal where a request has come equally far.

    Args:
        model: The model's identity.
        tensors: What crosses.
        pending: The graph outputs that are still to be made above; the same tensors can cross with more or fewer.
    """
    return _digest("boundary", model, *sorted(tensors), "", *sorted(pending))


def segment_id(model: str, segment: Segment) -> str:
    """A segment's content hash: 16 hexadecimal digits, equal exactly where the same computation is asked for."""
    return _digest("segment", model, *sorted(segment.accepts), "", *sorted(segment.sends), "", *sorted(segment.results))


def run_id(segment: str, source: str, result: str) -> str:
    """A tiled run's content hash: what a tile worker has to hold depends on the whole segment `segment` as well."""
    return _digest("run", segment, source, result)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cut(graph: Graph, last_device_layer: str, last_edge_layer: str) -> tuple[Tier, ...]:
    """The partition that a cut of the layers' order makes.

    Args:
        graph: The whole graph.
        last_device_layer: Name of the last layer on the device; "" where the device computes nothing.
        last_edge_layer: Name of the last layer on the edge; the same as `last_device_layer`, or "", where the edge
            computes nothing. All after it are the cloud's.

    Raises:
        InvalidInputError: where a name is no layer's, or the edge's last layer comes before the device's.
    """
    first_edge = _place_after(graph, last_device_layer)
    first_cloud = _place_after(graph, last_edge_layer) if last_edge_layer else first_edge
    if first_cloud < first_edge:
        raise InvalidInputError(
            f"the edge's last layer {last_edge_layer} comes before the device's last layer {last_device_layer}; "
            "exchange them",
            subject=last_edge_layer,
        )
    return tuple(
        Tier.DEVICE if place < first_edge else Tier.EDGE if place < first_cloud else Tier.CLOUD
        for place in range(len(graph.layers))
    )


def _place_after(graph: Graph, layer: str) -> int:
    if not layer:
        return 0
    if layer not in graph.place:
        raise InvalidInputError(
            f"{graph.name} has no layer {layer!r}{closest(layer, graph.place)}; "
            "`tierflow plan MODEL --layers` lists them",
            subject=layer,
        )
    return graph.place[layer] + 1


def closest(name: str, known: Iterable[str]) -> str:
    """A hint like `, did you mean conv1 or conv2?`, or "" where nothing is near."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=2)
    return f", did you mean {' or '.join(near)}?" if near else ""
