"""What a worker does with a request, whichever face it came through: gRPC and REST call this, and nothing below it.

Raises errors of `tierflow.errors` alone; the faces translate them.
"""

from typing import Protocol

from tierflow.protocol.messages import InferRequest, InferResponse, ModelMetadata, ServerMetadata


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
            InvalidRequestError: naming the tensor whose name, dtype, shape or size is wrong, or the model that isn't
                served here.
            UnknownBoundaryError: where no segment of this worker accepts the boundary.
            OverloadedError: where the queue is full, here or further up; says when to try again.
            DeadlineExceededError: where the time was over before the answer was there.
            UnreachableError: naming the tier above and its address, where it could not be reached.
        """

    def live(self) -> bool:
        """Whether the process answers at all."""

    def ready(self) -> bool:
        """Whether requests are accepted: the segment is loaded, and the worker is not draining."""

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""

    def model_metadata(self, name: str) -> ModelMetadata:
        """Inputs and outputs of the pipeline `name`.

        Raises:
            InvalidRequestError: where that isn't the pipeline served here.
        """
