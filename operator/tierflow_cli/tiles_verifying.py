"""Checking tiles: computing a model with runs of its layers in tiles, and which layers have no place in any."""

from dataclasses import dataclass

from tierflow.graph import Graph
from tierflow.model.model import Model
from tierflow.tiling.layers import step_of
from tierflow.tiling.layout import parse_grid
from tierflow.tiling.rules import NotTileableError
from tierflow_cli.console import progress
from tierflow_cli.edge_nodes import parse_edge_speeds
from tierflow_cli.verifying import parse_run
from tierflow_worker.tiling.verification import TilingCheck, verify_tiling


@dataclass(frozen=True, slots=True)
class TileWishes:
    """The flags about tiles as they were given; None where one wasn't."""

    grid: str
    run: str | None = None
    edge_speeds: str | None = None
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A layer that can't be tiled by itself: its name and kind, and why not."""

    layer: str
    kind: str
    reason: str


def check_tiles(model: Model, wishes: TileWishes, *, seed: int = 0, threads: int = 1) -> TilingCheck:
    """Checks tiles against the untiled model, with progress on a terminal.

    Raises:
        InvalidInputError: naming the flag that is wrong, or where the grid is larger than the map.
        UnsupportedError: where the run that was asked for can't be tiled, or none can: which layer is why.
        TierflowError: see `tierflow_worker.tiling.verification`.
    """
    grid = parse_grid(wishes.grid)
    run = None if wishes.run is None else parse_run(wishes.run, model.graph)
    speeds = () if wishes.edge_speeds is None else parse_edge_speeds(wishes.edge_speeds, grid.tiles, of="--grid")
    with progress("running the whole model") as tell:
        return verify_tiling(
            model,
            grid,
            seed=seed,
            run=run,
            speeds=speeds,
            approximate=wishes.approximate,
            threads=threads,
            progress=lambda done, total: tell(f"tile {done} of {total}", done / total),
        )


def refused_layers(graph: Graph, *, approximate: bool = False) -> tuple[Refused, ...]:
    """The layers that no run can have, in the graph's order."""
    found = []
    for layer in graph.layers:
        try:
            step_of(graph, layer, approximate=approximate)
        except NotTileableError as error:
            found.append(Refused(layer.name, layer.kind, str(error)))
    return tuple(found)
