"""What a tile worker holds: what it was asked for, for as long as somebody asks, and never too much."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from factories.tiled import eventually
from tierflow.descriptor import Boundary, RunDescriptor, SegmentDescriptor
from tierflow.errors import IntegrityError, InvalidModelError, InvalidRequestError, UnknownBoundaryError
from tierflow.graph import Tensor
from tierflow.protocol.messages import HOLD_PARAMETER, InferResponse
from tierflow.tiers import Tier
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.tiling.holdings import Holdings, RunsHeld, RunsWanted, read_held, read_wanted

MAP = Tensor(name="x", dtype="float32", shape=(1, 2, 8, 8))
IDLE_SECONDS = 30.0
FAILED = "segment can't be loaded"


def segment(name: str, *runs: str) -> SegmentDescriptor:
    return SegmentDescriptor(
        id=name,
        layers=3,
        accepts=Boundary(id=f"to-{name}", tensors=(MAP,)),
        runs=tuple(RunDescriptor(id=run, input=MAP, output=MAP, rows=2, columns=2) for run in runs or (f"run-{name}",)),
    )


class Stage:
    """Holdings that load in no time, unless the gate is closed, and fail where they are told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.gate = threading.Event()
        self.gate.set()
        self.loads: list[str] = []
        self.failing: set[str] = set()
        self.log = io.StringIO()
        self.metrics = Metrics(pipeline="pipe", namespace="default", tier=Tier.EDGE)
        self.holdings = Holdings(
            "sha256:one",
            self.load,
            idle_seconds=IDLE_SECONDS,
            metrics=self.metrics,
            log=Log("info", stream=self.log),
            clock=lambda: self.now,
        )

    def load(self, wanted: SegmentDescriptor) -> Any:
        self.loads.append(wanted.id)
        assert self.gate.wait(30)
        if wanted.id in self.failing:
            raise InvalidModelError(f"{wanted.id} is broken")
        return SimpleNamespace(held=SimpleNamespace(descriptors={run.id: run for run in wanted.runs}), load_seconds=0.5)

    def ask(self, wanted: SegmentDescriptor, model: str = "sha256:one") -> RunsHeld:
        return self.holdings.ask(RunsWanted(model, wanted))

    def hold(self, wanted: SegmentDescriptor) -> RunsHeld:
        """Asks until it is held."""
        runs = {run.id for run in wanted.runs}
        eventually(lambda: runs.issubset(self.ask(wanted).runs), "held")
        return self.ask(wanted)

    def refused(self, wanted: SegmentDescriptor) -> str:
        """Asks until it is refused."""
        eventually(lambda: bool(self.ask(wanted).refused), "refused")
        return self.ask(wanted).refused

    def refused_again(self, wanted: SegmentDescriptor, attempts: int) -> None:
        """Asks until so many attempts to load something have failed."""
        eventually(lambda: bool(self.ask(wanted).refused) and self.events().count(FAILED) == attempts, "refused again")

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.gate.set()
    made.holdings.close()


@contextmanager
def closed(gate: threading.Event) -> Iterator[None]:
    gate.clear()
    yield
    gate.set()


def test_it_answers_at_once_and_holds_a_segment_once_that_is_loaded(stage: Stage) -> None:
    with closed(stage.gate):
        assert stage.ask(segment("a", "r1", "r2")) == RunsHeld()
        with pytest.raises(UnknownBoundaryError, match="run r1 is not held here.*held: none"):
            stage.holdings.find("r1")
    assert stage.hold(segment("a", "r1", "r2")) == RunsHeld(("r1", "r2"))
    assert list(stage.holdings.find("r2").descriptors) == ["r1", "r2"]
    assert stage.loads == ["a"]
    assert stage.events() == ["segment loaded"]
    with pytest.raises(UnknownBoundaryError, match="run other is not held here.*held: r1, r2"):
        stage.holdings.find("other")


def test_it_tells_everybody_of_all_that_it_holds(stage: Stage) -> None:
    stage.hold(segment("a"))
    assert set(stage.hold(segment("b")).runs) == {"run-a", "run-b"}


def test_other_runs_of_the_same_segment_are_held_beside_it(stage: Stage) -> None:
    stage.hold(segment("a", "r1"))
    assert stage.hold(segment("a", "r2", "r3")).runs == ("r1", "r2", "r3")


def test_a_third_segment_waits_until_one_of_two_is_asked_for_no_more(stage: Stage) -> None:
    stage.hold(segment("a"))
    stage.hold(segment("b"))
    assert "2 other segments are asked for" in stage.refused(segment("c"))
    stage.now += 2.9
    stage.hold(segment("b"))
    assert stage.ask(segment("c")).refused
    stage.now += 0.1
    assert set(stage.hold(segment("c")).runs) == {"run-b", "run-c"}
    assert "segment unloaded" in stage.events()


def test_a_segment_whose_tiles_are_computed_is_not_dropped_for_another(stage: Stage) -> None:
    stage.hold(segment("a"))
    stage.hold(segment("b"))
    stage.now += 3.0
    stage.holdings.find("run-a")
    assert set(stage.hold(segment("c")).runs) == {"run-a", "run-c"}


def test_what_nobody_asks_for_is_unloaded(stage: Stage) -> None:
    stage.hold(segment("a"))
    stage.now += IDLE_SECONDS - 0.1
    assert stage.holdings.unload_idle() == ()
    stage.hold(segment("b"))
    stage.now += 0.1
    assert stage.holdings.unload_idle() == ("a",)
    assert stage.ask(segment("b")).runs == ("run-b",)


def test_a_segment_that_cannot_be_loaded_is_refused_with_the_reason_and_tried_again_ever_later(stage: Stage) -> None:
    stage.failing.add("a")
    assert stage.refused(segment("a")) == "segment a can't be loaded: a is broken"
    for attempt, pause in enumerate((1.0, 2.0, 4.0), start=1):
        stage.now += 0.99 * pause
        assert stage.ask(segment("a")).refused
        assert stage.loads == ["a"] * attempt
        stage.now += 0.01 * pause
        assert stage.ask(segment("a")).refused  # and is loaded once more
        stage.refused_again(segment("a"), attempt + 1)
    stage.failing.clear()
    stage.now += 8.0
    assert stage.hold(segment("a")) == RunsHeld(("run-a",))


def test_a_segment_of_another_model_is_refused(stage: Stage) -> None:
    answer = stage.ask(segment("a"), model="sha256:two")
    assert answer.refused == "this worker computes tiles of the model sha256:one, not of sha256:two"
    assert stage.loads == []


def encoded(change: Callable[[dict[str, Any]], None]) -> str:
    document = msgspec.to_builtins(RunsWanted("sha256:one", segment("a")))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        (True, "names no segment"),
        ("", "names no segment"),
        ("{}", "missing required field `model`"),
        (encoded(lambda document: document.update(other=1)), "unknown field `other`"),
        (encoded(lambda document: document["segment"].update(layers="many")), r"\$.segment.layers"),
        (encoded(lambda document: document["segment"].update(runs=[])), "the segment a .* has no runs"),
    ],
)
def test_a_request_that_names_no_segment_is_refused_with_the_field(parameter: object, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        read_wanted(parameter)
    assert caught.value.subject == HOLD_PARAMETER


@pytest.mark.parametrize("parameters", [{}, {"tierflow_held": 1}, {"tierflow_held": '{"runs": 1}'}])
def test_an_answer_that_does_not_say_what_is_held_is_not_believed(parameters: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="does not say what is held"):
        read_held(InferResponse("pipe", (), parameters=parameters))
