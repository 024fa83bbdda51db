"""The runs that are computed as tiles: a strip of the edge's band each, and at its right what is said of it."""

from collections.abc import Sequence
from typing import Final

from tierflow.plan import Plan, RunPlan
from tierflow.tiers import Tier
from tierflow_cli.picture.palette import BORDER, FILL, STRIP
from tierflow_cli.picture.scene import Strip
from tierflow_cli.picture.svg import element, hint, text, text_width
from tierflow_cli.runs import grid_text
from tierflow_cli.wording import bytes_text, plural, seconds_text

_ICON: Final = 34.0
_GAP: Final = 12.0
_LINE: Final = 15.0


def notes_width(plan: Plan) -> float:
    """Width of the column at the right that describes the runs; 0 where there are none."""
    widths = [text_width(note, 12, bold=place == 0) for run in plan.tiling for place, note in enumerate(_notes(run))]
    return max(widths) + _ICON + 4 * _GAP if widths else 0.0


def strips(plan: Plan, placed: Sequence[Strip], left: float, right: float) -> list[str]:
    """The strips from `left` to `right`, whose last `notes_width` is for notes."""
    return [_strip(plan.tiling[strip.run], strip, left, right, right - notes_width(plan)) for strip in placed]


def tiles_swatch() -> str:
    """A small strip for the legend, from (0, 0) to (22, 12)."""
    return _frame(0, 0, 22, 12) + _grid(7, 2, 8, 2, 2)


def _strip(run: RunPlan, strip: Strip, left: float, right: float, notes: float) -> str:
    middle = (strip.top + strip.bottom) / 2
    drawn = _frame(left, strip.top, right - left, strip.bottom - strip.top)
    drawn += _grid(notes + 2 * _GAP, middle - _ICON / 2, _ICON, run.rows, run.columns)
    x = notes + _ICON + 3 * _GAP
    said = _notes(run)
    first = middle - (len(said) - 1) * _LINE / 2 + 4
    for place, note in enumerate(said):
        drawn += text(note, x, first + place * _LINE, style="run" if place == 0 else "note")
    whole = "\n".join([f"{run.first_layer} to {run.last_layer}", *said])
    return element("g", hint(whole) + drawn)


def _notes(run: RunPlan) -> tuple[str, ...]:
    workers = plural(run.rows * run.columns, "worker")
    return (
        f"{grid_text(run)} on {workers}, halo {run.halo_factor:.2f}",
        f"{seconds_text(run.predicted_seconds)} instead of {seconds_text(run.untiled_seconds)}",
        f"{bytes_text(run.scatter_bytes)} out, {bytes_text(run.gather_bytes)} back",
    )


def _frame(x: float, y: float, width: float, height: float) -> str:
    return element(
        "rect", x=x, y=y, width=width, height=height, rx=6,
        fill=STRIP, stroke=BORDER[Tier.EDGE], stroke_width=1, stroke_dasharray="4 3",
    )  # fmt: skip


def _grid(x: float, y: float, size: float, rows: int, columns: int) -> str:
    """A map and the lines along which it is cut."""
    cuts = [f"M{x + size * at / columns:.1f} {y:.1f}v{size:.1f}" for at in range(1, columns)]
    cuts += [f"M{x:.1f} {y + size * at / rows:.1f}h{size:.1f}" for at in range(1, rows)]
    colours: dict[str, str | float] = {"stroke": BORDER[Tier.EDGE], "stroke_width": 1.2}
    square = element("rect", x=x, y=y, width=size, height=size, fill=FILL[Tier.EDGE], **colours)
    return square + (element("path", d="".join(cuts), fill="none", **colours) if cuts else "")
