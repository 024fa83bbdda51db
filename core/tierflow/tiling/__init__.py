"""The vertical separation: which runs of layers can be computed tile by tile, and what each tile needs.

`region` is the arithmetic of one axis; `rules` says for each kind of layer how its output at a place depends on its
input; `footprint` goes backwards through a run from an output tile to the input that it needs. Values only: cutting
arrays and running tiles is the worker's.
"""
