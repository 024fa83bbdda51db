"""Which runs of a segment are worth tiling, and in which grids: minimal predicted time, scatter and gather included."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import mul
from typing import Final, NamedTuple

import msgspec

from tierflow.graph import Graph
from tierflow.network import MEGABIT, Link
from tierflow.profile import Profile
from tierflow.tiling.blocks import Block, Blocks
from tierflow.tiling.footprint import widened
from tierflow.tiling.layers import extents_of
from tierflow.tiling.layout import Grid, grids_for, layout
from tierflow.tiling.region import Region

EDGE_NETWORK: Final = Link(bytes_per_second=1000 * MEGABIT, round_trip_seconds=0.0005)
"""What is assumed between edge nodes until it is measured: one Gbit/s, half a millisecond."""


class EdgeNodes(msgspec.Struct, frozen=True, kw_only=True):
    """The workers that can compute tiles together.

    Attributes:
        speeds: Relative to the edge tier's profile; the first is the edge's own worker, which scatters and gathers.
        link: Between the edge's worker and each of the others.
    """

    speeds: tuple[float, ...] = (1.0,)
    link: Link = EDGE_NETWORK


_READING_PLACES: Final = 29
"""Reading a convolution's weights takes as long as computing so many places: what a small tile costs beside its area.

Fitted to tiles of 4 x 4 to 28 x 28 places of VGG-16 and ResNet-18: their time is within 10 % of this, which a time in
proportion to the area falls short of by up to 40 %.
"""

_CALL_SECONDS: Final = 0.002
"""What sending a tile takes beside the link's time: cutting, encoding, the call and placing its result."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run costs as tiles.

    Attributes:
        seconds: From the first byte scattered to the last gathered.
        work: Per tile, seconds on a node of speed 1 in proportion to the places that it computes.
        scatter_bytes: Per tile, what is sent to it; 0 for the edge worker's own.
        gather_bytes: Per tile, what comes back; 0 for the edge worker's own.
    """

    seconds: float
    work: tuple[float, ...]
    scatter_bytes: tuple[int, ...]
    gather_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks `start` to `stop` (not included) computed together as tiles of `grid`."""

    start: int
    stop: int
    grid: Grid
    cost: RunCost
    untiled_seconds: float

    @property
    def halo_factor(self) -> float:
        """Work of all tiles over the work of the whole."""
        return sum(self.cost.work) / self.untiled_seconds if self.untiled_seconds else 1.0


class _Share(NamedTuple):
    """What a region of a block's output takes of each of the block's layers, whatever these cost.

    Attributes:
        needs: The region of the block's input.
        computing: Per layer, last first: the share of its time that is in proportion to the places computed.
        reading: Per layer, last first: what reading the weights takes beside, as a share of its time.
    """

    needs: Region
    computing: tuple[float, ...]
    reading: tuple[float, ...]


_SHARES_PER_BLOCK: Final = 512
"""So many regions of a block are remembered: nodes whose speeds keep changing ask for ever new ones."""


class _Work(NamedTuple):
    """What a region of a block's output takes on a node of speed 1.

    Attributes:
        needs: The region of the block's input.
        seconds: In proportion to the places that are computed.
        reading: What reading the weights takes beside.
    """

    needs: Region
    seconds: float
    reading: float


@dataclass
class Pricing:
    """Prices of blocks as tiles and as a whole, on one edge tier; remembers what it has computed."""

    graph: Graph
    profile: Profile
    blocks: Sequence[Block]
    nodes: EdgeNodes
    _worked: dict[tuple[int, Region], "_Work"] = field(default_factory=dict)

    @cached_property
    def untiled(self) -> tuple[float, ...]:
        """Seconds of each block on the edge's worker alone."""
        own = self.nodes.speeds[0]
        return tuple(
            sum(self.profile.layers[self.graph.layers[place].name] for place in block.layers) / own
            for block in self.blocks
        )

    def runs_to(self, stop: int, grid: Grid) -> list[Run]:
        """The runs that end with block `stop - 1`, from the shortest to the longest that can be tiled."""
        extents = extents_of(self.graph, self.blocks[stop - 1].output)
        if grid.rows > extents.rows or grid.columns > extents.columns:
            return []
        speeds = self.nodes.speeds[: grid.tiles]
        tiles = layout(extents, grid, speeds)
        regions = list(tiles)
        works, reading = [0.0] * len(tiles), [0.0] * len(tiles)
        runs = []
        for start in range(stop - 1, -1, -1):
            if not self.blocks[start].tileable:
                break
            for at, region in enumerate(regions):
                done = self._work(start, region)
                regions[at] = done.needs
                works[at] += done.seconds
                reading[at] += done.reading
            cost = self._cost(start, stop, tiles, regions, works, reading)
            runs.append(Run(start, stop, grid, cost, sum(self.untiled[start:stop])))
            if not self.blocks[start].joins:
                break
        return runs

    @cached_property
    def _shares(self) -> tuple[dict[Region, _Share], ...]:
        """Per block what is known of it; it depends on the graph alone, so that all prices of a graph share it."""
        return tuple(self.graph.derived.setdefault(("tiling.shares", block), {}) for block in self.blocks)

    @cached_property
    def _seconds(self) -> tuple[tuple[float, ...], ...]:
        """Per block the times of its layers, last first."""
        times = self.profile.layers
        return tuple(tuple(times[step.name] for step in reversed(block.steps)) for block in self.blocks)

    def _work(self, place: int, region: Region) -> "_Work":
        """What computing a region of a block's output takes."""
        key = (place, region)
        found = self._worked.get(key)
        if found is None:
            share, seconds = self._share(place, region), self._seconds[place]
            computing, reading = sum(map(mul, share.computing, seconds)), sum(map(mul, share.reading, seconds))
            found = _Work(share.needs, computing, reading)
            self._worked[key] = found
        return found

    def _share(self, place: int, region: Region) -> _Share:
        known = self._shares[place]
        found = known.get(region)
        if found is None:
            found = self._backwards(self.blocks[place], region)
            if len(known) >= _SHARES_PER_BLOCK:
                known.clear()
            known[region] = found
        return found

    def _backwards(self, block: Block, region: Region) -> _Share:
        wanted = {block.output: region}
        computing: list[float] = []
        reading: list[float] = []
        for step in reversed(block.steps):
            asked = [wanted[name] for name in step.outputs if name in wanted]
            made = asked[0]
            for other in asked[1:]:
                made = made.union(other)
            whole = extents_of(self.graph, step.outputs[0])
            made = step.rule.made(made, extents_of(self.graph, step.inputs[0]))
            made = widened(made, whole, step.smallest_area)
            share = made.area / whole.region.area
            is_convolution = self.graph.layers[self.graph.place[step.name]].kind == "Conv"
            computing.append(share)
            reading.append(
                (1 - share) * _READING_PLACES / (whole.region.area + _READING_PLACES) if is_convolution else 0.0
            )
            for at, name in enumerate(step.inputs):
                needed = step.rule_of_input(at).need(made, extents_of(self.graph, name)).region
                wanted[name] = wanted[name].union(needed) if name in wanted else needed
        return _Share(wanted[block.input], tuple(computing), tuple(reading))

    def _cost(
        self,
        start: int,
        stop: int,
        tiles: Sequence[Region],
        regions: Sequence[Region],
        works: Sequence[float],
        reading: Sequence[float],
    ) -> RunCost:
        source, result = self.blocks[start].input, self.blocks[stop - 1].output
        # Each tile starts and ends outside of the runtime's own layout, and is one run of a session more.
        fixed = self.profile.segment + self.profile.crossings.get(source, 0.0) + self.profile.crossings.get(result, 0.0)
        scatter = [0, *(self._bytes(source, region) for region in regions[1:])]
        gather = [0, *(self._bytes(result, tile) for tile in tiles[1:])]
        computing = [
            (work + more + fixed) / speed for work, more, speed in zip(works, reading, self.nodes.speeds, strict=False)
        ]
        return RunCost(
            seconds=_together(computing, scatter, gather, self.nodes.link),
            work=tuple(works),
            scatter_bytes=tuple(scatter),
            gather_bytes=tuple(gather),
        )

    def _bytes(self, name: str, region: Region) -> int:
        tensor = self.graph.tensors[name]
        whole = extents_of(self.graph, name)
        return tensor.size * region.area // (whole.rows * whole.columns)


def _together(computing: Sequence[float], scatter: Sequence[int], gather: Sequence[int], link: Link) -> float:
    """Seconds until all tiles are there.

    The edge's worker sends one tile after the other and computes its own meanwhile; results come back in the order in
    which they are done, over a link that carries both directions at once.
    """
    sent = 0.0
    done = []
    for seconds, size, back in zip(computing[1:], scatter[1:], gather[1:], strict=True):
        sent += size / link.bytes_per_second
        done.append((sent + link.round_trip_seconds + _CALL_SECONDS + seconds, back))
    gathered = 0.0
    for ready, back in sorted(done):
        gathered = max(gathered, ready) + back / link.bytes_per_second
    return max(gathered, computing[0])


@dataclass(frozen=True, slots=True)
class Choice:
    """The best way to compute a stretch of blocks: `seconds` in all, with `runs` tiled and the rest as a whole."""

    seconds: float
    runs: tuple[Run, ...]


def priced_runs(pricing: Pricing, *, grids: Sequence[Grid] = ()) -> dict[tuple[int, int], Run]:
    """For each stretch of blocks that can be tiled, its cheapest run.

    Args:
        pricing: The blocks and their prices.
        grids: The grids to choose from; by default those of two to all of the nodes.
    """
    usable = list(grids) or [grid for workers in range(2, len(pricing.nodes.speeds) + 1) for grid in grids_for(workers)]
    cheapest: dict[tuple[int, int], Run] = {}
    for stop in range(1, len(pricing.blocks) + 1):
        for grid in usable:
            for run in pricing.runs_to(stop, grid):
                known = cheapest.get((run.start, run.stop))
                if known is None or run.cost.seconds < known.cost.seconds:
                    cheapest[run.start, run.stop] = run
    return cheapest


def choose(pricing: Pricing, runs: dict[tuple[int, int], Run], start: int = 0) -> list[Choice]:
    """The best choice for the blocks from `start` up to each place: item k is for blocks `start` to `start + k`.

    A shortest path over the places between blocks: each block as a whole, or a run of them as tiles. So the choice is
    never slower than untiled.
    """
    best = [Choice(0.0, ())]
    for stop in range(start + 1, len(pricing.blocks) + 1):
        seconds = best[-1].seconds + pricing.untiled[stop - 1]
        candidate, tiled = seconds, None
        for begin in range(start, stop):
            run = runs.get((begin, stop))
            if run is None:
                continue
            total = best[begin - start].seconds + run.cost.seconds
            if total < candidate and not math.isclose(total, candidate, rel_tol=1e-12):
                candidate, tiled = total, run
        if tiled is None:
            best.append(Choice(seconds, best[-1].runs))
        else:
            best.append(Choice(candidate, (*best[tiled.start - start].runs, tiled)))
    return best


def choose_for_segment(graph: Graph, profile: Profile, parts: Blocks, nodes: EdgeNodes) -> Choice:
    """The best choice for all blocks of a segment; `seconds` is theirs alone, without the layers around them."""
    pricing = Pricing(graph, profile, parts.blocks, nodes)
    return choose(pricing, priced_runs(pricing))[-1]
