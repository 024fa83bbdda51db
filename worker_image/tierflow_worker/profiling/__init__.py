"""Measured profiles: what the layers of a model cost on this machine.

`recording` runs a model with ONNX Runtime's recorder, `attribution` finds the layers that its kernels compute,
`measure` makes a profile of both, `cache` keeps profiles on disk.
"""

from tierflow_worker.profiling.measure import measure_profile

__all__ = ["measure_profile"]
