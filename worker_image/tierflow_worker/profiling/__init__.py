"""Measured profiles: what the layers of a model cost on this machine.

`recording` runs a model with ONNX Runtime's recorder, `attribution` finds the layers that its kernels compute,
`tearing` measures what layers cost beside a cut, `measure` makes a profile of it all, `cache` keeps it on disk.
"""

from tierflow_worker.profiling.cache import cached_profile
from tierflow_worker.profiling.measure import measure_profile

__all__ = ["cached_profile", "measure_profile"]
