"""Which layers share a box of the picture.

A graph is drawn at the finest of these details that stays readable; a box never spans zones (tiers, and at the edge the
runs that are tiled and what lies between them), so cuts and runs stay visible:

1. every layer;
2. units: a layer with weights and the small layers that follow it alone (Conv, BatchNormalization, Relu);
3. chains: runs without a branch;
4. regions: what lies between two chains that every path passes (a residual block, an Inception module);
5. repeats: consecutive equal regions as one;
6. windows: layers of similar depth, whatever the graph looks like.

Each detail is a sequence of blocks in a topological order of the contracted graph, which has no cycles.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tierflow.graph import Graph
from tierflow.tiers import Tier

_WITH_WEIGHTS: Final = frozenset({
    "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "Gemm", "MatMul", "MatMulInteger",
    "QLinearMatMul", "LSTM", "GRU", "RNN", "Attention",
})  # fmt: skip
_FEW_LAYERS: Final = 32
_MOST_BOXES: Final = 110
_MOST_ROWS: Final = 44
_MOST_EDGES: Final = 250
_FEWEST_BOXES: Final = 8


class Zone(NamedTuple):
    """Where a box may lie: a tier and a part of it, from the first to the last that data meets; odd parts are runs."""

    tier: Tier
    part: int = 0

    @property
    def run(self) -> int | None:
        """The number of the run that it is; None where it isn't tiled."""
        return self.part // 2 if self.part % 2 else None

    @property
    def behind(self) -> "Zone":
        """The nearest zone, from this one on, that isn't tiled."""
        return self if self.run is None else Zone(self.tier, self.part + 1)

    @property
    def order(self) -> tuple[int, int]:
        """Only grows along the data's flow."""
        return self.tier.rank, self.part


@dataclass(frozen=True, slots=True)
class Block:
    """A box: the places of its layers in the graph, ascending, and how many equal regions they are."""

    places: tuple[int, ...]
    zone: Zone
    repeats: int = 1


def zones_of(tiers: Sequence[Tier], runs: Sequence[Sequence[int]] = ()) -> tuple[Zone, ...]:
    """The zone of each layer.

    Args:
        tiers: The tier of each layer, monotone along the data's flow.
        runs: For each run of the edge the places of its layers, in the graph's order.
    """
    run_of = {place: number for number, places in enumerate(runs) for place in places}
    zones = []
    passed = 0
    for place, tier in enumerate(tiers):
        if tier is not Tier.EDGE:
            zones.append(Zone(tier))
        elif place in run_of:
            passed = run_of[place] + 1
            zones.append(Zone(tier, 2 * passed - 1))
        else:
            zones.append(Zone(tier, 2 * passed))
    return tuple(zones)


def blocks_of(graph: Graph, zones: Sequence[Zone]) -> tuple[Block, ...]:
    """The boxes to draw, in a topological order.

    Args:
        graph: The whole graph.
        zones: The zone of each layer, whose order only grows along the data's flow.
    """
    if len(graph.layers) <= _FEW_LAYERS:
        return tuple(Block((place,), zone) for place, zone in enumerate(zones))
    for contract in (_units, _chains, _regions, _repeats):
        blocks = contract(graph, zones)
        if len(blocks) < _FEWEST_BOXES and contract is not _repeats:
            break  # a box or two per tier say nothing; of repeats they say how many there are
        if len(blocks) <= _MOST_BOXES and _rows(graph, blocks) <= _MOST_ROWS:
            return blocks
    rows = _MOST_ROWS
    while len(edges_of(graph, blocks := _windows(graph, zones, rows))) > _MOST_EDGES and rows > 1:
        rows //= 2
    return blocks


def owners_of(blocks: Sequence[Block]) -> dict[int, int]:
    """For each layer's place the number of its block."""
    return {place: number for number, block in enumerate(blocks) for place in block.places}


def edges_of(graph: Graph, blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """The edges between blocks, as numbers (source, target), each once, in ascending order."""
    owner = owners_of(blocks)
    edges = set()
    for place, layer in enumerate(graph.layers):
        for name in layer.inputs:
            source = graph.producer.get(name)
            if source is not None and owner[source] != owner[place]:
                edges.add((owner[source], owner[place]))
    return sorted(edges)


def _rows(graph: Graph, blocks: Sequence[Block]) -> int:
    """Length of the longest path."""
    depth = [1] * len(blocks)
    for source, target in edges_of(graph, blocks):
        depth[target] = max(depth[target], depth[source] + 1)
    return max(depth)


def _units(graph: Graph, zones: Sequence[Zone]) -> tuple[Block, ...]:
    return _joined(graph, zones, lambda place: graph.layers[place].kind not in _WITH_WEIGHTS)


def _chains(graph: Graph, zones: Sequence[Zone]) -> tuple[Block, ...]:
    return _joined(graph, zones, lambda _: True)


def _joined(graph: Graph, zones: Sequence[Zone], may_join: Callable[[int], bool]) -> tuple[Block, ...]:
    """Puts each layer that may to the layer before it, where each is the other's only neighbour there."""
    head: list[int] = []
    for place in range(len(graph.layers)):
        before = _only_predecessor(graph, place)
        joins = before is not None and zones[before] == zones[place] and may_join(place)
        head.append(head[before] if joins and before is not None else place)
    members: dict[int, list[int]] = {}
    for place, number in enumerate(head):
        members.setdefault(number, []).append(place)
    # Only its head reads from outside a chain and only its tail is read outside, so heads are in topological order.
    return tuple(Block(tuple(places), zones[number]) for number, places in sorted(members.items()))


def _only_predecessor(graph: Graph, place: int) -> int | None:
    """The layer that alone feeds the layer at `place` and feeds nothing else, or None."""
    before = {graph.producer.get(name) for name in graph.layers[place].inputs}
    only = before.pop() if len(before) == 1 else None
    if only is None:
        return None
    outputs = graph.layers[only].outputs
    alone = all(set(graph.consumers.get(name, ())) <= {place} for name in outputs)
    return only if alone and not set(outputs).intersection(graph.outputs) else None


def _regions(graph: Graph, zones: Sequence[Zone]) -> tuple[Block, ...]:
    return tuple(block for region in _stretches(graph, _chains(graph, zones)) for block in _as_one(region))


def _stretches(graph: Graph, chains: Sequence[Block]) -> list[Sequence[Block]]:
    """Cuts a sequence of chains after each that every path passes, which is where no edge leads over it."""
    reach = list(range(len(chains)))
    for source, target in edges_of(graph, chains):
        reach[source] = max(reach[source], target)
    found = []
    start = furthest = 0
    for number in range(len(chains)):
        if furthest <= number:
            found.append(chains[start : number + 1])
            start = number + 1
        furthest = max(furthest, reach[number])
    if start < len(chains):
        found.append(chains[start:])
    return found


def _as_one(region: Sequence[Block]) -> Sequence[Block]:
    """The region as one block; as it is where zones meet in it, so that the cut is seen where it is."""
    if len({block.zone for block in region}) > 1:
        return region
    return (Block(tuple(sorted(_places(region))), region[0].zone),)


def _repeats(graph: Graph, zones: Sequence[Zone]) -> tuple[Block, ...]:
    """Joins whole regions that follow each other with the same kinds of layers and the same output shapes."""
    merged: list[Block] = []
    before: object = None
    for region in _stretches(graph, _chains(graph, zones)):
        blocks = _as_one(region)
        signature = _signature(graph, blocks[0]) if len(blocks) == 1 else None
        if signature is not None and signature == before:
            last = merged[-1]
            merged[-1] = Block(last.places + blocks[0].places, last.zone, last.repeats + 1)
        else:
            merged.extend(blocks)
        before = signature
    return tuple(merged)


def _signature(graph: Graph, block: Block) -> object:
    kinds = tuple(sorted(graph.layers[place].kind for place in block.places))
    shapes = tuple(graph.tensors[name].shape for name in graph.layers[block.places[-1]].outputs)
    return block.zone, kinds, shapes


def _windows(graph: Graph, zones: Sequence[Zone], rows: int) -> tuple[Block, ...]:
    """Joins layers by zone and depth, to about so many rows. Both only grow along an edge, so no cycle can arise."""
    depth: list[int] = []
    for layer in graph.layers:
        before = [depth[graph.producer[name]] for name in layer.inputs if name in graph.producer]
        depth.append(max(before, default=-1) + 1)
    height = max(depth) // rows + 1
    members: dict[tuple[tuple[int, int], int], list[int]] = {}
    for place, zone in enumerate(zones):
        members.setdefault((zone.order, depth[place] // height), []).append(place)
    return tuple(Block(tuple(places), zones[places[0]]) for _, places in sorted(members.items()))


def _places(blocks: Iterable[Block]) -> list[int]:
    return [place for block in blocks for place in block.places]
