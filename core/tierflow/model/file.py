"""Models in ONNX files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import onnx

from tierflow.errors import InvalidModelError
from tierflow.graph import Graph
from tierflow.model.checksum import combined, sha256_of
from tierflow.model.content import read_content
from tierflow.model.model import Model
from tierflow.model.reading import read_model
from tierflow.model.skeleton import Skeleton, skeleton_of
from tierflow.model.skeleton_graph import graph_of


class FileModel(Model):
    """An ONNX file, read when it is first asked for; its weights stay on disk.

    Args:
        path: The file. Files with external data are looked for beside it.
        input_shapes: Shapes by input name, to fix free dimensions.
        cache: Folder in which checksums are remembered; None to compute them anew.
    """

    def __init__(
        self, path: Path, *, input_shapes: Mapping[str, Sequence[int]] | None = None, cache: Path | None = None
    ) -> None:
        self.path = path
        self._input_shapes = dict(input_shapes or {})
        self._cache = cache

    @cached_property
    def _read(self) -> Skeleton:
        with self._texts_checked():
            return skeleton_of(read_model(self.path), self.path.parent, self._input_shapes)

    @cached_property
    def identity(self) -> str:
        """`sha256:<hex>` of the file, followed by the shapes of those inputs that had free dimensions.

        Where weights are in other files, these count as well: the sum is then over the sums of all.
        """
        files = self.external_files
        own = sha256_of(self.path, self._cache)
        digest = combined([own, *(sha256_of(path, self._cache) for path in files)]) if files else own
        shapes = (f";{name}={'x'.join(map(str, shape))}" for name, shape in sorted(self._read.fixed.items()))
        return f"sha256:{digest}{''.join(shapes)}"

    @property
    def skeleton(self) -> onnx.ModelProto:
        """The model without its weights' content; see `Model.skeleton`."""
        return self._read.model

    @cached_property
    def graph(self) -> Graph:
        """The graph of the skeleton; see `tierflow.model.skeleton_graph.graph_of`."""
        with self._texts_checked():
            return graph_of(self.skeleton, name=self.skeleton.graph.name or self.path.stem)

    @contextmanager
    def _texts_checked(self) -> Iterator[None]:
        """Protobuf finds a text that is no UTF-8 only when it is looked at."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise InvalidModelError(
                f"{self.path} is damaged, a name in it is no UTF-8: {error}; get the model again",
                subject=str(self.path),
            ) from error

    @property
    def external_files(self) -> tuple[Path, ...]:
        """Files beside the model's own that have weights of it, sorted."""
        return self._read.external_files

    def read_weight(self, name: str) -> memoryview:
        """The content of an initialiser; see `Model.read_weight`."""
        content = self._read.contents.get(name)
        if content is not None:
            return read_content(name, content)
        for tensor in self.skeleton.graph.initializer:
            if tensor.name == name:
                return memoryview(tensor.raw_data)
        raise InvalidModelError(f"{self.path} has no weight {name}; read the names from its graph", subject=name)
