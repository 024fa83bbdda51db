"""The client: what it sends again, what counts as lost, and what it says of an answer."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from factories.graphs import chain
from tierflow.protocol import wire
from tierflow.protocol.codec import encode_response
from tierflow.protocol.messages import InferResponse
from tierflow_local.client import PipelineClient
from tierflow_local.links import HOST
from tierflow_worker.tensors import from_array

GRAPH = chain(1, sizes=[8, 8])
ANSWER = np.array([1.0, 2.0], dtype=np.float32)

Behaviour = Callable[[grpc.ServicerContext], bytes]


class Server:
    """Answers every request by what `behave` does."""

    def __init__(self) -> None:
        self.behave: Behaviour = lambda _: answer()
        self.requests = 0
        self._lock = threading.Lock()
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self._server = grpc.server(ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(wire.SERVICE, {"ModelInfer": handler}),)
        )
        self.port = self._server.add_insecure_port(f"{HOST}:0")
        self._server.start()

    def _answer(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.requests += 1
        return self.behave(context)

    def stop(self) -> None:
        self._server.stop(None).wait()


def answer(values: Any = ANSWER) -> bytes:
    tensor = from_array(GRAPH.outputs[0], "float32", values)
    return encode_response(InferResponse("small", (tensor,), "", {}, "1"))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def client(server: Server) -> Iterator[PipelineClient]:
    inputs = {GRAPH.inputs[0]: np.zeros(8, dtype=np.float32)}
    with PipelineClient(server.port, "small", GRAPH, inputs, {GRAPH.outputs[0]: ANSWER}, timeout=30) as made:
        yield made


def test_a_worker_that_is_slow_to_leave_loses_no_request(server: Server, client: PipelineClient) -> None:
    def draining(context: grpc.ServicerContext) -> bytes:
        if server.requests <= 7:  # for more than a second
            context.abort(grpc.StatusCode.UNAVAILABLE, "this worker is draining; another one takes its requests")
        return answer()

    server.behave = draining
    found = client.ask()
    assert (found.error, found.difference, found.resent) == ("", 0.0, 7)


def test_what_a_worker_refuses_is_lost_at_once_with_its_reason(server: Server, client: PipelineClient) -> None:
    def refuse(context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such tensor")
        return b""

    server.behave = refuse
    found = client.ask()
    assert (found.error, found.resent, found.content) == ("INVALID_ARGUMENT: no such tensor", 0, b"")
    assert server.requests == 1


def test_answers_have_the_same_content_exactly_where_all_their_bytes_are_the_same(
    server: Server, client: PipelineClient
) -> None:
    same, again = client.ask(), client.ask()
    server.behave = lambda _: answer(np.nextafter(ANSWER, np.float32(9)))
    other = client.ask()
    assert same.content == again.content != b""
    assert other.content != same.content
    assert 0 < other.difference < 1e-6
