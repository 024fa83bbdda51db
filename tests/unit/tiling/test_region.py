"""The arithmetic of one axis, against walking the windows place by place."""

import itertools

import numpy as np
import pytest

from tierflow.tiling.region import Interval, Window, even_split, scale_need, weighted_split, window_made, window_need


def touched(window: Window, places: Interval, extent: int) -> tuple[int, int]:
    """The first and the last place, seen from the map, that windows over `places` touch, padding included."""
    starts = [place * window.stride - window.pad_begin for place in range(places.start, places.stop)]
    return min(starts), max(starts) + window.reach - 1


def output_extent(window: Window, extent: int) -> int:
    return (extent + window.pad_begin + window.pad_end - window.reach) // window.stride + 1


def test_a_window_needs_exactly_what_it_touches_and_keeps_the_rest_as_padding() -> None:
    sizes = itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2), (0, 1, 2), (0, 1), (7, 10))
    for kernel, stride, dilation, begin, end, extent in sizes:
        window = Window(kernel, stride, dilation, begin, end)
        whole = output_extent(window, extent)
        for start, stop in itertools.combinations(range(whole + 1), 2):
            wanted = Interval(start, stop)
            made = window_made(window, wanted, extent)
            assert made.contains(wanted)
            need = window_need(window, made, whole, extent)
            first, last = touched(window, made, extent)
            assert need.places == Interval(max(first, 0), min(last + 1, extent))
            assert need.places.length >= 1
            assert (need.pad_begin, need.pad_end) == (max(0, -first), max(0, last + 1 - extent))
            padded = need.places.length + need.pad_begin + need.pad_end
            assert (padded - window.reach) // stride + 1 == made.length


def test_a_window_wholly_in_the_padding_is_widened_to_the_nearest_that_touches_the_map() -> None:
    window = Window(kernel=1, pad_begin=2, pad_end=2)
    assert window_made(window, Interval(0, 1), 5) == Interval(0, 3)
    assert window_made(window, Interval(8, 9), 5) == Interval(6, 9)


def test_the_last_tile_of_a_pool_that_rounds_up_keeps_the_maps_own_end() -> None:
    window = Window(kernel=3, stride=2, ceil=True)
    assert window_need(window, Interval(2, 4), 4, 8) == (Interval(4, 8), 0, 0)
    assert window_need(window, Interval(0, 2), 4, 8) == (Interval(0, 5), 0, 0)


@pytest.mark.parametrize(("wanted", "needed", "made"), [((0, 3), (0, 2), (0, 4)), ((3, 4), (1, 2), (2, 4))])
def test_a_repeated_place_is_made_in_whole_blocks(
    wanted: tuple[int, int], needed: tuple[int, int], made: tuple[int, int]
) -> None:
    assert scale_need(2, Interval(*wanted)) == (Interval(*needed), Interval(*made))


def test_splits_cover_the_extent_once_in_order() -> None:
    random = np.random.default_rng(7)
    for _ in range(500):
        extent = int(random.integers(1, 60))
        parts = int(random.integers(1, extent + 1))
        weights = tuple(float(weight) for weight in random.random(parts) + 1e-3)
        for bounds in (even_split(extent, parts), weighted_split(extent, weights)):
            assert (bounds[0], bounds[-1], len(bounds)) == (0, extent, parts + 1)
            assert all(before < after for before, after in itertools.pairwise(bounds))


def test_a_weighted_split_gives_a_slow_node_its_share() -> None:
    assert weighted_split(70, (1.0, 1.0, 1.0, 0.5)) == (0, 20, 40, 60, 70)
