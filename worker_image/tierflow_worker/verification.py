"""Lossless verification: whether the segments of a partition together answer as the whole model does.

In this process and without a network: each tier's segment is cut out of the model, loaded, and run as a worker would,
its tensors handed on from device to edge to cloud. What may differ, and why, is written in the design: the runtime
fuses layers, and a fused layer that a cut tears apart may add up its operands in another order.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tierflow.graph import Graph, Tensor
from tierflow.segment import Route, Segment, segments_of
from tierflow.tiers import Tier
from tierflow_worker.runtime import Array, create_session, numpy_dtype

if TYPE_CHECKING:
    from tierflow.model.model import Model

TOLERANCE: Final = 1e-6
"""Of the largest absolute value of an output: by so much the whole model's and the segments' answers may differ."""

Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class CutCheck:
    """How the answer of one partition compares with the whole model's.

    Attributes:
        device: Name of the device's last layer in the graph's order; "" where it computes nothing.
        edge: The same of the edge.
        bit_identical: Whether all outputs are the same bytes.
        largest_relative_difference: Over all outputs, see `relative_difference`.
        holds: Whether that is within the tolerance.
    """

    device: str
    edge: str
    bit_identical: bool
    largest_relative_difference: float
    holds: bool


def sample_inputs(model: "Model", seed: int = 0) -> dict[str, Array]:
    """Inputs that depend on the seed alone, by name: normal floats, and 0 or 1 in integers, which may be indices."""
    graph = model.graph
    return sample_tensors((graph.tensors[name] for name in graph.inputs), seed)


def sample_tensors(tensors: Iterable[Tensor], seed: int = 0) -> dict[str, Array]:
    """As `sample_inputs`, for a model of which only the inputs are known, in its order."""
    generator = np.random.default_rng(seed)
    return {tensor.name: _sample(tensor, generator) for tensor in tensors}


def whole_outputs(model: "Model", inputs: Arrays, *, threads: int = 1, folder: Path | None = None) -> dict[str, Array]:
    """What the whole model answers to `inputs`: all of its outputs, by name.

    Args:
        model: The model.
        inputs: All of its inputs.
        threads: Threads within a layer.
        folder: Where the model's file is written for as long as it is needed; the system's place for such by default.

    Raises:
        UnsupportedError: naming the operator that ONNX Runtime does not have, and its layer.
        InvalidModelError: where the runtime refuses the model.
        InvalidRequestError: naming the input that doesn't fit, or the layer that can't compute with it.
    """
    graph = model.graph
    whole = Segment(
        tier=Tier.DEVICE, layers=tuple(range(len(graph.layers))), accepts=graph.inputs, results=graph.outputs
    )
    with tempfile.TemporaryDirectory(prefix="tierflow-", dir=folder) as place:
        return _run(model, whole, inputs, Path(place, "whole.onnx"), threads)


def verify_partition(
    model: "Model",
    tiers: Sequence[Tier],
    inputs: Arrays,
    expected: Arrays,
    *,
    route: Route = Route.RELAYED,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    folder: Path | None = None,
) -> CutCheck:
    """Runs the segments of a partition one after the other and compares their answer with the whole model's.

    Args:
        model: The whole model.
        tiers: The tier of each layer, monotone along the data's flow.
        inputs: All of the model's inputs.
        expected: What `whole_outputs` says to them, with the same number of threads.
        route: Whether the edge relays.
        tolerance: Largest relative difference that still holds.
        threads: Threads within a layer.
        folder: Where the segments' files are written for as long as they are needed.

    Raises:
        InvalidInputError: where the partition is not monotone, or the route leaves out an edge that has layers.
        UnsupportedError: naming the operator that ONNX Runtime does not have, and its layer.
        InvalidRequestError: naming the input that doesn't fit, or the layer that can't compute with it.
    """
    segments = segments_of(model.graph, tiers, route)
    answer: dict[str, Array] = {}
    arriving = inputs
    with tempfile.TemporaryDirectory(prefix="tierflow-", dir=folder) as place:
        for segment in segments:
            if segment.takes_part:
                made = _run(model, segment, arriving, Path(place, f"{segment.tier}.onnx"), threads)
                answer.update({name: made[name] for name in segment.results})
                arriving = {name: made[name] for name in segment.sends}
    return _check(model.graph, segments, answer, expected, tolerance)


def random_cuts(graph: Graph, count: int, seed: int = 0) -> tuple[tuple[str, str], ...]:
    """Different cuts of the layers' order, as `tierflow.segment.cut` takes them: last layers of device and edge.

    Returns:
        `count` cuts, or all where there are no more; in the graph's order. They depend on the seed alone.
    """
    ends = ["", *(layer.name for layer in graph.layers)]
    total = len(ends) * (len(ends) + 1) // 2
    chosen = Random(seed).sample(range(total), min(count, total))  # noqa: S311 - nothing secret: a sample
    pairs = sorted(_pair(number) for number in chosen)
    return tuple((ends[device], ends[edge] if edge > device else "") for device, edge in pairs)


def covering_cuts(graph: Graph, count: int | None = None) -> tuple[tuple[str, str], ...]:
    """Cuts of the layers' order that together have each distinct boundary of it, as device's or as edge's border.

    Boundaries of the same tensors count once; a last boundary without a partner is paired with the first.

    Args:
        graph: The graph.
        count: At most so many cuts, spread evenly over the order; all where None.
    """
    ends = _distinct_ends(graph)
    half = len(ends) // 2
    pairs = list(zip(ends[:half], ends[half:], strict=False))
    if len(ends) % 2:
        pairs.append((ends[0], ends[-1]))
    if count is not None and count < len(pairs):
        pairs = [pairs[place * len(pairs) // count] for place in range(count)]
    names = [layer.name for layer in graph.layers]
    return tuple((names[device], names[edge] if edge > device else "") for device, edge in pairs)


def _distinct_ends(graph: Graph) -> list[int]:
    """The places after which the layers' order can be cut, one per set of tensors that cross there."""
    last_use = {name: places[-1] for name, places in graph.consumers.items()}
    known: set[frozenset[str]] = set()
    ends = []
    alive = set(graph.inputs)
    for place, layer in enumerate(graph.layers[:-1]):
        alive.update(layer.outputs)
        alive = {name for name in alive if last_use.get(name, -1) > place}
        if frozenset(alive) not in known:
            known.add(frozenset(alive))
            ends.append(place)
    return ends


def relative_difference(answer: Array, expected: Array) -> float:
    """By how much an output differs, relative to the largest absolute value that was expected in it.

    NaN in the same place is equal, and so is an infinity of the same sign. 1 stands for a difference that has no
    measure: another shape or type, NaN or an infinity in different places, other texts, truth values or integers, or
    anything where zeros alone were expected.
    """
    if answer.shape != expected.shape or answer.dtype != expected.dtype:
        return 1.0
    if answer.dtype.kind in "OUSbiu":
        return 0.0 if np.array_equal(answer, expected) else 1.0
    same = (answer == expected) | ((answer != answer) & (expected != expected))  # only NaN isn't equal to itself
    if same.all():
        return 0.0
    left, right = answer.astype(np.float64)[~same], expected.astype(np.float64)
    others = right[~same]
    if not (np.isfinite(left).all() and np.isfinite(others).all()):
        return 1.0
    largest = float(np.max(np.abs(right[np.isfinite(right)])))
    return float(np.max(np.abs(left - others))) / largest if largest else 1.0


def same_bytes(answer: Array, expected: Array) -> bool:
    """Whether two outputs are the same in shape, type and every bit."""
    if answer.shape != expected.shape or answer.dtype != expected.dtype:
        return False
    if answer.dtype == np.dtype(object):
        return bool(np.array_equal(answer, expected))
    return answer.tobytes() == expected.tobytes()


def _pair(number: int) -> tuple[int, int]:
    """The pair (device, edge), device <= edge, at a place in the order (0, 0), (0, 1), (1, 1), (0, 2), ..."""
    edge = int(((8 * number + 1) ** 0.5 - 1) / 2)
    while (edge + 1) * (edge + 2) // 2 <= number:  # the root may be off by one where the number is large
        edge += 1
    while edge * (edge + 1) // 2 > number:
        edge -= 1
    return number - edge * (edge + 1) // 2, edge


def _sample(tensor: Tensor, generator: np.random.Generator) -> Array:
    dtype = numpy_dtype(tensor.dtype)
    if dtype == np.dtype(object):
        texts: NDArray[Any] = np.array([f"text {number}" for number in range(tensor.elements)], dtype=object)
        return texts.reshape(tensor.shape)
    if dtype.kind in "iub":
        return generator.integers(0, 2, tensor.shape).astype(dtype)
    return generator.standard_normal(tensor.shape, dtype=np.float32).astype(dtype)


def _run(model: "Model", segment: Segment, given: Arrays, path: Path, threads: int) -> dict[str, Array]:
    """What a segment sends and returns, computed from the tensors that it was given, or handed on from there."""
    wanted = dict.fromkeys((*segment.sends, *segment.results))
    computed = [name for name in wanted if name not in given]
    made: dict[str, Array] = {}
    if computed:
        from tierflow.model.extract import extract_segment  # brings the onnx package, which comparing has no use for

        extract_segment(model, segment.accepts, computed, path)
        session = create_session(path, threads=threads)
        made = session.run({name: array for name, array in given.items() if name in session.inputs}, computed)
    return {name: made[name] if name in made else given[name] for name in wanted}


def _check(graph: Graph, segments: Iterable[Segment], answer: Arrays, expected: Arrays, tolerance: float) -> CutCheck:
    difference = max((relative_difference(answer[name], expected[name]) for name in expected), default=0.0)
    device, edge = (
        graph.layers[segment.layers[-1]].name if segment.layers else ""
        for segment in segments
        if segment.tier is not Tier.CLOUD
    )
    return CutCheck(
        device=device,
        edge=edge,
        bit_identical=all(same_bytes(answer[name], expected[name]) for name in expected),
        largest_relative_difference=difference,
        holds=difference <= tolerance,
    )
