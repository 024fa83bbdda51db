"""The lossless gate of local mode: new workers take over once they have answered an input as the whole model does."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import MismatchError, TierflowError, UnreachableError
from tierflow.model.model import Model
from tierflow.protocol.messages import InferTensor
from tierflow.tiers import Tier
from tierflow_worker.check import Verdict, compare
from tierflow_worker.own_parts import drive, route_of
from tierflow_worker.tensors import from_array
from tierflow_worker.verification import sample_inputs, whole_outputs

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Example:
    """An input of a model, and the whole model's answer to it."""

    inputs: Arrays
    expected: Arrays


class Gate:
    """Compares a chain's answer with the whole model's, each worker asked for its own part.

    Args:
        model: The model.
        example: What to ask; None makes one, when it is first needed.
    """

    def __init__(self, model: Model, example: Example | None = None) -> None:
        self._model = model
        self._given = example

    def check(self, workers: Mapping[Tier, tuple[WorkerDescriptor, str]], seconds: float) -> Verdict:
        """Asks the workers that requests would come by.

        Args:
            workers: By tier what its worker was told, and its gRPC address.
            seconds: For how long to wait for them.

        Raises:
            MismatchError: where they don't answer as the whole model does.
            UnreachableError: naming the worker that doesn't answer in time.
        """
        route = route_of({tier: described for tier, (described, _) in workers.items()})
        addresses = {tier: address for tier, (_, address) in workers.items()}
        try:
            answer = asyncio.run(drive(self._inputs, route, addresses, deadline=time.monotonic() + seconds))
        except UnreachableError:
            raise
        except TierflowError as error:
            raise MismatchError(error.message, subject=error.subject) from error
        verdict = compare(answer, self._expected, tuple(stop.tier for stop in route))
        if not verdict.holds:
            raise MismatchError(verdict.message)
        return verdict

    @cached_property
    def _example(self) -> Example:
        if self._given is not None:
            return self._given
        inputs = sample_inputs(self._model)
        return Example(inputs, whole_outputs(self._model, inputs))

    @cached_property
    def _inputs(self) -> Mapping[str, InferTensor]:
        return self._tensors(self._example.inputs)

    @cached_property
    def _expected(self) -> Mapping[str, InferTensor]:
        return self._tensors(self._example.expected)

    def _tensors(self, arrays: Arrays) -> dict[str, InferTensor]:
        graph = self._model.graph
        known = {**graph.weights, **graph.tensors}
        return {name: from_array(name, known[name].dtype, array) for name, array in arrays.items()}
