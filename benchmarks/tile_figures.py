"""Tiles of one run on one worker: how much faster the slowest tile is, what halos cost, exactness, and memory.

What several workers make of it, network included, is measured elsewhere.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import Figure, at_least, interleaved, median_ratio
from tierflow.graph import Graph
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.tiling.blocks import block_of
from tierflow.tiling.footprint import Step, footprint
from tierflow.tiling.layers import extents_of
from tierflow.tiling.layout import Grid, layout
from tierflow.tiling.region import Interval, Region, Window
from tierflow.tiling.rules import Extents, Sliding
from tierflow.tiling.runs import LayerRun, named_run
from tierflow.zoo.model import names, open_zoo_model
from tierflow_worker.runtime import Array
from tierflow_worker.tiling.engine import Stretch, cut_out
from tierflow_worker.tiling.kernels import optimise
from tierflow_worker.tiling.verification import StagedModel, TilingCheck, verify_tiling
from tierflow_worker.verification import sample_inputs

AREA: Final = "tiles"
_GRID: Final = Grid(2, 2)
_MODEL: Final = "vgg16"
_RUN: Final = ("conv1_1", "pool3")
_SEGMENT_END: Final = "pool5"
_ROUNDS: Final = 60
_MEMORY_ROUNDS: Final = 3

Work = Callable[[Region], float]
Places = NDArray[np.bool_]


def figures() -> Iterator[Figure]:
    """Measures the area `tiles`."""
    model = open_zoo_model(_MODEL)
    run = named_run(model.graph, *_RUN, _GRID)
    with tempfile.TemporaryDirectory() as folder:
        yield from speed_figures(model, run, Path(folder))
    yield from halo_figures(model.graph, run)
    with tempfile.TemporaryDirectory() as folder:
        yield from memory_figures(model, run, Path(folder))
    yield from exactness_figures()


def speed_figures(model: Model, run: LayerRun, folder: Path) -> Iterator[Figure]:
    """The tiles of a run against the whole run by the same kernels, one thread, in turn; sessions are there before."""
    staged = StagedModel(model, [run], folder)
    whole = Stretch(staged.kernels, [run.input], [run.output])
    tiled = staged.tiled(run)
    inputs = sample_inputs(model)

    def tile_of(tile: Region) -> Callable[[], dict[str, Array]]:
        parts = {name: cut_out(inputs[name], region) for name, region in tiled.needs(tile).items()}
        return lambda: tiled.compute(tile, parts)

    calls = [lambda: whole.compute(inputs), *(tile_of(tile) for tile in layout(tiled.extents, _GRID))]
    whole_seconds, *tile_seconds = interleaved(calls, rounds=_ROUNDS)
    slowest = max(tile_seconds, key=statistics.median)
    title = f"{_MODEL} {_RUN[0]}..{_RUN[1]}"
    yield Figure(AREA, f"{title}: whole", statistics.median(whole_seconds) * 1000, "ms")
    yield Figure(AREA, f"{title}: slowest tile of {_GRID}", statistics.median(slowest) * 1000, "ms")
    yield at_least(AREA, f"{title}: whole to slowest tile of {_GRID}", median_ratio(whole_seconds, slowest), "x", 3.3)


def halo_figures(graph: Graph, run: LayerRun) -> Iterator[Figure]:
    """The work of the grid's tiles, in multiply-accumulates, beside the least that is possible."""
    block = block_of(graph, run.layers, run.input, run.output, [run.output], approximate=False)
    of_run = _Work.of(graph, block.steps, run.output)
    tiles = layout(of_run.extents, _GRID)
    works = [of_run.by_footprint(tile) for tile in tiles]
    title = f"{_MODEL} {_RUN[0]}..{_RUN[1]} in {_GRID}"
    yield Figure(AREA, f"{title}: halo factor", sum(works), "x")
    least = sum(of_run.place_by_place(tile) for tile in tiles)
    yield Figure(AREA, f"{title}: least possible halo factor of equal tiles", least, "x")
    divisions = [
        [of_run.by_footprint(tile) for tile in _divided(of_run.extents, row, column)]
        for row, column in product(range(1, of_run.extents.rows), range(1, of_run.extents.columns))
    ]
    fewest = min(divisions, key=sum)
    yield Figure(AREA, f"{title}: least halo factor of any four tiles, however unequal", sum(fewest), "x")
    yield Figure(AREA, f"{title}: whole to the largest of those four, by work", 1 / max(fewest), "x")
    most_even = min(divisions, key=max)
    yield Figure(AREA, f"{title}: whole to slowest tile, at most by work", 1 / max(most_even), "x")


def _divided(extents: Extents, row: int, column: int) -> tuple[Region, ...]:
    rows = Interval(0, row), Interval(row, extents.rows)
    columns = Interval(0, column), Interval(column, extents.columns)
    return tuple(Region(*tile) for tile in product(rows, columns))


@dataclass(frozen=True)
class _Work:
    """The work of a tile of a chain of layers, as a share of the whole run's multiply-accumulates."""

    steps: tuple[Step, ...]
    maps: Mapping[str, Extents]
    output: str
    shares: Mapping[str, float]

    @classmethod
    def of(cls, graph: Graph, steps: tuple[Step, ...], output: str) -> "_Work":
        counts = {step.name: graph.layers[graph.place[step.name]].multiply_accumulates for step in steps}
        maps = {name: extents_of(graph, name) for step in steps for name in (*step.inputs, *step.outputs)}
        return cls(steps, maps, output, {name: count / sum(counts.values()) for name, count in counts.items()})

    @property
    def extents(self) -> Extents:
        """The size of the run's output."""
        return self.maps[self.output]

    def by_footprint(self, tile: Region) -> float:
        """What the engine computes."""
        regions = footprint(self.steps, self.maps, {self.output: tile}).regions
        return sum(
            self.shares[step.name] * regions[step.outputs[0]].area / self.maps[step.outputs[0]].region.area
            for step in self.steps
        )

    def place_by_place(self, tile: Region) -> float:
        """The least that any way of computing the tile alone takes: only places that something needs.

        Counted backwards along each axis without the rules' arithmetic of intervals.
        """
        axes = [np.zeros(extent, dtype=np.bool_) for extent in self.extents]
        for needed, interval in zip(axes, tile, strict=True):
            needed[interval.start : interval.stop] = True
        work = 0.0
        for step in reversed(self.steps):
            work += self.shares[step.name] * float(axes[0].mean() * axes[1].mean())
            if isinstance(step.rule, Sliding):
                windows, extents = (step.rule.rows, step.rule.columns), self.maps[step.inputs[0]]
                axes = [_needed(*item) for item in zip(windows, axes, extents, strict=True)]
        return work


def _needed(window: Window, wanted: Places, extent: int) -> Places:
    """The places of a layer's input that the places `wanted` of its output need."""
    needed = np.zeros(extent, dtype=np.bool_)
    for place, element in product(np.flatnonzero(wanted), range(window.kernel)):
        source = place * window.stride - window.pad_begin + element * window.dilation
        if 0 <= source < extent:
            needed[source] = True
    return needed


_PEAK: Final = """
from pathlib import Path
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""
# Not ru_maxrss: a process inherits that from the one that starts it.

_BARE: Final = """
import onnx, onnxruntime, tierflow_worker.tiling.engine
"""

_UNTILED: Final = """
import sys
from pathlib import Path
import numpy as np
from tierflow_worker.memory import keep_freed_memory
from tierflow_worker.runtime import create_session
keep_freed_memory()
session = create_session(Path(sys.argv[1]))
inputs = {sys.argv[3]: np.load(sys.argv[2])}
for _ in range(3):
    session.run(inputs)
"""

_TILE_WORKER: Final = """
import sys
from pathlib import Path
import numpy as np
from tierflow.tiling.layout import layout, parse_grid
from tierflow_worker.memory import keep_freed_memory
from tierflow_worker.tiling.engine import RunShape, TiledRun
from tierflow_worker.tiling.kernels import read_kernels
keep_freed_memory()
optimised, part, source, shape, output, grid = sys.argv[1:]
run = TiledRun(read_kernels(Path(optimised)), RunShape({source: tuple(map(int, shape.split('x')))}, (output,)))
tile = layout(run.extents, parse_grid(grid))[-1]
inputs = {source: np.load(part)}
for _ in range(3):
    run.compute(tile, inputs)
"""


def memory_figures(model: Model, run: LayerRun, folder: Path) -> Iterator[Figure]:
    """The peak memory of a process that holds a tile worker's share, beside one that computes all by itself.

    Both import what they need and nothing else; what the imports alone take is printed beside.
    """
    graph = model.graph
    end = graph.layers[graph.place[_SEGMENT_END]].outputs[0]
    segment, alone = folder / "segment.onnx", folder / "run.onnx"
    extract_segment(model, graph.inputs, [end], segment)
    extract_segment(model, graph.inputs, [run.output], alone)
    optimised = folder / "optimised.onnx"
    optimise(segment, [run.input, run.output], optimised)
    inputs = sample_inputs(model)
    staged = StagedModel(model, [run], folder)
    tiled = staged.tiled(run)
    last = layout(tiled.extents, _GRID)[-1]
    np.save(folder / "whole.npy", inputs[run.input])
    np.save(folder / "part.npy", cut_out(inputs[run.input], tiled.needs(last)[run.input]))
    shape = "x".join(map(str, graph.tensors[run.input].shape))
    bare = _peak_bytes(_BARE)
    share = _peak_bytes(_TILE_WORKER, optimised, folder / "part.npy", run.input, shape, run.output, _GRID)
    run_name, segment_name = f"{_RUN[0]}..{_RUN[1]}", f"{_RUN[0]}..{_SEGMENT_END}"
    yield Figure(AREA, "peak memory of a process that only imports", bare / 1e6, "MB")
    yield Figure(AREA, f"peak memory of a worker of one tile of {_GRID} of {_MODEL} {run_name}", share / 1e6, "MB")
    for name, file in ((run_name, alone), (segment_name, segment)):
        whole = _peak_bytes(_UNTILED, file, folder / "whole.npy", run.input)
        yield Figure(AREA, f"peak memory of an untiled worker of {name}", whole / 1e6, "MB")
        less = 100 * (share / whole - 1)
        yield Figure(AREA, f"tile worker beside untiled worker of {name} (DeepThings: -68)", less, "%")
        less = 100 * ((share - bare) / (whole - bare) - 1)
        yield Figure(AREA, f"the same beyond what the imports take, {name}", less, "%")


def _peak_bytes(script: str, *arguments: Any) -> float:
    """The least peak of resident memory of a script over several runs of it."""
    command = [sys.executable, "-c", script + _PEAK, *map(str, arguments)]
    outputs = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(_MEMORY_ROUNDS)
    ]
    return min(int(output) for output in outputs) * 1024.0


def exactness_figures() -> Iterator[Figure]:
    """How many tiles of the zoo's longest runs have the bits of the untiled network."""
    checks: list[TilingCheck] = []
    for name in names():
        check = verify_tiling(open_zoo_model(name), _GRID)
        checks.append(check)
        yield Figure(AREA, f"{name}: layers that can be tiled", 100 * check.tiled_layers / check.layers, "%")
    runs = [run for check in checks for run in check.runs]
    exact = 100 * sum(run.bit_identical for run in runs) / len(runs)
    yield at_least(AREA, f"bit-identical of {len(runs)} runs of the zoo in {_GRID}", exact, "%", 100)
    whole = sum(check.bit_identical for check in checks)
    yield Figure(AREA, f"of {len(checks)} networks in tiles, with the bits of the whole model", whole, "count")
