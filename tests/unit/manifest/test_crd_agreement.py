"""The API server's schema and the manifest that local mode reads say the same: fields, defaults, bounds, refusals."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from testbed.pipelines import REFUSED, REFUSED_NAMES, pipeline
from tierflow.errors import InvalidManifestError
from tierflow.manifest import API_VERSION, KIND, PipelineSpec
from tierflow.manifest_reading import from_object

CRD_FILE = Path(__file__).parents[3] / "crds" / "tierflow.dev_inferencepipelines.yaml"
CRD: dict[str, Any] = yaml.safe_load(CRD_FILE.read_text())
(VERSION,) = CRD["spec"]["versions"]
SPEC: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]
EMPTY = (None, "", (), {}, [])
Place = tuple[str, dict[str, Any], msgspec.inspect.Type]


def members(path: str, schema: dict[str, Any], info: msgspec.inspect.Type) -> Iterator[Place]:
    """A field of both, and all fields within it."""
    if isinstance(info, msgspec.inspect.UnionType) and "x-kubernetes-int-or-string" not in schema:
        (info,) = (entry for entry in info.types if not isinstance(entry, msgspec.inspect.NoneType))
    yield path, schema, info
    if isinstance(info, msgspec.inspect.StructType):
        properties = schema["properties"]
        for field in info.fields:
            if field.encode_name in properties:
                yield from members(f"{path}.{field.encode_name}", properties[field.encode_name], field.type)
    elif isinstance(info, msgspec.inspect.VarTupleType):
        yield from members(f"{path}[]", schema["items"], info.item_type)
    elif isinstance(info, msgspec.inspect.DictType):
        yield from members(f"{path}.*", schema["additionalProperties"], info.value_type)


PLACES = {path: (schema, info) for path, schema, info in members("spec", SPEC, msgspec.inspect.type_info(PipelineSpec))}


def bounds(info: msgspec.inspect.Type) -> dict[str, Any]:
    """A type's kind and bounds, as a schema says them."""
    length = {"min": getattr(info, "min_length", None), "max": getattr(info, "max_length", None)}
    if isinstance(info, msgspec.inspect.StructType):
        return {"type": "object"}
    if isinstance(info, msgspec.inspect.EnumType):
        assert issubclass(info.cls, Enum)
        return {"type": "string", "enum": [member.value for member in info.cls]}
    if isinstance(info, msgspec.inspect.LiteralType):
        return {"type": "string", "enum": list(info.values)}
    if isinstance(info, msgspec.inspect.IntType):
        return {"type": "integer", "minimum": info.ge, "maximum": info.le}
    if isinstance(info, msgspec.inspect.StrType):
        return {"type": "string", "minLength": length["min"], "maxLength": length["max"]}
    if isinstance(info, msgspec.inspect.VarTupleType):
        return {"type": "array", "minItems": length["min"], "maxItems": length["max"]}
    if isinstance(info, msgspec.inspect.DictType):
        return {"type": "object", "maxProperties": length["max"]}
    assert isinstance(info, msgspec.inspect.UnionType)
    (text,) = (entry for entry in info.types if isinstance(entry, msgspec.inspect.StrType))
    return {"x-kubernetes-int-or-string": True, "maxLength": text.max_length}


def default_of(field: msgspec.inspect.Field) -> object:
    """A field's default as JSON has it."""
    made = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return None if made is msgspec.NODEFAULT else msgspec.to_builtins(made)


def defaulted(schema: dict[str, Any]) -> object:
    """What the API server makes of an object of `schema` that isn't given."""
    if schema.get("type") != "object" or "properties" not in schema:
        return schema.get("default")
    inner = {name: defaulted(field) for name, field in schema["properties"].items()}
    return {name: value for name, value in inner.items() if value not in EMPTY}


def without_empty(value: object) -> object:
    """A value without what counts as not given."""
    if not isinstance(value, dict):
        return value
    return {name: inner for name, entry in value.items() if (inner := without_empty(entry)) not in EMPTY}


def test_the_kind_is_the_one_that_the_api_server_serves() -> None:
    assert f"{CRD['spec']['group']}/{VERSION['name']}" == API_VERSION
    assert CRD["spec"]["names"]["kind"] == KIND


@pytest.mark.parametrize("path", PLACES)
def test_a_field_has_the_same_type_and_bounds_in_both(path: str) -> None:
    schema, info = PLACES[path]
    for name, wanted in bounds(info).items():
        if path == "spec.tiers" and name == "maxItems":
            continue  # there are three tiers, which local mode says by their names
        given = schema.get(name)
        assert (sorted(given), name) == (sorted(wanted), name) if name == "enum" else (given, name) == (wanted, name)


@pytest.mark.parametrize(
    "path", [path for path, (_, info) in PLACES.items() if isinstance(info, msgspec.inspect.StructType)]
)
def test_an_object_has_the_same_fields_and_defaults_in_both(path: str) -> None:
    schema, info = PLACES[path]
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {field.encode_name: field for field in info.fields}
    assert set(schema["properties"]) == set(fields)
    assert set(schema.get("required", ())) == {name for name, field in fields.items() if field.required}
    for name, field in fields.items():
        wanted = without_empty(default_of(field))
        given = defaulted(schema["properties"][name])
        if wanted in EMPTY:
            assert given in EMPTY or isinstance(given, dict), name
        else:
            assert given == wanted, name


@pytest.mark.parametrize("case", REFUSED)
def test_local_mode_refuses_what_the_api_server_refuses(case: str) -> None:
    change, field, _ = REFUSED[case]
    with pytest.raises(InvalidManifestError) as raised:
        from_object(pipeline(**change))
    said = raised.value.subject.replace("[site]", "")
    assert said.startswith(field.removesuffix(".site").removesuffix("[site]")) or field.startswith(said)


@pytest.mark.parametrize("case", REFUSED_NAMES)
def test_local_mode_refuses_the_names_that_the_api_server_refuses(case: str) -> None:
    with pytest.raises(InvalidManifestError, match=r"^metadata\.name: "):
        from_object(pipeline(REFUSED_NAMES[case][0]))


def described(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every field below a schema with its description."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field.get("description", "")
        yield from described(f"{path}.{name}", field)
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from described(f"{path}[]", schema[inner])


@pytest.mark.parametrize(("path", "description"), list(described("spec", SPEC)))
def test_a_field_of_the_spec_says_what_it_is_and_what_it_is_when_left_out(path: str, description: str) -> None:
    assert description.endswith(".")
    objects = {"spec.planning", "spec.metrics", "spec.rollout", "spec.worker", "spec.metrics.prometheus"}
    assert path in objects or "Required" in description or "Default: " in description


@pytest.mark.parametrize(
    ("path", "schema"), [(p, s) for p, (s, _) in PLACES.items() if "default" in s and s["default"] != {}]
)
def test_a_description_names_the_default(path: str, schema: dict[str, Any]) -> None:
    assert f"Default: {schema['default']}." in schema["description"]
