"""Verification of tiles: whether a model computed in tiles answers as it does untiled, and as the whole model does.

In this process and without a network: the part of the model up to its last run is optimised once, with the runs' inputs
and outputs as marks, and computed in stages twice: with each run as tiles that are placed together, and with the same
kernels on whole maps. What comes behind the last run is computed from the tiles' result as the whole model does it.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from tierflow.errors import UnsupportedError
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.tiling.layout import Grid, layout
from tierflow.tiling.region import Region
from tierflow.tiling.runs import LayerRun, longest_runs, named_run, refusals
from tierflow_worker.runtime import Array, create_session
from tierflow_worker.tiling.engine import RunShape, Stretch, TiledRun, cut_out, place
from tierflow_worker.tiling.kernels import Kernels, kernels_of
from tierflow_worker.verification import TOLERANCE, relative_difference, same_bytes, sample_inputs, whole_outputs

Arrays = Mapping[str, Array]

Progress = Callable[[int, int], None]
"""Is told how many tiles are done, and of how many."""

Tiles = Callable[[TiledRun], Sequence[Region]]
"""Which tiles of a run to compute; together they needn't cover its output."""


@dataclass(frozen=True, slots=True)
class RunCheck:
    """How the tiles of one run compare with the same kernels on whole maps.

    Attributes:
        first_layer: Name of its first layer in the graph's order.
        last_layer: Name of its last layer.
        layers: How many it has.
        tiles: How many tiles were compared; 0 where the runtime's kernels can't be tiled, see `refusal`.
        bit_identical: Whether every tile has the bits of its part of the whole.
        largest_relative_difference: Over all tiles, relative to the largest absolute value of the whole.
        refusal: Which kernel that the runtime made of the layers can't be tiled, and why; "" where all can.
        ended_by: Why the run doesn't go on: see `tierflow.tiling.runs.LayerRun`.
    """

    first_layer: str
    last_layer: str
    layers: int
    tiles: int
    bit_identical: bool
    largest_relative_difference: float
    refusal: str = ""
    ended_by: str = ""


@dataclass(frozen=True, slots=True)
class TilingCheck:
    """How a model's answer, computed in tiles, compares with the whole model's.

    Attributes:
        grid: Rows and columns of tiles.
        layers: How many layers the model has.
        runs: Its runs, in order.
        refusals: For each part that can't be tiled, which layer stands in the way and why.
        bit_identical: Whether all of the model's outputs are the bytes of the plain session of the whole model.
        largest_relative_difference: Over all outputs, between the two.
        holds: Whether no run differs from the untiled one in a bit (where it was allowed to: beyond the tolerance),
            and no output from the whole model's beyond the tolerance.
    """

    grid: Grid
    layers: int
    runs: tuple[RunCheck, ...]
    refusals: tuple[str, ...]
    bit_identical: bool
    largest_relative_difference: float
    holds: bool

    @property
    def tiled_layers(self) -> int:
        """How many layers were computed in tiles."""
        return sum(run.layers for run in self.runs if run.tiles)


def verify_tiling(
    model: Model,
    grid: Grid,
    *,
    seed: int = 0,
    run: tuple[str, str] | None = None,
    every_block: bool = False,
    speeds: Sequence[float] = (),
    approximate: bool = False,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> TilingCheck:
    """Computes a model with its runs as tiles, and compares run by run and end to end.

    Args:
        model: The whole model.
        grid: Rows and columns of tiles.
        seed: Of the model's inputs, see `tierflow_worker.verification.sample_inputs`.
        run: First and last layer of the one run to tile; by default the longest runs of the model.
        every_block: Whether each block is a run of its own.
        speeds: Of the workers, one per tile, which size the tiles; equal ones by default.
        approximate: Whether layers may be tiled whose last bits depend on the tile.
        tolerance: Largest relative difference that still holds.
        threads: Threads within a layer.
        progress: Is told of each tile.
        folder: Where files are written for as long as they are needed; the system's place for such by default.

    Raises:
        InvalidInputError: where the grid is larger than the map of the run, or of every run, `run` names no layers of
            the model, or there isn't one speed per tile.
        UnsupportedError: where the run that was asked for can't be tiled, or none can: which layer stands in the way,
            and why; also where ONNX Runtime doesn't have an operator.
        InvalidModelError: where the runtime refuses the model.
    """
    graph = model.graph
    if run is not None:
        runs: tuple[LayerRun, ...] = (named_run(graph, *run, grid, approximate=approximate),)
    else:
        runs = longest_runs(graph, grid, every_block=every_block, approximate=approximate)
    inputs = sample_inputs(model, seed)
    expected = whole_outputs(model, inputs, threads=threads, folder=folder)
    done = count(1)

    def tiles(of_run: TiledRun) -> Sequence[Region]:
        return layout(of_run.extents, grid, speeds)

    def one_more() -> None:
        if progress is not None:
            progress(next(done), len(runs) * grid.tiles)

    with tempfile.TemporaryDirectory(prefix="tierflow-", dir=folder) as held:
        staged = StagedModel(model, runs, Path(held), threads=threads)
        checks, known = staged.check(inputs, tiles, approximate=approximate, progress=one_more)
        refused = next((check for check in checks if check.refusal), None)
        if run is not None and refused is not None:
            raise UnsupportedError(
                f"the run from {run[0]} to {run[1]} can't be tiled: {refused.refusal}", subject=run[0]
            )
        answer = staged.outputs(known)
    difference = max((relative_difference(answer[name], expected[name]) for name in expected), default=0.0)
    largest = tolerance if approximate else 0.0
    return TilingCheck(
        grid=grid,
        layers=len(graph.layers),
        runs=checks,
        refusals=refusals(graph, approximate=approximate),
        bit_identical=all(same_bytes(answer[name], expected[name]) for name in expected),
        largest_relative_difference=difference,
        holds=difference <= tolerance
        and all(check.bit_identical or 0 < check.largest_relative_difference <= largest for check in checks),
    )


class StagedModel:
    """A model as stages: runs, and the stretches between them.

    Its part up to the last run is cut out and optimised once; the rest is never held together with it.
    """

    def __init__(self, model: Model, runs: Sequence[LayerRun], folder: Path, *, threads: int = 1) -> None:
        """Cuts out and optimises what the runs need.

        Args:
            model: The whole model.
            runs: In the graph's order.
            folder: Where files are written; it has to be there as long as this.
            threads: Threads within a layer.
        """
        self._model = model
        self._runs: Final = tuple(runs)
        self._folder = folder
        self._threads = threads
        head = folder / "head.onnx"
        extract_segment(model, model.graph.inputs, [runs[-1].output], head)
        marks = list(dict.fromkeys(name for run in runs for name in (run.input, run.output)))
        self.kernels: Final[Kernels] = kernels_of(head, marks, folder / "optimised.onnx", threads=threads)
        head.unlink()

    def tiled(self, run: LayerRun, *, approximate: bool = False) -> TiledRun:
        """A run of it that can compute tiles.

        Raises:
            UnsupportedError: where a kernel of the run can't be tiled.
        """
        shape = RunShape({run.input: self._model.graph.tensors[run.input].shape}, (run.output,))
        return TiledRun(self.kernels, shape, threads=self._threads, approximate=approximate)

    def check(
        self, inputs: Arrays, tiles: Tiles, *, approximate: bool = False, progress: Callable[[], None] | None = None
    ) -> tuple[tuple[RunCheck, ...], dict[str, Array]]:
        """Computes the runs as tiles, and compares them with the same kernels on whole maps.

        Args:
            inputs: The model's inputs.
            tiles: Which tiles.
            approximate: Whether layers may be tiled whose last bits depend on the tile.
            progress: Is called after each tile.

        Returns:
            The comparison of each run, and the tensors known at the end: the model's inputs and the runs' outputs, as
            tiles made them where they cover the output.
        """
        # Both go on with their own tensors, which are the same arrays for as long as no bit differs.
        whole, pieced = dict(inputs), dict(inputs)
        checks = []
        for run in self._runs:
            self._advance(run.input, whole, pieced)
            source = whole[run.input]
            try:
                tiled = self.tiled(run, approximate=approximate)
            except UnsupportedError as error:
                expected = whole[run.output] = self._untiled(run, source)
                checks.append(self._note(run, 0, expected, expected, error.message))
                pieced[run.output] = expected if pieced[run.input] is source else self._untiled(run, pieced[run.input])
                continue
            expected = whole[run.output] = self._untiled(run, source, threads=tiled.threads)
            made = expected.copy()
            regions = tiles(tiled)
            for region in regions:
                _compute_into(made, tiled, region, pieced[run.input])
                if progress is not None:
                    progress()
            check = self._note(run, len(regions), made, expected)
            checks.append(check)
            pieced[run.output] = expected if check.bit_identical else made
        return tuple(checks), pieced

    def outputs(self, known: Arrays) -> dict[str, Array]:
        """The model's outputs, computed from the tensors that `check` returned."""
        graph = self._model.graph
        wanted = [name for name in graph.outputs if name not in known]
        answer = {name: known[name] for name in graph.outputs if name in known}
        if wanted:
            tail = self._folder / "tail.onnx"
            extract_segment(self._model, list(known), wanted, tail)
            session = create_session(tail, threads=self._threads)
            answer |= session.run({name: known[name] for name in session.inputs})
        return answer

    def _advance(self, name: str, whole: dict[str, Array], pieced: dict[str, Array]) -> None:
        """Computes the stretch that leads to the tensor `name`, unless it is known."""
        if name in whole:
            return
        stretch = Stretch(self.kernels, list(whole), [name], threads=self._threads)
        same = all(pieced[known] is array for known, array in whole.items())
        whole |= stretch.compute(whole)
        pieced[name] = whole[name] if same else stretch.compute(pieced)[name]

    def _untiled(self, run: LayerRun, source: Array, *, threads: int | None = None) -> Array:
        """The output of a run by its kernels on whole maps."""
        stretch = Stretch(self.kernels, [run.input], [run.output], threads=threads or self._threads)
        return stretch.compute({run.input: source})[run.output]

    def _note(self, run: LayerRun, tiles: int, made: Array, expected: Array, refusal: str = "") -> RunCheck:
        layers = self._model.graph.layers
        return RunCheck(
            first_layer=layers[run.layers[0]].name,
            last_layer=layers[run.layers[-1]].name,
            layers=len(run.layers),
            tiles=tiles,
            bit_identical=same_bytes(made, expected),
            largest_relative_difference=relative_difference(made, expected),
            refusal=refusal,
            ended_by=run.ended_by,
        )


def _compute_into(whole: Array, run: TiledRun, tile: Region, source: Array) -> None:
    """Computes a tile of a run of one input and one output, and places it."""
    ((name, region),) = run.needs(tile).items()
    (made,) = run.compute(tile, {name: cut_out(source, region)}).values()
    place(whole, tile, made)
