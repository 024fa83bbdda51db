"""How a run's output is divided among workers: a grid of bands, sized by the workers' speeds."""

from collections.abc import Sequence
from typing import NamedTuple

from tierflow.errors import InvalidInputError
from tierflow.tiling.region import Interval, Region, weighted_split
from tierflow.tiling.rules import Extents


class Grid(NamedTuple):
    """So many bands of rows, each of so many tiles side by side; written `2x2`."""

    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


def parse_grid(text: str, *, field: str = "--grid") -> Grid:
    """Reads a grid like `2x2`.

    Raises:
        InvalidInputError: naming `field`, where the text is none.
    """
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise InvalidInputError(f"{field}: {text!r} is no grid; write rows x columns, like 2x2", subject=field)
    return Grid(int(rows), int(columns))


def layout(extents: Extents, grid: Grid, speeds: Sequence[float] = ()) -> tuple[Region, ...]:
    """The tiles of a map, band by band, one per worker, which cover each place once.

    Each worker's area is in proportion to its speed: bands are as high as their workers are fast together, and within
    a band tiles are as wide as their worker is fast. So bands of one map can be divided at different columns.

    Args:
        extents: The map's size.
        grid: The bands, and tiles per band.
        speeds: Positive, one per tile, in any unit; equal ones where none are given.

    Raises:
        InvalidInputError: where the grid is larger than the map, or there isn't one speed per tile.
    """
    if grid.rows > extents.rows or grid.columns > extents.columns:
        raise InvalidInputError(
            f"a grid of {grid} is larger than the map of {extents.rows} x {extents.columns}: use a smaller grid, "
            "or end the run where the map is larger",
            subject="grid",
        )
    weights = tuple(speeds) or (1.0,) * grid.tiles
    if len(weights) != grid.tiles or min(weights) <= 0:
        raise InvalidInputError(f"a grid of {grid} needs {grid.tiles} positive speeds, not {weights}", subject="speeds")
    bands = [weights[row * grid.columns : (row + 1) * grid.columns] for row in range(grid.rows)]
    row_bounds = weighted_split(extents.rows, tuple(sum(band) for band in bands))
    tiles = []
    for row, band in enumerate(bands):
        column_bounds = weighted_split(extents.columns, band)
        rows = Interval(row_bounds[row], row_bounds[row + 1])
        tiles += [Region(rows, Interval(*column_bounds[at : at + 2])) for at in range(grid.columns)]
    return tuple(tiles)


def grids_for(workers: int) -> tuple[Grid, ...]:
    """The grids with one tile per worker, the squarest first."""
    pairs = [Grid(rows, workers // rows) for rows in range(1, workers + 1) if workers % rows == 0]
    return tuple(sorted(pairs, key=lambda grid: (abs(grid.rows - grid.columns), -grid.rows)))
