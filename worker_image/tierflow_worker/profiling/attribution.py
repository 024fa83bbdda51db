"""Which layers of a model each kernel of the optimised graph computes, and what the runtime keeps to itself.

A kernel is found in the model by a tensor that it makes: by that tensor's name where it survived, else by the name that
the runtime gave the kernel, which begins with the tensor's. It computes the layers between that tensor and those of the
kernels before it. Pure functions; ONNX Runtime's naming is known here and nowhere else.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tierflow.graph import Graph
from tierflow_worker.profiling.recording import Kernel

_OWN_LAYOUT: Final = "com.microsoft.nchwc"  # channels in blocks of a vector register's width
_MADE_UP: Final = re.compile(r"((_bn|_mul)?_nchwc)?(_token_\d+)?\Z")


@dataclass(frozen=True, slots=True)
class Attribution:
    """What the kernels of one recording mean for the layers of its model.

    Attributes:
        layers: Seconds by the place of each layer, reorders not counted; 0 for layers that are fused into another.
        reorders: Seconds by the place of the layer that needs them: changes of the memory layout.
        enters: Seconds by tensor: changes into the runtime's own layout.
        leaves: Seconds by tensor: changes out of it.
        native: Tensors that no kernel makes as ONNX has them, unless by a change of layout.
        blocked: Those of them that have the runtime's own layout, or are inside a kernel that works on it.
        native_reads: By place: the native tensors that a layer reads as such.
        any_layout: Places of the layers that the runtime computes in its own layout whatever it is given: convolutions.
        anchors: Places of the layers that were given a kernel's time.
    """

    layers: dict[int, float]
    reorders: dict[int, float]
    enters: dict[str, float]
    leaves: dict[str, float]
    native: frozenset[str]
    blocked: frozenset[str]
    native_reads: dict[int, frozenset[str]]
    any_layout: frozenset[int]
    anchors: frozenset[int]

    @property
    def total(self) -> float:
        """Seconds of all kernels."""
        return sum(self.layers.values()) + sum(self.reorders.values())


def attribute(graph: Graph, kernels: Sequence[Kernel]) -> Attribution:
    """Gives the time of each kernel to a layer.

    Args:
        graph: The whole model.
        kernels: Of the optimised model, in the order of execution.
    """
    found = [
        (kernel, target)
        for kernel, target in zip(kernels, _targets(graph, kernels), strict=True)
        if target is not None and not _is_reorder(kernel)
    ]
    groups = _groups(graph, {target for _, target in found})
    kinds: dict[str, set[str]] = {}
    for kernel, target in found:
        kinds.setdefault(target, set()).add(kernel.kind)
    anchors = {target: _anchor(graph, members, kinds[target]) for target, members in groups.items()}
    layers = dict.fromkeys(range(len(graph.layers)), 0.0)
    for kernel, target in found:
        layers[anchors[target]] += kernel.seconds
    first_reader = {name: anchors[target] for kernel, target in reversed(found) for name in kernel.inputs}
    reorders: dict[int, float] = {}
    enters: dict[str, float] = {}
    leaves: dict[str, float] = {}
    for kernel in filter(_is_reorder, kernels):
        if kernel.kind == "ReorderInput":
            tensor, booked, needing = kernel.inputs[0], enters, first_reader.get(kernel.outputs[0])
        else:
            tensor, booked = kernel.outputs[0], leaves
            needing = anchors.get(tensor, graph.producer.get(tensor))
        booked[tensor] = booked.get(tensor, 0.0) + kernel.seconds
        if needing is not None:
            reorders[needing] = reorders.get(needing, 0.0) + kernel.seconds
    native, blocked = _native(graph, found, groups)
    return Attribution(
        layers=layers,
        reorders=reorders,
        enters=enters,
        leaves=leaves,
        native=native,
        blocked=blocked,
        native_reads=_native_reads(graph, found, groups, native),
        any_layout=frozenset(
            anchors[target]
            for kernel, target in found
            if kernel.domain == _OWN_LAYOUT and kernel.kind == graph.layers[anchors[target]].kind == "Conv"
        ),
        anchors=frozenset(anchors.values()),
    )


def _is_reorder(kernel: Kernel) -> bool:
    return kernel.domain == _OWN_LAYOUT and kernel.kind in ("ReorderInput", "ReorderOutput")


def _targets(graph: Graph, kernels: Sequence[Kernel]) -> list[str | None]:
    """For each kernel the tensor of the model that it computes; None for a change of layout and where none is found."""
    # A kernel keeps the name of the tensor that it made before sums and activations were fused to it; where what it
    # makes leaves the runtime's layout, the tensor itself has a name.
    leaving = {kernel.inputs[0]: kernel.outputs[0] for kernel in kernels if kernel.kind == "ReorderOutput"}
    alias: dict[str, str] = {}
    targets: list[str | None] = []
    for kernel in kernels:
        if _is_reorder(kernel):
            target = None
            alias[kernel.outputs[0]] = alias.get(kernel.inputs[0], kernel.inputs[0])
        else:
            target = _target(graph, kernel, alias, leaving)
            if target is not None:
                alias.update(dict.fromkeys(kernel.outputs, target))
        targets.append(target)
    # What the runtime added on its own (a cast, a transposition) belongs to whatever reads it.
    reader: dict[str, str] = {}
    for place in reversed(range(len(kernels))):
        kernel, target = kernels[place], targets[place]
        if target is None and not _is_reorder(kernel):
            target = targets[place] = next((reader[name] for name in kernel.outputs if name in reader), None)
        if target is not None:
            reader.update(dict.fromkeys(kernel.inputs, target))
    return targets


def _target(graph: Graph, kernel: Kernel, alias: Mapping[str, str], leaving: Mapping[str, str]) -> str | None:
    for output in kernel.outputs:
        made = leaving.get(output, output)
        if made in graph.producer:
            return made
    name = _MADE_UP.sub("", kernel.name)
    if name in graph.producer:
        return name
    if kernel.name in graph.place and graph.layers[graph.place[kernel.name]].kind == kernel.kind:
        return graph.layers[graph.place[kernel.name]].outputs[0]
    # A kernel without a name of its own, on tensors of the runtime's own layout.
    read = {alias.get(tensor, tensor) for tensor in kernel.inputs}
    for place in graph.consumers.get(alias.get(kernel.inputs[0], kernel.inputs[0]) if kernel.inputs else "", ()):
        if graph.layers[place].kind == kernel.kind and read.issuperset(graph.layers[place].inputs):
            return graph.layers[place].outputs[0]
    return None


def _groups(graph: Graph, targets: Collection[str]) -> dict[str, tuple[int, ...]]:
    """For each target the places of the layers that lead to it from the targets before it, ascending."""
    made_by_target = {graph.producer[target] for target in targets}
    claimed: set[int] = set()
    groups = {}
    for target in sorted(targets, key=lambda name: graph.producer[name]):
        members: set[int] = set()
        waiting = [graph.producer[target]]
        while waiting:
            place = waiting.pop()
            if place in claimed:
                continue
            claimed.add(place)
            members.add(place)
            before = (graph.producer[name] for name in graph.layers[place].inputs if name in graph.producer)
            waiting.extend(maker for maker in before if maker not in made_by_target)
        groups[target] = tuple(sorted(members or {graph.producer[target]}))
    return groups


def _anchor(graph: Graph, members: Sequence[int], kinds: Collection[str]) -> int:
    """The layer of a group that its kernels' time belongs to: the heaviest, else the one they are named after."""
    heaviest = max(members, key=lambda place: graph.layers[place].multiply_accumulates)
    if graph.layers[heaviest].multiply_accumulates > 0:
        return heaviest
    return next((place for place in members if graph.layers[place].kind in kinds), members[0])


def _native(
    graph: Graph, found: Iterable[tuple[Kernel, str]], groups: dict[str, tuple[int, ...]]
) -> tuple[frozenset[str], frozenset[str]]:
    """The native tensors, and those of them in the runtime's own layout; see `Attribution`."""
    native: set[str] = set()
    blocked: set[str] = set()
    ordinary: set[str] = set()
    blocked_values: set[str] = set()
    for kernel, target in found:
        ordinary.update(name for name in kernel.outputs if name in graph.producer)
        members = {output for place in groups[target] for output in graph.layers[place].outputs}
        native |= members
        if kernel.domain == _OWN_LAYOUT or blocked_values.intersection(kernel.inputs):
            blocked |= members
            blocked_values.update(kernel.outputs)
    return frozenset(native - ordinary), frozenset(blocked - ordinary)


def _native_reads(
    graph: Graph, found: Iterable[tuple[Kernel, str]], groups: dict[str, tuple[int, ...]], native: frozenset[str]
) -> dict[int, frozenset[str]]:
    """By place, what a layer reads as native; a kernel may read a native tensor after a change of layout as well."""
    read_as_they_are: dict[int, set[str]] = {}
    for kernel, target in found:
        for place in groups[target]:
            read_as_they_are.setdefault(place, set()).update(kernel.inputs)
    return {
        place: native.intersection(layer.inputs) - read_as_they_are.get(place, set())
        for place, layer in enumerate(graph.layers)
    }
