"""A request's way to the next tier: announced while this tier computes, and sent the moment it has computed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from tierflow.graph import Tensor
from tierflow.protocol.messages import EncodedResponse, InferRequest, InferResponse, InferTensor
from tierflow_worker.chain import Announcement


class Sender(Protocol):
    """What sends requests on: `tierflow_worker.chain.DownstreamClient`. Deadlines are on the data plane's clock."""

    def announce(self, request: InferRequest, size: int, *, deadline: float | None) -> Announcement | None:
        """Tells the worker there of a request with one tensor, whose content of `size` bytes follows."""

    async def answer(
        self, announced: Announcement, *, deadline: float | None, as_it_comes: bool
    ) -> InferResponse | EncodedResponse | None:
        """The answer of the worker there to what was announced and sent; None where the worker was lost."""

    async def infer(self, request: InferRequest, *, deadline: float | None) -> InferResponse:
        """Sends a request; the answer of the worker there."""


class Onward:
    """One request to the next tier.

    Only requests with one tensor of a fixed size are announced. The others, and those for which this tier computes
    nothing that is sent, go when they are whole.

    Args:
        sender: To whom.
        request: What is sent, but for its tensors.
        tensors: The tensors that are sent, in their order.
        deadline: On the sender's clock; None for none.
    """

    def __init__(
        self, sender: Sender, request: InferRequest, tensors: Sequence[Tensor], deadline: float | None
    ) -> None:
        self._sender: Final = sender
        self._request: Final = request
        self._tensors: Final = tensors
        self._deadline: Final = deadline
        self._announced: Announcement | None = None

    def announce(self) -> None:
        """Tells the next tier what will come."""
        if self._announced is not None or len(self._tensors) != 1:
            return
        [tensor] = self._tensors
        if tensor.size and tensor.dtype != "string":
            empty = InferTensor(tensor.name, tensor.dtype, tensor.shape, b"")
            request = replace(self._request, tensors=(empty,))
            self._announced = self._sender.announce(request, tensor.size, deadline=self._deadline)

    def send(self, computed: Mapping[str, InferTensor]) -> None:
        """Sends what was announced, once it is computed."""
        if self._announced is not None:
            made = computed.get(self._tensors[0].name)
            if made is not None:
                self._announced.send(made.data)

    async def infer(self, tensors: Mapping[str, InferTensor], *, as_it_comes: bool) -> InferResponse | EncodedResponse:
        """Sends what was not sent yet, and waits for the answer; `as_it_comes` allows for one that was not read."""
        if self._announced is not None and self._announced.sent:
            answered = await self._sender.answer(self._announced, deadline=self._deadline, as_it_comes=as_it_comes)
            if answered is not None:
                return answered
        request = replace(self._request, tensors=tuple(tensors[tensor.name] for tensor in self._tensors))
        return await self._sender.infer(request, deadline=self._deadline)

    def end(self) -> None:
        """Takes back what was announced where nothing followed."""
        if self._announced is not None:
            self._announced.abandon()
