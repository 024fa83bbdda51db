"""The control plane: observe, decide, render, diff, apply.

`observation`, `decide`, `render` and `diff` are pure: values in, values out, the clock injected. What talks to a
cluster lives in modules of its own; local mode (`tierflow_local`) puts another cluster behind the same pure part.
"""
