"""What an InferencePipeline manifest means to the planner and to the workers: its fields as values of the core."""

from collections.abc import Callable
from typing import TypeVar

from tierflow.descriptor import ModelReference
from tierflow.errors import InvalidInputError, InvalidManifestError
from tierflow.manifest import (
    EDGE_WORKERS_ANNOTATION,
    NETWORK_ANNOTATION,
    SPEEDS_ANNOTATION,
    InferencePipeline,
    ModelSpec,
    PipelineSpec,
    Tiling,
    TilingMode,
)
from tierflow.network import Network, parse_network
from tierflow.partition.problem import Constraints, Pin
from tierflow.speeds import parse_speeds
from tierflow.tiers import Tier
from tierflow.units import parse_bytes

T = TypeVar("T")


def assumed_network(pipeline: InferencePipeline) -> Network | None:
    """The links that the manifest says to assume until they have been measured; None where it says nothing.

    Raises:
        InvalidManifestError: where its annotation is no network.
    """
    return _annotation(pipeline, NETWORK_ANNOTATION, lambda text, field: parse_network(text, field=field))


def assumed_speeds(pipeline: InferencePipeline) -> dict[Tier, float] | None:
    """The tiers' speeds that the manifest says to assume until they have been measured; None where it says nothing.

    Raises:
        InvalidManifestError: where its annotation gives no speed for each tier.
    """
    return _annotation(pipeline, SPEEDS_ANNOTATION, lambda text, field: parse_speeds(text, field=field))


def assumed_edge_workers(pipeline: InferencePipeline) -> int | None:
    """How many workers the manifest says to assume at the edge; None where it says nothing.

    Raises:
        InvalidManifestError: where its annotation is no such number.
    """
    return _annotation(pipeline, EDGE_WORKERS_ANNOTATION, _count)


def workers_sharing_tiles(spec: PipelineSpec, available: int) -> int:
    """How many of the edge's available workers compute tiles together: as many as allowed, one where tiling is off."""
    tiling = next((tier.tiling for tier in spec.tiers if tier.name is Tier.EDGE), None) or Tiling()
    return 1 if tiling.mode is TilingMode.OFF else min(available, tiling.max_workers)


def _count(text: str, field: str) -> int:
    if not text.isdecimal() or not int(text):
        raise InvalidInputError(f"{field}: {text!r} is no number of workers; write a whole number from 1 on, like '4'")
    return int(text)


def _annotation(pipeline: InferencePipeline, name: str, read: Callable[[str, str], T]) -> T | None:
    text = pipeline.metadata.annotations.get(name)
    if text is None:
        return None
    field = f"metadata.annotations[{name}]"
    try:
        return read(text, field)
    except InvalidInputError as error:
        raise InvalidManifestError(error.message, subject=field) from error


def constraints_of(spec: PipelineSpec, unavailable: frozenset[Tier] = frozenset()) -> Constraints:
    """What a partition has to respect: the pins, the memory budgets and the backbone's, and tiers without nodes."""
    planning = spec.planning
    backbone = planning.backbone_bytes_per_request
    return Constraints(
        pins=tuple(Pin(pin.name, pin.layers_up_to, pin.tier) for pin in planning.pins),
        memory={
            tier.name: parse_bytes(tier.memory_budget, field=f"memoryBudget of {tier.name}")
            for tier in spec.tiers
            if tier.memory_budget is not None
        },
        backbone_bytes=None if backbone is None else parse_bytes(backbone, field="backboneBytesPerRequest"),
        unavailable=unavailable,
    )


def input_shapes_of(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shapes that fix the free dimensions of the model's inputs."""
    return {entry.name: entry.shape for entry in model.inputs}


def model_reference(model: ModelSpec, identity: str) -> ModelReference:
    """What a worker is told about the model, `identity` being the one of the opened model."""
    return ModelReference(uri=model.uri, identity=identity, sha256=model.sha256, input_shapes=input_shapes_of(model))
