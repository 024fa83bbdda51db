"""Computes a segment in stages: stretches as they are, and runs as tiles of any size."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Final

import numpy as np

from tierflow.errors import InvalidRequestError, UnsupportedError
from tierflow.tiling.footprint import Footprint, footprint
from tierflow.tiling.region import Region
from tierflow.tiling.rules import Extents
from tierflow_worker.runtime import Array, Cancellation, Session
from tierflow_worker.tiling.kernels import Kernels
from tierflow_worker.tiling.parts import RunKernels, run_kernels, stretch_session, tile_session

_MOST_CASES: Final = 64
"""Sessions kept per run. A grid needs at most nine; tiles that follow speeds need a few more near the borders."""

_MOST_FOOTPRINTS: Final = 256


@dataclass(frozen=True, slots=True)
class RunShape:
    """A run as it is asked for: its inputs with their whole shapes, and its outputs, which have one size in common."""

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]


class TiledRun:
    """A run of a segment of which any tile can be computed; may be used by several threads at once.

    Attributes:
        extents: The size of the whole output.
        threads: Threads within a kernel: one where the bits would depend on it, unless that is allowed.
    """

    def __init__(self, kernels: Kernels, shape: RunShape, *, threads: int = 1, approximate: bool = False) -> None:
        """Prepares a run.

        Raises:
            UnsupportedError: where a kernel of it can't be tiled (without `approximate`: exactly), or its outputs
                differ in size.
            InvalidInputError: where an output depends on more than the run's inputs.
        """
        self._kernels = kernels
        self._run = run_kernels(kernels, shape.inputs, shape.outputs, approximate=approximate)
        self.threads: Final = 1 if self._run.one_thread and not approximate else threads
        self._sessions: OrderedDict[tuple[object, ...], Session] = OrderedDict()
        self._lock = Lock()
        sizes = {self._run.extents[name] for name in shape.outputs}
        if len(sizes) != 1:
            names = ", ".join(shape.outputs)
            raise UnsupportedError(f"the run's outputs {names} differ in size; end it where one tensor crosses")
        self.extents: Final[Extents] = sizes.pop()
        # Milliseconds for hundreds of layers, asked for several times per tile, and the same tiles request by request.
        self._footprint = lru_cache(_MOST_FOOTPRINTS)(partial(_footprint_of, self._run, self.extents))

    def footprint(self, tile: Region) -> Footprint:
        """What computing the output region `tile` takes.

        Raises:
            InvalidRequestError: where the region is empty or not inside of the output.
        """
        return self._footprint(tile)

    def needs(self, tile: Region) -> dict[str, Region]:
        """The region of each of the run's inputs that a tile needs."""
        regions = self.footprint(tile).regions
        return {name: regions[name] for name in self._run.inputs}

    def compute(
        self, tile: Region, inputs: Mapping[str, Array], *, cancellation: Cancellation | None = None
    ) -> dict[str, Array]:
        """Computes a tile.

        Args:
            tile: Region of the run's output.
            inputs: For each of the run's inputs the part that `needs` says, [batch, channels, rows, columns].
            cancellation: Ends the run from another thread.

        Raises:
            InvalidRequestError: where a part has another size than the tile needs.
            DeadlineExceededError: where `cancellation` ended it.
        """
        of_tile = self.footprint(tile)
        for name in self._run.inputs:
            region = of_tile.regions[name]
            size = (region.rows.length, region.columns.length)
            if name not in inputs or inputs[name].shape[-2:] != size:
                got = "nothing" if name not in inputs else f"{inputs[name].shape[-2]} x {inputs[name].shape[-1]}"
                raise InvalidRequestError(f"the tile needs {size[0]} x {size[1]} of {name}, not {got}", subject=name)
        return self._session(of_tile).run(inputs, cancellation=cancellation)

    def _session(self, of_tile: Footprint) -> Session:
        case = of_tile.case
        with self._lock:
            session = self._sessions.get(case)
            if session is None:
                session = tile_session(self._kernels, self._run, of_tile, threads=self.threads)
                self._sessions[case] = session
                if len(self._sessions) > _MOST_CASES:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(case)
        return session


def _footprint_of(run: RunKernels, extents: Extents, tile: Region) -> Footprint:
    """The footprint of a tile of a run whose outputs are of the size `extents`."""
    if tile.rows.length < 1 or tile.columns.length < 1 or not extents.region.contains(tile):
        raise InvalidRequestError(
            f"the tile {tile.rows.start}:{tile.rows.stop} x {tile.columns.start}:{tile.columns.stop} is not inside of "
            f"the run's output of {extents.rows} x {extents.columns}"
        )
    return footprint(run.steps, run.extents, dict.fromkeys(run.outputs, tile), run.constants)


class Stretch:
    """Part of a segment between runs, computed as a whole."""

    def __init__(self, kernels: Kernels, inputs: Sequence[str], outputs: Sequence[str], *, threads: int = 1) -> None:
        self.session: Final = stretch_session(kernels, inputs, outputs, threads=threads)

    def compute(self, tensors: Mapping[str, Array], *, cancellation: Cancellation | None = None) -> dict[str, Array]:
        """Computes this part's outputs from the segment's tensors that are known so far."""
        feeds = {name: tensors[name] for name in self.session.inputs}
        return self.session.run(feeds, cancellation=cancellation)


def cut_out(array: Array, region: Region) -> Array:
    """A region of a feature map, contiguous."""
    rows, columns = region
    return np.ascontiguousarray(array[..., rows.start : rows.stop, columns.start : columns.stop])


def place(whole: Array, region: Region, part: Array) -> None:
    """Writes a part of a feature map to its region.

    Raises:
        InvalidRequestError: where the part has another shape than the region.
    """
    rows, columns = region
    target = whole[..., rows.start : rows.stop, columns.start : columns.stop]
    if target.shape != part.shape:
        raise InvalidRequestError(f"a tile's result has the shape {part.shape} instead of {target.shape}")
    target[...] = part
