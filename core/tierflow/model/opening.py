"""Opens a model by its uri; see `tierflow.model.open_model`."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tierflow.errors import InvalidInputError, UnsupportedError
from tierflow.model.checksum import check_sha256, sha256_of
from tierflow.model.file import FileModel
from tierflow.model.model import Model

Progress = Callable[[int, int | None], None]
"""Is told how many bytes of a download are done, and of how many, None where that isn't known."""

_LOCAL_HOSTS: Final = ("", "localhost")


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/tierflow`, or `~/.cache/tierflow`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "tierflow"


def open_uri(
    uri: str,
    *,
    sha256: str = "",
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """See `tierflow.model.open_model`."""
    cache = cache_dir or default_cache()
    shapes = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    scheme, separator, rest = uri.partition("://")
    if scheme == "zoo" and separator:
        return _open_zoo(rest, sha256, shapes)
    if not uri:
        raise InvalidInputError("no model is given; write a path or a uri like zoo://resnet18", subject="uri")
    if separator and scheme != "file":
        from tierflow.model.download import download

        path = download(uri, scheme, sha256=sha256, cache=cache, progress=progress)
    else:
        path = _local_path(uri) if separator else Path(uri).expanduser()
        if sha256:
            check_sha256(sha256_of(path, cache), sha256, uri=uri)
    model = FileModel(path, input_shapes=shapes, cache=cache)
    _ = model.skeleton  # so that a file that can't be read is refused here
    return model


def _local_path(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in _LOCAL_HOSTS:
        raise InvalidInputError(
            f"{uri} names the host {parts.netloc!r}; a file's uri has three slashes: file:///{parts.netloc}{parts.path}",
            subject=uri,
        )
    return Path(unquote(parts.path))


def _open_zoo(name: str, sha256: str, shapes: dict[str, tuple[int, ...]]) -> Model:
    if sha256:
        raise UnsupportedError(
            f"zoo://{name} is made, not read, and has no SHA-256; leave the sum out", subject="sha256"
        )
    from tierflow.zoo.model import open_zoo_model

    return open_zoo_model(name, shapes)
