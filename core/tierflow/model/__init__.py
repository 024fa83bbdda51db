"""Models as files and as graphs: opening one by its uri, reading its graph, cutting out a segment's model.

The only room of the core that does I/O. Weights are read one by one and never held together.
"""
