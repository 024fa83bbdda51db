"""Writes the tables of docs/api.md from the API server's schema: `python docs/generate_api.py`.

Prose is written in the page itself; what stands between its markers is made here. A test keeps the two together.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

PAGE: Final = Path(__file__).parent / "api.md"
CRD_FILE: Final = PAGE.parents[1] / "crds" / "tierflow.dev_inferencepipelines.yaml"
_MARKED: Final = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def type_of(schema: dict[str, Any]) -> str:
    """A field's type, as people write it."""
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if schema["type"] == "array":
        return f"list of {type_of(schema['items'])}s"
    if "additionalProperties" in schema:
        inner = type_of(schema["additionalProperties"])
        return "map of " + " or ".join(f"{word}s" for word in inner.split(" or "))
    return str(schema["type"])


def limits_of(schema: dict[str, Any]) -> str:
    """What a schema and its rules demand, beyond the type."""
    said = []
    if values := schema.get("enum"):
        said.append("one of " + ", ".join(f"`{value}`" if value else '`""`' for value in values))
    for name, text in (("minimum", "at least {}"), ("maximum", "at most {}"), ("maxLength", "at most {} characters"),
                       ("maxItems", "at most {} entries"), ("maxProperties", "at most {} entries")):  # fmt: skip
        if name in schema:
            said.append(text.format(schema[name]))
    if keys := schema.get("x-kubernetes-list-map-keys"):
        said.append(f"keyed by {' and '.join(keys)}")
    return "; ".join(said)


def rows(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """The table's rows of all fields below a schema."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        shown = f"**`{here}`**" if name in required else f"`{here}`"
        yield f"| {shown} | {type_of(field)} | {field['description'].replace('|', '&#124;')} | {limits_of(field)} |"
        yield from rows(here, field)
        if "items" in field:
            yield from rows(f"{here}[]", field["items"])


def rules(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """What the API server says where a rule is broken."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"| `{path}{rule.get('fieldPath', '')}` | {rule['message']} |"
    for name, field in schema.get("properties", {}).items():
        yield from rules(f"{path}.{name}" if path else name, field)
    for inner, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(inner), dict):
            yield from rules(f"{path}{mark}", schema[inner])


def made(text: str) -> str:
    """The page with its tables made anew."""
    crd = yaml.safe_load(CRD_FILE.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def table(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name == "refusals":
            head, lines = "| field | message |\n|---|---|", rules("", schema)
        else:
            head = "| field | type | meaning | limits |\n|---|---|---|---|"
            lines = rows("", schema["properties"][name])
        return "\n".join([f"{begin}\n{head}", *lines, "", end])

    return _MARKED.sub(table, text)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text()))
