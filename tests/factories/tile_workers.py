"""A tile worker in this process that says that it holds what the test wants, and the edge worker that asks it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from factories.planes import tensor_of
from factories.tampering import TamperingServer
from tierflow.descriptor import Boundary, ModelReference, RunDescriptor, SegmentDescriptor, WorkerDescriptor
from tierflow.graph import Tensor
from tierflow.protocol.codec import decode_request
from tierflow.protocol.messages import HELD_PARAMETER, HOLD_PARAMETER, RUN_PARAMETER, TILE_PARAMETER, InferResponse
from tierflow.tiers import Tier
from tierflow.tiling.region import Interval, Region
from tierflow_worker.tiling.holdings import RunsHeld, write_wanted
from tierflow_worker.tiling.peer import Peer
from tierflow_worker.tiling.requests import read_tile

RUN = "run"
OUTPUTS = {
    RUN: Tensor(name="y", dtype="float32", shape=(1, 2, 8, 8)),
    "other": Tensor(name="z", dtype="float32", shape=(1, 2, 8, 8)),
}
EDGE = WorkerDescriptor(
    pipeline="pipe",
    namespace="default",
    tier=Tier.EDGE,
    model=ModelReference(uri="file:///model.onnx", identity="sha256:one"),
    inputs=(),
    outputs=(),
    segments=(
        SegmentDescriptor(
            id="segment",
            layers=2,
            accepts=Boundary(id="boundary", tensors=()),
            runs=tuple(
                RunDescriptor(id=name, input=OUTPUTS[RUN], output=output, rows=1, columns=1)
                for name, output in OUTPUTS.items()
            ),
        ),
    ),
)
WANTED = write_wanted(EDGE)
TILE = Region(Interval(0, 4), Interval(2, 8))
PART = np.arange(2 * 4 * 6, dtype=np.float32).reshape(1, 2, 4, 6)


def doubled(data: bytes) -> InferResponse:
    """A tile worker's answer: its input, twice."""
    request = decode_request(data)
    assert request.parameters[RUN_PARAMETER] in OUTPUTS
    assert read_tile(request.parameters[TILE_PARAMETER]) == TILE
    array = np.frombuffer(request.tensors[0].data, np.float32).reshape(request.tensors[0].shape)
    return InferResponse("pipe", (tensor_of("y", 2 * array),))


class HoldingServer(TamperingServer):
    """A tile worker that says that it holds what it is told to say.

    Attributes:
        answer_holding: What it says; None for nothing.
        holding_asked: How often it was asked.
    """

    answer_holding: RunsHeld | None
    holding_asked = 0

    def hold(self, request: bytes) -> InferResponse:
        """Answers what it is asked to hold."""
        assert decode_request(request).parameters[HOLD_PARAMETER] == WANTED
        self.holding_asked += 1
        held = (
            {} if self.answer_holding is None else {HELD_PARAMETER: msgspec.json.encode(self.answer_holding).decode()}
        )
        return InferResponse("pipe", (), parameters=held)


@contextmanager
def tile_worker() -> Iterator[HoldingServer]:
    server = HoldingServer(doubled)
    server.answer_holding = RunsHeld(tuple(OUTPUTS))
    try:
        yield server
    finally:
        server.close()


async def compute(peer: Peer, run: str = RUN) -> Any:
    return await peer.compute(run, TILE, lambda: {"x": PART}, None)
