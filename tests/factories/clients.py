"""Clients that send exactly the bytes that a test wants, over gRPC and over HTTP."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

import grpc

from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, encode_request
from tierflow.protocol.messages import OIP_DTYPES, InferRequest, InferTensor
from tierflow.protocol.rest import HEADER_LENGTH

_STATUSES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 409: "FAILED_PRECONDITION", 413: "RESOURCE_EXHAUSTED"}


@dataclass(frozen=True)
class Answer:
    """What came back: gRPC's name of the status, the error's text, and the tensors by name."""

    status: str
    text: str = ""
    tensors: dict[str, InferTensor] | None = None


def send_grpc(address: str, body: bytes, *, timeout: float = 60) -> Answer:
    """Sends the bytes of a `ModelInferRequest`."""
    options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            answer = channel.unary_unary(wire.INFER)(body, timeout=timeout)
        except grpc.RpcError as error:
            return Answer(error.code().name, error.details())
    return Answer("OK", tensors={tensor.name: tensor for tensor in decode_response(answer).tensors})


def send_rest(address: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Sends a POST."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def rest_body(request: InferRequest) -> tuple[bytes, dict[str, str]]:
    """A request in the REST form, its tensors as binary data; and the headers that belong to it."""
    inputs = [
        {
            "name": tensor.name,
            "datatype": OIP_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "parameters": {"binary_data_size": len(tensor.data)},
        }
        for tensor in request.tensors
    ]
    document: dict[str, Any] = {"id": request.id, "inputs": inputs, "parameters": dict(request.parameters)}
    if request.outputs:
        document["outputs"] = [{"name": name} for name in request.outputs]
    head = json.dumps(document).encode()
    return b"".join((head, *(tensor.data for tensor in request.tensors))), {HEADER_LENGTH: str(len(head))}


def ask_both(grpc_address: str, rest_address: str, request: InferRequest) -> dict[str, Answer]:
    """Sends a request over both faces; the REST statuses are given as gRPC's."""
    version = f"/versions/{request.version}" if request.version else ""
    status, body = send_rest(rest_address, f"/v2/models/{request.model}{version}/infer", *rest_body(request))
    by_rest = Answer("OK") if status == 200 else Answer(_STATUSES.get(status, str(status)), json.loads(body)["error"])
    return {"grpc": send_grpc(grpc_address, encode_request(request)), "rest": by_rest}
