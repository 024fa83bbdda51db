"""The whole model's answer to an input, computed in the background as by a worker that has all layers."""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from tierflow.descriptor import Boundary, SegmentDescriptor, WorkerDescriptor
from tierflow.protocol.messages import InferTensor
from tierflow.tiers import Tier
from tierflow_worker.segments import SegmentLoader

Tensors = Mapping[str, InferTensor]


class Reference:
    """Loads the whole model at once, in a thread, and answers the input that it is then given.

    A process of its own cuts the model out, so one copy of its weights is held, and none once the answer is there.

    Args:
        descriptor: Any worker's of the pipeline: it says where the model is, and what its inputs and outputs are.
        cache_dir: Where models are kept; a worker that has all layers finds the same file there.
        threads: Threads within a layer.

    Attributes:
        answer: All outputs of the model, or the error for which there is no answer.
    """

    def __init__(self, descriptor: WorkerDescriptor, cache_dir: Path, *, threads: int) -> None:
        self.answer: Final[Future[Tensors]] = Future()
        self._input: Future[Tensors] = Future()
        self._whole = _whole(descriptor)
        self._loader = SegmentLoader(self._whole, cache_dir, threads=threads)
        self._thread = threading.Thread(target=self._compute, name="reference", daemon=True)
        self._thread.start()

    def give(self, tensors: Tensors) -> None:
        """Gives it the model's inputs."""
        self._input.set_result(tensors)

    def stop(self) -> bool:
        """Ends what it has under way; False where a computation goes on, which nothing can end."""
        self._loader.stop()
        return self.answer.done()

    def _compute(self) -> None:
        try:
            loaded = self._loader.load(self._whole.segments[0])
            known = dict(self._input.result())
            if loaded.computes:
                known |= loaded.run(known, loaded.cancellation())
            self.answer.set_result({tensor.name: known[tensor.name] for tensor in self._whole.outputs})
        except Exception as error:  # whoever asks for the answer gets it
            self.answer.set_exception(error)


def _whole(descriptor: WorkerDescriptor) -> WorkerDescriptor:
    """The descriptor of a worker that has all layers, as far as cutting and computing go."""
    segment = SegmentDescriptor(
        id="whole",
        layers=0,  # how many there are is only logged
        accepts=Boundary(id="whole", tensors=descriptor.inputs),
        results=descriptor.outputs,
    )
    return replace(descriptor, tier=Tier.DEVICE, segments=(segment,), probes=(), role="tier", tile_workers="")
