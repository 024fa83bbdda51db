"""Measures the profile of a model on this machine.

The model is run as a whole, where the runtime fuses layers and chooses layouts as it likes; and the layers that profit
from that are run alone, where it can't. The first says what the layers cost where nothing is cut, the second what they
cost beside a cut. Both together predict any segment (`tierflow.segment_time`).
"""

import itertools
import math
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tierflow.graph import Graph, Tensor
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.profile import Profile
from tierflow.segment_time import crossings_of
from tierflow_worker.profiling.attribution import Attribution, attribute
from tierflow_worker.profiling.feeds import feeds_of
from tierflow_worker.profiling.recording import WARMED_UP, Recording, Whole
from tierflow_worker.profiling.tearing import Shape, Torn, measure_torn
from tierflow_worker.runtime import VERSION

Progress = Callable[[str, float], None]
"""Is told what is being done, and which part of the whole is done, from 0 to 1."""

_SECONDS: Final = 2.0
_FEWEST_ROUNDS: Final = 8
_MOST_ROUNDS: Final = 40
_SMALLEST_SCALE: Final = 0.8


def measure_profile(
    model: Model, *, threads: int = 1, rounds: int | None = None, progress: Progress | None = None
) -> Profile:
    """Measures `model` on this machine, with random inputs.

    Args:
        model: The whole model.
        threads: Threads within a layer.
        rounds: How often it is run; None chooses by the model's size, so that it takes a few seconds.
        progress: Is told how far it is.

    Raises:
        UnsupportedError: where the model has an operator that ONNX Runtime lacks.
        InvalidModelError: where ONNX Runtime can't load the model.
    """
    tell = progress or (lambda _what, _done: None)
    if not model.graph.layers:
        return Profile(model=model.identity, source="measured", machine=machine_name(threads), layers={})
    with tempfile.TemporaryDirectory(prefix="tierflow-profile-") as name:
        tell("preparing the model", 0.0)
        measurement = Measurement(model, threads=threads, folder=Path(name))
        turns = rounds or max(_FEWEST_ROUNDS, min(_MOST_ROUNDS, int(_SECONDS / measurement.run())))
        count = itertools.count(1)

        def tick() -> None:
            tell("measuring the layers", 0.1 + 0.9 * min(1.0, next(count) / (2 * turns + 1)))

        for _ in range(turns):
            measurement.run()
            tick()
        [profile] = measurement.profiles(WARMED_UP, turns=turns, tick=tick)
    tell("done", 1.0)
    return profile


class Measurement:
    """A model that is measured round by round, so that something else can be measured in between.

    Args:
        model: The whole model, of at least one layer.
        threads: Threads within a layer.
        folder: Where files can be put.

    Raises:
        UnsupportedError: where the model has an operator that ONNX Runtime lacks.
        InvalidModelError: where ONNX Runtime can't load the model.
    """

    def __init__(self, model: Model, *, threads: int, folder: Path) -> None:
        self._model = model
        self._threads = threads
        self._folder = folder
        feeds = feeds_of(model.graph)
        path = folder / "whole.onnx"
        extract_segment(model, list(feeds), _computed(model.graph), path)
        self._runs = Whole(path, feeds, threads=threads, folder=folder)

    @property
    def rounds(self) -> int:
        """How many there were; the first, number 0, was run to warm up."""
        return self._runs.rounds

    def run(self) -> float:
        """One round of the whole model; returns its seconds."""
        return self._runs.run()

    def profiles(self, *stretches: slice, turns: int, tick: Callable[[], None] = lambda: None) -> list[Profile]:
        """Ends it: measures what layers cost beside a cut, and makes the profile of each stretch of rounds.

        Args:
            stretches: Of the rounds of the whole model.
            turns: How often to measure the layers beside a cut.
            tick: Is called after each of these turns.

        Raises:
            UnsupportedError: where ONNX Runtime lacks a layer's operator for ordinary tensors.
        """
        graph = self._model.graph
        recordings = self._runs.recordings(*stretches)
        del self._runs  # and the memory of its sessions
        fused = attribute(graph, recordings[0].kernels)
        shapes = [graph.tensors[tensor].shape for tensor in sorted(fused.blocked)]
        torn = measure_torn(
            self._model,
            torn_layers(fused),
            shapes,
            rounds=turns,
            threads=self._threads,
            folder=self._folder,
            tick=tick,
        )
        model, machine = self._model.identity, machine_name(self._threads)
        return [profile_of(graph, whole, torn, model=model, machine=machine) for whole in recordings]


def profile_of(graph: Graph, whole: Recording, torn: Torn, *, model: str, machine: str) -> Profile:
    """The profile that the measurements make.

    Args:
        graph: The whole model.
        whole: What it takes where nothing is cut.
        torn: What layers take beside a cut.
        model: Its identity.
        machine: Where it was measured.
    """
    fused = attribute(graph, whole.kernels)
    scale = _scale(whole, fused.total)
    layers = {
        layer.name: (fused.layers[place] + fused.reorders.get(place, 0.0)) * scale
        for place, layer in enumerate(graph.layers)
    }
    # What goes through a layer without a kernel is changed only in name: whoever reads it runs as ever.
    beside_cut = {
        layer.name: torn.layers.get(place, layers[layer.name])
        for place, layer in enumerate(graph.layers)
        if fused.native_reads[place] and place not in fused.any_layout
    }
    native = {name: graph.tensors[name] for name in sorted(fused.native)}
    entering = {name for place in fused.any_layout for name in graph.layers[place].inputs} - fused.enters.keys()
    profile = Profile(
        model=model,
        source="measured",
        machine=machine,
        layers=layers,
        segment=whole.empty_seconds,
        torn=beside_cut,
        enters={name: _of_shape(native[name], torn.enters) for name in sorted(fused.blocked & entering)},
        leaves={
            name: _of_shape(tensor, torn.leaves) if name in fused.blocked - fused.leaves.keys() else 0.0
            for name, tensor in native.items()
        },
    )
    return msgspec.structs.replace(profile, crossings=crossings_of(graph, profile))


def _scale(whole: Recording, recorded: float) -> float:
    """By what the kernels' times are multiplied, so that together they are the time of a run without the recorder.

    The recorder slows a run down, and what lies between kernels is a part of it; its clock goes on while others have
    the processor. For models that take hardly longer than an empty run, that says little; the kernels' own times are
    good enough there.
    """
    if not recorded:
        return 0.0
    scale = (whole.run_seconds - whole.empty_seconds) / recorded
    return scale if whole.run_seconds > 2 * whole.empty_seconds else max(scale, _SMALLEST_SCALE)


def torn_layers(fused: Attribution) -> list[int]:
    """Places of the layers that take another time beside a cut than in the whole model: they read native tensors.

    Left out are convolutions, which change the layout themselves, and layers with a kernel of their own that read what
    merely went through a layer without one.
    """
    places = []
    for place, native in fused.native_reads.items():
        has_own_kernel = place in fused.anchors and not native & fused.blocked
        if native and place not in fused.any_layout and not has_own_kernel:
            places.append(place)
    return places


def _of_shape(tensor: Tensor, measured: Mapping[Shape, float]) -> float:
    """Seconds for a tensor, in proportion to the nearest size where its own shape has no measurement."""
    if measured.get(tensor.shape):
        return measured[tensor.shape]
    rates = {math.prod(shape): seconds / math.prod(shape) for shape, seconds in measured.items() if seconds}
    if not rates or not tensor.elements:
        return 0.0
    nearest = min(rates, key=lambda elements: abs(math.log(elements / tensor.elements)))
    return rates[nearest] * tensor.elements


def _computed(graph: Graph) -> list[str]:
    """The outputs of a graph that layers make."""
    return [name for name in graph.outputs if name in graph.producer]


def machine_name(threads: int) -> str:
    """This machine, as people tell machines apart: processor, threads used, runtime."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        processor = next(names, processor)
    plural = "s" if threads > 1 else ""
    return f"{processor}, {threads} thread{plural}, ONNX Runtime {VERSION}"
