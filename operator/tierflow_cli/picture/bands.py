"""Where the tiers, their rows of boxes and the gaps between them are on the page, from top to bottom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tierflow.tiers import TIERS, Tier
from tierflow_cli.picture.boxes import Role, Sketch

BOX_HEIGHT: Final = 36.0
ROW_HEIGHT: Final = 56.0
_PADDING: Final = 16.0
_LEAST_HEIGHT: Final = 104.0
"""Room for what is written beside a band's boxes."""
_EMPTY_HEIGHT: Final = 50.0
_CROSSED_GAP: Final = 84.0
_QUIET_GAP: Final = 22.0
_ZONE_GAP: Final = 12.0


@dataclass(frozen=True, slots=True)
class Band:
    """A tier's part of the page: its rows, and its upper and lower edge."""

    tier: Tier
    rows: range
    top: float
    bottom: float
    added: tuple[float, ...] = ()
    """For each row, the space that is added above it and the rows before it, where zones meet."""

    @property
    def middle(self) -> float:
        """Half-way down."""
        return (self.top + self.bottom) / 2

    def row_top(self, row: int) -> float:
        """The upper edge of the boxes in a row."""
        place = row - self.rows.start
        return self.middle - content_height(self.added) / 2 + place * ROW_HEIGHT + self.added[place]


def content_height(added: Sequence[float]) -> float:
    """From the upper edge of a band's first boxes to the lower edge of its last."""
    return len(added) * ROW_HEIGHT - (ROW_HEIGHT - BOX_HEIGHT) + added[-1]


def rows_of(sketch: Sketch) -> tuple[int, ...]:
    """The row of each box: below all that it reads, and below every box of the zones before its own."""
    row = [0] * len(sketch.boxes)
    sources: dict[int, list[int]] = {}
    targets: dict[int, list[int]] = {}
    for edge in sketch.edges:
        sources.setdefault(edge.target, []).append(edge.source)
        targets.setdefault(edge.source, []).append(edge.target)
    start = 0
    for zone in sorted({box.zone for box in sketch.boxes}, key=lambda zone: zone.order):
        members = [number for number, box in enumerate(sketch.boxes) if box.zone == zone]
        for number in members:
            row[number] = max([start, *(row[source] + 1 for source in sources.get(number, ()))])
        end = max((row[number] for number in members), default=start - 1)
        for number in members:
            if sketch.boxes[number].role is Role.INPUT:
                row[number] = min([end, *(row[target] - 1 for target in targets.get(number, ()) if row[target] > 0)])
        start = end + 1
    return tuple(row)


def bands_of(sketch: Sketch, rows: Sequence[int], crossed: Sequence[bool], top: float) -> tuple[Band, Band, Band]:
    """The bands of device, edge and cloud.

    Args:
        sketch: What is drawn.
        rows: As `rows_of` says.
        crossed: For device-edge and edge-cloud, whether something is written on the lines between them.
        top: Where the device's begins.
    """
    bands = []
    first = 0
    for tier in TIERS:
        used = [row for row, box in zip(rows, sketch.boxes, strict=True) if box.tier is tier]
        count = max(used) - first + 1 if used else 0
        own = range(first, first + count)
        added = _added(sketch, rows, own)
        height = max(content_height(added) + 2 * _PADDING, _LEAST_HEIGHT) if count else _EMPTY_HEIGHT
        bands.append(Band(tier, own, top, top + height, added))
        first += count
        if tier is not Tier.CLOUD:
            top += height + (_CROSSED_GAP if crossed[tier.rank] else _QUIET_GAP)
    device, edge, cloud = bands
    return device, edge, cloud


def _added(sketch: Sketch, rows: Sequence[int], own: range) -> tuple[float, ...]:
    """For each row of a band, the space added up to there: some wherever a row is of another zone than the last."""
    zone = {row: box.zone for row, box in zip(rows, sketch.boxes, strict=True)}
    added, total, before = [], 0.0, zone.get(own.start)
    for row in own:
        here = zone.get(row, before)
        total += _ZONE_GAP if here != before else 0.0
        added.append(total)
        before = here
    return tuple(added)
