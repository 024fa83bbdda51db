"""What both planes of Tierflow know: graphs, costs, partitions, plans and the wire format.

May live here: values and functions of values. Must not: clocks, clusters, servers, runtimes, and any I/O beyond
reading a model (`tierflow.model`).
"""
