"""The kernels that ONNX Runtime made of a segment, and their tensors.

Most convolutional kernels work on blocked feature maps: [batch, channels, rows, columns] by its shape, but with the
channels in blocks in memory, as if it were [batch, channels / block, rows, columns, block]. `Kernels` knows which
tensors are blocked, so that they can be sliced and handed over as plain ones.
"""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tierflow.errors import InvalidInputError
from tierflow_worker.runtime import Weights, create_kernel_session, create_session

BLOCKED_DOMAIN: Final = "com.microsoft.nchwc"
_SMALL: Final = 16
"""Initialisers up to so many elements stay in the models of parts: pads, scales, axes."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """A segment as the runtime executes it.

    Attributes:
        nodes: Its kernels in the order of execution.
        constants: All initialisers, without content where they are large.
        weights: The content of the large ones, shared by all sessions.
        blocked: Kernel tensors with channels in blocks.
        plain_to_blocked: For tensors of the original segment that kernels exchange in blocks, the kernels' name of it.
        value_types: By name, the type of the segment's inputs and outputs.
        opset_imports: As in the model.
        ir_version: As in the model.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, TensorProto]
    weights: Weights
    blocked: frozenset[str]
    plain_to_blocked: Mapping[str, str]
    value_types: Mapping[str, onnx.ValueInfoProto]
    opset_imports: tuple[onnx.OperatorSetIdProto, ...]
    ir_version: int

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return next(item.version for item in self.opset_imports if item.domain in ("", "ai.onnx"))

    def between(self, inputs: Collection[str], outputs: Iterable[str]) -> tuple[onnx.NodeProto, ...]:
        """The kernels that compute `outputs` from `inputs`, both names of the original segment.

        Where kernels take one of `inputs` in blocks, a kernel that makes the blocks comes first.

        Raises:
            InvalidInputError: where an output depends on an input of the segment that isn't among `inputs`.
        """
        producers = {name: place for place, node in enumerate(self.nodes) for name in node.output if name}
        given = {self.plain_to_blocked[name]: name for name in inputs if name in self.plain_to_blocked}
        needed: set[int] = set()
        to_block: dict[str, str] = {}
        waiting = list(outputs)
        while waiting:
            name = waiting.pop()
            if name in inputs or name in self.constants:
                continue
            if name in given:
                to_block[given[name]] = name
                continue
            if name not in producers:
                raise InvalidInputError(f"tensor {name} can't be computed from {', '.join(inputs)}", subject=name)
            if producers[name] not in needed:
                needed.add(producers[name])
                waiting += [item for item in self.nodes[producers[name]].input if item]
        blocking = [
            helper.make_node("ReorderInput", [plain], [blocked], name=f"{plain}/blocked", domain=BLOCKED_DOMAIN)
            for plain, blocked in sorted(to_block.items())
        ]
        return (*blocking, *(self.nodes[place] for place in sorted(needed)))


def kernels_of(path: Path, marks: Sequence[str], *, threads: int = 1) -> Kernels:
    """Has the runtime optimise a segment, and reads what it made.

    Args:
        path: The segment's ONNX file, with fixed shapes.
        marks: Tensors of the segment at which it will be taken apart; the runtime keeps them as tensors, so that no
            kernel spans them.
        threads: Threads of the session that optimises.

    Raises:
        InvalidModelError: where the runtime refuses the segment.
    """
    with tempfile.TemporaryDirectory(prefix="tierflow-") as folder:
        marked, optimised = Path(folder, "marked.onnx"), Path(folder, "optimised.onnx")
        _mark(path, marks, marked)
        create_session(marked, threads=threads, optimized=optimised)
        model = onnx.load(optimised)
    return _read(model)


def _mark(path: Path, marks: Sequence[str], into: Path) -> None:
    """Writes the segment with `marks` as further outputs, for the runtime to keep them."""
    model = onnx.load(path)
    known = {value.name for value in model.graph.output} | {value.name for value in model.graph.input}
    types = {value.name: value for value in model.graph.value_info}
    for name in marks:
        if name not in known:
            model.graph.output.append(types.get(name) or onnx.ValueInfoProto(name=name))
    onnx.save(model, into)


def _read(model: onnx.ModelProto) -> Kernels:
    arrays = {}
    constants = {}
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) > _SMALL:
            arrays[tensor.name] = numpy_helper.to_array(tensor)
            constants[tensor.name] = _without_content(tensor)
        else:
            constants[tensor.name] = tensor
    nodes = tuple(model.graph.node)
    blocked: set[str] = set()
    plain_to_blocked = {}
    for node in nodes:
        if node.op_type == "ReorderOutput":
            plain_to_blocked[node.output[0]] = node.input[0]
        elif node.domain == BLOCKED_DOMAIN or any(name in blocked for name in node.input):
            blocked.update(node.output)
    values = (*model.graph.input, *model.graph.output)
    return Kernels(
        nodes=nodes,
        constants=constants,
        weights=Weights(arrays),
        blocked=frozenset(blocked),
        plain_to_blocked=plain_to_blocked,
        value_types={value.name: value for value in values},
        opset_imports=tuple(model.opset_import),
        ir_version=model.ir_version,
    )


def _without_content(tensor: TensorProto) -> TensorProto:
    stub = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    stub.data_location = TensorProto.EXTERNAL
    stub.external_data.add(key="location", value="shared")
    return stub


@cache
def block_size() -> int:
    """How many channels this machine's kernels put together: 8 or 16, by its vector registers."""
    node = helper.make_node("ReorderInput", ["plain"], ["blocked"], domain=BLOCKED_DOMAIN)
    plain = helper.make_tensor_value_info("plain", TensorProto.FLOAT, [1, 64, 1, 2])
    blocked = helper.make_tensor_value_info("blocked", TensorProto.FLOAT, [1, 64, 1, 2])
    model = helper.make_model(
        helper.make_graph([node], "block", [plain], [blocked]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED_DOMAIN, 1)],
        ir_version=8,
    )
    session = create_kernel_session(model.SerializeToString(), Weights({}), [])
    order = session.run({"plain": np.arange(128, dtype=np.float32).reshape(1, 64, 1, 2)})["blocked"].ravel()
    # Element 1 is the first channel's second place: it follows the first place of a whole block of channels.
    return int(np.flatnonzero(order == 1)[0])
