"""Boxes and lines in their places."""

import random
from itertools import pairwise

import pytest

from tierflow_cli.picture.layout import arrange, spread


def test_boxes_of_a_row_keep_their_distance_and_lines_bend_once_per_row_between() -> None:
    generator = random.Random(5)
    for _ in range(200):
        count = generator.randrange(1, 40)
        rows = sorted(generator.randrange(8) for _ in range(count))
        widths = [generator.uniform(40, 200) for _ in range(count)]
        edges = sorted(
            {
                (source, target)
                for source in range(count)
                for target in range(source + 1, count)
                if rows[source] < rows[target] and generator.random() < 0.1
            }
        )
        placed = arrange(widths, rows, edges)
        for row in set(rows):
            own = sorted((placed.centres[n] - widths[n] / 2, placed.centres[n] + widths[n] / 2)
                         for n in range(count) if rows[n] == row)  # fmt: skip
            assert all(right <= left for (_, right), (left, _) in pairwise(own))
            assert own[0][0] >= -1e-6
            assert own[-1][1] <= placed.width + 1e-6
        for line in placed.lines:
            assert [row for row, _ in line.bends] == list(range(rows[line.source] + 1, rows[line.target]))


def test_a_chain_is_straight() -> None:
    placed = arrange([50, 120, 80, 60], [0, 1, 2, 3], [(0, 1), (1, 2), (2, 3)])
    assert len({round(centre, 3) for centre in placed.centres}) == 1


def test_branches_stand_beside_each_other_around_what_they_come_from() -> None:
    placed = arrange([60] * 5, [0, 1, 1, 1, 2], [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)])
    assert placed.centres[1] < placed.centres[2] < placed.centres[3]
    assert placed.centres[0] == pytest.approx(placed.centres[2]) == pytest.approx(placed.centres[4])


def test_lines_that_need_not_cross_do_not() -> None:
    # Two chains whose boxes are given in opposite orders.
    placed = arrange([50] * 4, [0, 0, 1, 1], [(0, 3), (1, 2)])
    assert (placed.centres[0] < placed.centres[1]) == (placed.centres[3] < placed.centres[2])


def test_a_line_over_several_rows_passes_beside_the_boxes_there() -> None:
    placed = arrange([80, 200, 80], [0, 1, 2], [(0, 1), (0, 2), (1, 2)])
    long = next(line for line in placed.lines if (line.source, line.target) == (0, 2))
    ((row, x),) = long.bends
    assert row == 1
    assert abs(x - placed.centres[1]) > 100


def test_lines_of_one_output_share_a_trunk() -> None:
    placed = arrange([50] * 4, [0, 1, 2, 3], [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)])
    bends = {line.target: dict(line.bends) for line in placed.lines if line.source == 0}
    assert bends[2][1] == bends[3][1]


def test_spreading_moves_no_more_than_it_has_to() -> None:
    assert spread([0, 100], [20, 20], [1, 1], [10]) == [0, 100]
    assert spread([0, 0], [20, 20], [1, 1], [10]) == [-15, 15]
    assert spread([0, 0], [20, 20], [1, 2], [10]) == pytest.approx([-20, 10])
    assert spread([], [], [], []) == []


def test_nothing_to_place_is_no_error() -> None:
    assert arrange([], [], []).centres == ()
