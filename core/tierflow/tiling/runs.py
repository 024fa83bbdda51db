"""The runs of a model that can be tiled at all: the longest ones, one per block, or one asked for by name.

Which of them are worth tiling is `tierflow.tiling.choice`'s to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tierflow.errors import InvalidInputError, UnsupportedError
from tierflow.graph import Graph
from tierflow.segment import closest
from tierflow.tiling.blocks import Block, block_of, blocks_of
from tierflow.tiling.layers import extents_of, step_of
from tierflow.tiling.layout import Grid, layout
from tierflow.tiling.rules import NotTileableError


@dataclass(frozen=True, slots=True)
class LayerRun:
    """Layers that can be computed tile by tile together.

    Attributes:
        layers: Places in the graph, ascending.
        input: The feature map that it is computed from.
        output: The feature map that is all that other layers read of it.
        ended_by: Why it doesn't go on: which layer stands in the way and why, or that the map is too small for the
            grid; "" where the graph ends with it.
    """

    layers: tuple[int, ...]
    input: str
    output: str
    ended_by: str = ""


def longest_runs(
    graph: Graph, grid: Grid, *, every_block: bool = False, approximate: bool = False
) -> tuple[LayerRun, ...]:
    """The runs of a whole graph whose output has room for `grid`, in order.

    Args:
        graph: The graph.
        grid: Rows and columns of tiles.
        every_block: Whether each block is a run of its own instead of being joined with its neighbours.
        approximate: Whether the last bits of a tile may differ from the whole's.

    Raises:
        UnsupportedError: where no layer can be tiled, naming one that stands in the way.
        InvalidInputError: where the grid is larger than every map that could be divided.
    """
    parts = blocks_of(graph, range(len(graph.layers)), graph.inputs, graph.outputs, approximate=approximate)
    blocks = parts.blocks
    runs: list[LayerRun] = []
    start = 0
    for stop in range(1, len(blocks) + 1):
        if not every_block and stop < len(blocks) and _goes_on(blocks[stop - 1], blocks[stop]):
            continue
        if stop < len(blocks):
            ended_by = blocks[stop].refusal or f"{blocks[stop].input} is wanted outside of runs"
        else:
            ended_by = _reason_of(graph, parts.after, approximate=approximate)
        runs += _fitting(graph, blocks[start:stop], grid, ended_by)
        start = stop
    if not runs:
        raise _no_run(graph, blocks, _reason_of(graph, parts.after or parts.before, approximate=approximate), grid)
    return tuple(runs)


def named_run(graph: Graph, first: str, last: str, grid: Grid, *, approximate: bool = False) -> LayerRun:
    """The run of all layers from `first` to `last` in the graph's order.

    Raises:
        InvalidInputError: where a name is no layer's, `last` comes before `first`, or the grid is larger than the map
            that the run ends with.
        UnsupportedError: where the run can't be tiled: which layer stands in the way, and why.
    """
    begin, end = _place(graph, first), _place(graph, last)
    if end < begin:
        raise InvalidInputError(
            f"the run's last layer {last} comes before its first, {first}; exchange them", subject=last
        )
    layers = tuple(range(begin, end + 1))
    name = f"the run from {first} to {last}"
    reads = dict.fromkeys(
        item for place in layers for item in graph.layers[place].inputs if graph.producer.get(item, -1) < begin
    )
    leaves = [item for place in layers for item in graph.layers[place].outputs if _is_read_behind(graph, item, end)]
    if len(reads) != 1 or len(leaves) != 1:
        where, tensors = ("reads", list(reads)) if len(reads) != 1 else ("leaves behind", leaves)
        raise UnsupportedError(
            f"{name} can't be tiled: it {where} {', '.join(tensors) or 'nothing'}; begin and end it where a single "
            "feature map crosses",
            subject=first if where == "reads" else last,
        )
    block = block_of(graph, layers, next(iter(reads)), leaves[0], leaves, approximate=approximate)
    if block.refusal:
        raise UnsupportedError(f"{name} can't be tiled: {block.refusal}", subject=block.obstacle)
    layout(extents_of(graph, block.output), grid)
    return LayerRun(layers, block.input, block.output)


def refusals(graph: Graph, *, approximate: bool = False) -> tuple[str, ...]:
    """For each part of a graph that can't be tiled, which layer stands in the way and why, in order."""
    parts = blocks_of(graph, range(len(graph.layers)), graph.inputs, graph.outputs, approximate=approximate)
    found = [_reason_of(graph, parts.before, approximate=approximate)]
    found += [block.refusal for block in parts.blocks]
    found.append(_reason_of(graph, parts.after, approximate=approximate))
    return tuple(reason for reason in found if reason)


def _fitting(graph: Graph, blocks: Sequence[Block], grid: Grid, ended_by: str) -> list[LayerRun]:
    """The run that tileable blocks make up to the last of them that the grid fits."""
    kept = [block for block in blocks if block.tileable]
    while kept:
        extents = extents_of(graph, kept[-1].output)
        if grid.rows <= extents.rows and grid.columns <= extents.columns:
            layers = tuple(place for block in kept for place in block.layers)
            return [LayerRun(layers, kept[0].input, kept[-1].output, ended_by)]
        ended_by = f"{kept[-1].output} has {extents.rows} x {extents.columns} places, too few for a grid of {grid}"
        kept.pop()
    return []


def _no_run(graph: Graph, blocks: Sequence[Block], around: str, grid: Grid) -> InvalidInputError:
    """What to say where nothing can be tiled; `around` is the reason for the layers around the blocks."""
    largest = max((extents_of(graph, block.output) for block in blocks if block.tileable), default=None)
    if largest is None:
        reason = blocks[0].refusal if blocks else around or "it has no layers"
        return UnsupportedError(f"no run of {graph.name} can be tiled: {reason}", subject=graph.name)
    return InvalidInputError(
        f"a grid of {grid} is larger than every map of {graph.name} that could be divided: the largest has "
        f"{largest.rows} x {largest.columns} places; use a smaller grid",
        subject="grid",
    )


def _goes_on(block: Block, following: Block) -> bool:
    """Whether a run goes on from a block into the next."""
    return block.tileable and following.tileable and following.joins


def _reason_of(graph: Graph, layers: Sequence[int], *, approximate: bool) -> str:
    """Which of the layers around the blocks stands in the way, and why; "" where there are none."""
    for place in layers:
        layer = graph.layers[place]
        try:
            step_of(graph, layer, approximate=approximate)
        except NotTileableError as error:
            return f"layer {layer.name} ({layer.kind}): {error}"
    if not layers:
        return ""
    return f"layer {graph.layers[layers[0]].name} and others: no single feature map crosses there"


def _is_read_behind(graph: Graph, name: str, end: int) -> bool:
    return name in graph.outputs or any(place > end for place in graph.consumers.get(name, ()))


def _place(graph: Graph, layer: str) -> int:
    if layer not in graph.place:
        raise InvalidInputError(f"{graph.name} has no layer {layer!r}{closest(layer, graph.place)}", subject=layer)
    return graph.place[layer]
