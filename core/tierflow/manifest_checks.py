"""What a well-typed InferencePipeline manifest may still get wrong: names, tiers, units, and the planning mode.

The API server refuses the same, by the rules in `crds/tierflow.dev_inferencepipelines.yaml`, and besides what only this
machine has: a model on its disk.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from tierflow.errors import InvalidInputError, InvalidManifestError
from tierflow.manifest import InferencePipeline, PlanningMode, TierSpec, Toleration
from tierflow.manifest_values import assumed_network, assumed_speeds
from tierflow.tiers import TIERS, Tier
from tierflow.units import parse_bytes

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_LONGEST_LABEL: Final = 63
_LONGEST_NAME: Final = _LONGEST_LABEL - len("-device")
"""Of a pipeline: the names of its tiers' Services are made from it, and they are DNS labels."""
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?\Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_BYTES: Final = re.compile(r"[0-9]+(\.[0-9]+)?([kMGT]|[KMGT]i)?\Z")
_QUANTITY: Final = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([-+]?[0-9]{1,2}))?\Z")
_PREFIXES: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_PREFIXES: Final = "KMGTPE"
_HTTP: Final = re.compile(r"https?://[^ /]+[^ ]*\Z")


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
    _check_addresses(pipeline)
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
    if model.sha256 and model.uri.startswith("zoo://"):
        raise wrong_field("spec.model.sha256", "a model of the zoo is made, not read, and has no SHA-256; leave it out")
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
        for key, value in tier.node_selector.items():
            _check_label_value(f"{field}.nodeSelector[{key}]", value)
        for number, toleration in enumerate(tier.tolerations):
            _check_toleration(f"{field}.tolerations[{number}]", toleration)
        if tier.memory_budget is not None:
            _check_bytes(f"{field}.memoryBudget", tier.memory_budget)
        _check_resources(f"{field}.resources", tier.resources.requests, tier.resources.limits)
    for tier_name in TIERS:
        if tier_name not in first:
            raise wrong_field("spec.tiers", f"no tier is named {tier_name}; add `- name: {tier_name}`")


def _check_label_value(field: str, value: str) -> None:
    if not _LABEL_VALUE.match(value):
        raise wrong_field(
            field,
            f"{value!r} is no value of a label or taint; use letters, digits, '-', '_' and '.', with a letter or digit "
            "at both ends",
        )


def _check_toleration(field: str, toleration: Toleration) -> None:
    _check_label_value(f"{field}.value", toleration.value)
    if toleration.operator == "Exists" and toleration.value:
        raise wrong_field(
            f"{field}.value", "has no place beside operator Exists, which tolerates every value; remove one"
        )
    if toleration.operator == "Equal" and not toleration.key:
        raise wrong_field(
            f"{field}.key", "is needed with operator Equal; give the taint's key, or `operator: Exists` for every taint"
        )
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        raise wrong_field(f"{field}.tolerationSeconds", "needs `effect: NoExecute`, the only effect that takes time")


def _check_bytes(field: str, quantity: int | str) -> None:
    try:
        parse_bytes(quantity, field=field)
    except InvalidInputError as error:
        raise InvalidManifestError(error.message, subject=field) from error
    if not _BYTES.match(str(quantity)):  # blanks, which people may write on a command line
        raise wrong_field(
            field,
            f"{quantity!r} is no amount of bytes; write a whole number, or one with k, M, G, T, Ki, Mi, Gi or Ti, like "
            "512Mi",
        )


def _check_resources(field: str, requests: Mapping[str, int | str], limits: Mapping[str, int | str]) -> None:
    for kind, amounts in (("requests", requests), ("limits", limits)):
        for name, amount in amounts.items():
            if name == "memory":
                _check_bytes(f"{field}.{kind}.memory", amount)
            elif _amount(amount) is None:
                problem = f"{amount!r} is no amount of {name.replace('cpu', 'CPU')}; write it like 500m or '1.5'"
                raise wrong_field(f"{field}.{kind}.{name}", problem)
    for name, amount in requests.items():
        wanted, allowed = _amount(amount), _amount(limits.get(name, amount))
        if wanted is not None and allowed is not None and wanted > allowed:
            raise wrong_field(
                f"{field}.requests.{name}",
                f"asks for {amount}, more than the limit of {limits[name]}; lower the request, or raise the limit",
            )


def _amount(quantity: int | str) -> Fraction | None:
    """A quantity that isn't negative, as Kubernetes reads it; None where it is none."""
    match = _QUANTITY.match(str(quantity))
    if match is None:
        return None
    number, prefix, exponent = Fraction(match[1]), match[2] or "", match[3] or "0"
    if prefix.endswith("i"):
        return number * Fraction(1024 ** (_BINARY_PREFIXES.index(prefix[0]) + 1))
    return number * Fraction(f"1e{_PREFIXES.get(prefix, 0) + int(exponent)}")


def _check_addresses(pipeline: InferencePipeline) -> None:
    url, image = pipeline.spec.metrics.prometheus.url, pipeline.spec.worker.image
    if url and not _HTTP.match(url):
        raise wrong_field(
            "spec.metrics.prometheus.url",
            f"{url!r} is no http address; write it like http://prometheus.monitoring:9090",
        )
    if " " in image:
        raise wrong_field(
            "spec.worker.image",
            f"{image!r} is no image; write it like registry.example/tierflow-worker:0.1.0, without spaces",
        )


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
