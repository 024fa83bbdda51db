"""Both algorithms behind one signature."""

from tierflow.partition.exact import exact
from tierflow.partition.problem import Algorithm, Partitioner


def partitioner(algorithm: Algorithm) -> Partitioner:
    """What finds partitions by the given algorithm; see `tierflow.partition.problem.Partitioner`."""
    return {Algorithm.EXACT: exact}[algorithm]
