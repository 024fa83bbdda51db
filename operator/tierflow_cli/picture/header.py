"""The head of the picture: title, what the plan was decided from, where the time goes, and the legend."""

from typing import Final, NamedTuple

from tierflow.partition.problem import Latency
from tierflow.plan import Plan
from tierflow.tiers import TIERS
from tierflow_cli.picture.palette import BORDER, FILL, INK, LINK, PAPER
from tierflow_cli.picture.strips import tiles_swatch
from tierflow_cli.picture.svg import element, hint, path, text, text_width
from tierflow_cli.shares import Share, name_of, shares_of
from tierflow_cli.wording import seconds_text, shortened

HEADER_HEIGHT: Final = 160.0
HEADING_SIZE: Final = 22.0
_BAR_TOP: Final = 78.0
_BAR_HEIGHT: Final = 28.0
_LEGEND: Final = 134.0
_SWATCH: Final = 28.0
"""From the left edge of a shape in the legend to what is said of it."""
_SPACE: Final = 18.0


class Heading(NamedTuple):
    """What is said above all: the title, the edge's workers where there are several, and a remark."""

    title: str
    workers: str = ""
    remark: str = ""


def header(plan: Plan, latency: Latency, heading: Heading, width: float) -> str:
    """Everything above the bands, from (0, 0) to (`width`, `HEADER_HEIGHT`)."""
    gap = f"{plan.optimality_gap:.1%} above the optimum" if plan.optimality_gap > 0 else "optimal"
    if plan.tiling:
        gap = "with tiles"  # the gap is that of the cut without them
    speeds = ", ".join(f"{tier} {plan.speeds[tier]:g}" for tier in TIERS)
    subtitle = f"{plan.algorithm.value}, {gap} · network {plan.network.name or 'as given'} · speeds: {speeds}"
    lines = [subtitle, heading.remark]
    if heading.workers:  # where there is more room
        place = lines.index(min(lines, key=len))
        lines[place] = " · ".join(filter(None, (lines[place], heading.workers)))
    characters = int(width / 7.5)
    return "".join(
        [
            text(heading.title, 0, 20, style="heading"),
            *(
                text(shortened(line, characters), 0, 42 + 18 * place, style="subheading")
                for place, line in enumerate(lines)
                if line
            ),
            _bar(shares_of(latency), width),
            _legend(plan),
        ]
    )


def _bar(shares: list[Share], width: float) -> str:
    """The latency as a bar, each part as wide as it is long; what is too narrow for its text has it as a hint."""
    total = sum(seconds for _, seconds in shares)
    drawn = []
    x = 0.0
    for where, seconds in shares:
        part = seconds / total if total else 0.0
        wide = width * part
        name = f"{name_of(where)} {seconds_text(seconds)}"
        fill, stroke = (FILL[where[0]], BORDER[where[0]]) if len(where) == 1 else (PAPER, LINK)
        body = element("rect", x=x, y=_BAR_TOP, width=wide, height=_BAR_HEIGHT, fill=fill, stroke=stroke)
        fitting = [label for label in (name, seconds_text(seconds)) if text_width(label, 11.5, bold=True) < wide - 6]
        if fitting:
            body += text(fitting[0], x + wide / 2, _BAR_TOP + 18, style="bar", anchor="middle")
        drawn.append(element("g", hint(f"{name}, {part:.0%} of the time") + body))
        x += wide
    return "".join(drawn)


def legend_width(plan: Plan) -> float:
    """How wide the legend is."""
    return sum(_SWATCH + text_width(words, 12) + _SPACE for words, _ in _entries(plan)) - _SPACE


def _legend(plan: Plan) -> str:
    x = 0.0
    drawn = []
    for words, swatch in _entries(plan):
        shapes = element("g", swatch, transform=f"translate({x:.1f} {_LEGEND - 10:g})")
        drawn.append(shapes + text(words, x + _SWATCH, _LEGEND, style="note"))
        x += _SWATCH + text_width(words, 12) + _SPACE
    return "".join(drawn)


def _entries(plan: Plan) -> list[tuple[str, str]]:
    """What the legend says, and the shape that it says it of, from (0, 0) on."""
    entries = [
        (tier.value, element("rect", x=0, y=0, width=16, height=12, rx=3, fill=FILL[tier], stroke=BORDER[tier]))
        for tier in TIERS
    ]
    sheets = [element("rect", x=at, y=at, width=16, height=11, rx=3, fill=PAPER, stroke=INK) for at in (3, 0)]
    entries.append(("several layers in one box", "".join(sheets)))
    entries.append(("sent over a link", element("path", d=path([(0, 6), (0, 6)]) + "h22", class_="crossing")))
    if plan.tiling:
        entries.append(("computed as tiles by the edge's workers", tiles_swatch()))
    return entries
