"""Minimum cuts of networks with real capacities, through a compiled solver for integer ones.

Knows vertices and capacities, nothing of layers and tiers.

The solver (`scipy.sparse.csgraph.maximum_flow`, Dinic) takes 32-bit integers, so capacities are scaled, rounded down
and limited to `_INFINITE`. Rounding down keeps every integer flow a flow of the real network too: what it carries is a
true lower bound of the minimum cut. The distance from it to the cut that was found is therefore a certified error, and
where it is too large, the same is done once more with what is left of the capacities: their minimum cut is at most
that distance, so that the scale can grow by as much. Two or three passes reach the resolution of float64.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from tierflow.partition.problem import Array

Vertices = NDArray[np.intp]

_INFINITE: Final = 2**30
"""More than any cut that is looked for; the residual of such an edge, at most twice as much, still fits 32 bits."""
_LARGEST_FLOW: Final = 0.999 * _INFINITE
_TINY: Final = 1e-200
_PASSES: Final = 5


@dataclass(frozen=True, slots=True)
class FlowNetwork:
    """A directed network, given by its edges.

    Attributes:
        vertices: How many there are; 0 is the source, 1 is the sink.
        tail: Shape [edges].
        head: Shape [edges].
        capacity: Shape [edges], >= 0, may be infinite; edges that are given several times add up.
    """

    vertices: int
    tail: Vertices
    head: Vertices
    capacity: Array


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut of a network.

    Attributes:
        source_side: Shape [vertices]: which are on the source's side; of all minimum cuts the one with the fewest.
        capacity: What its edges carry.
        lower_bound: What no cut can be below; a minimum cut where it equals `capacity`.
    """

    source_side: NDArray[np.bool_]
    capacity: float
    lower_bound: float


def minimum_cut(network: FlowNetwork, *, at_most: float, tolerance: float) -> Cut:
    """The minimum cut between source and sink.

    Args:
        network: Where it is looked for.
        at_most: The capacity of some cut of finite capacity, so that one exists; the smaller, the finer the first pass.
        tolerance: Distance of capacity and lower bound with which to be content.
    """
    matrix = _with_reverse_edges(network)
    tail = np.repeat(np.arange(network.vertices, dtype=np.int32), np.diff(matrix.indptr))
    left, bound = matrix.data, 0.0
    best = Cut(np.zeros(0, dtype=np.bool_), np.inf, 0.0)
    content = max(tolerance, 1e-15 * at_most, _TINY)
    unit = max(at_most, content) / _LARGEST_FLOW
    for _ in range(_PASSES):
        whole = (np.minimum(left, unit * _INFINITE) / unit).astype(np.int32)
        answer = maximum_flow(csr_array((whole, matrix.indices, matrix.indptr), shape=matrix.shape), 0, 1)
        flow = answer.flow.data
        bound += answer.flow_value * unit
        source_side = _reached(matrix, flow < whole)
        capacity = float(matrix.data[source_side[tail] & ~source_side[matrix.indices]].sum())
        if capacity < best.capacity:
            best = Cut(source_side, capacity, bound)
        if best.capacity - bound <= content:
            break
        left = np.maximum(left - flow * unit, 0.0)
        unit = (best.capacity - bound) / _LARGEST_FLOW
    return Cut(best.source_side, best.capacity, min(bound, best.capacity))


def _with_reverse_edges(network: FlowNetwork) -> csr_array:
    """Capacities as a matrix in which every edge has its reverse, so that the solver's answer has the same layout."""
    tail = np.concatenate([network.tail, network.head], dtype=np.int32)
    head = np.concatenate([network.head, network.tail], dtype=np.int32)
    capacity = np.zeros(len(tail))
    capacity[: len(network.capacity)] = network.capacity
    matrix = coo_array((capacity, (tail, head)), shape=(network.vertices, network.vertices)).tocsr()
    matrix.sort_indices()
    return matrix


def _reached(matrix: csr_array, has_residual: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The vertices that the source can still reach."""
    starts = np.zeros(len(has_residual) + 1, dtype=np.int32)
    np.cumsum(has_residual, out=starts[1:])
    heads = matrix.indices[has_residual]
    residual = csr_array((np.ones(len(heads)), heads, starts[matrix.indptr]), shape=matrix.shape)
    found = np.zeros(matrix.shape[0], dtype=np.bool_)
    found[breadth_first_order(residual, 0, return_predecessors=False)] = True
    return found
