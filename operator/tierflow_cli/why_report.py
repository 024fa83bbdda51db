"""What `tierflow why` says, to machines and to people, from a pipeline's status and the Events about it.

The JSON is stable: within a version keys are added, never removed, renamed or given another meaning. Nothing that the
cluster says is taken for granted: a pipeline that nobody looked at yet has no status, and layers' names are of others.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console

from tierflow_cli.console import out, table_of
from tierflow_cli.why_cluster import Document, Seen
from tierflow_cli.wording import bytes_text, plain, plural, seconds_text

VERSION: Final = 1
_EVENTS_SHOWN: Final = 10


def report_of(seen: Seen) -> dict[str, Any]:
    """The pipeline as the document of `tierflow why --json`."""
    metadata, status = seen.pipeline.get("metadata") or {}, _status(seen)
    return {
        "version": VERSION,
        "pipeline": metadata.get("name"),
        "namespace": metadata.get("namespace"),
        "plan": status.get("plan"),
        "lastPlanTime": status.get("lastPlanTime"),
        "observed": status.get("observed"),
        "conditions": list(status.get("conditions") or ()),
        "decisions": list(status.get("decisions") or ()),
        "events": _events(seen.events),
        "eventsUnread": seen.unread or None,
    }


def print_seen(seen: Seen) -> None:
    """Prints it for people."""
    console, status = out(), _status(seen)
    _print_head(console, seen, status)
    if status.get("plan"):
        _print_plan(console, status["plan"])
        _print_observed(console, status.get("observed") or {})
    _print_conditions(console, status.get("conditions") or ())
    _print_decisions(console, seen, status.get("decisions") or ())
    _print_events(console, seen)


def _status(seen: Seen) -> Mapping[str, Any]:
    return seen.pipeline.get("status") or {}


def _events(events: Iterable[Document]) -> list[dict[str, Any]]:
    """Events of either API as one form, the latest first."""
    found = []
    for event in events:
        series = event.get("series") or {}
        times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
        metadata = event.get("metadata") or {}
        found.append(
            {
                "time": next(filter(None, times), metadata.get("creationTimestamp")),
                "type": event.get("type"),
                "reason": event.get("reason"),
                "message": event.get("message") or event.get("note") or "",
                "count": series.get("count") or event.get("count") or 1,
            }
        )
    return sorted(found, key=lambda event: str(event["time"]), reverse=True)


def _print_head(console: Console, seen: Seen, status: Mapping[str, Any]) -> None:
    metadata = seen.pipeline.get("metadata") or {}
    name = f"{metadata.get('name')} in {metadata.get('namespace')}"
    conditions = {entry.get("type"): entry for entry in status.get("conditions") or ()}
    ready = conditions.get("Ready")
    if ready is None:
        console.print(plain(f"{name}: no operator has looked at it yet"), style="bold")
    else:
        standing = "ready" if ready.get("status") == "True" else "not ready"
        console.print(plain(f"{name}: {standing}, {ready.get('message')}"), style="bold")
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        console.print("The latest edit of its spec was not looked at yet.")
    console.print()


def _print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    console.print(plain(f"Epoch {plan.get('epoch')}   {plan.get('reason')}: {plan.get('message')}"), soft_wrap=True)
    gap = plan.get("optimalityGapPercent") or 0
    found = f"{gap} % above the optimum" if gap else "optimal"
    latency = seconds_text(plan.get("predictedLatencyMilliseconds", 0) / 1000)
    backbone = bytes_text(plan.get("backboneBytesPerRequest", 0))
    console.print(f"Predicted {latency} per request ({plan.get('algorithm')}, {found}), {backbone} into the cloud")
    for run in (plan.get("tiling") or {}).get("runs") or ():
        grid, first, last = run.get("grid"), run.get("firstLayer"), run.get("lastLayer")
        console.print(plain(f"Tiles     {grid} from {first} to {last}"), soft_wrap=True)
    table = table_of("Tier", "Layers", "Last layer", "Sends on", right=("Layers", "Sends on"))
    for part in plan.get("segments") or ():
        sent = part.get("boundaryBytes") or 0
        table.add_row(
            plain(str(part.get("tier"))),
            f"{part.get('layers', 0):,}",
            plain(part.get("lastLayer") or "-"),
            bytes_text(sent) if sent else "-",
        )
    console.print(table)
    console.print()


def _print_observed(console: Console, observed: Mapping[str, Any]) -> None:
    """What the plan was decided from."""
    table = table_of("Decided from", "", "", "Source", right=("",))
    for link in observed.get("links") or ():
        rate, trip = link.get("kilobitsPerSecond", 0) / 1000, link.get("roundTripMicroseconds", 0) / 1e6
        name = f"link {link.get('from')}-{link.get('to')}"
        table.add_row(plain(name), f"{rate:,.4g} Mbit/s", seconds_text(trip), plain(link.get("source") or "-"))
    for speed in observed.get("speeds") or ():
        name = f"speed of {speed.get('tier')}"
        table.add_row(plain(name), f"{speed.get('percent', 0) / 100:g}", "", plain(speed.get("source") or "-"))
    for nodes in observed.get("nodes") or ():
        table.add_row(plain(f"nodes of {nodes.get('tier')}"), f"{nodes.get('ready', 0)} ready", "", "")
    if table.row_count:
        console.print(table)
        console.print()


def _print_conditions(console: Console, conditions: Iterable[Mapping[str, Any]]) -> None:
    table = table_of("Condition", "Status", "Reason", "Message")
    for entry in conditions:
        table.add_row(*(plain(str(entry.get(key) or "-")) for key in ("type", "status", "reason", "message")))
    if table.row_count:
        console.print(table)
        console.print()


def _print_decisions(console: Console, seen: Seen, decisions: Iterable[Mapping[str, Any]]) -> None:
    table = table_of("Decided (UTC)", "", "Reason", "Epoch", "Times", "Why", right=("Epoch", "Times"))
    for entry in decisions:
        table.add_row(
            _time(entry.get("time")),
            plain(str(entry.get("decision") or "-")),
            plain(str(entry.get("reason") or "-")),
            f"{entry.get('epoch') or '-'}",
            f"{entry.get('count') or 1}",
            plain(str(entry.get("message") or "")),
        )
    if not table.row_count:
        return
    console.print(table)
    planning = (seen.pipeline.get("spec") or {}).get("planning") or {}
    names = ("minImprovementPercent", "minIntervalSeconds", "stabilizationSeconds")
    thresholds = [f"{name} {planning[name]}" for name in names if name in planning]
    if thresholds:
        console.print(f"Thresholds: {', '.join(thresholds)}; `tierflow simulate` shows what others would do")
    console.print()


def _print_events(console: Console, seen: Seen) -> None:
    if seen.unread:
        console.print(plain(f"Events could not be read: {seen.unread}"), soft_wrap=True)
        return
    events = _events(seen.events)
    table = table_of("Events (UTC)", "Type", "Reason", "Times", "Message", right=("Times",))
    for event in events[:_EVENTS_SHOWN]:
        table.add_row(
            _time(event["time"]),
            plain(str(event["type"] or "-")),
            plain(str(event["reason"] or "-")),
            str(event["count"]),
            plain(str(event["message"])),
        )
    if not table.row_count:
        console.print("No events: Kubernetes forgets them after an hour.")
        return
    console.print(table)
    if len(events) > _EVENTS_SHOWN:
        console.print(f"and {plural(len(events) - _EVENTS_SHOWN, 'event')} more (--json has them all)")


def _time(text: Any) -> str:
    """`2026-11-23T09:00:00.123Z` as `2026-11-23 09:00:00`."""
    return plain(str(text or "-")).replace("T", " ").removesuffix("Z").partition(".")[0]
