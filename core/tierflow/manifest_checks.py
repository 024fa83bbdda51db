"""What a well-typed InferencePipeline manifest may still get wrong: names, tiers, units, and the planning mode."""

import re
from collections.abc import Mapping
from typing import Final

from tierflow.errors import InvalidInputError, InvalidManifestError
from tierflow.manifest import InferencePipeline, PlanningMode, TierSpec
from tierflow.manifest_values import assumed_network, assumed_speeds
from tierflow.tiers import TIERS, Tier
from tierflow.units import parse_bytes

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_LONGEST_LABEL: Final = 63
_LONGEST_NAME: Final = _LONGEST_LABEL - len("-device")
"""Of a pipeline: the names of its tiers' Services are made from it, and they are DNS labels."""
_CPU: Final = re.compile(r"[0-9]+(\.[0-9]+|m)?\Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


def wrong_field(path: str, problem: str) -> InvalidManifestError:
    """The error that says what is wrong with the field at `path`."""
    return InvalidManifestError(f"{path}: {problem}", subject=path)


def check_meaning(pipeline: InferencePipeline) -> None:
    """Checks what types alone don't say.

    Raises:
        InvalidManifestError: for the first field that is wrong.
    """
    _check_names(pipeline)
    _check_model(pipeline)
    _check_tiers(pipeline.spec.tiers)
    _check_planning(pipeline)
    assumed_network(pipeline)
    assumed_speeds(pipeline)


def _check_names(pipeline: InferencePipeline) -> None:
    if not _SERVICE_NAME.match(pipeline.name) or len(pipeline.name) > _LONGEST_NAME:
        raise wrong_field(
            "metadata.name",
            f"{pipeline.name!r} can't name a Service; use lower-case letters, digits and '-', beginning with a letter, "
            f"at most {_LONGEST_NAME} of them",
        )
    _check_label("metadata.namespace", pipeline.namespace)
    seen: set[str] = set()
    for place, pin in enumerate(pipeline.spec.planning.pins):
        field = f"spec.planning.pins[{place}].name"
        _check_label(field, pin.name)
        if pin.name in seen:
            raise wrong_field(field, f"a pin named {pin.name!r} is there already; pins are keyed by name, rename one")
        seen.add(pin.name)


def _check_label(field: str, name: str) -> None:
    if not _LABEL.match(name) or len(name) > _LONGEST_LABEL:
        raise wrong_field(
            field,
            f"{name!r} is no RFC 1123 label; use lower-case letters, digits and '-', with a letter or digit at both "
            f"ends, at most {_LONGEST_LABEL} of them",
        )


def _check_model(pipeline: InferencePipeline) -> None:
    model = pipeline.spec.model
    if model.sha256 and not _SHA256.match(model.sha256):
        raise wrong_field(
            "spec.model.sha256", f"{model.sha256!r} is no SHA-256; give 64 lower-case hexadecimal digits, or none"
        )
    names: set[str] = set()
    for place, entry in enumerate(model.inputs):
        if entry.name in names:
            raise wrong_field(f"spec.model.inputs[{place}].name", f"the input {entry.name!r} is given twice")
        names.add(entry.name)


def _check_tiers(tiers: tuple[TierSpec, ...]) -> None:
    first: dict[Tier, int] = {}
    for place, tier in enumerate(tiers):
        field = f"spec.tiers[{place}]"
        if tier.name in first:
            raise wrong_field(
                f"{field}.name",
                f"the tier {tier.name} is spec.tiers[{first[tier.name]}] already; give each once",
            )
        first[tier.name] = place
        if tier.tiling is not None and tier.name is not Tier.EDGE:
            raise wrong_field(f"{field}.tiling", f"only the edge tiles, not the {tier.name}; remove the field")
        if tier.memory_budget is not None:
            _check_bytes(f"{field}.memoryBudget", tier.memory_budget)
        for kind, quantities in (("requests", tier.resources.requests), ("limits", tier.resources.limits)):
            _check_resources(f"{field}.resources.{kind}", quantities)
    for tier_name in TIERS:
        if tier_name not in first:
            raise wrong_field("spec.tiers", f"no tier is named {tier_name}; add `- name: {tier_name}`")


def _check_bytes(field: str, quantity: int | str) -> None:
    try:
        parse_bytes(quantity, field=field)
    except InvalidInputError as error:
        raise InvalidManifestError(error.message, subject=field) from error


def _check_resources(field: str, quantities: Mapping[str, int | str]) -> None:
    if "memory" in quantities:
        _check_bytes(f"{field}.memory", quantities["memory"])
    if "cpu" in quantities and not _CPU.match(str(quantities["cpu"])):
        raise wrong_field(f"{field}.cpu", f"{quantities['cpu']!r} is no amount of CPU; write it like 500m or '1.5'")


def _check_planning(pipeline: InferencePipeline) -> None:
    planning = pipeline.spec.planning
    if planning.backbone_bytes_per_request is not None:
        _check_bytes("spec.planning.backboneBytesPerRequest", planning.backbone_bytes_per_request)
    if planning.manual.is_given and planning.mode is not PlanningMode.MANUAL:
        raise wrong_field(
            "spec.planning.manual", f"has no effect in mode {planning.mode}; set `mode: Manual` or remove the field"
        )
    if planning.mode is PlanningMode.MANUAL and not planning.manual.is_given:
        raise wrong_field(
            "spec.planning.manual",
            "mode Manual needs the cut; give deviceLastLayer and edgeLastLayer (an empty text for a tier without "
            "layers), or set `mode: Auto`",
        )
