"""The worker's log: one JSON object per line, and no flood."""

import io
import json
import logging
from typing import Any

from factories.clocks import Clock
from tierflow_worker.logs import Log, adopt_libraries


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_time_level_event_and_the_fields_it_is_bound_to() -> None:
    stream = io.StringIO()
    Log(stream=stream, clock=Clock(1_700_000_000.25)).bind(pipeline="p", tier="edge").info("ready", seconds=1.5)
    assert lines(stream) == [
        {
            "time": "2023-11-14T22:13:20.250Z", "level": "info", "event": "ready",
            "pipeline": "p", "tier": "edge", "seconds": 1.5,
        }
    ]  # fmt: skip


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    log = Log("warning", stream=stream)
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert [line["event"] for line in lines(stream)] == ["c"]


def test_a_flood_of_warnings_is_cut_and_counted() -> None:
    stream, clock = io.StringIO(), Clock(1_700_000_000.25)
    log = Log(stream=stream, clock=clock)
    for _ in range(1000):
        log.bind(request="r").warning("request failed")
    assert len(lines(stream)) == 5
    clock.now += 1
    log.warning("request failed")
    assert lines(stream)[-1]["left_out"] == 995


def test_what_libraries_log_becomes_lines_too() -> None:
    stream, root = io.StringIO(), logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        adopt_libraries(Log(stream=stream))
        logging.getLogger("some.library").warning("careful: %s", "hot")
        logging.getLogger("some.library").info("chatter")
    finally:
        root.handlers[:], root.level = before, level
    [line] = lines(stream)
    assert (line["event"], line["logger"], line["message"]) == ("library", "some.library", "careful: hot")


def test_values_that_json_lacks_are_written_as_text() -> None:
    stream = io.StringIO()
    Log(stream=stream).info("odd", value=ValueError("x"))
    assert lines(stream)[0]["value"] == "x"
