"""What the faces need of a worker: somebody who answers requests, and says what is served."""

from typing import Protocol

from tierflow.protocol.messages import (
    EncodedResponse,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
)
from tierflow_worker.rpc.coming import Coming


class Inference(Protocol):
    """What the faces need of a worker. `DataPlane` is the one that serves; tests may put another in its place."""

    async def infer(self, request: InferRequest, *, timeout: float | None = None) -> InferResponse:
        """Answers a request.

        Cancelling the awaiting task cancels the request, here and on the tiers above.

        Args:
            request: At the entry `model` is the pipeline and the tensors are the model's inputs; between workers the
                parameter `tierflow_boundary` names the boundary whose tensors they are.
            timeout: Seconds until the answer is of no use any more; None where the client set no deadline.

        Raises:
            UnknownModelError: where the pipeline, or its version, isn't served here.
            InvalidRequestError: naming the tensor whose name, dtype, shape or size is wrong.
            UnknownBoundaryError: where no segment of this worker accepts the boundary.
            OverloadedError: where the queue is full, here or further up; says when to try again.
            DeadlineExceededError: where the time was over before the answer was there.
            UnreachableError: naming the tier above and its address, where it could not be reached.
        """

    async def infer_announced(
        self, request: InferRequest, coming: Coming, *, timeout: float | None = None
    ) -> InferResponse | EncodedResponse:
        """Answers a request whose tensors' contents are still on their way, as `infer`.

        Args:
            request: The request.
            coming: Tells when it is whole.
            timeout: Seconds, from now on, until the answer is of no use any more; None where there is no deadline.

        Returns:
            The answer; that of the tier above as it came, where this one adds nothing to it.
        """

    def note_refused(self, error: Exception, seconds: float) -> None:
        """Counts and logs a request that a face could not read, `seconds` after it came."""

    def live(self) -> bool:
        """Whether the process answers at all."""

    def ready(self) -> bool:
        """Whether requests should be sent here: the segment is loaded and approved, the worker is not draining."""

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        """Inputs and outputs of the pipeline `name`.

        Raises:
            UnknownModelError: where that isn't the pipeline served here, or not its version.
        """
