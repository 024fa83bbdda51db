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
from onnx import TensorProto, helper

from tierflow.errors import InvalidInputError
from tierflow.model.content import read_content
from tierflow.model.reading import read_model
from tierflow.model.skeleton import skeleton_of
from tierflow_worker.runtime import Array, Weights, create_kernel_session, create_session

BLOCKED_DOMAIN: Final = "com.microsoft.nchwc"


@dataclass(frozen=True, slots=True)
class Kernels:
    """A segment as the runtime executes it.

    Attributes:
        nodes: Its kernels in the order of execution.
        constants: All initialisers, without content where they are large.
        weights: The content of the large ones.
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


def kernels_of(path: Path, marks: Sequence[str], optimised: Path, *, threads: int = 1) -> Kernels:
    """Has the runtime optimise a segment, and reads what it made.

    Args:
        path: The segment's ONNX file, with fixed shapes.
        marks: Tensors of the segment at which it will be taken apart; the runtime keeps them as tensors, so that no
            kernel spans them.
        optimised: Where to write what the runtime made. Weights are read from there when they are needed.
        threads: Threads of the session that optimises.

    Raises:
        InvalidModelError: where the runtime refuses the segment.
    """
    optimise(path, marks, optimised, threads=threads)
    return read_kernels(optimised)


def optimise(path: Path, marks: Sequence[str], into: Path, *, threads: int = 1) -> None:
    """Writes the graph that the runtime makes of a segment; see `kernels_of`.

    It holds the whole segment meanwhile, so a worker does it in a process of its own.
    """
    model = onnx.load(path)
    known = {value.name for value in model.graph.output} | {value.name for value in model.graph.input}
    types = {value.name: value for value in model.graph.value_info}
    further = [name for name in marks if name not in known]
    model.graph.output.extend(types.get(name) or onnx.ValueInfoProto(name=name) for name in further)
    with tempfile.TemporaryDirectory(prefix="tierflow-") as folder:
        marked = Path(folder, "marked.onnx")
        onnx.save(model, marked)
        del model
        create_session(marked, threads=threads, optimized=into)


def read_kernels(path: Path) -> Kernels:
    """Reads a graph that `optimise` wrote, without its weights.

    Raises:
        InvalidModelError: where the file is missing or damaged.
    """
    skeleton = skeleton_of(read_model(path), path.parent)
    model, contents = skeleton.model, skeleton.contents
    described = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(name: str) -> Array:
        tensor = described[name]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.frombuffer(read_content(name, contents[name]), dtype).reshape(tuple(tensor.dims))

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
        constants={name: _for_sharing(tensor) for name, tensor in described.items()},
        weights=Weights(read),
        blocked=frozenset(blocked),
        plain_to_blocked=plain_to_blocked,
        value_types={value.name: value for value in values},
        opset_imports=tuple(model.opset_import),
        ir_version=model.ir_version,
    )


def _for_sharing(tensor: TensorProto) -> TensorProto:
    """An initialiser as models of parts have it: without content where several sessions share that."""
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.external_data.add(key="location", value="shared")
    return tensor


def _no_weights(name: str) -> Array:
    raise KeyError(name)


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
    session = create_kernel_session(model.SerializeToString(), Weights(_no_weights))
    order = session.run({"plain": np.arange(128, dtype=np.float32).reshape(1, 64, 1, 2)})["blocked"].ravel()
    # Element 1 is the first channel's second place: it follows the first place of a whole block of channels.
    return int(np.flatnonzero(order == 1)[0])
