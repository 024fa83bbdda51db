"""From an output tile back through a run of layers to the input that it needs.

A run is a region of the graph: residual, inception and dense blocks as well as chains. Where consumers need different
places of a tensor, the smallest rectangle that holds all of them is made, and each takes its own part of it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tierflow.tiling.region import Interval, Region
from tierflow.tiling.rules import NO_PADS, Extents, Pointwise, Rule, Sliding


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a run: its rule, and the feature maps that it reads and makes (weights are left out).

    `smallest_area` is how many places of its output are made at least, and `one_thread` whether a single thread has to
    compute it: `tierflow.tiling.exactness`.
    """

    name: str
    rule: Rule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    smallest_area: int = 1
    one_thread: bool = False

    def rule_of_input(self, place: int) -> Rule:
        """The rule towards the input at `place`.

        A window slides over the first input alone; what a fused kernel adds to its result is aligned with the output.
        """
        return Pointwise() if place and isinstance(self.rule, Sliding) else self.rule


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a made region: places left out at rows begin, columns begin, rows end and columns end."""

    rows_begin: int
    columns_begin: int
    rows_end: int
    columns_end: int

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return not (self.rows_begin or self.columns_begin or self.rows_end or self.columns_end)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What computing one tile of a run's output takes.

    Attributes:
        regions: For each feature map, the region that is made (or, for the run's inputs, has to be given).
        pads: Per step, in ONNX's order, the padding that remains of the map's own border.
        slices: Per step and per input, the part that it reads of what was made.
        crops: For each output, the part of what was made that is the tile.
    """

    regions: Mapping[str, Region]
    pads: tuple[tuple[int, int, int, int], ...]
    slices: tuple[tuple[Slice, ...], ...]
    crops: Mapping[str, Slice]

    @property
    def case(self) -> tuple[object, ...]:
        """What the tile's model depends on: tiles of one case share it, whatever their size."""
        return self.pads, self.slices, tuple(sorted(self.crops.items()))


def footprint(
    steps: Sequence[Step],
    extents: Mapping[str, Extents],
    tile: Mapping[str, Region],
    constants: Collection[str] = (),
) -> Footprint:
    """The footprint of a tile.

    Args:
        steps: The run's layers in topological order.
        extents: The whole size of each feature map.
        tile: For each output of the run, the region wanted.
        constants: Feature maps that are there as a whole, as weights, and are sliced where they are read.

    Raises:
        KeyError: where a tensor's extents are missing.
    """
    wanted: dict[str, Region] = dict(tile)
    made: dict[str, Region] = {}
    needs: list[tuple[Region, ...]] = []
    pads: list[tuple[int, int, int, int]] = []
    for step in reversed(steps):
        asked = [wanted[name] for name in step.outputs if name in wanted]
        if not asked:
            raise ValueError(f"nothing of the run reads what layer {step.name} makes")
        region = asked[0]
        for other in asked[1:]:
            region = region.union(other)
        region = step.rule.made(region, extents[step.inputs[0]])
        region = widened(region, extents[step.outputs[0]], step.smallest_area)
        made |= dict.fromkeys(step.outputs, region)
        of_inputs = [step.rule_of_input(place).need(region, extents[name]) for place, name in enumerate(step.inputs)]
        for name, need in zip(step.inputs, of_inputs, strict=True):
            wanted[name] = wanted[name].union(need.region) if name in wanted else need.region
        needs.append(tuple(need.region for need in of_inputs))
        pads.append(of_inputs[0].pads if of_inputs else NO_PADS)
    regions = wanted | made | {name: extents[name].region for name in constants}
    slices = tuple(
        tuple(part(regions[name], need) for name, need in zip(step.inputs, of_step, strict=True))
        for step, of_step in zip(steps, reversed(needs), strict=True)
    )
    crops = {name: part(regions[name], region) for name, region in tile.items()}
    return Footprint(regions, tuple(reversed(pads)), slices, crops)


def widened(region: Region, extents: Extents, area: int) -> Region:
    """A region of at least `area` places that holds `region`, as far as the map has them."""
    rows, columns = region
    while rows.length * columns.length < area and (rows.length < extents.rows or columns.length < extents.columns):
        if columns.length < extents.columns:
            columns = _longer(columns, extents.columns)
        else:
            rows = _longer(rows, extents.rows)
    return Region(rows, columns)


def _longer(places: Interval, extent: int) -> Interval:
    """One place more, at the end while there is room."""
    if places.stop < extent:
        return Interval(places.start, places.stop + 1)
    return Interval(places.start - 1, places.stop)


def part(whole: Region, inner: Region) -> Slice:
    """Where `inner` lies in `whole`, which holds it."""
    return Slice(
        inner.rows.start - whole.rows.start,
        inner.columns.start - whole.columns.start,
        whole.rows.stop - inner.rows.stop,
        whole.columns.stop - inner.columns.stop,
    )
