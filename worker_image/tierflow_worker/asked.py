"""What a request asks for, checked against what the worker serves."""

from collections.abc import Sequence
from typing import Final

from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import InvalidRequestError, UnknownBoundaryError, UnknownModelError, UnreachableError
from tierflow.protocol.messages import BOUNDARY_PARAMETER, ONLY_OWN_PARAMETER, InferRequest
from tierflow.segment import closest
from tierflow.tiers import Tier
from tierflow_worker.segments import SegmentStore

MODEL_VERSION: Final = "1"
"""The one version that a pipeline has for clients; a plan's change is no new version, since no answer changes."""


def check_model(descriptor: WorkerDescriptor, name: str, version: str) -> None:
    """Checks that a model is what is served.

    Raises:
        UnknownModelError: where it is not.
    """
    served = descriptor.pipeline
    if name != served:
        raise UnknownModelError(f"no model {name!r} is served here; this worker serves {served}", subject=name)
    if version not in ("", MODEL_VERSION):
        raise UnknownModelError(
            f"{name} has no version {version!r}; its only one is {MODEL_VERSION}, or leave it out", subject=version
        )


def wanted_outputs(descriptor: WorkerDescriptor, outputs: Sequence[str]) -> tuple[str, ...]:
    """The wanted outputs' names, checked.

    Raises:
        InvalidRequestError: naming one that the model hasn't, or that is wanted twice.
    """
    if not outputs:
        return ()
    known = [tensor.name for tensor in descriptor.outputs]
    for place, name in enumerate(outputs):
        if name not in known:
            raise InvalidRequestError(
                f"the model has no output {name!r}{closest(name, known)}; it has {', '.join(known)}", subject=name
            )
        if name in outputs[:place]:
            raise InvalidRequestError(f"the output {name!r} is asked for twice; ask once", subject=name)
    return tuple(outputs)


def find_place(descriptor: WorkerDescriptor, store: SegmentStore, boundary: object) -> int:
    """The place of the segment that a request is for.

    Args:
        descriptor: The worker's.
        store: Its segments.
        boundary: The id of the boundary whose tensors the request carries; None for the model's inputs.

    Raises:
        UnknownBoundaryError: where no segment accepts the boundary.
        InvalidRequestError: where the request is for the device tier.
        UnreachableError: where there is no segment yet.
    """
    if descriptor.role == "tiles":
        raise UnknownBoundaryError(
            f"this worker of {descriptor.pipeline} computes tiles, and accepts no boundary; send requests to "
            "the pipeline's device tier",
            subject=BOUNDARY_PARAMETER,
        )
    if boundary is not None:
        return store.find(str(boundary))
    if descriptor.tier is not Tier.DEVICE:
        raise InvalidRequestError(
            f"this is the {descriptor.tier} tier of {descriptor.pipeline}; send requests to its device "
            f"tier, or name a boundary in the parameter {BOUNDARY_PARAMETER}",
            subject=BOUNDARY_PARAMETER,
        )
    if not descriptor.segments:
        raise UnreachableError("this worker has no segment yet; its descriptor gives none", subject=Tier.DEVICE)
    return 0


def only_own(request: InferRequest) -> bool:
    """Whether a request asks for this worker's own part alone.

    Raises:
        InvalidRequestError: where it says neither yes nor no.
    """
    asked = request.parameters.get(ONLY_OWN_PARAMETER, False)
    if not isinstance(asked, bool):
        raise InvalidRequestError(
            f"the parameter {ONLY_OWN_PARAMETER} is {asked!r:.40}; it must be true or false", subject=ONLY_OWN_PARAMETER
        )
    return asked
