"""What a model is to the rest of Tierflow: an identity, a graph, and weights that can be read one at a time."""

from abc import ABC, abstractmethod

import onnx

from tierflow.graph import Graph


class Model(ABC):
    """A whole DNN, opened but not loaded.

    Implementations: `tierflow.model.file.FileModel` for ONNX files, `tierflow.zoo.model.ZooModel` for `zoo://` uris.
    """

    @property
    @abstractmethod
    def identity(self) -> str:
        """What makes two models the same: `sha256:<hex>` of the file, or `zoo:<name>:<version>`.

        Where weights are in other files, the sum is over the sums of all files.
        Fixed input shapes are part of it (`...;input=1x3x224x224`), since they change the graph.
        """

    @property
    @abstractmethod
    def skeleton(self) -> onnx.ModelProto:
        """The model without its weights' content; not to be changed by the caller.

        An initialiser of more than `INLINE_BYTES` has its name, type and dims, `data_location` EXTERNAL, and neither
        content nor `external_data`: `read_weight` has the content. Smaller ones are inline as `raw_data`, strings
        always as `string_data`. `Constant` nodes have become initialisers, large initialisers of subgraphs belong to
        the graph itself, functions are inlined, and nodes are in topological order. Free dimensions are fixed where a
        shape was given.
        """

    @property
    @abstractmethod
    def graph(self) -> Graph:
        """The graph of the skeleton."""

    @abstractmethod
    def read_weight(self, name: str) -> memoryview:
        """The content of the initialiser `name`, little-endian, as ONNX's `raw_data` has it.

        Raises:
            InvalidModelError: where there is no such initialiser, or its file is missing or too short.
        """


INLINE_BYTES = 1024
"""Initialisers up to this size are kept in the skeleton: shapes, axes, scalars, that shape inference needs."""
