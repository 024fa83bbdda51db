"""Draws a plan as SVG."""

from typing import Final

from tierflow.graph import Graph
from tierflow.partition.problem import Latency
from tierflow.plan import Plan
from tierflow.tiers import Tier
from tierflow_cli.picture.bands import BOX_HEIGHT, Band
from tierflow_cli.picture.boxes import Role
from tierflow_cli.picture.crossings import FONT_SIZE as LABEL_SIZE
from tierflow_cli.picture.header import HEADER_HEIGHT, HEADING_SIZE, Heading, header, legend_width
from tierflow_cli.picture.palette import BAND, BORDER, FILL, INK, LINK, MUTED, PAPER
from tierflow_cli.picture.scene import CAPTION_SIZE, TITLE_SIZE, Placed, Routed, Scene, Written, scene_of
from tierflow_cli.picture.strips import notes_width, strips
from tierflow_cli.picture.svg import FONT, element, hint, path, text, text_width
from tierflow_cli.runs import run_places
from tierflow_cli.wording import bandwidth_text, bytes_text, plural, seconds_text, shortened

_MARGIN: Final = 24.0
_COLUMN: Final = 232.0
"""Width of the column at the left that describes tiers and links."""
_PADDING: Final = 20.0
_LEAST_WIDTH: Final = 732.0
_NAME_LENGTH: Final = 48

_STYLE: Final = f"""
text {{ font-family: {FONT}; fill: {INK}; }}
.heading {{ font-size: {HEADING_SIZE}px; font-weight: 600; }}
.subheading {{ font-size: 13px; fill: {MUTED}; }}
.tier {{ font-size: 15px; font-weight: 700; }}
.note {{ font-size: 12px; fill: {MUTED}; }}
.title {{ font-size: {TITLE_SIZE}px; font-weight: 600; }}
.caption {{ font-size: {CAPTION_SIZE}px; fill: {MUTED}; }}
.label {{ font-size: {LABEL_SIZE}px; font-weight: 600; }}
.run {{ font-size: 12px; font-weight: 600; }}
.bar {{ font-size: 11.5px; font-weight: 600; }}
.flow {{ fill: none; stroke: #8a929e; stroke-width: 1.3; }}
.crossing {{ fill: none; stroke: {LINK}; stroke-width: 2.4; }}
"""


def draw(graph: Graph, plan: Plan, latency: Latency, remark: str = "", workers: str = "") -> str:
    """The graph under a plan: boxes coloured by tier, and on the lines between tiers what crosses.

    Args:
        graph: The whole graph.
        plan: A plan for it.
        latency: What the plan's predicted latency is made of.
        remark: What else to say of it, in a line.
        workers: What to say of the edge's workers.

    Returns:
        An SVG document; the same for the same arguments.
    """
    top = _MARGIN + HEADER_HEIGHT
    scene = scene_of(graph, plan.tiers(graph), plan.route, top, run_places(graph, plan))
    name = shortened(graph.name, _NAME_LENGTH)
    title = f"{name} over device, edge and cloud: {seconds_text(plan.predicted_seconds)} predicted"
    notes = notes_width(plan)
    drawing = _COLUMN + scene.width + 2 * _PADDING + notes
    inner = max(drawing, _LEAST_WIDTH, text_width(title, HEADING_SIZE, bold=True), legend_width(plan))
    width, height = inner + 2 * _MARGIN, scene.bottom + _MARGIN
    # A narrow drawing stands in the middle of its bands.
    left = _MARGIN + _COLUMN + (inner - _COLUMN - notes - scene.width) / 2
    moved = "".join(
        [
            *(_line(line) for line in scene.lines),
            *(_box(placed) for placed in scene.boxes),
            *(_label(written) for written in scene.labels),
        ]
    )
    parts = [
        hint(title),
        element("style", _STYLE),
        _arrow_heads(),
        element("rect", width=width, height=height, fill=PAPER),
        element(
            "g",
            header(plan, latency, Heading(title, workers, remark), inner),
            transform=f"translate({_MARGIN:g} {_MARGIN:g})",
        ),
        *(_band(graph, plan, band, inner) for band in scene.bands),
        *_links(plan, latency, scene),
        *strips(plan, scene.strips, _MARGIN + _COLUMN, _MARGIN + inner - 10),
        element("g", moved, transform=f"translate({left:.1f} 0)"),
    ]
    return element(
        "svg",
        "\n".join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.1f} {height:.1f}",
        width=width,
        height=height,
        role="img",
    )


def _arrow_heads() -> str:
    heads = [
        element(
            "marker",
            element("path", d="M0 0L8 4L0 8z", fill=colour),
            id=name, viewBox="0 0 8 8", refX=7.5, refY=4, markerWidth=7, markerHeight=7,
            markerUnits="userSpaceOnUse", orient="auto",
        )
        for name, colour in (("flow-head", "#8a929e"), ("crossing-head", LINK))
    ]  # fmt: skip
    return element("defs", "".join(heads))


def _band(graph: Graph, plan: Plan, band: Band, width: float) -> str:
    tier = band.tier
    x = _MARGIN + 16
    background = element(
        "rect", x=_MARGIN, y=band.top, width=width, height=band.bottom - band.top, rx=10, fill=BAND[tier]
    )
    edge = element("rect", x=_MARGIN, y=band.top, width=5, height=band.bottom - band.top, rx=2.5, fill=BORDER[tier])
    part = plan.segment(tier)
    if not part.layers:
        role = "passes tensors on" if part.segment.takes_part else "takes no part"
        return (
            background
            + edge
            + text(tier.value, x, band.middle, style="tier")
            + text(f"no layers: {role}", x, band.middle + 16, style="note")
        )
    names = {name for place in part.segment.layers for name in graph.layers[place].weights}
    weights = sum(graph.weights[name].size for name in names if name in graph.weights)
    notes = [
        f"{plural(part.layers, 'layer')}, {bytes_text(weights)} of weights",
        f"{seconds_text(part.compute_seconds)} at speed {plan.speeds[tier]:g}",
    ]
    if tier is Tier.EDGE and plan.tiling:
        tiled = sum(len(places) for places in run_places(graph, plan))
        notes.append(f"{plural(tiled, 'layer')} in tiles, in {plural(len(plan.tiling), 'run')}")
    lines = [text(note, x, band.top + 48 + 17 * row, style="note") for row, note in enumerate(notes)]
    return background + edge + text(tier.value, x, band.top + 28, style="tier") + "".join(lines)


def _links(plan: Plan, latency: Latency, scene: Scene) -> list[str]:
    """What is said of each link beside the gap that it bridges."""
    found = []
    for lower, upper in latency.transfer:
        y = (scene.bands[upper.rank - 1].bottom + scene.bands[upper.rank].top) / 2
        link = plan.network.link(lower, upper)
        size = bytes_text(plan.segment(lower).boundary_bytes)
        notes = [
            f"{lower.value} to {upper.value}: {seconds_text(latency.transfer[lower, upper])}",
            f"{size} at {bandwidth_text(link.bytes_per_second)},",
            f"{seconds_text(link.round_trip_seconds)} round trip",
        ]
        lines = [text(note, _MARGIN + 16, y - 13 + 16 * row, style="note") for row, note in enumerate(notes)]
        arrow = path([(_MARGIN + 2.5, y - 34), (_MARGIN + 2.5, y + 36)])
        found.append(element("path", d=arrow, class_="crossing", marker_end="url(#crossing-head)") + "".join(lines))
    return found


def _box(placed: Placed) -> str:
    box = placed.box
    left, top = placed.centre - placed.width / 2, placed.top
    capsule = box.role is not Role.LAYERS
    colours: dict[str, str | float] = {
        "fill": PAPER if capsule else FILL[box.tier],
        "stroke": BORDER[box.tier],
        "stroke_width": 1.2,
    }
    shape = element(
        "rect", x=left, y=top, width=placed.width, height=BOX_HEIGHT, rx=BOX_HEIGHT / 2 if capsule else 5, **colours
    )
    if box.layers > 1:  # a second sheet behind: several layers in one box
        shape = element("rect", x=left + 3, y=top + 3, width=placed.width, height=BOX_HEIGHT, rx=5, **colours) + shape
    lines = text(box.title, placed.centre, top + 15, style="title", anchor="middle") + text(
        box.caption, placed.centre, top + 29, style="caption", anchor="middle"
    )
    return element("g", hint(box.hint) + shape + lines)


def _line(line: Routed) -> str:
    style = "crossing" if line.crosses else "flow"
    drawn = element("path", d=path(line.points), class_=style, marker_end=f"url(#{style}-head)")
    return element("g", hint(", ".join(line.edge.tensors[:12])) + drawn)


def _label(written: Written) -> str:
    label = written.label
    shape = element(
        "rect", x=label.centre - label.width / 2, y=written.y - 12, width=label.width, height=24, rx=12,
        fill=PAPER, stroke=LINK, stroke_width=1.4,
    )  # fmt: skip
    words = text(label.text, label.centre, written.y + 4, style="label", anchor="middle")
    return element("g", hint(", ".join(label.tensors[:12])) + shape + words)
