"""The errors of Tierflow, by what their reader can do about them.

Nothing here knows HTTP, gRPC or Kubernetes: each face translates (see `tierflow_worker.faces` and the command line).
Every message names the culprit (field, layer or tensor) and the way out.
"""


class TierflowError(Exception):
    """Base of all errors that Tierflow raises on purpose.

    Args:
        message: What is wrong, naming the culprit and the way out, as one sentence or two.
        subject: The field, layer, tensor or constraint that is the culprit, for machines; "" where there is none.
    """

    def __init__(self, message: str, *, subject: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject


class InvalidInputError(TierflowError):
    """What was given can't be used as it is: correct it and try again."""


class InvalidModelError(InvalidInputError):
    """The model's file or graph is broken, incomplete or ambiguous."""


class InvalidManifestError(InvalidInputError):
    """A field of the InferencePipeline manifest is wrong; `subject` is its path, like `spec.tiers[1].name`."""


class InvalidRequestError(InvalidInputError):
    """An inference request has a wrong name, dtype, shape or size; `subject` is the tensor's name."""


class UnknownModelError(InvalidRequestError):
    """An inference request names a model, or a version of it, that isn't served here; `subject` is that name."""


class UnsupportedError(InvalidInputError):
    """The input is well formed, but asks for something that Tierflow or its runtime doesn't have."""


class InfeasibleError(TierflowError):
    """No plan meets the constraints. `constraints` names a smallest set of them that conflict."""

    def __init__(self, message: str, *, constraints: tuple[str, ...] = (), subject: str = "") -> None:
        super().__init__(message, subject=subject or (constraints[0] if constraints else ""))
        self.constraints = constraints


class IntegrityError(TierflowError):
    """Content is not what its checksum or its neighbour says: the source has to be repaired."""


class UnreachableError(TierflowError):
    """A storage, a worker or a server did not answer: try again, or check its address."""


class UnknownBoundaryError(TierflowError):
    """A worker was sent tensors of a boundary that none of its segments accepts: the sender has another plan."""


class OverloadedError(TierflowError):
    """A bounded queue is full. `retry_after_seconds` says when another try makes sense."""

    def __init__(self, message: str, *, retry_after_seconds: float, subject: str = "") -> None:
        super().__init__(message, subject=subject)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(TierflowError):
    """The request's deadline passed before its answer was there."""


class MismatchError(TierflowError):
    """An answer differs from the whole model's by more than the stated tolerance."""
