"""The rules of a graph's layers, as far as they are known before the runtime has made kernels of them."""

from tierflow.graph import Graph, Layer
from tierflow.tiling.exactness import reason_against, smallest_area, will_be_blocked
from tierflow.tiling.footprint import Step
from tierflow.tiling.rules import Extents, NotTileableError, Operation, rule_for


def operation_of(graph: Graph, layer: Layer) -> Operation:
    """What a layer's rule is derived from."""
    known = {**graph.weights, **graph.tensors}
    shapes = tuple(known[name].shape if name in known else () for name in layer.operands)
    maps = tuple(place for place, name in enumerate(layer.operands) if name in graph.tensors)
    return Operation(layer.kind, layer.attributes, shapes, layer.settings, len(layer.outputs), maps)


def step_of(graph: Graph, layer: Layer, *, approximate: bool = False) -> Step:
    """The layer as a step of a run.

    Args:
        graph: The whole graph.
        layer: One of its layers.
        approximate: Whether the last bits of a tile may differ from the whole's.

    Raises:
        NotTileableError: where the layer ends a run, saying why.
    """
    if layer.domain:
        raise NotTileableError(f"operators of the domain {layer.domain} have no rule")
    for name in (*layer.inputs, *layer.outputs):
        if name in graph.tensors and len(graph.tensors[name].shape) != 4:
            raise NotTileableError(f"{name} is no map of rows and columns")
        if graph.tensors[name].dtype != "float32" and not approximate:
            raise NotTileableError(f"{name} is {graph.tensors[name].dtype}; exactness is established for float32")
    operation = operation_of(graph, layer)
    rule = rule_for(operation)
    against = reason_against(operation, blocked=will_be_blocked(operation))
    if against and not approximate:
        raise NotTileableError(against)
    return Step(layer.name, rule, layer.inputs, layer.outputs, smallest_area(operation, blocked=False))


def extents_of(graph: Graph, name: str) -> Extents:
    """The size of a feature map."""
    rows, columns = graph.tensors[name].shape[-2:]
    return Extents(rows, columns)
