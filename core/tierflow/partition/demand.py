"""What a partition asks of its tiers and of the backbone, in bytes, and which budgets that breaks."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tierflow.graph import Graph
from tierflow.partition.latency import Ranks
from tierflow.partition.problem import Constraints
from tierflow.tiers import TIERS, Tier
from tierflow.units import Bytes

Sizes = NDArray[np.int64]

BACKBONE: str = "planning.backboneBytesPerRequest"
"""How the backbone's budget is named among conflicting constraints."""


def memory_name(tier: Tier) -> str:
    """How a tier's memory budget is named among conflicting constraints."""
    return f"tiers[{tier}].memoryBudget"


def tensor_sizes(graph: Graph) -> Sizes:
    """Shape [tensors]: bytes of each."""
    return np.array([tensor.size for tensor in graph.tensors.values()], dtype=np.int64)


def working_sets(graph: Graph) -> Sizes:
    """Shape [layers]: bytes of each layer's inputs and outputs."""
    tensors = graph.tensors
    return np.array(
        [sum(tensors[name].size for name in (*layer.inputs, *layer.outputs)) for layer in graph.layers],
        dtype=np.int64,
    )


def weight_readers(graph: Graph) -> dict[str, list[int]]:
    """For each weight that a layer reads, the places of the layers that do."""
    readers: dict[str, list[int]] = {}
    for place, layer in enumerate(graph.layers):
        for name in layer.weights:
            readers.setdefault(name, []).append(place)
    return readers


def memory_bytes(graph: Graph, ranks: Ranks, tier: Tier) -> Bytes:
    """The weights of a tier's layers, each once, and the largest working set of one of them."""
    own = np.flatnonzero(ranks == tier.rank)
    if not len(own):
        return Bytes(0)
    names = {name for place in own.tolist() for name in graph.layers[place].weights}
    return Bytes(sum(graph.weights[name].size for name in names) + int(working_sets(graph)[own].max()))


def backbone_bytes(graph: Graph, ranks: Ranks) -> Bytes:
    """The tensors that enter the cloud."""
    above = ranks >= Tier.CLOUD.rank
    return Bytes(int(tensor_sizes(graph)[graph.incidence.crossing(above)].sum()) if above.any() else 0)


def demands(graph: Graph, constraints: Constraints, ranks: Ranks) -> Iterator[tuple[str, Bytes, Bytes]]:
    """For each budget its name, its bytes, and what the partition asks for."""
    for tier in TIERS:
        if tier in constraints.memory:
            yield memory_name(tier), constraints.memory[tier], memory_bytes(graph, ranks, tier)
    if constraints.backbone_bytes is not None:
        yield BACKBONE, constraints.backbone_bytes, backbone_bytes(graph, ranks)


def meets_budgets(graph: Graph, constraints: Constraints, ranks: Ranks) -> bool:
    """Whether no budget is broken."""
    return all(asked <= budget for _, budget, asked in demands(graph, constraints, ranks))
