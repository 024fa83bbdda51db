"""Normalises a model that was read: what `tierflow.model.model.Model.skeleton` promises.

Works on the message in memory, without its large tensors; what the graph's shapes are is `tierflow.model.shapes`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import onnx
from onnx import inliner

from tierflow.errors import InvalidInputError, InvalidModelError, UnsupportedError
from tierflow.model.content import Content, Held, Span, constant, described, plain, read_content
from tierflow.model.model import INLINE_BYTES
from tierflow.model.reading import CONTENT_KEY, Reading
from tierflow.model.shapes import written
from tierflow.model.topology import STANDARD_DOMAINS, subgraphs, topology_of

_INITIALISERS_ARE_NO_INPUTS: Final = 4  # the first IR version in which an initialiser needn't be an input too


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A normalised model, and where the content of its large initialisers is, by name.

    `fixed` are the inputs that had free dimensions, with the shapes that were given for them; `external_files` have
    content of its initialisers, large or small.
    """

    model: onnx.ModelProto
    contents: Mapping[str, Content]
    fixed: Mapping[str, tuple[int, ...]]
    external_files: tuple[Path, ...]


def skeleton_of(reading: Reading, folder: Path, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Skeleton:
    """Normalises a model; the reading's own message is used up.

    Args:
        reading: The model as it was read.
        folder: Where files with external data are looked for: the model's own folder.
        input_shapes: Shapes by the name of the input, to fix free dimensions.

    Raises:
        InvalidModelError: where an initialiser or its external file is broken, or nodes form a cycle.
        InvalidInputError: where `input_shapes` names no input or contradicts a dimension.
        UnsupportedError: where functions of the model can't be inlined.
    """
    model = _inlined(reading.model)
    graph = model.graph
    model.ir_version = max(model.ir_version, _INITIALISERS_ARE_NO_INPUTS)
    _check_texts(graph)
    _constants_to_initialisers(graph)
    _hoist(graph)
    external = tuple(sorted({folder / location for location in external_locations(graph)}))
    contents = _settle(graph, reading.contents, folder)
    _drop_inputs_with_content(graph)
    _strip(graph)
    order = topology_of(graph).order
    if order != tuple(range(len(order))):
        nodes = [graph.node[index] for index in order]
        ordered = onnx.GraphProto(node=nodes)
        del graph.node[:]
        graph.node.extend(ordered.node)
    fixed = _fix_inputs(graph, input_shapes or {})
    return Skeleton(model=model, contents=contents, fixed=fixed, external_files=external)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise UnsupportedError(
            f"the model's own functions can't be inlined ({error}); export it without functions",
            subject=model.functions[0].name,
        ) from error


def _check_texts(graph: onnx.GraphProto) -> None:
    """Protobuf returns a name that isn't UTF-8 as bytes, which nothing that names are passed to expects."""
    for number, node in enumerate(graph.node):
        for text in (node.op_type, node.domain, node.name, *node.input, *node.output):
            if not isinstance(text, str):
                raise InvalidModelError(
                    f"node {number} of the graph has the name {text!r}, which is no UTF-8: the file is damaged, get it "
                    "again"
                )
        for inner in subgraphs(node):
            _check_texts(inner)


def _constants_to_initialisers(graph: onnx.GraphProto, *, inside: bool = False) -> None:
    """Turns `Constant` nodes into initialisers; inside of a subgraph only those whose content is in another file."""
    kept = []
    for node in graph.node:
        for inner in subgraphs(node):
            _constants_to_initialisers(inner, inside=True)
        is_constant = node.op_type == "Constant" and node.domain in STANDARD_DOMAINS and len(node.output)
        if is_constant and (not inside or any(attribute.t.external_data for attribute in node.attribute)):
            graph.initializer.append(constant(node, name=node.output[0]))
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        rest = onnx.GraphProto(node=kept)
        del graph.node[:]
        graph.node.extend(rest.node)


def _hoist(graph: onnx.GraphProto) -> None:
    """Moves large initialisers of subgraphs into the graph itself, where `Model.read_weight` knows them by name."""
    nested = [inner for node in graph.node for inner in subgraphs(node)]
    if not nested:
        return
    names = Counter(_defined(graph))
    for inner in nested:
        _hoist_from(inner, graph, names)


def _hoist_from(inner: onnx.GraphProto, outer: onnx.GraphProto, names: Counter[str]) -> None:
    kept, copies, hoisted = [], [], set()
    results = {value.name for value in inner.output}
    for tensor in inner.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and len(tensor.raw_data) <= INLINE_BYTES:
            kept.append(tensor)
            continue
        name = tensor.name
        hoisted.add(name)
        # A name that is taken elsewhere can't be hoisted, and what a subgraph returns it must make itself.
        if names[name] > 1 or name in results:
            tensor.name = _unused(name, names)
            copies.append(onnx.helper.make_node("Identity", [tensor.name], [name]))
        outer.initializer.append(tensor)
    rest = onnx.GraphProto(
        node=[*copies, *inner.node],
        initializer=kept,
        input=[value for value in inner.input if value.name not in hoisted],
        output=inner.output,
        value_info=inner.value_info,
        name=inner.name,
    )
    inner.CopyFrom(rest)
    for node in inner.node:
        for deeper in subgraphs(node):
            _hoist_from(deeper, outer, names)


def _unused(name: str, names: Counter[str]) -> str:
    number = 1
    while f"{name}/{number}" in names:
        number += 1
    names[f"{name}/{number}"] = 1
    return f"{name}/{number}"


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output
        for inner in subgraphs(node):
            yield from _defined(inner)


def _settle(graph: onnx.GraphProto, passed_over: Sequence[Content], folder: Path) -> dict[str, Content]:
    """Brings every initialiser into the one form that a skeleton has, and returns where the large ones' content is."""
    contents: dict[str, Content] = {}
    seen: set[str] = set()
    for tensor in graph.initializer:
        if tensor.name in seen:
            raise InvalidModelError(
                f"two initialisers are called {tensor.name}; export the model again", subject=tensor.name
            )
        seen.add(tensor.name)
        content = _content(tensor, passed_over, folder)
        if content is not None:
            contents[tensor.name] = content
            tensor.ClearField("raw_data")
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
    return contents


def _content(tensor: onnx.TensorProto, passed_over: Sequence[Content], folder: Path) -> Content | None:
    """Where the content of an initialiser is; None where it is inline, as `raw_data` then (strings excepted)."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if CONTENT_KEY in entries:
            return passed_over[int(entries[CONTENT_KEY])]
        span = external_span(tensor, entries, folder)
        if span.length > INLINE_BYTES:
            return span
        tensor.raw_data = bytes(read_content(tensor.name, span))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        return None
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(plain(tensor, name=tensor.name))
    size = described(tensor).size
    if len(tensor.raw_data) != size:
        raise InvalidModelError(
            f"weight {tensor.name} has {len(tensor.raw_data)} bytes of content, but its shape {list(tensor.dims)} "
            f"needs {size}; export the model again",
            subject=tensor.name,
        )
    return Held(tensor.raw_data) if size > INLINE_BYTES else None


def external_locations(graph: onnx.GraphProto) -> set[str]:
    """The files, relative to the model's folder, in which tensors of the graph and of its subgraphs have content."""
    tensors = list(graph.initializer)
    found: set[str] = set()
    for node in graph.node:
        tensors.extend(attribute.t for attribute in node.attribute)
        for inner in subgraphs(node):
            found |= external_locations(inner)
    for tensor in tensors:
        found.update(entry.value for entry in tensor.external_data if entry.key == "location")
    return found


def external_span(tensor: onnx.TensorProto, entries: Mapping[str, str], folder: Path) -> Span:
    """Where the content of a tensor with external data is.

    Raises:
        InvalidModelError: where the file is not there, too short, or outside of the model's folder.
    """
    location = entries.get("location", "")
    path = folder / location
    inside = location and not PurePosixPath(location).is_absolute() and ".." not in PurePosixPath(location).parts
    if not inside:
        raise InvalidModelError(
            f"weight {tensor.name} is said to be in {location!r}, which is no path below the model's folder; "
            "save the model's external data beside it",
            subject=tensor.name,
        )
    size = described(tensor).size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size)))
    except ValueError as error:
        raise InvalidModelError(
            f"weight {tensor.name} has an offset or length in {location} that is no number; export the model again",
            subject=tensor.name,
        ) from error
    if not path.is_file():
        raise InvalidModelError(
            f"weight {tensor.name} is in {path}, which is not there; put that file beside the model",
            subject=tensor.name,
        )
    if length != size or offset < 0:
        raise InvalidModelError(
            f"weight {tensor.name} has {length} bytes in {path}, but its shape {list(tensor.dims)} needs {size}; "
            "export the model again",
            subject=tensor.name,
        )
    if path.stat().st_size < offset + length:
        raise InvalidModelError(
            f"weight {tensor.name} ends at byte {offset + length} of {path}, which has only {path.stat().st_size}; "
            "get that file again",
            subject=tensor.name,
        )
    return Span(path, offset, length)


def _drop_inputs_with_content(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initialiser is listed as an input too; it is a weight nevertheless."""
    initialisers = {tensor.name for tensor in graph.initializer}
    inputs = onnx.GraphProto(input=[value for value in graph.input if value.name not in initialisers]).input
    del graph.input[:]
    graph.input.extend(inputs)


def _strip(graph: onnx.GraphProto) -> None:
    """Drops stack traces and other notes of exporters, which can be larger than all the rest."""
    graph.ClearField("doc_string")
    graph.ClearField("quantization_annotation")
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for inner in subgraphs(node):
            _strip(inner)
    for value in graph.value_info:
        value.ClearField("metadata_props")


def _fix_inputs(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Fixes the free dimensions of the inputs, and those that bear the same symbol elsewhere."""
    names = [value.name for value in graph.input]
    for name in shapes:
        if name not in names:
            raise InvalidInputError(
                f"a shape is given for {name!r}, which is no input of the model; its inputs are {', '.join(names)}",
                subject=name,
            )
    symbols: dict[str, int] = {}
    fixed = {}
    for value in graph.input:
        if value.name in shapes and value.type.HasField("tensor_type"):
            shape = tuple(int(dimension) for dimension in shapes[value.name])
            if _fix(value, shape, symbols):
                fixed[value.name] = shape
    if symbols:
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.dim_param in symbols:
                    dimension.dim_value = symbols[dimension.dim_param]
    return fixed


def _fix(value: onnx.ValueInfoProto, shape: tuple[int, ...], symbols: dict[str, int]) -> bool:
    """Fixes one input; returns whether any of its dimensions was free. `symbols` gets what they were called."""
    tensor_type = value.type.tensor_type
    if not tensor_type.HasField("shape"):
        tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension() for _ in shape])
    dimensions = tensor_type.shape.dim
    declared = "x".join(written(dimension) for dimension in dimensions)
    given = "x".join(map(str, shape))
    if len(dimensions) != len(shape) or any(wanted < 1 for wanted in shape):
        raise InvalidInputError(
            f"input {value.name} has the shape {declared}, which {given} doesn't fit; "
            f"give {len(dimensions)} positive dimensions",
            subject=value.name,
        )
    free = False
    for dimension, wanted in zip(dimensions, shape, strict=True):
        before = dimension.dim_value if dimension.HasField("dim_value") else symbols.get(dimension.dim_param)
        if before is not None and before != wanted and not (before < 0):
            raise InvalidInputError(
                f"input {value.name} has the shape {declared}, which {given} contradicts; only free dimensions can be "
                "chosen, and equally named ones alike",
                subject=value.name,
            )
        if not dimension.HasField("dim_value") or dimension.dim_value < 0:
            free = True
            if dimension.dim_param:
                symbols[dimension.dim_param] = wanted
            dimension.dim_value = wanted
    return free
