"""Several threads within a kernel: which functions they make round otherwise, and that tiles don't."""

from pathlib import Path

import numpy as np
import pytest

from factories.models import model_of, node, saved, value, weight
from factories.runs import random_run
from tierflow.errors import UnsupportedError
from tierflow.tiling.exactness import needs_one_thread
from tierflow.tiling.layout import Grid, layout
from tierflow.tiling.rules import Operation
from tierflow_worker.runtime import create_session
from tierflow_worker.tiling.engine import RunShape, TiledRun, cut_out
from tierflow_worker.tiling.kernels import kernels_of

FUNCTIONS = (
    "Abs", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LRN",
    "LeakyRelu", "Log", "LpPool", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
OF_POSITIVES = ("Log", "Sqrt", "Reciprocal")
ATTRIBUTES: dict[str, dict[str, object]] = {"LRN": {"size": 3}, "LpPool": {"kernel_shape": [2, 2]}}
MAPS = 6
RUNS = 150


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_that_several_threads_round_otherwise_is_one_that_needs_one_thread(
    kind: str, tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    for _ in range(MAPS):
        shape = (1, 16 * int(random.integers(1, 5)), int(random.integers(5, 120)), int(random.integers(5, 120)))
        x = random.standard_normal(shape).astype(np.float32) * 2
        layer = node(kind, "x", "y", **ATTRIBUTES.get(kind, {}))
        path = saved(model_of([layer], [value("x", shape)], [value("y", None)], opset=20), tmp_path)
        feeds = {"x": np.abs(x) + 1 if kind in OF_POSITIVES else x}
        answers = {create_session(path, threads=threads).run(feeds)["y"].tobytes() for threads in (1, 2, 3, 7)}
        operation = Operation(kind, {}, (shape,), {})
        assert len(answers) == 1 or needs_one_thread(operation, blocked=False), f"{kind} of {shape}"


@pytest.mark.parametrize(("activation", "threads"), [("Softplus", 1), ("Elu", 1), ("Relu", 3), ("Tanh", 3)])
def test_a_run_is_computed_by_several_threads_unless_its_bits_would_depend_on_it(
    activation: str, threads: int, tmp_path: Path
) -> None:
    shape = (1, 16, 61, 47)
    layers = [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node(activation, "c", "y")]
    path = saved(
        model_of(layers, [value("x", shape)], [value("y", shape)], [weight("w", 16, 16, 3, 3)], opset=17), tmp_path
    )
    run = TiledRun(kernels_of(path, [], tmp_path / "optimised.onnx"), RunShape({"x": shape}, ("y",)), threads=3)
    assert run.threads == threads
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    whole = create_session(path).run({"x": x})["y"]
    for tile in layout(run.extents, Grid(2, 2)):
        parts = {"x": cut_out(x, run.needs(tile)["x"])}
        assert run.compute(tile, parts)["y"].tobytes() == cut_out(whole, tile).tobytes()


@pytest.mark.slow
def test_the_tiles_of_random_runs_have_the_same_bits_by_several_threads(tmp_path: Path) -> None:
    tiled, seed = 0, 100_000
    while tiled < RUNS:
        seed += 1
        made = random_run(seed)
        path = made.write(tmp_path / "run.onnx")
        try:
            kernels = kernels_of(path, [], tmp_path / "optimised.onnx")
            run = TiledRun(kernels, RunShape({"x": made.shape}, ("y",)), threads=2 + seed % 3)
        except UnsupportedError:
            continue
        x = np.random.default_rng(seed).standard_normal(made.shape).astype(np.float32)
        whole = create_session(path).run({"x": x})["y"]
        grid = Grid(min(2, run.extents.rows), min(2, run.extents.columns))
        for tile in layout(run.extents, grid):
            parts = {"x": cut_out(x, run.needs(tile)["x"])}
            assert run.compute(tile, parts)["y"].tobytes() == cut_out(whole, tile).tobytes(), f"seed {seed}"
        tiled += 1
