"""InferencePipeline manifests as YAML, read the way `kubectl apply` reads them."""

from pathlib import Path
from typing import Any

import yaml

from tierflow.errors import InvalidManifestError
from tierflow.manifest import KIND, InferencePipeline
from tierflow.manifest_reading import from_object


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes takes it: no field twice, and times stay texts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise InvalidManifestError(
                    f"line {line}: the field {key.value} is given twice, first on line {seen[key.value]}; remove one",
                    subject=str(key.value),
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep=deep)


def _time_as_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return loader.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _time_as_text)


def parse(text: str) -> InferencePipeline:
    """Reads the one InferencePipeline of a YAML text; other objects beside it, like a Namespace, are left alone.

    Raises:
        InvalidManifestError: naming the field or the line that is wrong, and the way out.
    """
    try:
        loaded = yaml.load_all(text, Loader=_Loader)
        documents = [document for document in loaded if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" on line {mark.line + 1}, column {mark.column + 1}"
        raise InvalidManifestError(f"no YAML{place}: {error.problem or error.context}", subject="manifest") from error
    except yaml.YAMLError as error:
        raise InvalidManifestError(f"no YAML: {error}", subject="manifest") from error
    if len(documents) > 1:
        documents = [entry for entry in documents if not isinstance(entry, dict) or entry.get("kind") == KIND]
    if len(documents) != 1:
        raise InvalidManifestError(
            f"{len(documents) or 'no'} objects of kind {KIND} are in it; give exactly one", subject="manifest"
        )
    return from_object(documents[0])


def read(path: Path) -> InferencePipeline:
    """Reads a manifest's file.

    Raises:
        InvalidManifestError: naming the file, the field or line that is wrong, and the way out.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InvalidManifestError(f"{path}: can't be read: {reason}; check the path", subject=str(path)) from error
    try:
        return parse(text)
    except InvalidManifestError as error:
        raise InvalidManifestError(f"{path}: {error.message}", subject=error.subject) from error
