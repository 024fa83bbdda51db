"""A gRPC server in the place of a tile worker that answers wrongly, as told."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import grpc
import numpy as np

from factories.planes import array_of, tensor_of
from tierflow.errors import OverloadedError, TierflowError, UnknownBoundaryError
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_request, decode_response, encode_response
from tierflow.protocol.messages import HOLD_PARAMETER, InferResponse
from tierflow_worker.statuses import to_status

Tamper = Callable[[InferResponse], bytes]

_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def honest(answer: InferResponse) -> bytes:
    """Changes nothing."""
    return encode_response(answer)


def cropped(answer: InferResponse) -> bytes:
    """One row less than wanted."""
    return _with(answer, array_of(answer.tensors[0])[..., 1:, :])


def flattened(answer: InferResponse) -> bytes:
    """As many bytes as wanted, in another shape."""
    return _with(answer, array_of(answer.tensors[0]).reshape(1, -1))


def doubled_precision(answer: InferResponse) -> bytes:
    """Another type than wanted."""
    return _with(answer, array_of(answer.tensors[0]).astype(np.float64))


def truncated(answer: InferResponse) -> bytes:
    """The wanted shape, with too few bytes."""
    (tensor,) = answer.tensors
    return encode_response(replace(answer, tensors=(replace(tensor, data=bytes(tensor.data)[:-4]),)))


def renamed(answer: InferResponse) -> bytes:
    """Another tensor than wanted."""
    return encode_response(replace(answer, tensors=(replace(answer.tensors[0], name="other"),)))


def empty(answer: InferResponse) -> bytes:
    """No tensor at all."""
    return encode_response(replace(answer, tensors=()))


def garbage(_: InferResponse) -> bytes:
    """No message of the protocol."""
    return b"\xff" * 100


def of_another_epoch(_: InferResponse) -> bytes:
    """What a tile worker says that holds another plan's runs."""
    raise UnknownBoundaryError("run 0123456789abcdef is not held here: the sender has another plan")


def with_a_full_queue(_: InferResponse) -> bytes:
    """What a tile worker says that has too much to do."""
    raise OverloadedError("16 requests wait already", retry_after_seconds=0.05)


def failing(_: InferResponse) -> bytes:
    """What a tile worker says that has met something unexpected."""
    raise RuntimeError("unexpected")


WRONG: Final[dict[str, Tamper]] = {
    "a row too few": cropped,
    "another shape of the same size": flattened,
    "another type": doubled_precision,
    "too few bytes": truncated,
    "another tensor": renamed,
    "no tensor": empty,
    "garbage": garbage,
    "another epoch": of_another_epoch,
    "an unexpected error": failing,
}


def _with(answer: InferResponse, array: Any) -> bytes:
    return encode_response(replace(answer, tensors=(tensor_of(answer.tensors[0].name, np.ascontiguousarray(array)),)))


class TamperingServer:
    """Says of tiles what `tamper` makes of right answers; what it holds it says as it is.

    Args:
        answer: The right answer to the bytes of a request.

    Attributes:
        tamper: What to do with answers from now on.
        late: While it is clear, answers wait.
        asked: How many tiles were asked for.
    """

    def __init__(self, answer: Callable[[bytes], InferResponse]) -> None:
        self.tamper: Tamper = honest
        self.late = threading.Event()
        self.late.set()
        self.asked = 0
        self._answer = answer
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer)}
        self._server = grpc.server(ThreadPoolExecutor(32), options=_UNLIMITED)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _infer(self, request: bytes, context: Any) -> bytes:
        if HOLD_PARAMETER in decode_request(request).parameters:
            return encode_response(self.hold(request))
        self.asked += 1
        try:
            answer = self.tamper(self._answer(request))
        except (TierflowError, RuntimeError) as error:
            code, text, metadata = to_status(error)
            context.set_trailing_metadata(metadata)
            context.abort(next(known for known in grpc.StatusCode if known.value[0] == code), text)
        self.late.wait(60)
        return answer

    def hold(self, request: bytes) -> InferResponse:
        """What it says that it holds: the truth."""
        return self._answer(request)

    def close(self) -> None:
        """Ends the server."""
        self.late.set()
        self._server.stop(None).wait()


@contextlib.contextmanager
def in_front_of(target: str) -> Iterator[TamperingServer]:
    """A server that has a tile worker compute what it is asked for."""
    with grpc.insecure_channel(target, options=_UNLIMITED) as channel:
        infer = channel.unary_unary(wire.INFER)
        server = TamperingServer(lambda request: decode_response(infer(request, timeout=60)))
        yield server
        server.close()
