"""The blocks of a segment: stretches between places where a single feature map crosses. Runs start and end there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tierflow.graph import Graph
from tierflow.tiling.footprint import Step
from tierflow.tiling.layers import step_of
from tierflow.tiling.rules import NotTileableError

_MAP_RANK = 4


@dataclass(frozen=True, slots=True)
class Block:
    """Layers between two feature maps, of which no tensor is read outside but the last.

    Attributes:
        layers: Places in the graph, ascending.
        input: The feature map that all of the block is computed from.
        output: The feature map that is all that later layers read of it.
        steps: The layers' rules; () where the block can't be tiled.
        refusal: Which layer stands in the way and why; "" where none does.
        obstacle: That layer's name.
        joins: Whether a run may go on into it from the block before; not where its input is wanted elsewhere too.
    """

    layers: tuple[int, ...]
    input: str
    output: str
    steps: tuple[Step, ...] = ()
    refusal: str = ""
    obstacle: str = ""
    joins: bool = True

    @property
    def tileable(self) -> bool:
        """Whether any tile of its output can be computed by itself."""
        return not self.refusal


@dataclass(frozen=True, slots=True)
class Blocks:
    """A segment taken apart.

    Attributes:
        before: Layers ahead of the first block.
        blocks: In order, each starting with the feature map that the one before ends with.
        after: Layers behind the last block.
    """

    before: tuple[int, ...]
    blocks: tuple[Block, ...]
    after: tuple[int, ...]


def blocks_of(
    graph: Graph,
    layers: Sequence[int],
    accepts: Sequence[str],
    outputs: Sequence[str],
    seconds: Mapping[str, float] | None = None,
    *,
    approximate: bool = False,
) -> Blocks:
    """Takes a segment apart.

    Args:
        graph: The whole graph.
        layers: The segment's layers, ascending.
        accepts: What it is sent.
        outputs: What it sends on or returns.
        seconds: By layer name; where they are given, no block starts with a layer of no time, since that one is
            computed together with the one before.
        approximate: Whether the last bits of a tile may differ from the whole's.
    """
    crossings = _crossings(graph, layers, accepts, outputs)
    places = [
        at
        for at, name in enumerate(crossings)
        if name and not (seconds is not None and 0 < at < len(layers) and not seconds[graph.layers[layers[at]].name])
    ]
    if not places:
        return Blocks(tuple(layers), (), ())
    blocks = []
    for start, stop in pairwise(places):
        within = tuple(layers[start:stop])
        block = block_of(graph, within, crossings[start], crossings[stop], outputs, approximate=approximate)
        blocks.append(replace(block, joins=crossings[start] not in outputs))
    return Blocks(tuple(layers[: places[0]]), tuple(blocks), tuple(layers[places[-1] :]))


def _crossings(graph: Graph, layers: Sequence[int], accepts: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """For each place between layers, the feature map that alone crosses there; "" where there is none such."""
    inside = set(layers)
    last_use = {
        name: max((place for place in graph.consumers.get(name, ()) if place in inside), default=-1)
        for name in (*accepts, *(output for place in layers for output in graph.layers[place].outputs))
    }
    alive = {name for name in accepts if last_use[name] >= 0}
    crossings = [_only_map(graph, alive)]
    for place in layers:
        alive.update(graph.layers[place].outputs)
        alive = {name for name in alive if last_use[name] > place}
        crossings.append(_only_map(graph, alive))
    if layers:
        crossings[-1] = _only_map(graph, {name for name in graph.layers[layers[-1]].outputs if name in outputs})
    return crossings


def _only_map(graph: Graph, alive: set[str]) -> str:
    if len(alive) != 1:
        return ""
    (name,) = alive
    return name if len(graph.tensors[name].shape) == _MAP_RANK else ""


def block_of(
    graph: Graph, layers: tuple[int, ...], start: str, end: str, outputs: Sequence[str], *, approximate: bool
) -> Block:
    """The layers between the feature maps `start` and `end`, with their rules or with what stands in the way.

    Args:
        graph: The whole graph.
        layers: Places in the graph, ascending.
        start: The feature map that all of them is computed from.
        end: The feature map that they end with.
        outputs: Tensors that are wanted elsewhere; of those that the layers make, only `end` may be.
        approximate: Whether the last bits of a tile may differ from the whole's.
    """
    steps = []
    for place in layers:
        layer = graph.layers[place]
        sent = [name for name in layer.outputs if name in outputs and name != end]
        if sent:
            reason = f"layer {layer.name} makes {sent[0]}, which leaves the segment"
            return Block(layers, start, end, refusal=reason, obstacle=layer.name)
        try:
            steps.append(step_of(graph, layer, approximate=approximate))
        except NotTileableError as error:
            reason = f"layer {layer.name} ({layer.kind}): {error}"
            return Block(layers, start, end, refusal=reason, obstacle=layer.name)
    return Block(layers, start, end, tuple(steps))
