"""The course of a simulated pipeline as SVG: what each tier computes over time, latencies, and the figures below."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from tierflow.network import MEGABIT
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_cli.picture.axes import Point, Scale, stepped, time_ticks, value_scale, value_ticks
from tierflow_cli.picture.palette import BORDER, FILL, INK, LINK, MUTED, PAPER
from tierflow_cli.picture.svg import FONT, element, hint, text, text_width
from tierflow_cli.simulate_report import Course, summaries, time_text
from tierflow_cli.wording import plural, seconds_text, shortened
from tierflow_operator.decide import MoveReason
from tierflow_operator.observation import LINKS, Observation, link_name
from tierflow_operator.simulation import Step, moves

_WIDTH: Final = 1120.0
_LEFT: Final = 150.0
_RIGHT: Final = 36.0
_TOP: Final = 128.0
_PLAN_HEIGHT: Final = 190.0
_PANEL_HEIGHT: Final = 92.0
_LATENCY_HEIGHT: Final = 140.0
_GAP: Final = 34.0
_TICKS: Final = 12
_LEAST_LABEL: Final = 17.0
"""Pixels between two epochs' numbers; where moves lie closer, only the first says its number."""

_MARK: Final = {MoveReason.NODES_CHANGED: "#a5403a", MoveReason.SPEED_CHANGED: "#6b4c9a"}
_LINES: Final = {"decided": INK, "neverMoving": "#c1432e", "alwaysBest": "#00805d"}
_NAMES: Final = {"decided": "as decided", "neverMoving": "never moving", "alwaysBest": "always the best plan"}

_COLOUR: Final = (BORDER[Tier.DEVICE], BORDER[Tier.CLOUD], MUTED)
"""Of the links, in the order of `LINKS`."""

_STYLE: Final = f"""
text {{ font-family: {FONT}; fill: {INK}; }}
.heading {{ font-size: 22px; font-weight: 600; }}
.subheading {{ font-size: 13px; fill: {MUTED}; }}
.panel {{ font-size: 13px; font-weight: 600; }}
.note {{ font-size: 12px; fill: {MUTED}; }}
.epoch {{ font-size: 11px; font-weight: 600; }}
.grid {{ stroke: #e3e6ea; stroke-width: 1; }}
.move {{ stroke-width: 1.4; stroke-dasharray: 3 3; }}
.line {{ fill: none; stroke-width: 1.8; stroke-linejoin: round; }}
"""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a panel: its name, colour and value at a look; None makes a gap."""

    name: str
    colour: str
    value: Callable[[Step], float | None]
    dashes: str = ""


@dataclass(frozen=True, slots=True)
class _Panel:
    """A panel below the plan."""

    title: str
    unit: str
    lines: tuple[_Line, ...]
    shown: Callable[[float], str]
    from_zero: bool = False
    height: float = _PANEL_HEIGHT


def draw(course: Course) -> str:
    """Draws a course.

    Returns:
        An SVG document; the same for the same course.
    """
    begin, end = course.steps[0].seconds, course.steps[-1].seconds
    across = Scale(begin, end if end > begin else begin + 1, _LEFT, _WIDTH - _RIGHT)
    panels = [_latency_panel(), *_figure_panels(course)]
    bottom = _TOP + _PLAN_HEIGHT + sum(panel.height + _GAP for panel in panels)
    title = (
        f"{shortened(course.pipeline, 60)}: {plural(len(moves(course.steps)), 'move')} in {time_text(course.seconds)}"
    )
    parts = [
        hint(title),
        element("style", _STYLE),
        element("rect", width=_WIDTH, height=bottom + 44, fill=PAPER),
        _header(course, title),
        _grid(across, bottom),
        _plans(course, across),
    ]
    top = _TOP + _PLAN_HEIGHT + _GAP
    for panel in panels:
        parts.append(_drawn(panel, course, across, top))
        top += panel.height + _GAP
    parts.append(_moves(course, across, bottom))
    return (
        element(
            "svg",
            "".join(parts),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {_WIDTH:g} {bottom + 44:g}",
            width=_WIDTH,
            height=bottom + 44,
            role="img",
        )
        + "\n"
    )


def _header(course: Course, title: str) -> str:
    planning = course.spec.planning
    subtitle = (
        f"trace {shortened(course.trace, 40)} · minImprovementPercent {planning.min_improvement_percent} · "
        f"minIntervalSeconds {planning.min_interval_seconds} · stabilizationSeconds {planning.stabilization_seconds}"
    )
    drawn = [text(title, 24, 42, style="heading"), text(subtitle, 24, 64, style="subheading")]
    x = 24.0
    for name, each in summaries(course).items():
        mean = "-" if each.mean is None else seconds_text(each.mean)
        words = f"{_NAMES[name]}: {mean} on average"
        drawn.append(element("path", d=f"M{x:g} 86h22", class_="line", stroke=_LINES[name], **_dashes(name)))
        drawn.append(text(words, x + 28, 90, style="note"))
        x += 28 + text_width(words, 12) + 22
    return "".join(drawn)


def _dashes(name: str) -> dict[str, str | float]:
    return {} if name == "decided" else {"stroke_dasharray": "5 3" if name == "neverMoving" else "2 3"}


def _grid(across: Scale, bottom: float) -> str:
    drawn = []
    for seconds in time_ticks(across.high, _TICKS):
        if seconds >= across.low:
            x = across.at(seconds)
            drawn.append(element("path", d=f"M{x:.1f} {_TOP:g}V{bottom:g}", class_="grid"))
            drawn.append(text(time_text(seconds), x, bottom + 18, style="note", anchor="middle"))
    return "".join(drawn)


def _plans(course: Course, across: Scale) -> str:
    """The layers of each tier over time, the device's at the top, as the model's order goes down the page."""
    up = Scale(0, max(1, len(course.graph.layers)), _TOP, _TOP + _PLAN_HEIGHT)
    drawn = [text("Layers", 24, _TOP + 14, style="panel")]
    drawn.append(text(f"of {len(course.graph.layers):,}", 24, _TOP + 32, style="note"))
    for place, tier in enumerate(TIERS):
        y = _TOP + 46 + 20 * place
        drawn.append(element("rect", x=24, y=y, width=14, height=12, fill=FILL[tier], stroke=BORDER[tier]))
        drawn.append(text(tier.value, 45, y + 10, style="note"))
    for begin, end, plan in _stays(course):
        first = 0
        for tier in TIERS:
            layers = plan.segment(tier).layers
            if layers:
                reach = (up.at(first), up.at(first + layers))
                drawn.append(_stay(tier, layers, plan, (across.at(begin), across.at(end)), reach))
            first += layers
    return "".join(drawn)


def _stays(course: Course) -> Iterator[tuple[float, float, Plan]]:
    """From when to when each plan was in force."""
    groups = [list(steps) for _, steps in groupby(course.steps, key=lambda step: step.plan.epoch)]
    for steps, following in zip(groups, (*groups[1:], None), strict=True):
        yield steps[0].seconds, (following or steps[-1:])[0].seconds, steps[0].plan


def _stay(tier: Tier, layers: int, plan: Plan, x: tuple[float, float], y: tuple[float, float]) -> str:
    box = element(
        "rect", x=x[0], y=y[0], width=max(0.5, x[1] - x[0]), height=y[1] - y[0], fill=FILL[tier], stroke=BORDER[tier],
        stroke_width=0.6,
    )  # fmt: skip
    label = f"{layers:,}"
    if x[1] - x[0] > text_width(label, 12) + 8 and y[1] - y[0] > 14:
        box += text(label, sum(x) / 2, sum(y) / 2 + 4, style="note", anchor="middle")
    return element("g", hint(f"epoch {plan.epoch}: {plural(layers, 'layer')} on {tier}") + box)


def _moves(course: Course, across: Scale, bottom: float) -> str:
    drawn = []
    labelled = -1e9
    for seconds, move in moves(course.steps):
        x = across.at(seconds)
        colour = _MARK.get(move.reason, LINK)
        body = element("path", d=f"M{x:.1f} {_TOP - 4:g}V{bottom:g}", class_="move", stroke=colour)
        if x - labelled >= _LEAST_LABEL:
            labelled = x
            body += text(f"{move.plan.epoch}", x, _TOP - 9, style="epoch", anchor="middle")
        drawn.append(element("g", hint(f"{time_text(seconds)} {move.reason}: {move.message}") + body))
    if drawn:
        drawn.append(text("epoch", _LEFT - 12, _TOP - 9, style="note", anchor="end"))
    return "".join(drawn)


def _latency_panel() -> _Panel:
    lines = (
        _Line("neverMoving", _LINES["neverMoving"], lambda step: step.first, "5 3"),
        _Line("decided", _LINES["decided"], lambda step: step.latency),
        _Line("alwaysBest", _LINES["alwaysBest"], lambda step: step.best, "2 3"),
    )
    return _Panel("Latency", "predicted", lines, seconds_text, height=_LATENCY_HEIGHT)


def _figure_panels(course: Course) -> Iterator[_Panel]:
    """A panel for each kind of figure that changes."""
    seen = [step.observation for step in course.steps]
    bandwidths = tuple(
        _Line(link_name(link), _COLOUR[place], _bandwidth_of(place))
        for place, link in enumerate(LINKS)
        if link in seen[0].links and _changes([each.network.link(*link).bytes_per_second for each in seen])
    )
    trips = tuple(
        _Line(link_name(link), _COLOUR[place], _trip_of(place))
        for place, link in enumerate(LINKS)
        if link in seen[0].links and _changes([each.network.link(*link).round_trip_seconds for each in seen])
    )
    speeds = tuple(
        _Line(tier.value, BORDER[tier], _speed_of(tier))
        for tier in TIERS
        if _changes([each.tier_speeds[tier] for each in seen])
    )
    nodes = tuple(
        _Line(tier.value, BORDER[tier], _nodes_of(tier))
        for tier in TIERS
        if _changes([float(each.ready_nodes.get(tier, 0)) for each in seen])
    )
    panels = (
        _Panel("Bandwidth", "Mbit/s", bandwidths, _plain),
        _Panel("Round trip", "ms", trips, _plain),
        _Panel("Speed", "relative", speeds, _plain),
        _Panel("Ready nodes", "", nodes, _plain, from_zero=True),
    )
    return (panel for panel in panels if panel.lines)


def _changes(values: list[float]) -> bool:
    return len(set(values)) > 1


def _measured(seen: Observation) -> bool:
    return not seen.metrics.holds


def _bandwidth_of(place: int) -> Callable[[Step], float | None]:
    def value(step: Step) -> float | None:
        seen = step.observation
        return seen.network.link(*LINKS[place]).bytes_per_second / MEGABIT if _measured(seen) else None

    return value


def _trip_of(place: int) -> Callable[[Step], float | None]:
    def value(step: Step) -> float | None:
        seen = step.observation
        return seen.network.link(*LINKS[place]).round_trip_seconds * 1000 if _measured(seen) else None

    return value


def _speed_of(tier: Tier) -> Callable[[Step], float | None]:
    return lambda step: step.observation.tier_speeds[tier] if _measured(step.observation) else None


def _nodes_of(tier: Tier) -> Callable[[Step], float | None]:
    return lambda step: float(step.observation.ready_nodes.get(tier, 0))


def _plain(value: float) -> str:
    return f"{value:g}"


def _drawn(panel: _Panel, course: Course, across: Scale, top: float) -> str:
    courses: list[list[Point]] = [[(step.seconds, line.value(step)) for step in course.steps] for line in panel.lines]
    known = [value for points in courses for _, value in points if value is not None]
    drawn = [text(panel.title, 24, top + 14, style="panel"), text(panel.unit, 24, top + 31, style="note")]
    if not known:
        return "".join(drawn)
    up = value_scale(known, top + panel.height, top, from_zero=panel.from_zero)
    for tick in value_ticks(up, whole=panel.from_zero):
        y = up.at(tick)
        drawn.append(element("path", d=f"M{across.start:g} {y:.1f}H{across.stop:g}", class_="grid"))
        drawn.append(text(panel.shown(tick), _LEFT - 12, y + 4, style="note", anchor="end"))
    for line, points in zip(panel.lines, courses, strict=True):
        dashes: dict[str, str | float] = {"stroke_dasharray": line.dashes} if line.dashes else {}
        data = stepped(points, across.high, across, up)
        body = element("path", d=data, class_="line", stroke=line.colour, **dashes)
        drawn.append(element("g", hint(_NAMES.get(line.name, line.name)) + body))
    if panel.title != "Latency":
        drawn.append(_names(panel, top))
    return "".join(drawn)


def _names(panel: _Panel, top: float) -> str:
    """Whose the lines are, below the panel's title."""
    drawn = []
    y = top + 49
    for line in panel.lines:
        drawn.append(element("path", d=f"M24 {y - 4:g}h14", class_="line", stroke=line.colour))
        drawn.append(text(line.name, 43, y, style="note"))
        y += 16
    return "".join(drawn)
