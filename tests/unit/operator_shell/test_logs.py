"""What a log line of the operator looks like."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tierflow_operator import logs
from tierflow_operator.keys import PipelineKey

KEY = PipelineKey("vision", "resnet18")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_a_reconcile_names_the_pipeline_and_its_epoch(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    with logs.about(KEY):
        logs.set_epoch(4)
        logging.getLogger("tierflow.reconcile").info("moving to %s", "the edge", extra={"step": "expand"})
    logging.getLogger("tierflow.reconcile").info("idle")
    inside, outside = lines(stream)
    assert inside["event"] == "moving to the edge"
    assert inside["level"] == "info"
    assert {"namespace": "vision", "pipeline": "resnet18", "epoch": 4, "step": "expand"}.items() <= inside.items()
    assert not {"namespace", "pipeline", "epoch"} & outside.keys()
    assert str(inside["time"]).endswith("Z")


def test_text_has_the_pipeline_before_the_message(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    with logs.about(KEY):
        logging.getLogger("tierflow.reconcile").info("moving")
    assert "[vision/resnet18] moving" in stream.getvalue()


def test_libraries_are_heard_from_warnings_on_and_without_what_they_carry_for_themselves(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    kopf = logging.getLogger("kopf.reactor")
    kopf.info("a step of its own")
    kopf.warning("credentials are refused", extra={"k8s_skip": True, "k8s_ref": {"kind": "Node"}, "settings": object()})
    (line,) = lines(stream)
    assert line["event"] == "credentials are refused"
    assert not {"k8s_skip", "k8s_ref", "settings"} & line.keys()


def test_a_traceback_stays_within_its_line(stream: io.StringIO) -> None:
    logs.configure("error", "json", stream)
    try:
        int("broken\nin two")
    except ValueError:
        logging.getLogger("tierflow.queue").exception("reconcile failed")
    (line,) = lines(stream)
    assert "ValueError" in str(line["exc_info"])
