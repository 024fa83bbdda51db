"""How the nodes of an ONNX graph hang together: what each reads, who makes what, a valid order, what is constant.

Needs no shapes, so that a segment can be cut out of a model without inferring them.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from tierflow.errors import InvalidModelError

STANDARD_DOMAINS: Final = ("", "ai.onnx")

_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True, slots=True)
class Topology:
    """The nodes of a graph, by their index in the file.

    Attributes:
        reads: Per node the names that it reads, each once, in order of first use; what its subgraphs capture included.
        producer: The node that makes a tensor.
        order: All nodes in topological order: the file's own where that is valid.
        constant: Nodes whose result depends on initialisers alone, and on no chance.
    """

    reads: tuple[tuple[str, ...], ...]
    producer: dict[str, int]
    order: tuple[int, ...]
    constant: frozenset[int]


def topology_of(graph: onnx.GraphProto) -> Topology:
    """The topology of a graph, subgraphs counted as part of their node.

    Raises:
        InvalidModelError: where a tensor has no source or two, or the nodes form a cycle.
    """
    inputs = [value.name for value in graph.input]
    initialisers = {tensor.name for tensor in graph.initializer}
    producer = _producers(graph, inputs, initialisers)
    reads = tuple(reads_of(node) for node in graph.node)
    known = initialisers.union(inputs)
    for node, names in zip(graph.node, reads, strict=True):
        for name in names:
            if name not in producer and name not in known:
                raise InvalidModelError(
                    f"layer {label(node)} reads the tensor {name}, which nothing makes; export the model again",
                    subject=name,
                )
    for value in graph.output:
        if value.name not in producer and value.name not in known:
            raise InvalidModelError(
                f"nothing makes the model's output {value.name}; export the model again", subject=value.name
            )
    order = _order(graph.node, reads, producer)
    constant: set[int] = set()
    for index in order:
        free = all(name in initialisers or producer.get(name) in constant for name in reads[index])
        if free and not _is_random(graph.node[index]):
            constant.add(index)
    return Topology(reads=reads, producer=producer, order=order, constant=frozenset(constant))


def label(node: onnx.NodeProto) -> str:
    """A node's name for people: its own, or that of the first tensor that it makes."""
    return node.name or next((name for name in node.output if name), node.op_type)


def _is_random(node: onnx.NodeProto) -> bool:
    """Whether running the node twice gives two results; a constant is copied into each segment that needs it."""
    return node.domain in STANDARD_DOMAINS and node.op_type in _RANDOM


def _producers(graph: onnx.GraphProto, inputs: Sequence[str], initialisers: set[str]) -> dict[str, int]:
    producer: dict[str, int] = {}
    taken = initialisers.union(inputs)
    for index, node in enumerate(graph.node):
        for name in node.output:
            if not name:
                continue
            if name in producer or name in taken:
                other = label(graph.node[producer[name]]) if name in producer else "an input or initialiser"
                raise InvalidModelError(
                    f"the tensor {name} has two sources: layer {label(node)} and {other}; export the model again",
                    subject=name,
                )
            producer[name] = index
    return producer


def reads_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """The names that a node reads, each once: its inputs, and what its subgraphs capture from outside."""
    found = dict.fromkeys(name for name in node.input if name)
    for graph in subgraphs(node):
        found.update(dict.fromkeys(_captured(graph)))
    return tuple(found)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    inside = {value.name for value in graph.input}
    inside.update(tensor.name for tensor in graph.initializer)
    inside.update(tensor.values.name for tensor in graph.sparse_initializer)
    inside.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        yield from (name for name in reads_of(node) if name not in inside)
    yield from (value.name for value in graph.output if value.name not in inside)


def _order(
    nodes: Sequence[onnx.NodeProto], reads: Sequence[Sequence[str]], producer: dict[str, int]
) -> tuple[int, ...]:
    """Kahn's algorithm, always taking the ready node that comes first in the file."""
    waits = [{producer[name] for name in names if name in producer} for names in reads]
    if all(not wait or max(wait) < index for index, wait in enumerate(waits)):
        return tuple(range(len(nodes)))
    users: list[list[int]] = [[] for _ in nodes]
    for index, wait in enumerate(waits):
        for before in wait:
            users[before].append(index)
    missing = [len(wait) for wait in waits]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        cycle = _cycle(waits, set(range(len(nodes))).difference(order))
        names = " -> ".join(label(nodes[index]) for index in [*cycle, cycle[0]])
        raise InvalidModelError(
            f"the layers form a cycle: {names}; a model must be acyclic, export it again",
            subject=label(nodes[cycle[0]]),
        )
    return tuple(order)


def _cycle(waits: Sequence[set[int]], stuck: set[int]) -> list[int]:
    """A cycle, in the data's direction, among nodes that each wait for another of them."""
    path = [min(stuck)]
    while True:
        before = min(waits[path[-1]] & stuck)
        if before in path:
            return path[path.index(before) :][::-1]
        path.append(before)
