"""How well segments' times are predicted: profile against measured segments, and estimate against profile."""

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure, at_most
from tierflow.estimate import estimate_profile
from tierflow.model import open_model
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.profile import Profile
from tierflow.segment import Segment, segments_of
from tierflow.segment_time import segment_seconds
from tierflow.tiers import Tier
from tierflow_worker.profiling import measure_profile
from tierflow_worker.profiling.feeds import feeds_of
from tierflow_worker.profiling.measure import Measurement
from tierflow_worker.profiling.recording import typical
from tierflow_worker.runtime import Array, Session, create_session

DNNS: Final = ("alexnet", "vgg16", "resnet18", "darknet53", "inceptionv4")
_CUTS: Final = 10
_SECONDS_PER_CUT: Final = 4.0
_FEWEST_ROUNDS: Final = 20
_MOST_ROUNDS: Final = 60


@dataclass(frozen=True, slots=True)
class Prediction:
    """A segment's predicted and measured seconds."""

    segment: Segment
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative to what was measured, in percent."""
        return abs(self.predicted - self.measured) / self.measured * 100


def figures() -> Iterator[Figure]:
    """Errors of predicted segment times over the five DNNs, ten random cuts each; and the estimate's, to inform."""
    errors: list[float] = []
    for name in DNNS:
        model = open_model(f"zoo://{name}")
        began = time.perf_counter()
        profile = measure_profile(model)
        yield Figure("cost", f"{name}: profile takes", (time.perf_counter() - began) * 1000, "ms")
        here = [prediction.error for prediction in predictions(model, cuts=_CUTS, seed=7)]
        errors += here
        yield Figure("cost", f"{name}: median error of predicted segment time", statistics.median(here), "%")
        yield Figure("cost", f"{name}: worst error of predicted segment time", max(here), "%")
        estimate = estimate_profile(model.graph, model.identity)
        yield Figure("cost", f"{name}: median error of the estimate", estimate_error(model, profile, estimate), "%")
        yield Figure("cost", f"{name}: whole estimated / measured", total(estimate) / total(profile), "x")
    yield at_most("cost", "median error of predicted segment time", statistics.median(errors), "%", 10)
    yield at_most("cost", "worst error of predicted segment time", max(errors), "%", 25)


def total(profile: Profile) -> float:
    """Seconds of the whole model."""
    return profile.segment + sum(profile.layers.values())


def estimate_error(model: Model, measured: Profile, estimate: Profile) -> float:
    """Median error in percent of the estimate's time of a segment against the measured profile's, over random cuts."""
    errors = []
    for cut in random_cuts(model, cuts=100, seed=11):
        for segment in cut:
            truth = segment_seconds(model.graph, measured, segment)
            errors.append(abs(segment_seconds(model.graph, estimate, segment) - truth) / truth * 100)
    return statistics.median(errors)


def random_cuts(model: Model, *, cuts: int, seed: int) -> list[tuple[Segment, Segment, Segment]]:
    """Cuts of the layers' order into three parts, none of them empty."""
    generator = random.Random(seed)
    layers = len(model.graph.layers)
    found = []
    for _ in range(cuts):
        first, second = sorted(generator.sample(range(1, layers), 2))
        tiers = [Tier.DEVICE] * first + [Tier.EDGE] * (second - first) + [Tier.CLOUD] * (layers - second)
        found.append(segments_of(model.graph, tiers))
    return found


def predictions(model: Model, *, cuts: int, seed: int) -> list[Prediction]:
    """Predicted and measured seconds of each segment of random cuts.

    The profile of a cut is measured in the same rounds as its segments: what else the machine does meanwhile (others
    use it too, and its memory) happens to both.
    """
    graph = model.graph
    measured: list[tuple[Segment, float, int]] = []
    stretches: list[slice] = []
    with tempfile.TemporaryDirectory(prefix="tierflow-bench-") as name:
        folder = Path(name)
        profiled = Measurement(model, threads=1, folder=folder)
        for number, segments in enumerate(random_cuts(model, cuts=cuts, seed=seed)):
            sessions = [_session(model, segment, folder) for segment in segments]
            begin = profiled.rounds + 1  # the first round warms up
            times = _measure(feeds_of(graph), sessions, profiled)
            stretches.append(slice(begin, profiled.rounds))
            measured += [(segment, seconds, number) for segment, seconds in zip(segments, times, strict=True)]
        profiles = profiled.profiles(*stretches, turns=_FEWEST_ROUNDS)
    return [
        Prediction(segment, segment_seconds(graph, profiles[number], segment), seconds)
        for segment, seconds, number in measured
    ]


def _measure(inputs: dict[str, Array], sessions: Sequence[Session], profiled: Measurement) -> list[float]:
    """Seconds of each session, fed by those before it, and then the whole model; all in turn, as in a chain of workers.

    So each finds the caches full of what the others left there, its weights in memory.
    """
    taken: list[list[float]] = [[] for _ in sessions]
    began = time.thread_time()
    turn = 0
    while turn < _FEWEST_ROUNDS or (turn < _MOST_ROUNDS and time.thread_time() - began < _SECONDS_PER_CUT):
        known = dict(inputs)
        for session, seconds in zip(sessions, taken, strict=True):
            feeds = {name: known[name] for name in session.inputs}
            start = time.thread_time()  # one thread, and not what others take of the machine meanwhile
            answer = session.run(feeds)
            seconds.append(time.thread_time() - start)
            known.update(answer)
        profiled.run()
        turn += 1
    return [typical(seconds[1:]) for seconds in taken]


def _session(model: Model, segment: Segment, folder: Path) -> Session:
    path = folder / "segment.onnx"
    made = [name for name in (*segment.sends, *segment.results) if name not in segment.accepts]
    extract_segment(model, segment.accepts, list(dict.fromkeys(made)), path)
    session = create_session(path)
    path.unlink()
    return session
