"""From an output tile back to what it needs: chains, branches, constants, and what is made beyond the tile."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tierflow.tiling.footprint import Footprint, Slice, Step, footprint, part, widened
from tierflow.tiling.region import Interval, Region, Window
from tierflow.tiling.rules import Extents, Pointwise, Repeating, Rule, Sliding

THREE = Sliding(Window(3, pad_begin=1, pad_end=1), Window(3, pad_begin=1, pad_end=1))
HALVED = Sliding(Window(2, stride=2), Window(2, stride=2))
ALL = Slice(0, 0, 0, 0)


def region(rows: tuple[int, int], columns: tuple[int, int]) -> Region:
    return Region(Interval(*rows), Interval(*columns))


def step(name: str, rule: Rule, *inputs: str, area: int = 1) -> Step:
    """A layer that makes a map of its own name."""
    return Step(name, rule, inputs, (name,), area)


def of(
    steps: Sequence[Step], extents: Mapping[str, tuple[int, int]], tile: Region, **options: Sequence[str]
) -> Footprint:
    sizes = {name: Extents(*size) for name, size in extents.items()}
    return footprint(steps, sizes, {steps[-1].name: tile}, **options)


def test_a_chain_needs_a_halo_per_layer_and_keeps_only_the_maps_own_padding() -> None:
    steps = [step("a", THREE, "x"), step("b", THREE, "a"), step("c", HALVED, "b")]
    found = of(steps, {"x": (12, 12), "a": (12, 12), "b": (12, 12), "c": (6, 6)}, region((0, 3), (2, 4)))
    assert found.regions["b"] == region((0, 6), (4, 8))
    assert found.regions["a"] == region((0, 7), (3, 9))
    assert found.regions["x"] == region((0, 8), (2, 10))
    assert found.pads == ((1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0))
    assert found.slices == ((ALL,), (ALL,), (ALL,))


def test_where_branches_need_different_places_the_union_is_made_and_each_reads_its_part() -> None:
    steps = [step("a", THREE, "x"), step("b", THREE, "a"), step("sum", Pointwise(), "b", "x")]
    found = of(steps, dict.fromkeys(("x", "a", "b", "sum"), (20, 20)), region((5, 9), (0, 4)))
    assert found.regions["x"] == region((3, 11), (0, 6))
    assert found.slices[0] == (ALL,)
    assert found.slices[2] == (ALL, Slice(2, 0, 2, 2))


def test_what_is_added_to_a_convolutions_result_is_aligned_with_its_output() -> None:
    fused = Step("fused", THREE, ("x", "x"), ("fused",))
    found = of([fused], {"x": (10, 10), "fused": (10, 10)}, region((4, 6), (4, 6)))
    assert found.regions["x"] == region((3, 7), (3, 7))
    assert found.slices == ((ALL, Slice(1, 1, 1, 1)),)


def test_an_input_of_one_row_or_one_place_is_needed_whole() -> None:
    steps = [step("scaled", Pointwise(), "x", "row", "place")]
    extents = {"x": (9, 8), "row": (1, 8), "place": (1, 1), "scaled": (9, 8)}
    found = of(steps, extents, region((4, 7), (2, 3)))
    assert found.regions["row"] == region((0, 1), (2, 3))
    assert found.regions["place"] == region((0, 1), (0, 1))


def test_a_constant_map_is_there_as_a_whole_and_sliced_where_it_is_read() -> None:
    steps = [step("y", Pointwise(), "x", "constant")]
    found = of(steps, dict.fromkeys(("x", "constant", "y"), (9, 8)), region((4, 7), (2, 3)), constants=("constant",))
    assert found.slices == ((ALL, Slice(4, 2, 2, 5)),)


def test_repeated_places_are_made_in_whole_blocks_and_cropped() -> None:
    steps = [step("y", Repeating(2, 3), "x")]
    found = of(steps, {"x": (5, 5), "y": (10, 15)}, region((3, 6), (4, 5)))
    assert found.regions["x"] == region((1, 3), (1, 2))
    assert found.regions["y"] == region((2, 6), (3, 6))
    assert found.crops == {"y": Slice(1, 1, 0, 1)}


def test_a_layer_that_needs_several_places_makes_them_where_one_is_asked_for() -> None:
    steps = [step("y", Pointwise(), "x", area=4)]
    found = of(steps, {"x": (5, 5), "y": (5, 5)}, region((4, 5), (4, 5)))
    assert found.regions["y"].area >= 4
    assert found.crops["y"] == part(found.regions["y"], region((4, 5), (4, 5)))


def test_a_region_is_widened_within_its_map() -> None:
    assert widened(region((1, 2), (3, 4)), Extents(2, 4), 4) == region((1, 2), (0, 4))
    assert widened(region((1, 2), (0, 1)), Extents(3, 1), 4) == region((0, 3), (0, 1))
    assert widened(region((0, 2), (0, 2)), Extents(9, 9), 4) == region((0, 2), (0, 2))


def test_tiles_of_one_case_share_it_whatever_their_size() -> None:
    steps = [step("a", THREE, "x"), step("y", THREE, "a")]
    extents = dict.fromkeys(("x", "a", "y"), (30, 30))
    inside, other = region((5, 9), (5, 9)), region((11, 20), (7, 20))
    corner, edge = region((0, 9), (0, 9)), region((5, 9), (0, 9))
    assert of(steps, extents, inside).case == of(steps, extents, other).case
    assert len({of(steps, extents, tile).case for tile in (inside, corner, edge)}) == 3


def test_a_layer_that_nothing_reads_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nothing of the run reads what layer lost makes"):
        of(
            [step("lost", THREE, "x"), step("y", THREE, "x")],
            dict.fromkeys(("x", "lost", "y"), (9, 9)),
            region((0, 1), (0, 1)),
        )


def places_needed(steps: Sequence[Step], extents: Mapping[str, Extents], tile: Region) -> dict[str, np.ndarray]:
    """For each map the places that a tile depends on, found place by place from the layers' definitions."""
    wanted = {name: np.zeros(size, dtype=bool) for name, size in extents.items()}
    wanted[steps[-1].name][slice(*tile.rows), slice(*tile.columns)] = True
    for layer in reversed(steps):
        for row, column in np.argwhere(wanted[layer.name]):
            for name in layer.inputs:
                for place in sources(layer.rule, int(row), int(column), extents[name]):
                    wanted[name][place] = True
    return wanted


def sources(rule: Rule, row: int, column: int, extents: Extents) -> list[tuple[int, int]]:
    if isinstance(rule, Repeating):
        return [(row // rule.rows, column // rule.columns)]
    if isinstance(rule, Pointwise):
        return [(min(row, extents.rows - 1), min(column, extents.columns - 1))]
    rows, columns = (
        [place * window.stride - window.pad_begin + element * window.dilation for element in range(window.kernel)]
        for window, place in ((rule.rows, row), (rule.columns, column))
    )
    return [(r, c) for r in rows for c in columns if 0 <= r < extents.rows and 0 <= c < extents.columns]


def random_steps(random: np.random.Generator) -> tuple[list[Step], dict[str, Extents]]:
    """A chain in which each layer may join what it makes with an earlier map of the same size."""
    extents = {"x": Extents(int(random.integers(6, 15)), int(random.integers(6, 15)))}
    steps: list[Step] = []
    last = "x"
    for place in range(int(random.integers(1, 6))):
        kernel, stride, dilation = (int(random.integers(1, high)) for high in (4, 3, 3))
        pads = random.integers(0, 2, 4).tolist()
        sliding = Sliding(
            Window(kernel, stride, dilation, pads[0], pads[2]), Window(kernel, stride, dilation, pads[1], pads[3])
        )
        rules: list[Rule] = [sliding, sliding, Repeating(2, 1)]
        rule = rules[int(random.integers(len(rules)))]
        size = rule.output(extents[last])
        if min(size) < 2:
            continue
        steps.append(step(f"t{place}", rule, last))
        extents[f"t{place}"] = size
        last = f"t{place}"
        same = [name for name, other in extents.items() if other == size and name != last]
        if same and random.random() < 0.5:
            steps.append(step(f"s{place}", Pointwise(), last, same[int(random.integers(len(same)))]))
            extents[f"s{place}"] = size
            last = f"s{place}"
    return steps, extents


def test_a_footprint_holds_every_place_that_the_tile_depends_on_and_in_chains_no_other_rows_or_columns() -> None:
    random = np.random.default_rng(11)
    for _ in range(1000):
        steps, extents = random_steps(random)
        if not steps:
            continue
        rows, columns = (np.sort(random.choice(extent + 1, 2, replace=False)) for extent in extents[steps[-1].name])
        tile = region((int(rows[0]), int(rows[1])), (int(columns[0]), int(columns[1])))
        regions = footprint(steps, extents, {steps[-1].name: tile}).regions
        needed = places_needed(steps, extents, tile)
        chain = all(len(layer.inputs) == 1 for layer in steps)
        for name, places in needed.items():
            if not places.any():
                continue
            bounds = [(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(places)]
            assert regions[name].contains(region(*bounds)), name
            if chain and all(has_no_gaps(layer.rule) for layer in steps):
                assert regions[name] == region(*bounds), name


def has_no_gaps(rule: Rule) -> bool:
    """Whether a window touches each place that it reaches over, and no window lies in the padding alone."""
    return isinstance(rule, Sliding) and all(
        window.dilation == 1 and max(window.pad_begin, window.pad_end) < window.kernel
        for window in (rule.rows, rule.columns)
    )
