"""Models as files and as graphs: opening one by its uri, reading its graph, cutting out a segment's model.

The only room of the core that does I/O. Weights are read one by one and never held together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tierflow.model.model import Model


def open_model(
    uri: str,
    *,
    sha256: str = "",
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> "Model":
    """Opens the model at `uri` without loading its weights.

    Args:
        uri: `zoo://NAME`, a path, `file:///PATH`, or anything fsspec reads: `https://`, `s3://` and so on. What isn't
            on this machine is downloaded once, external data beside it included.
        sha256: What the file's content must have, in hexadecimal; "" to take any.
        input_shapes: Shapes by input name, to fix free dimensions.
        cache_dir: For downloads and checksums; by default `$XDG_CACHE_HOME/tierflow`.
        progress: Is told how many bytes of a download are done, and of how many (None: unknown).

    Raises:
        InvalidModelError: where there is no such file, or it is no complete ONNX model. What is wrong with its layers
            or shapes is found when `Model.graph` is first asked for.
        InvalidInputError: where `input_shapes` doesn't fit the model.
        UnsupportedError: where the scheme is unknown, or needs a package that isn't installed.
        UnreachableError: where a storage doesn't answer.
        IntegrityError: where the content doesn't have the wanted SHA-256.
    """
    from tierflow.model.opening import open_uri

    return open_uri(uri, sha256=sha256, input_shapes=input_shapes, cache_dir=cache_dir, progress=progress)
