"""Reads an InferencePipeline from the object that a YAML or JSON parser made of it.

What is wrong with it is said with the field's path, its value and the way out. YAML itself is the control plane's
business (`tierflow_operator.manifest_file`).
"""

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

import msgspec

from tierflow.errors import InvalidManifestError
from tierflow.manifest import API_VERSION, KIND, InferencePipeline
from tierflow.manifest_checks import check_meaning, wrong_field
from tierflow.segment import closest

_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]+)`")


def from_object(value: object) -> InferencePipeline:
    """Reads a manifest.

    As on a Kubernetes API server, a field that is null counts as not given.

    Raises:
        InvalidManifestError: naming the field's path (`spec.tiers[1].name`), its value and the way out.
    """
    given = _without_nulls(value)
    _check_kind(given)
    for path, field, known in _unknown_fields(given, msgspec.inspect.type_info(InferencePipeline), ""):
        hint = closest(field, known) or f"; there are {', '.join(sorted(known))}"
        raise wrong_field(f"{path}.{field}".removeprefix("."), f"is no field{hint}")
    try:
        pipeline = msgspec.convert(given, InferencePipeline)
    except msgspec.ValidationError as error:
        raise _explained(error, given) from error
    check_meaning(pipeline)
    return pipeline


def _without_nulls(value: object) -> object:
    """The object without those fields of its mappings that are null."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in value]
    return value


def _check_kind(value: object) -> None:
    if not isinstance(value, Mapping):
        problem = f"an {KIND} is a mapping, not {_shown(value)}; samples/resnet18.yaml is an example"
        raise wrong_field("manifest", problem)
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if value.get(field) != wanted:
            problem = f"{_shown(value[field])} is not known here" if field in value else "is required, but not given"
            raise wrong_field(field, f"{problem}; write `{field}: {wanted}`")


def _unknown_fields(value: object, info: msgspec.inspect.Type, path: str) -> Iterator[tuple[str, str, list[str]]]:
    if isinstance(info, msgspec.inspect.StructType) and isinstance(value, Mapping):
        fields = {field.encode_name: field.type for field in info.fields}
        for name, entry in value.items():
            if name not in fields:
                yield path, str(name), list(fields)
            else:
                yield from _unknown_fields(entry, fields[name], f"{path}.{name}")
    elif isinstance(info, msgspec.inspect.VarTupleType) and isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _unknown_fields(entry, info.item_type, f"{path}[{place}]")
    elif isinstance(info, msgspec.inspect.UnionType):
        for member in info.types:
            if isinstance(member, msgspec.inspect.StructType):
                yield from _unknown_fields(value, member, path)


def _explained(error: msgspec.ValidationError, value: object) -> InvalidManifestError:
    """The error of a conversion, with the field's path as people write it, its value, and what may stand there."""
    problem, _, place = str(error).partition(" - at `$")
    path = place.rstrip("`")
    missing = _MISSING.match(problem)
    if missing:
        return wrong_field(f"{path}.{missing['field']}".removeprefix("."), "is required, but not given")
    given, info = _at(value, msgspec.inspect.type_info(InferencePipeline), path)
    wanted = f"expected {_allowed(info)}" if info is not None else problem[:1].lower() + problem[1:]
    if isinstance(given, bool):
        wanted += "; YAML reads an unquoted On, Off, Yes or No as a boolean: put it in quotes"
    elif isinstance(given, str) and isinstance(info, msgspec.inspect.EnumType):
        wanted += closest(given, [str(member.value) for member in info.cls])
    return wrong_field(path.removeprefix("."), f"{_shown(given)} is not allowed here; {wanted}")


def _at(value: Any, info: msgspec.inspect.Type | None, path: str) -> tuple[Any, msgspec.inspect.Type | None]:
    """What is at `path` (`.spec.tiers[1].name`): the value and, where it can be told, its wanted type."""
    for field, place in _STEP.findall(path):
        if isinstance(info, msgspec.inspect.UnionType):
            info = next((member for member in info.types if isinstance(member, msgspec.inspect.StructType)), None)
        if isinstance(info, msgspec.inspect.StructType):
            value = value.get(field)
            info = next((entry.type for entry in info.fields if entry.encode_name == field), None)
        elif isinstance(info, msgspec.inspect.VarTupleType):
            value, info = value[int(place)], info.item_type
        else:  # msgspec doesn't say which entry of a mapping
            return value, None
    return value, info


def _allowed(info: msgspec.inspect.Type) -> str:
    """What a type allows, in words."""
    if isinstance(info, msgspec.inspect.EnumType):
        return "one of " + ", ".join(_values(info.cls))
    if isinstance(info, msgspec.inspect.LiteralType):
        return "one of " + ", ".join(repr(entry) for entry in info.values)
    if isinstance(info, msgspec.inspect.IntType):
        least = "" if info.ge is None else f" of at least {info.ge}"
        most = "" if info.le is None else f" and at most {info.le}"
        return f"a whole number{least}{most}"
    if isinstance(info, msgspec.inspect.StrType):
        length = "" if info.max_length is None else f" of at most {info.max_length} characters"
        hint = ", not empty" if info.min_length else " (in quotes where it looks like a number)"
        return f"a text{length}{hint}"
    if isinstance(info, msgspec.inspect.UnionType):
        return " or ".join(_allowed(entry) for entry in info.types if not isinstance(entry, msgspec.inspect.NoneType))
    kind = "a list" if isinstance(info, msgspec.inspect.VarTupleType) else "a mapping"
    entries = getattr(info, "max_length", None)
    return kind if entries is None else f"{kind} of at most {entries} entries"


def _values(enum: type[Enum]) -> list[str]:
    return [str(member.value) for member in enum]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
