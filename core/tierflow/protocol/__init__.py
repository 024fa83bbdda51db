"""The Open Inference Protocol v2 as values and bytes: what clients speak to the entry, and workers to each other.

No sockets and no servers live here.
"""
