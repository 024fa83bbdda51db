"""The model zoo: networks of the papers, built as ONNX graphs, with weights made on demand.

One module per network, an architecture each; `builder` makes the nodes, `weights` the content, `model` opens a network
by its name. No framework is needed, nothing is downloaded and no weight is held.
"""
