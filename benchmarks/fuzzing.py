"""Sends a worker thousands of broken requests over both faces, and says what it answered.

The requests are valid ones with a few bytes changed, so that most get far before they fail.
"""

import asyncio
import json
import os
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc.aio
import numpy as np

from benchmarks.workers import PIPELINE
from tierflow.protocol import wire
from tierflow.protocol.codec import encode_request
from tierflow.protocol.messages import OIP_DTYPES, InferRequest
from tierflow.protocol.rest import HEADER_LENGTH
from tierflow_worker.rpc.client import Channel
from tierflow_worker.rpc.status import RpcError

_AT_ONCE = 16
_MOST_BYTES = 2**26
_INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff" * 10,
    b"\x00" * 8,
    b"-1",
    b"1e999",
    b"NaN",
    b"{",
    b"[",
    b'"',
)


@dataclass(frozen=True)
class RestMessage:
    """A POST: where to, what, and its headers."""

    path: str
    body: bytes
    headers: dict[str, str]


def rest_messages(request: InferRequest) -> Iterator[RestMessage]:
    """A request in the forms that REST has: binary data, and JSON for those that are short."""
    path = f"/v2/models/{PIPELINE}/infer"
    inputs: list[dict[str, object]] = [
        {"name": tensor.name, "datatype": OIP_DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        for tensor in request.tensors
    ]
    binary = [
        {**described, "parameters": {"binary_data_size": len(tensor.data)}}
        for described, tensor in zip(inputs, request.tensors, strict=True)
    ]
    head = json.dumps({"id": request.id, "inputs": binary, "parameters": {"binary_data_output": True}}).encode()
    body = b"".join((head, *(tensor.data for tensor in request.tensors)))
    yield RestMessage(path, body, {HEADER_LENGTH: str(len(head))})
    yield RestMessage(path, zlib.compress(body), {HEADER_LENGTH: str(len(head)), "Content-Encoding": "deflate"})
    values = [
        {**described, "data": np.frombuffer(tensor.data, tensor.dtype).tolist()}
        for described, tensor in zip(inputs, request.tensors, strict=True)
    ]
    yield RestMessage(path, json.dumps({"inputs": values, "outputs": []}).encode(), {})


def mutated(message: bytes, source: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """The message with one to four changes: bits, stretches, lengths, or its end."""
    content = bytearray(message)
    for _ in range(source.randint(1, 4)):
        # The beginning has the structure, the rest is mostly numbers that may be anything.
        reach = len(content) if source.random() < 0.2 else min(len(content), 400)
        place = source.randrange(reach + 1)
        length = source.choice((1, 2, 4, 16, 200))
        match source.randrange(7):
            case 0 if place < len(content):
                content[place] ^= 1 << source.randrange(8)
            case 1 if place < len(content):
                content[place] = source.randrange(256)
            case 2:
                content[place:place] = source.choice(_INTERESTING)
            case 3:
                del content[place : place + length]
            case 4:
                content[place:place] = content[place : place + length]
            case 5 if others:
                other = source.choice(others)
                content[place:] = other[min(place, len(other)) :]
            case _:
                del content[place if source.random() < 0.3 else len(content) - 1 :]
    return bytes(content)


def mutated_rest(message: RestMessage, source: random.Random) -> RestMessage:
    """The message with its body, its headers or its path changed."""
    path, body, headers = message.path, message.body, dict(message.headers)
    what = source.randrange(10)
    if what == 0:
        path = f"{path}{source.choice(('', '/', '/x', '%00', '?a=b', '/../..', '%ff'))}"
    elif what == 1:
        headers[HEADER_LENGTH] = source.choice(("", "0", "-1", "7", "1e3", "99999999999", "x", str(len(body) + 1)))
    elif what == 2:
        headers["Content-Encoding"] = source.choice(("gzip", "deflate", "identity", "br", "x" * 100))
    else:
        body = mutated(body, source)
    return RestMessage(path, body, headers)


async def fuzz(
    grpc_address: str, rest_address: str, requests: Sequence[InferRequest], *, count: int, seed: int
) -> Counter[str]:
    """Sends `count` broken requests, half over gRPC and half over REST, some at once; of gRPC's some are announced.

    Returns:
        How often each status came back: `OK`, `INVALID_ARGUMENT`, ... of gRPC, `200`, `400`, ... of REST, and
        `DISCONNECTED` where HTTP itself was broken.
    """
    source = random.Random(seed)
    valid = [encode_request(request) for request in requests]
    by_rest = [message for request in requests for message in rest_messages(request)]
    seen: Counter[str] = Counter()
    gate = asyncio.Semaphore(_AT_ONCE)
    options = (("grpc.max_send_message_length", -1),)
    async with (
        grpc.aio.insecure_channel(grpc_address, options=options) as channel,
        aiohttp.ClientSession(f"http://{rest_address}") as session,
        asyncio.TaskGroup() as group,
    ):
        call = channel.unary_unary(wire.INFER)
        announcing = Channel(grpc_address, max_message_bytes=_MOST_BYTES)

        async def over_grpc(body: bytes) -> None:
            try:
                await call(body, timeout=30)
                seen["OK"] += 1
            except grpc.aio.AioRpcError as error:
                seen[error.code().name] += 1
            finally:
                gate.release()

        async def over_grpc_announced(body: bytes, there: int) -> None:
            try:
                announced = announcing.announce(wire.INFER, body[:there], len(body), timeout=30)
                if announced is None:  # not connected yet
                    await announcing.unary(wire.INFER, [body], timeout=30)
                else:
                    await asyncio.sleep(0)
                    announced.send([body[there:]])
                    await announced.answer(timeout=30)
                seen["OK"] += 1
            except RpcError as error:
                seen[error.code().name] += 1
            finally:
                gate.release()

        async def over_rest(message: RestMessage) -> None:
            try:
                async with session.post(message.path, data=message.body, headers=message.headers) as response:
                    await response.read()
                    seen[str(response.status)] += 1
            except aiohttp.ClientError:
                seen["DISCONNECTED"] += 1
            finally:
                gate.release()

        for number in range(count):
            await gate.acquire()
            if number % 6 == 1:
                body = mutated(source.choice(valid), source, valid)
                group.create_task(over_grpc_announced(body, source.randrange(len(body) + 1)))
            elif number % 2:
                group.create_task(over_grpc(mutated(source.choice(valid), source, valid)))
            else:
                group.create_task(over_rest(mutated_rest(source.choice(by_rest), source)))
        for _ in range(_AT_ONCE):
            await gate.acquire()
        await announcing.close()
    return seen


def resident_bytes(process: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
