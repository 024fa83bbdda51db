"""Tiles have the bits of the whole: random runs, and runs of real architectures."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from factories.runs import random_run
from tierflow.errors import UnsupportedError
from tierflow.tiling.exactness import will_be_blocked
from tierflow.tiling.region import Interval, Region
from tierflow.tiling.rules import Extents, Operation
from tierflow_worker.runtime import create_session
from tierflow_worker.tiling.engine import RunShape, TiledRun, cut_out
from tierflow_worker.tiling.kernels import BLOCKED_DOMAIN, kernels_of

TILEABLE_RUNS = 1000
APPROXIMATE_RUNS = 150


def random_tiles(random: np.random.Generator, extents: Extents, count: int) -> list[Region]:
    """Tiles of any size and place, the last of a single place."""
    tiles = []
    for index in range(count):
        row, column = int(random.integers(0, extents.rows)), int(random.integers(0, extents.columns))
        rows = Interval(row, int(random.integers(row + 1, extents.rows + 1)))
        columns = Interval(column, int(random.integers(column + 1, extents.columns + 1)))
        single = Region(Interval(row, row + 1), Interval(column, column + 1))
        tiles.append(single if index == count - 1 else Region(rows, columns))
    return tiles


def largest_difference(path: Path, run: TiledRun, shape: tuple[int, ...], random: np.random.Generator) -> float:
    """The largest difference of random tiles to the whole, relative to its largest value; -1 where bits are equal."""
    x = random.standard_normal(shape).astype(np.float32)
    whole = create_session(path).run({"x": x})["y"]
    largest = -1.0
    for tile in random_tiles(random, run.extents, 3):
        inputs = {name: cut_out(x, region) for name, region in run.needs(tile).items()}
        made, wanted = run.compute(tile, inputs)["y"], cut_out(whole, tile)
        assert made.shape == wanted.shape
        if not np.array_equal(made, wanted, equal_nan=True):
            largest = max(largest, float(np.abs(made - wanted).max() / np.abs(whole).max()))
    return largest


@pytest.mark.slow
def test_the_tiles_of_a_thousand_random_runs_equal_the_whole_bit_for_bit(tmp_path: Path) -> None:
    tiled, seed = 0, 0
    refused: list[str] = []
    while tiled < TILEABLE_RUNS:
        seed += 1
        made = random_run(seed)
        path = made.write(tmp_path / "run.onnx")
        try:
            run = TiledRun(kernels_of(path, [], tmp_path / "optimised.onnx"), RunShape({"x": made.shape}, ("y",)))
        except UnsupportedError as error:
            refused.append(error.message)
            continue
        difference = largest_difference(path, run, made.shape, np.random.default_rng(seed))
        assert difference == -1, f"seed {seed} differs by {difference:.1e}"
        tiled += 1
    # What is refused is refused for the sake of bits, never because a kind of layer has no rule.
    assert all("can't be tiled exactly" in message for message in refused)


@pytest.mark.slow
def test_runs_that_are_tiled_approximately_on_request_stay_within_a_millionth(tmp_path: Path) -> None:
    approximate, seed = 0, 0
    while approximate < APPROXIMATE_RUNS:
        seed += 1
        made = random_run(seed)
        path = made.write(tmp_path / "run.onnx")
        kernels, shape = kernels_of(path, [], tmp_path / "optimised.onnx"), RunShape({"x": made.shape}, ("y",))
        try:
            TiledRun(kernels, shape)
        except UnsupportedError:
            run = TiledRun(kernels, shape, approximate=True)
            difference = largest_difference(path, run, made.shape, np.random.default_rng(seed))
            assert difference <= 1e-6, f"seed {seed} differs by {difference:.1e}"
            approximate += 1


def one_convolution(path: Path, inside: int, outside: int, group: int) -> Operation:
    """Writes a convolution, and returns what the rule is asked about it."""
    shape = (outside, inside // group, 3, 3)
    weight = onnx.numpy_helper.from_array(np.ones(shape, dtype=np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=group)],
        "convolution",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, inside, 12, 12])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, outside, 10, 10])],
        [weight],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return Operation("Conv", {"group": group}, ((1, inside, 12, 12), shape), {})


def test_a_convolution_that_the_rule_calls_blocked_is_blocked_by_the_runtime(tmp_path: Path) -> None:
    channels = (1, 2, 3, 4, 8, 12, 16, 17, 32)
    cases = [(group * a, group * b, group) for group in (1, 2, 3, 4, 16) for a in channels for b in channels]
    for inside, outside, group in cases:
        path = tmp_path / "convolution.onnx"
        if will_be_blocked(one_convolution(path, inside, outside, group)):
            kernels = kernels_of(path, [], tmp_path / "optimised.onnx")
            domains = {node.domain for node in kernels.nodes if node.op_type == "Conv"}
            assert domains == {BLOCKED_DOMAIN}, (inside, outside, group)


def test_a_kernel_whose_bits_depend_on_the_tile_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "convolution.onnx"
    one_convolution(path, 17, 8, 1)
    with pytest.raises(UnsupportedError, match=r"Conv.*can't be tiled exactly: the order of its sums"):
        TiledRun(kernels_of(path, [], tmp_path / "optimised.onnx"), RunShape({"x": (1, 17, 12, 12)}, ("y",)))
