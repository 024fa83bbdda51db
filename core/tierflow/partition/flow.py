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
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from tierflow.graph import Mask
from tierflow.partition.problem import Array

Vertices = NDArray[np.intp]
Heads = NDArray[np.int32]

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

    source_side: Mask
    capacity: float
    lower_bound: float


def minimum_cut(network: FlowNetwork, *, at_most: float, tolerance: float) -> Cut:
    """The minimum cut between source and sink.

    Args:
        network: Where it is looked for.
        at_most: The capacity of some cut of finite capacity, so that one exists; the smaller, the finer the first pass.
        tolerance: Distance of capacity and lower bound with which to be content.
    """
    tail, head, capacities = _with_reverse_edges(network)
    starts = np.zeros(network.vertices + 1, dtype=np.int32)
    np.bincount(tail, minlength=network.vertices).cumsum(out=starts[1:])
    shape = (network.vertices, network.vertices)
    left, bound = capacities, 0.0
    best = Cut(np.zeros(0, dtype=np.bool_), np.inf, 0.0)
    content = max(tolerance, 1e-15 * at_most, _TINY)
    unit = max(at_most, content) / _LARGEST_FLOW
    for _ in range(_PASSES):
        whole = (np.minimum(left, unit * _INFINITE) / unit).astype(np.int32)
        answer = maximum_flow(csr_array((whole, head, starts), shape=shape), 0, 1)
        flow = answer.flow.data
        bound += answer.flow_value * unit
        source_side = _reached(head, starts, flow < whole)
        capacity = float(capacities[source_side[tail] & ~source_side[head]].sum())
        if capacity < best.capacity:
            best = Cut(source_side, capacity, bound)
        if best.capacity - bound <= content:
            break
        left = np.maximum(left - flow * unit, 0.0)
        unit = (best.capacity - bound) / _LARGEST_FLOW
    return Cut(best.source_side, best.capacity, min(bound, best.capacity))


def _with_reverse_edges(network: FlowNetwork) -> tuple[Heads, Heads, Array]:
    """Tails, heads and capacities in the order of a sparse matrix in which every edge has its reverse.

    So the solver's answer has the same layout.
    """
    forward = network.tail * network.vertices + network.head
    backward = network.head * network.vertices + network.tail
    edges, place = np.unique(np.concatenate([forward, backward]), return_inverse=True)
    capacities = np.zeros(len(edges))
    np.add.at(capacities, place[: len(forward)], network.capacity)
    tail, head = np.divmod(edges, network.vertices)
    return tail.astype(np.int32), head.astype(np.int32), capacities


def _reached(head: Heads, starts: Heads, has_residual: Mask) -> Mask:
    """The vertices that the source can still reach over the edges that have something left."""
    vertices = len(starts) - 1
    before = np.zeros(len(has_residual) + 1, dtype=np.int32)
    has_residual.cumsum(out=before[1:])
    heads = head[has_residual]
    residual = csr_array((np.ones(len(heads)), heads, before[starts]), shape=(vertices, vertices))
    found = np.zeros(vertices, dtype=np.bool_)
    found[breadth_first_order(residual, 0, return_predecessors=False)] = True
    return found
