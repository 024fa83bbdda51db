"""What can go wrong between the operator and the API server, by what to do about it."""

from typing import ClassVar

from tierflow.errors import TierflowError


class KubeError(TierflowError):
    """A request to the API server failed. `subject` names the object, like `ConfigMap vision/resnet18-plan`.

    Attributes:
        outcome: What the metrics call it.
    """

    outcome: ClassVar = "failed"

    def __init__(self, message: str, subject: str = "") -> None:
        super().__init__(message, subject=subject)


class NotFoundError(KubeError):
    """The object, its namespace or its kind isn't there."""

    outcome = "not_found"


class ConflictError(KubeError):
    """The object is another one, or at another version, than the request took for granted: read it again."""

    outcome = "conflict"


class RefusedError(KubeError):
    """The API server doesn't want the request as it is: rights, a quota, validation or admission; it says which."""

    outcome = "refused"


class UnavailableError(KubeError):
    """The API server can't be reached, is overloaded, failing or late: try again later."""

    outcome = "unavailable"


class ExpiredError(UnavailableError):
    """A list took longer than the API server keeps its pages: start again."""

    outcome = "expired"


class FencedError(KubeError):
    """A write was held back, because this operator doesn't lead any more."""

    outcome = "fenced"
