"""A client of a pipeline, as any other is: the Open Inference Protocol v2 over gRPC, one request after the other.

As usual with gRPC it sends a request again when the server goes away before it answered, which a worker that is being
replaced does to those that cross its farewell on the wire. How often that happened is counted.
"""

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import grpc
from numpy.typing import NDArray

from tierflow.graph import Graph
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, encode_request
from tierflow.protocol.messages import InferRequest
from tierflow_local.links import HOST
from tierflow_worker.runtime import numpy_dtype
from tierflow_worker.tensors import from_array, to_array
from tierflow_worker.verification import relative_difference

_LARGEST_MESSAGE: Final = 2**31 - 1
_PATIENCE_SECONDS: Final = 10.0
"""How long to try from the first failure on: a worker that leaves may take its time to say so on a busy machine."""
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.5
_GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""What gRPC says of a request whose connection the server has left."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    Attributes:
        at: When it was sent, in seconds on `time.perf_counter`.
        seconds: Until its answer, or its failure, was there.
        difference: Largest difference to the expected answer, relative to the largest expected value; 0 where all bytes
            are equal.
        error: Why there was no answer; "" where there was one.
        resent: How often it was sent again.
        content: A hash of all bytes of its tensors; b"" where there was no answer.
    """

    at: float
    seconds: float
    difference: float = 0.0
    error: str = ""
    resent: int = 0
    content: bytes = b""


class PipelineClient:
    """Sends one request over and over and compares its answers with the expected one; a context manager.

    Args:
        port: The entry's gRPC port on the loopback interface.
        pipeline: Its name.
        graph: The model's graph.
        inputs: The request's tensors by name.
        expected: What the whole model answers to them.
        timeout: Seconds after which a request counts as lost.
    """

    def __init__(
        self,
        port: int,
        pipeline: str,
        graph: Graph,
        inputs: Mapping[str, Array],
        expected: Mapping[str, Array],
        *,
        timeout: float = 60.0,
    ) -> None:
        tensors = tuple(from_array(name, graph.tensors[name].dtype, array) for name, array in inputs.items())
        self._request = encode_request(InferRequest(model=pipeline, tensors=tensors))
        self._expected = expected
        self._timeout = timeout
        self._channel = grpc.insecure_channel(
            f"{HOST}:{port}",
            options=(
                ("grpc.max_send_message_length", _LARGEST_MESSAGE),
                ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 50),
            ),
        )
        self._call = self._channel.unary_unary(wire.INFER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def ask(self) -> Answer:
        """Sends the request, and says what became of it."""
        began = time.perf_counter()
        pause, resent = _FIRST_PAUSE_SECONDS, 0
        give_up = math.inf
        while True:
            try:
                data: bytes = self._call(self._request, timeout=self._timeout)
            except grpc.RpcError as error:
                now = time.perf_counter()
                if error.code() not in _GONE or now > give_up:
                    reason = f"{error.code().name}: {error.details()}"
                    return Answer(began, now - began, error=reason, resent=resent)
                give_up = min(give_up, now + _PATIENCE_SECONDS)
            else:
                seconds = time.perf_counter() - began
                return self._compared(data, Answer(began, seconds, resent=resent))
            time.sleep(pause)
            pause, resent = min(2 * pause, _LONGEST_PAUSE_SECONDS), resent + 1

    def _compared(self, data: bytes, answer: Answer) -> Answer:
        tensors = decode_response(data).tensors
        answered = {tensor.name: to_array(tensor, numpy_dtype(tensor.dtype)) for tensor in tensors}
        content = hashlib.blake2b(digest_size=16)
        for tensor in tensors:
            content.update(tensor.data)
        return replace(answer, difference=self._difference(answered), content=content.digest())

    def _difference(self, answered: Mapping[str, Array]) -> float:
        if answered.keys() != self._expected.keys():
            return 1.0
        return max((relative_difference(answered[name], array) for name, array in self._expected.items()), default=0.0)
