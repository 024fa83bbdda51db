"""Tiles in the worker: a segment's kernels, the models of its tiles, and the engine that computes them.

A tile is computed by the very kernels that ONNX Runtime made of the whole segment: the segment is optimised once, and
every part of it (what comes before a run, a run's tiles, what comes after) is cut out of the optimised graph. So
fusion and memory layout, and with them the order of sums, are the same for a tile as for the whole.
"""
