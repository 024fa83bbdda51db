"""grpc.health.v1: whether services are being served, told when asked, and to those who watch when it changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from tierflow.protocol.messages import Data
from tierflow_worker.rpc.server import Call, Handler, Parts
from tierflow_worker.rpc.status import Code, RpcError

_SERVICE: Final = "grpc.health.v1.Health"
_RESPONSE: Final = health_pb2.HealthCheckResponse


class Health:
    """The states of services. Must be made inside the event loop."""

    def __init__(self) -> None:
        self._states: dict[str, bool] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, serving: bool) -> None:
        """Sets whether a service is being served; unknown ones become known."""
        if self._states.get(service) is serving:
            return
        self._states[service] = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        """What answers, by path."""
        return {
            f"/{_SERVICE}/Check": Handler(unary=self._check),
            f"/{_SERVICE}/Watch": Handler(streaming=self._watch),
        }

    async def _check(self, data: Data, _: Call) -> Parts:
        service = _asked_for(data)
        if service not in self._states:
            raise RpcError(Code.NOT_FOUND, f"no service {service!r} is known here")
        return (_response(self._state(service)),)

    async def _watch(self, data: Data, _: Call) -> AsyncIterator[Parts]:
        service = _asked_for(data)
        told = None
        while True:
            changed = self._changed
            state = self._state(service)
            if state != told:
                told = state
                yield (_response(state),)
            await changed.wait()

    def _state(self, service: str) -> Any:
        if service not in self._states:
            return _RESPONSE.SERVICE_UNKNOWN
        return _RESPONSE.SERVING if self._states[service] else _RESPONSE.NOT_SERVING


def _asked_for(data: Data) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(bytes(data)).service)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"no valid HealthCheckRequest: {error}") from error


def _response(state: Any) -> bytes:
    return bytes(_RESPONSE(status=state).SerializeToString())
