"""Runs of real architectures, as long as they can be, in all kinds of tiles: the bits of the untiled network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from factories.networks import filled, light_model
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow.tiling.layout import Grid, layout
from tierflow.tiling.region import Interval, Region
from tierflow.tiling.rules import Extents
from tierflow.tiling.runs import longest_runs, refusals
from tierflow.zoo.model import open_zoo_model
from tierflow_worker.tiling.engine import TiledRun
from tierflow_worker.tiling.verification import RunCheck, StagedModel, verify_tiling
from tierflow_worker.verification import (
    TOLERANCE,
    relative_difference,
    same_bytes,
    sample_inputs,
    whole_outputs,
)

pytestmark = pytest.mark.slow

SQUARE = Grid(2, 2)
ZOO = {"alexnet": 15, "vgg16": 31, "resnet18": 66, "darknet53": 179, "inceptionv4": 484}
"""How many of each network's layers can be tiled: all but the classifier behind the last feature map."""

LARGE_LIGHT = ("bvlc_alexnet", "vgg19", "zfnet512")
SMALL_LIGHT = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")

Tiles = Callable[[TiledRun], Sequence[Region]]


def evenly(rows: int, columns: int) -> Tiles:
    """A grid of equal tiles; as many as there is room for where the map is small."""

    def tiles(run: TiledRun) -> Sequence[Region]:
        return layout(run.extents, Grid(min(rows, run.extents.rows), min(columns, run.extents.columns)))

    return tiles


def unevenly(run: TiledRun) -> Sequence[Region]:
    """2x2 tiles of workers of very different speed."""
    return layout(run.extents, SQUARE, (1.0, 0.31, 0.74, 2.2))


def anywhere(run: TiledRun) -> Sequence[Region]:
    """Two tiles of any size and place, and two of a single place, one in a corner."""
    random = np.random.default_rng(run.extents.rows)
    return [*(any_tile(run.extents, random) for _ in range(2)), single(0, 0), any_single(run.extents, random)]


def any_tile(extents: Extents, random: np.random.Generator) -> Region:
    rows, columns = (np.sort(random.choice(extent + 1, 2, replace=False)).tolist() for extent in extents)
    return Region(Interval(*rows), Interval(*columns))


def any_single(extents: Extents, random: np.random.Generator) -> Region:
    return single(int(random.integers(extents.rows)), int(random.integers(extents.columns)))


def single(row: int, column: int) -> Region:
    return Region(Interval(row, row + 1), Interval(column, column + 1))


def assert_same_bits(checks: Sequence[RunCheck]) -> None:
    for check in checks:
        assert not check.refusal, f"what the graph says can be tiled can't: {check.refusal}"
        assert check.tiles
        assert check.bit_identical, f"{check} differs"


def check_network(name: str, model: Model, folder: Path, report: Callable[..., None]) -> int:
    """Checks all kinds of tiles of the longest runs, and the answer of one; returns how many layers were tiled."""
    inputs = sample_inputs(model)
    runs = longest_runs(model.graph, SQUARE)
    staged = StagedModel(model, runs, folder)
    for tiles in (evenly(4, 1), evenly(1, 3), unevenly, anywhere):
        assert_same_bits(staged.check(inputs, tiles)[0])
    checks, known = staged.check(inputs, evenly(2, 2))
    assert_same_bits(checks)
    answer, expected = staged.outputs(known), whole_outputs(model, inputs, folder=folder)
    difference = max(relative_difference(answer[output], expected[output]) for output in expected)
    assert difference <= TOLERANCE
    tiled = sum(check.layers for check in checks)
    report(
        name,
        tiled=tiled,
        layers=len(model.graph.layers),
        bit_identical=all(same_bytes(answer[output], expected[output]) for output in expected),
        difference=difference,
        refused=len(refusals(model.graph)),
    )
    return tiled


@pytest.mark.parametrize("name", list(ZOO))
def test_the_tiles_of_a_zoo_network_have_the_bits_of_the_untiled_one(
    name: str, folder: Path, report: Callable[..., None]
) -> None:
    assert check_network(name, open_zoo_model(name), folder, report) == ZOO[name]


@pytest.mark.parametrize("name", SMALL_LIGHT)
def test_the_tiles_of_a_light_model_with_random_weights_have_the_bits_of_the_untiled_one(
    name: str, folder: Path, report: Callable[..., None]
) -> None:
    # As shipped their weights are all equal: a mistake could hide.
    path = folder / "filled.onnx"
    onnx.save(filled(onnx.load(light_model(name))), path)
    check_network(f"light_{name}, random weights", open_model(str(path)), folder, report)


@pytest.mark.parametrize("name", LARGE_LIGHT + SMALL_LIGHT)
def test_the_tiles_of_a_light_model_as_shipped_have_the_bits_of_the_untiled_one(
    name: str, folder: Path, report: Callable[..., None]
) -> None:
    check = verify_tiling(open_model(str(light_model(name))), SQUARE, folder=folder)
    assert_same_bits(check.runs)
    assert check.holds
    report(
        f"light_{name}",
        tiled=check.tiled_layers,
        layers=check.layers,
        bit_identical=check.bit_identical,
        difference=check.largest_relative_difference,
        refused=len(check.refusals),
    )


def test_shufflenets_grouped_convolutions_are_what_ends_its_runs() -> None:
    found = refusals(open_model(str(light_model("shufflenet"))).graph)
    convolutions = [reason for reason in found if "(Conv): the order of its sums depends on the size" in reason]
    assert len(convolutions) == 16  # one per unit: its first grouped convolution
    assert [reason for reason in found if reason not in convolutions] == [
        "layer n200 (Reshape): r200 is no map of rows and columns"
    ]


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_tiles_computed_by_several_threads_have_the_same_bits(name: str, folder: Path) -> None:
    model = open_zoo_model(name)
    inputs = sample_inputs(model)
    runs = longest_runs(model.graph, SQUARE)
    results = []
    for threads in (1, 2):
        (place := folder / str(threads)).mkdir()
        checks, known = StagedModel(model, runs, place, threads=threads).check(inputs, evenly(2, 2))
        assert_same_bits(checks)
        results.append(known[runs[-1].output])
    assert same_bytes(*results)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_each_block_as_a_run_of_its_own_has_the_same_bits(name: str, folder: Path) -> None:
    check = verify_tiling(open_zoo_model(name), Grid(1, 2), every_block=True, folder=folder)
    assert_same_bits(check.runs)
    assert len(check.runs) > 10
    assert check.holds
