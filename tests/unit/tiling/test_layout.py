"""Dividing a map among workers."""

import numpy as np
import pytest

from tierflow.errors import InvalidInputError
from tierflow.tiling.layout import Grid, grids_for, layout, parse_grid
from tierflow.tiling.rules import Extents


def test_tiles_cover_each_place_exactly_once() -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        extents = Extents(int(random.integers(1, 40)), int(random.integers(1, 40)))
        grid = Grid(
            int(random.integers(1, min(5, extents.rows) + 1)), int(random.integers(1, min(5, extents.columns) + 1))
        )
        seen = np.zeros(extents, dtype=int)
        for rows, columns in layout(extents, grid, list(random.random(grid.tiles) + 0.05)):
            seen[rows.start : rows.stop, columns.start : columns.stop] += 1
        assert (seen == 1).all()


def test_a_worker_of_half_the_speed_gets_half_the_area() -> None:
    tiles = layout(Extents(700, 700), Grid(2, 2), [1, 1, 1, 0.5])
    areas = [tile.area for tile in tiles]
    assert areas[3] / areas[0] == pytest.approx(0.5, rel=0.01)
    assert areas[0] == pytest.approx(areas[1], rel=0.01) == pytest.approx(areas[2], rel=0.01)


def test_a_grid_larger_than_the_map_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="grid of 8x1 is larger than the map of 7 x 7: use a smaller grid"):
        layout(Extents(7, 7), Grid(8, 1))


@pytest.mark.parametrize("text", ["", "2", "2x", "0x2", "2x2x2", "axb", "-1x2"])
def test_what_is_no_grid_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no grid; write rows x columns, like 2x2"):
        parse_grid(text)


def test_grids_of_four_workers_begin_with_the_squarest() -> None:
    assert grids_for(4) == (Grid(2, 2), Grid(4, 1), Grid(1, 4))
    assert parse_grid("4x1") == Grid(4, 1)
