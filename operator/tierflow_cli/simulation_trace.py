"""Traces: what links, tiers and nodes were like over time, as a CSV file."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tierflow.errors import InvalidInputError
from tierflow.manifest import InferencePipeline
from tierflow.manifest_values import assumed_edge_workers
from tierflow.network import MEGABIT, network_of
from tierflow.segment import closest
from tierflow.tiers import TIERS, Tier
from tierflow_operator.observation import (
    LINKS,
    MetricsReason,
    MetricsState,
    Observation,
    ObservedLink,
    ObservedSpeed,
    Source,
    TierLink,
    assumed,
    link_name,
)
from tierflow_operator.simulation import Moment

_TIME: Final = "seconds"
_METRICS: Final = "metrics"
_NO_METRICS: Final = MetricsState(
    available=False, reason=MetricsReason.UNREACHABLE, message="the trace has no measurements here", holds=True
)
_MOST_SECONDS: Final = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class _Column:
    """What a column's values have to be, and what they change."""

    form: str
    allows: Callable[[float], bool]
    put: Callable[[Observation, float], Observation]


def read_trace(path: Path, pipeline: InferencePipeline) -> list[Moment]:
    """Reads a trace; what it doesn't say is as the manifest assumes.

    Args:
        path: A CSV file: a line of column names, then lines in the order of time. An empty cell, and what a later line
            leaves out, is as in the line before. Lines that begin with # are left out.
        pipeline: The manifest.

    Returns:
        A moment per line, at least one.

    Raises:
        InvalidInputError: naming the file, the line and the column that is wrong.
    """
    lines = list(_lines(path))
    if not lines:
        raise InvalidInputError(f"{path}: the trace is empty; its first line names columns", subject=str(path))
    number, names = lines[0]
    columns = _columns(path, number, names)
    seen = _beginning(pipeline, names)
    moments: list[Moment] = []
    for number, cells in lines[1:]:
        if len(cells) != len(names):
            raise InvalidInputError(
                f"{path}, line {number}: has {len(cells)} cells where the first line names {len(names)} columns; "
                "leave cells empty that change nothing",
                subject=str(path),
            )
        row = dict(zip(names, cells, strict=True))
        after = moments[-1].seconds if moments else -math.inf
        now = _time(path, number, row[_TIME], after)
        for name, column in columns.items():
            if row[name]:
                seen = column.put(seen, _value(path, number, name, row[name], column))
        moments.append(Moment(now, seen))
    if not moments:
        raise InvalidInputError(f"{path}: has column names but no line below them; add one", subject=str(path))
    return moments


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                trimmed = [cell.strip() for cell in cells]
                if any(trimmed) and not trimmed[0].startswith("#"):
                    yield reader.line_num, trimmed
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no CSV text in UTF-8"
        raise InvalidInputError(
            f"--trace: {path} can't be read: {reason}; check the path", subject="--trace"
        ) from error


def _columns(path: Path, number: int, names: Sequence[str]) -> dict[str, _Column]:
    known = _known_columns()
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidInputError(f"{path}, line {number}: column {name} is there twice; drop one", subject=name)
        if name != _TIME and name not in known:
            raise InvalidInputError(
                f"{path}, line {number}: there is no column {name!r}{closest(name, [_TIME, *known])}; there are "
                f"{_TIME}, LINK.mbps, LINK.rtt_ms, speed.TIER, nodes.TIER and metrics, like edge-cloud.mbps",
                subject=name,
            )
    if _TIME not in names:
        raise InvalidInputError(f"{path}, line {number}: no column is named {_TIME}; add one", subject=_TIME)
    return {name: known[name] for name in names if name != _TIME}


def _known_columns() -> Mapping[str, _Column]:
    columns: dict[str, _Column] = {}
    for link in LINKS:
        columns[f"{link_name(link)}.mbps"] = _Column("a number of Mbit/s above 0", _is_positive, _bandwidth(link))
        columns[f"{link_name(link)}.rtt_ms"] = _Column("a number of milliseconds from 0 on", _is_no_less, _trip(link))
    for tier in TIERS:
        columns[f"speed.{tier}"] = _Column("a speed above 0", _is_positive, _speed(tier))
        if tier is not Tier.DEVICE:
            columns[f"nodes.{tier}"] = _Column("a whole number from 0 on", _is_whole, _nodes(tier))
    columns[_METRICS] = _Column("1 where there are measurements, 0 where not", lambda value: value in (0, 1), _metrics)
    return columns


def _is_positive(value: float) -> bool:
    return value > 0


def _is_no_less(value: float) -> bool:
    return value >= 0


def _is_whole(value: float) -> bool:
    return value >= 0 and value == int(value)


def _bandwidth(link: TierLink) -> Callable[[Observation, float], Observation]:
    def put(seen: Observation, value: float) -> Observation:
        return _with_link(seen, link, bytes_per_second=value * MEGABIT)

    return put


def _trip(link: TierLink) -> Callable[[Observation, float], Observation]:
    def put(seen: Observation, value: float) -> Observation:
        return _with_link(seen, link, round_trip_seconds=value / 1000)

    return put


def _with_link(seen: Observation, link: TierLink, **figures: float) -> Observation:
    from msgspec.structs import replace as with_figures

    changed = with_figures(seen.network.link(*link), **figures)
    return replace(seen, links={**seen.links, link: ObservedLink(changed, Source.MEASURED)})


def _speed(tier: Tier) -> Callable[[Observation, float], Observation]:
    return lambda seen, value: replace(seen, speeds={**seen.speeds, tier: ObservedSpeed(value, Source.MEASURED)})


def _nodes(tier: Tier) -> Callable[[Observation, float], Observation]:
    return lambda seen, value: replace(seen, ready_nodes={**seen.ready_nodes, tier: int(value)})


def _metrics(seen: Observation, value: float) -> Observation:
    measured = MetricsState(available=True, reason=MetricsReason.MEASURED, message="the trace has measurements")
    return replace(seen, metrics=measured if value else _NO_METRICS)


def _beginning(pipeline: InferencePipeline, names: Sequence[str]) -> Observation:
    """What is assumed before the first line."""
    nodes = {**dict.fromkeys(TIERS, 1), Tier.EDGE: assumed_edge_workers(pipeline) or 1}
    seen = assumed(pipeline, nodes)
    direct = LINKS[2]
    derived = network_of(seen.links[LINKS[0]].link, seen.links[LINKS[1]].link).device_cloud
    if seen.links[direct].link == derived and not any(name.startswith(link_name(direct)) for name in names):
        # The way through the edge, whatever becomes of it.
        seen = replace(seen, links={link: seen.links[link] for link in LINKS[:2]})
    return seen


def _time(path: Path, number: int, text: str, after: float) -> float:
    value = _number(text)
    if not 0 <= value <= _MOST_SECONDS:
        raise InvalidInputError(
            f"{path}, line {number}, column {_TIME}: {text!r} is no time; give seconds from 0 on", subject=_TIME
        )
    if value <= after:
        raise InvalidInputError(
            f"{path}, line {number}, column {_TIME}: {text} doesn't come after {after:g}, the line before; sort lines "
            "by time",
            subject=_TIME,
        )
    return value


def _value(path: Path, number: int, name: str, text: str, column: _Column) -> float:
    value = _number(text)
    if not (math.isfinite(value) and column.allows(value)):
        raise InvalidInputError(
            f"{path}, line {number}, column {name}: {text!r} can't be; give {column.form}", subject=name
        )
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
