"""Runs a model file with ONNX Runtime's recorder on, and says how long each kernel of the optimised graph took.

The runtime rewrites a model before it runs it. Its recording names kernels, the rewritten graph names their tensors;
here they are brought together. What that has to do with the model's layers is `tierflow_worker.profiling.attribution`.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from tierflow.errors import TierflowError
from tierflow_worker.runtime import Array, create_session

WARMED_UP: Final = slice(1, None)
"""All rounds but the first, in which memory is taken and code is loaded."""

_SUFFIX: Final = "_kernel_time"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One node of the optimised graph, and the seconds of one run of it.

    `inputs` and `outputs` are names of tensors: the model's where they survived, else the runtime's own.
    """

    name: str
    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded model.

    Attributes:
        kernels: In the order of their execution.
        run_seconds: One run of the whole model without the recorder.
        empty_seconds: What one run costs beside its kernels.
    """

    kernels: tuple[Kernel, ...]
    run_seconds: float
    empty_seconds: float


class Recorder:
    """A model file, loaded with the recorder on; its rounds can be interleaved with others'."""

    def __init__(self, path: Path, feeds: Mapping[str, Array], *, threads: int, folder: Path) -> None:
        self._feeds = feeds
        self._optimized = folder / f"{path.stem}.optimized.onnx"
        self._session = create_session(
            path, threads=threads, profile=folder / f"{path.stem}.kernels", optimized=self._optimized
        )

    def run(self) -> None:
        """One recorded round."""
        self._session.run(self._feeds)

    def kernels(self, *stretches: slice) -> list[tuple[Kernel, ...]]:
        """Ends the recording; what the kernels took over each stretch of rounds, the first round being 0."""
        events = kernel_events(json.loads(self._session.end_profiling().read_text()))
        nodes = list(onnx.load(self._optimized, load_external_data=False).graph.node)
        return [_kernels(nodes, events, rounds) for rounds in stretches]


class KernelEvent(msgspec.Struct, frozen=True):
    """What was recorded of one kernel: its node's name (made up where it has none), its operator, seconds by round."""

    name: str
    kind: str
    seconds: tuple[float, ...]


def kernel_events(events: Sequence[Mapping[str, Any]]) -> list[KernelEvent]:
    """The kernels of a recording in the order of their first run; those inside an If or a Loop belong to that."""
    durations: dict[tuple[str, str], list[float]] = {}
    kinds: dict[tuple[str, str], str] = {}
    outer_end = -1
    runs = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)]
    # An outer kernel begins no later and lasts at least as long as those within it.
    for event in sorted(runs, key=lambda run: (run["ts"], -run["dur"], run["args"].get("op_name") not in _HOLDERS)):
        end = event["ts"] + event["dur"]
        if end <= outer_end and event["ts"] < outer_end:
            continue
        key = (event["args"].get("node_index", ""), event["name"].removesuffix(_SUFFIX))
        kinds[key] = event["args"].get("op_name", "")
        if kinds[key] in _HOLDERS:
            outer_end = end
        durations.setdefault(key, []).append(event["dur"] * 1e-6)
    return [KernelEvent(key[1], kinds[key], tuple(seconds)) for key, seconds in durations.items()]


_HOLDERS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def _kernels(nodes: Sequence[onnx.NodeProto], events: Sequence[KernelEvent], rounds: slice) -> tuple[Kernel, ...]:
    """Brings nodes and what was recorded of them together: by place, since both follow the order of execution."""
    same_order = len(nodes) == len(events) and all(
        node.op_type == event.kind and node.name in ("", event.name) for node, event in zip(nodes, events, strict=True)
    )
    by_name = {event.name: event for event in events}
    found = events if same_order else [by_name.get(node.name) for node in nodes]
    return tuple(
        Kernel(
            name=node.name,
            kind=node.op_type,
            domain=node.domain,
            inputs=tuple(filter(None, node.input)),
            outputs=tuple(filter(None, node.output)),
            seconds=typical(event.seconds[rounds] or event.seconds) if event else 0.0,
        )
        for node, event in zip(nodes, found, strict=True)
    )


def typical(seconds: Sequence[float]) -> float:
    """What a run takes when nothing disturbs it: the mean of the fastest quarter.

    On a machine that others use as well, times are never too short and often far too long; the mean of several also
    brings a resolution below that of the recorder's clock, a microsecond.
    """
    if not seconds:
        raise TierflowError("nothing was measured")
    fastest = sorted(seconds)[: max(1, len(seconds) // 4)]
    return statistics.fmean(fastest)


def timed(call: Callable[[], object], *, threads: int) -> float:
    """Seconds that one run of a session with so many threads takes.

    With one thread it runs in the caller's, whose processor time leaves out what others take of the machine meanwhile.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    began = clock()
    call()
    return clock() - began


class Whole:
    """A model file that is run in turn with the recorder, without it, and before a model that computes nothing.

    What disturbs the machine disturbs all of them. The last one says what a run costs beside its kernels where
    something else ran before it, as between the requests of a pipeline: ten times what it costs in a loop of its own.
    It has a kernel itself, whose own time is recorded in the same place and left out.
    """

    def __init__(self, path: Path, feeds: Mapping[str, Array], *, threads: int, folder: Path) -> None:
        self._feeds = feeds
        self._threads = threads
        self._plain = create_session(path, threads=threads)
        self._recorder = Recorder(path, feeds, threads=threads, folder=folder)
        nothing = _save_nothing(folder / "nothing.onnx")
        self._number = {"x": np.ones(1, np.float32)}
        self._nothing = create_session(nothing)
        self._nothing_recorder = Recorder(nothing, self._number, threads=1, folder=folder)
        self._seconds: list[float] = []
        self._nothing_seconds: list[float] = []
        self.run()  # warms up

    @property
    def rounds(self) -> int:
        """How many there were, the first included."""
        return len(self._seconds)

    def run(self) -> float:
        """One round; returns the seconds of all of it."""
        began = time.perf_counter()
        self._seconds.append(timed(lambda: self._plain.run(self._feeds), threads=self._threads))
        self._nothing_seconds.append(timed(lambda: self._nothing.run(self._number), threads=1))
        self._recorder.run()
        self._nothing_recorder.run()
        return time.perf_counter() - began

    def recordings(self, *stretches: slice) -> list[Recording]:
        """Ends the recording; what each stretch of rounds says."""
        return [
            Recording(
                kernels=kernels,
                run_seconds=typical(self._seconds[rounds]),
                empty_seconds=max(typical(self._nothing_seconds[rounds]) - sum(one.seconds for one in own), 0.0),
            )
            for rounds, kernels, own in zip(
                stretches, self._recorder.kernels(*stretches), self._nothing_recorder.kernels(*stretches), strict=True
            )
        ]


def _save_nothing(path: Path) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path)
    return path
