"""Both algorithms behind one signature."""

from tierflow.partition.budgets import optimal
from tierflow.partition.heuristic import heuristic
from tierflow.partition.problem import Algorithm, Partitioner


def partitioner(algorithm: Algorithm) -> Partitioner:
    """What finds partitions by the given algorithm; see `tierflow.partition.problem.Partitioner`."""
    return {Algorithm.EXACT: optimal, Algorithm.HEURISTIC: heuristic}[algorithm]
