"""From a skeleton to the graph of its layers."""

from collections.abc import Iterable
from typing import Final

import onnx
from onnx import numpy_helper

from tierflow.errors import InvalidModelError, UnsupportedError
from tierflow.graph import Attribute, Graph, Layer, Tensor
from tierflow.model.content import described
from tierflow.model.macs import multiply_accumulates
from tierflow.model.shapes import infer_tensors
from tierflow.model.topology import STANDARD_DOMAINS, Topology, label, subgraphs, topology_of

_LONGEST_ATTRIBUTE: Final = 64
"""Lists of more items are tables (of tree ensembles, vocabularies), not settings of an operator."""
_HAS_SETTINGS: Final = frozenset({"Pad", "Resize", "Upsample"})
"""Operators that take their paddings, scales and axes as inputs."""
_OWN_DOMAINS: Final = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")
"""Domains whose every operator onnx defines."""
_OLDEST_OPSET: Final = 7
"""What ONNX Runtime still runs; older operators broadcast in another way."""


def graph_of(skeleton: onnx.ModelProto, *, name: str = "") -> Graph:
    """The graph of a skeleton, as `tierflow.model.model.Model.skeleton` describes it.

    Layers that no output of the graph needs are left out, and so are outputs that nothing reads.

    Args:
        skeleton: A normalised model; it isn't changed.
        name: The graph's name, where the model's own isn't wanted.

    Raises:
        InvalidModelError: where a tensor has no source, layers form a cycle, or a shape stays open.
        UnsupportedError: where onnx has no such operator or opset, or a tensor isn't a plain one.
    """
    check_operators(skeleton)
    graph = skeleton.graph
    topology = topology_of(graph)
    used = _used_nodes(graph, topology)
    read = {tensor for index in used for tensor in topology.reads[index]}
    read.update(value.name for value in graph.output)
    tensors = infer_tensors(skeleton, topology, frozenset(read.intersection(topology.producer)))
    initialisers = {tensor.name: described(tensor) for tensor in graph.initializer}
    places = [index for index in topology.order if index in used and index not in topology.constant]
    names = _layer_names(graph.node[index] for index in places)
    inputs = [value.name for value in graph.input]
    activations = dict.fromkeys(inputs)
    for index in places:
        activations.update(dict.fromkeys(output for output in graph.node[index].output if output in read))
    weights = {
        name: tensors.get(name) or initialisers[name]
        for name in _in_order_of_use(places, topology, graph)
        if name not in activations
    }
    known = {**initialisers, **tensors}
    inline = {tensor.name: tensor for tensor in graph.initializer if tensor.HasField("raw_data")}
    return Graph(
        name=name or graph.name or "model",
        inputs=tuple(inputs),
        outputs=tuple(value.name for value in graph.output),
        layers=tuple(
            _layer(graph.node[index], own, topology.reads[index], activations, known, inline)
            for index, own in zip(places, names, strict=True)
        ),
        tensors={name: tensors[name] for name in activations},
        weights=weights,
    )


def _used_nodes(graph: onnx.GraphProto, topology: Topology) -> set[int]:
    """The nodes that an output of the graph depends on."""
    used: set[int] = set()
    open_names = [value.name for value in graph.output]
    while open_names:
        index = topology.producer.get(open_names.pop())
        if index is not None and index not in used:
            used.add(index)
            open_names.extend(topology.reads[index])
    return used


def _in_order_of_use(places: list[int], topology: Topology, graph: onnx.GraphProto) -> Iterable[str]:
    read = dict.fromkeys(name for index in places for name in topology.reads[index])
    return {**read, **dict.fromkeys(value.name for value in graph.output)}


def _layer_names(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    taken: set[str] = set()
    names = []
    for node in nodes:
        first = next((output for output in node.output if output), node.op_type)
        name = node.name if node.name and node.name not in taken else first
        number = 2
        while name in taken:
            name = f"{first}#{number}"
            number += 1
        taken.add(name)
        names.append(name)
    return names


def _layer(
    node: onnx.NodeProto,
    name: str,
    reads: tuple[str, ...],
    activations: dict[str, None],
    known: dict[str, Tensor],
    inline: dict[str, onnx.TensorProto],
) -> Layer:
    attributes = _attributes(node)
    return Layer(
        name=name,
        kind=node.op_type,
        domain="" if node.domain in STANDARD_DOMAINS else node.domain,
        inputs=tuple(read for read in reads if read in activations),
        outputs=tuple(output for output in node.output if output in activations),
        weights=tuple(read for read in reads if read not in activations),
        multiply_accumulates=multiply_accumulates(
            node.op_type,
            [known[read].shape if read in known else None for read in node.input],
            [known[output].shape if output in known else None for output in node.output],
            attributes,
        ),
        attributes=attributes,
        operands=tuple(node.input),
        settings=_settings(node, inline),
    )


def _settings(node: onnx.NodeProto, inline: dict[str, onnx.TensorProto]) -> dict[int, tuple[float, ...]]:
    """The constant inputs that say how the operator works, by position."""
    if node.op_type not in _HAS_SETTINGS:
        return {}
    return {
        place: tuple(float(value) for value in numpy_helper.to_array(inline[name]).ravel())
        for place, name in enumerate(node.input)
        if place and name in inline and 0 < len(inline[name].raw_data) <= _LONGEST_ATTRIBUTE * 8
    }


def _attributes(node: onnx.NodeProto) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    for attribute in node.attribute:
        value = _attribute(attribute)
        if value is not None:
            found[attribute.name] = value
    return found


def _attribute(attribute: onnx.AttributeProto) -> Attribute | None:
    """A number, a text, or a short tuple of them; None for everything else."""
    kinds = onnx.AttributeProto
    if attribute.type == kinds.INT:
        return attribute.i
    if attribute.type == kinds.FLOAT:
        return attribute.f if abs(attribute.f) < float("inf") else None  # JSON has no infinity and no NaN
    if attribute.type == kinds.STRING:
        return attribute.s.decode("utf-8", "replace")
    if max(len(attribute.ints), len(attribute.floats), len(attribute.strings)) > _LONGEST_ATTRIBUTE:
        return None
    if attribute.type == kinds.INTS:
        return tuple(attribute.ints)
    if attribute.type == kinds.FLOATS:
        return tuple(attribute.floats) if all(abs(item) < float("inf") for item in attribute.floats) else None
    if attribute.type == kinds.STRINGS:
        return tuple(item.decode("utf-8", "replace") for item in attribute.strings)
    return None


def check_operators(skeleton: onnx.ModelProto) -> None:
    """Checks that the installed onnx knows each operator of the domains that are its own.

    Operators of other domains are accepted: whether the runtime has them, the runtime says.

    Raises:
        UnsupportedError: naming the layer and the operator, or the operator set.
        InvalidModelError: where the model doesn't say which version of a domain it uses.
    """
    opsets = {
        "" if entry.domain in STANDARD_DOMAINS else entry.domain: entry.version for entry in skeleton.opset_import
    }
    newest = onnx.defs.onnx_opset_version()
    version = opsets.get("", newest)
    if not _OLDEST_OPSET <= version <= newest:
        raise UnsupportedError(
            f"the model uses operator set {version}; supported are {_OLDEST_OPSET} to {newest}: convert it with "
            "onnx.version_converter, or update onnx",
            subject=f"opset {version}",
        )
    _check_nodes(skeleton.graph, opsets)


def _check_nodes(graph: onnx.GraphProto, opsets: dict[str, int]) -> None:
    for node in graph.node:
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        if domain not in opsets:
            raise InvalidModelError(
                f"layer {label(node)} ({node.op_type}) is of the domain {domain or 'ai.onnx'!r}, for which the model "
                "names no version (opset_import); export it again",
                subject=label(node),
            )
        if domain in _OWN_DOMAINS and not onnx.defs.has(node.op_type, opsets[domain], domain):
            raise UnsupportedError(
                f"layer {label(node)}: there is no operator {node.op_type} in version {opsets[domain]} of the operator "
                f"set {domain or 'ai.onnx'}; replace it, or give it a domain of its own",
                subject=label(node),
            )
        for inner in subgraphs(node):
            _check_nodes(inner, opsets)
