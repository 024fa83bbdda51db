"""Verifying tiles of small models, and what the engine holds and refuses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from factories.models import convolutions, model_of, node, saved, value, weight
from tierflow.errors import InvalidInputError, InvalidRequestError, UnsupportedError
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow.tiling.layout import Grid, layout
from tierflow.tiling.region import Interval, Region
from tierflow_worker.tiling.engine import RunShape, TiledRun, cut_out, place
from tierflow_worker.tiling.kernels import kernels_of
from tierflow_worker.tiling.verification import verify_tiling

SQUARE = Grid(2, 2)
SAME = {"pads": [1, 1, 1, 1]}
MEGABYTE = 2**20


def written(folder: Path, model: onnx.ModelProto) -> Model:
    return open_model(str(saved(model, folder)), cache_dir=folder)


def small(folder: Path, nodes: Sequence[onnx.NodeProto], *outputs: str, channels: int = 16) -> Model:
    made = [value(name, None) for name in outputs]
    weights = [weight("w", channels, channels, 3, 3)]
    return written(folder, model_of(nodes, [value("x", [1, channels, 12, 12])], made, weights))


def test_the_tiles_of_a_model_are_verified_run_by_run_and_end_to_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    check = verify_tiling(
        written(tmp_path, convolutions()), SQUARE, progress=lambda done, total: told.append((done, total))
    )
    (run,) = check.runs
    assert (run.first_layer, run.last_layer, run.layers, run.tiles) == ("conv1", "add", 4, 4)
    assert (run.bit_identical, run.largest_relative_difference, run.refusal) == (True, 0.0, "")
    assert run.ended_by == check.refusals[0]
    assert check.refusals[0].startswith("layer pool (GlobalAveragePool)")
    assert (check.tiled_layers, check.layers, check.bit_identical, check.holds) == (4, 7, True, True)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_layers_between_runs_are_computed_whole(tmp_path: Path) -> None:
    layers = [
        node("Conv", "x w", "a", name="conv1", **SAME), node("Softmax", "a", "b", name="softmax", axis=1),
        node("Conv", "b w", "y", name="conv2", **SAME),
    ]  # fmt: skip
    check = verify_tiling(small(tmp_path, layers, "y"), Grid(3, 1), speeds=(1, 2, 0.5))
    assert [(run.first_layer, run.tiles) for run in check.runs] == [("conv1", 3), ("conv2", 3)]
    assert check.holds
    assert check.bit_identical


def test_a_model_of_several_outputs_answers_with_all_of_them(tmp_path: Path) -> None:
    layers = [
        node("Conv", "x w", "a", name="conv1", **SAME), node("ReduceMean", "a", "m", name="mean"),
        node("Conv", "a w", "y", name="conv2", **SAME),
    ]  # fmt: skip
    check = verify_tiling(small(tmp_path, layers, "m", "a", "y"), SQUARE)
    assert check.holds
    assert check.bit_identical


def test_a_run_is_verified_by_name(tmp_path: Path) -> None:
    check = verify_tiling(written(tmp_path, convolutions()), SQUARE, run=("conv1", "relu1"))
    assert [(run.first_layer, run.last_layer) for run in check.runs] == [("conv1", "relu1")]
    assert check.holds


def test_a_run_asked_for_that_cannot_be_tiled_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match=r"run from conv1 to pool can't be tiled: layer pool \(GlobalAveragePool\)"
    ):
        verify_tiling(written(tmp_path, convolutions()), SQUARE, run=("conv1", "pool"))


def test_a_grid_larger_than_the_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a grid of 9x9 is larger than every map"):
        verify_tiling(written(tmp_path, convolutions()), Grid(9, 9))


def test_one_speed_per_tile_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a grid of 2x2 needs 4 positive speeds"):
        verify_tiling(written(tmp_path, convolutions()), SQUARE, speeds=(1, 2))


def test_a_layer_whose_last_bits_depend_on_the_tile_is_tiled_only_on_request(tmp_path: Path) -> None:
    layers = [node("Conv", "x w", "y", name="odd", **SAME)]
    model = small(tmp_path, layers, "y", channels=33)
    with pytest.raises(UnsupportedError, match="layer odd .*the order of its sums depends on the size of the map"):
        verify_tiling(model, SQUARE)
    check = verify_tiling(model, SQUARE, approximate=True)
    assert check.holds
    assert check.largest_relative_difference <= 1e-6


def tiled_convolution(folder: Path, channels: int) -> TiledRun:
    layers = [node("Conv", "x w", "y", **SAME)]
    shape = (1, channels, 12, 12)
    model = model_of(layers, [value("x", shape)], [value("y", shape)], [weight("w", channels, channels, 3, 3)])
    return TiledRun(kernels_of(saved(model, folder), [], folder / "optimised.onnx"), RunShape({"x": shape}, ("y",)))


def test_the_weights_of_a_run_are_held_once_however_many_cases_its_tiles_have(tmp_path: Path) -> None:
    run = tiled_convolution(tmp_path, 1024)  # 36 MiB of weights
    tiles = layout(run.extents, Grid(3, 3))
    memory = psutil.Process().memory_info

    def compute(tile: Region) -> None:
        needed = run.needs(tile)["x"]
        run.compute(tile, {"x": np.zeros((1, 1024, needed.rows.length, needed.columns.length), dtype=np.float32)})

    compute(tiles[0])
    before = memory().rss
    for tile in tiles[1:]:
        compute(tile)
    assert len({run.footprint(tile).case for tile in tiles}) == 9
    assert memory().rss - before < 36 * MEGABYTE


def test_a_tile_outside_of_the_output_is_refused(tmp_path: Path) -> None:
    run = tiled_convolution(tmp_path, 16)
    for rows in ((10, 13), (-1, 2), (4, 4)):
        with pytest.raises(InvalidRequestError, match=r"is not inside of the run's output of 12 x 12"):
            run.needs(Region(Interval(*rows), Interval(0, 1)))


def test_a_part_of_another_size_than_the_tile_needs_is_refused_with_both(tmp_path: Path) -> None:
    run = tiled_convolution(tmp_path, 16)
    tile = Region(Interval(0, 4), Interval(0, 12))
    with pytest.raises(InvalidRequestError, match="the tile needs 5 x 12 of x, not 4 x 12"):
        run.compute(tile, {"x": np.zeros((1, 16, 4, 12), dtype=np.float32)})
    with pytest.raises(InvalidRequestError, match="the tile needs 5 x 12 of x, not nothing"):
        run.compute(tile, {})


def test_a_result_of_another_shape_than_its_tile_is_not_placed() -> None:
    whole = np.zeros((1, 2, 6, 6), dtype=np.float32)
    tile = Region(Interval(0, 3), Interval(0, 2))
    with pytest.raises(InvalidRequestError, match=r"has the shape \(1, 2, 2, 2\) instead of \(1, 2, 3, 2\)"):
        place(whole, tile, np.ones((1, 2, 2, 2), dtype=np.float32))
    place(whole, tile, np.ones((1, 2, 3, 2), dtype=np.float32))
    assert cut_out(whole, tile).all()
    assert whole.sum() == 12
