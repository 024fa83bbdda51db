"""The data plane: one program that serves the segments of any tier, and measures what they cost.

May live here: running models (`runtime` alone creates ONNX Runtime's sessions), serving them over the Open Inference
Protocol, and measuring them (`profiling`). Must not: clusters, manifests, plans, or anything of the operator.
"""
