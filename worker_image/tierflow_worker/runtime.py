"""The one place that creates ONNX Runtime's sessions and runs them.

Every session of every tier has the same settings, so that the answers of two machines can be compared bit by bit.
Nothing of ONNX Runtime's own types or errors leaves this module, other than as `tierflow.errors`.
"""

import ctypes
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tierflow.errors import (
    DeadlineExceededError,
    InvalidModelError,
    InvalidRequestError,
    TierflowError,
    UnsupportedError,
)

Array = NDArray[Any]

VERSION: Final[str] = onnxruntime.__version__
"""Of ONNX Runtime; measured times belong to one version."""

_FATAL: Final = 4  # what goes wrong is raised, and logged by whoever handles it: ONNX Runtime need not print it as well

_DTYPES: Final = {"float": "float32", "double": "float64"}  # where ONNX Runtime's name differs from ONNX's

_PLAIN: Final = frozenset({
    "float64", "float32", "float16", "bool", "string",
    "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8",
})  # fmt: skip

# What numpy lacks is fed as an OrtValue over the array's memory: name -> (name in ml_dtypes, ONNX's element type).
# The packed types (int4, uint4, int2, uint2, float4e2m1), float8e8m0 and complex are not here: ONNX Runtime's CPU
# provider has no kernels that move them, so no model can take or return one.
_BEYOND_NUMPY: Final = {
    "bfloat16": ("bfloat16", 16),
    "float8e4m3fn": ("float8_e4m3fn", 17),
    "float8e4m3fnuz": ("float8_e4m3fnuz", 18),
    "float8e5m2": ("float8_e5m2", 19),
    "float8e5m2fnuz": ("float8_e5m2fnuz", 20),
}

DTYPES: Final = _PLAIN | _BEYOND_NUMPY.keys()
"""ONNX's names of the types that a segment's inputs and outputs can have."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy type of arrays that `Session.run` takes and returns for ONNX's type `name`.

    `string` is an array of objects; bfloat16 and the float8 types are those of ml_dtypes.

    Raises:
        UnsupportedError: where ONNX Runtime can't be fed it.
    """
    if name == "string":
        return np.dtype(object)
    if name in _PLAIN:
        return np.dtype(name)
    if name in _BEYOND_NUMPY:
        import ml_dtypes

        beyond: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _BEYOND_NUMPY[name][0]))
        return beyond
    raise UnsupportedError(
        f"ONNX Runtime can't take or return {name}: cut the model where its tensors have another type", subject=name
    )


class Cancellation:
    """Ends runs from another thread. Good for one request; harmless after its end."""

    def __init__(self) -> None:
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = _FATAL

    def cancel(self) -> None:
        """Ends the runs that were given this cancellation, now or in future, before their next layer."""
        self._options.terminate = True

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return bool(self._options.terminate)


class Session:
    """A loaded model that computes its outputs from its inputs; may be run by several threads at once.

    Attributes:
        inputs: ONNX's type name by input name, in the model's order.
        outputs: ONNX's type name by output name, in the model's order.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        *,
        source: str,
        held: Mapping[str, onnxruntime.OrtValue] | None = None,
    ) -> None:
        self._session = session
        self._held: Final = dict(held or {})  # inputs that are the same in each run
        given = [node for node in session.get_inputs() if node.name not in self._held]
        self.inputs: Final = {node.name: _dtype(node, source) for node in given}
        self.outputs: Final = {node.name: _dtype(node, source) for node in session.get_outputs()}
        self._numpy_types: Final = {name: numpy_dtype(dtype) for name, dtype in self.inputs.items()}
        types = {*self.inputs.values(), *self.outputs.values()}
        self._plain: Final = types <= _PLAIN

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        cancellation: Cancellation | None = None,
    ) -> dict[str, Array]:
        """Computes `outputs` (all, where None is given) from `feeds`, which has an array for each input.

        Strings are given as arrays of str, or of bytes in UTF-8, and returned as arrays of objects (str).

        Raises:
            InvalidRequestError: naming the input whose name, type or shape is wrong, or the layer that can't compute
                with these values.
            DeadlineExceededError: where `cancellation` ended the run.
        """
        wanted = list(self.outputs if outputs is None else outputs)
        fed = {name: self._checked(name, array) for name, array in feeds.items()}
        missing = self.inputs.keys() - fed.keys()
        if missing:
            raise InvalidRequestError(f"input {min(missing)} is missing", subject=min(missing))
        if not wanted:
            return {}
        options = (cancellation or Cancellation())._options
        try:
            if self._plain:
                return dict(zip(wanted, self._session.run(wanted, {**fed, **self._held}, options), strict=True))
            values = self._held | {name: _to_value(array, self.inputs[name]) for name, array in fed.items()}
            results = self._session.run_with_ort_values(wanted, values, options)
        except Exception as error:
            raise _run_error(error, cancelled=bool(options.terminate)) from error
        return {name: _from_value(value, self.outputs[name]) for name, value in zip(wanted, results, strict=True)}

    def end_profiling(self) -> Path:
        """Ends the recording that `create_session(profile=...)` began; returns the file that it wrote."""
        return Path(self._session.end_profiling())

    def _checked(self, name: str, array: Array) -> Array:
        if name not in self.inputs:
            raise InvalidRequestError(
                f"there is no input {name}; there are {', '.join(self.inputs) or 'none'}", subject=name
            )
        if self.inputs[name] == "string":
            return _strings(name, array)
        if array.dtype != self._numpy_types[name]:
            raise InvalidRequestError(f"input {name} must be {self.inputs[name]}, not {array.dtype}", subject=name)
        return array


def create_session(
    path: Path, *, threads: int = 1, profile: Path | None = None, optimized: Path | None = None
) -> Session:
    """Loads an ONNX file, fully optimised, on the CPU.

    Args:
        path: The file; external weights lie beside it.
        threads: Threads within a layer; layers run one after the other. Waiting threads sleep, because the tiers of
            local mode share one machine.
        profile: Where to record the time of each kernel: the beginning of a file's name, see `Session.end_profiling`.
        optimized: Where to write the graph that the runtime made of the model.

    Raises:
        UnsupportedError: naming the operator that ONNX Runtime does not have, and its layer.
        InvalidModelError: where the file is no model, is missing or contradicts itself.
    """
    options = _options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized.name}.weights"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _load_error(error, path.name) from error
    return Session(session, source=path.name)


class Weights:
    """Constants that several sessions share, each in memory once, and only once a session needs it.

    Args:
        read: Reads the constant of a name.
    """

    def __init__(self, read: Callable[[str], Array]) -> None:
        self._read = read
        self._values: dict[str, onnxruntime.OrtValue] = {}

    def shared(self, names: Iterable[str]) -> dict[str, onnxruntime.OrtValue]:
        """The values of some of them, which are kept."""
        for name in (wanted := list(names)):
            if name not in self._values:
                self._values[name] = self._value(name)
        return {name: self._values[name] for name in wanted}

    def once(self, names: Iterable[str]) -> dict[str, onnxruntime.OrtValue]:
        """The values of some of them, which go when the caller lets go of them."""
        return {name: self._values.get(name) or self._value(name) for name in names}

    def _value(self, name: str) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(self._read(name)))


def create_kernel_session(
    model: bytes, weights: Weights, *, shared: Sequence[str] = (), own: Sequence[str] = (), threads: int = 1
) -> Session:
    """Loads a model whose nodes are already what the runtime made of them; it is run as it is.

    ONNX Runtime copies a model's constants into each session. What several sessions need is therefore an input of
    the model, which each run is given.

    Args:
        model: The serialised model.
        weights: What holds the content of constants.
        shared: Inputs of the model to take from `weights`, where they are kept.
        own: Initialisers of the model, written without content, to take from `weights`; the session has a copy.
        threads: Threads within a layer.

    Raises:
        InvalidModelError: where the runtime refuses the model.
    """
    options = _options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values = weights.once(own)
    options.add_external_initializers(list(values), list(values.values()))
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _load_error(error, "a part of the segment") from error
    return Session(session, source="a part of the segment", held=weights.shared(shared))


def _options(threads: int) -> onnxruntime.SessionOptions:
    """What all sessions have in common."""
    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = _FATAL
    return options


def _dtype(node: onnxruntime.NodeArg, source: str) -> str:
    match = re.fullmatch(r"tensor\((\w+)\)", node.type)
    if match is None:
        raise UnsupportedError(
            f"{source}: {node.name} is a {node.type}; only tensors can be sent, cut the model elsewhere",
            subject=node.name,
        )
    return _DTYPES.get(match[1], match[1])


def _strings(name: str, array: Array) -> Array:
    if array.dtype.kind not in "OUS":
        raise InvalidRequestError(f"input {name} must be string, not {array.dtype}", subject=name)
    if array.dtype.kind == "U":
        return array.astype(object)
    try:
        texts = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"input {name} has a string that is not UTF-8: {error}", subject=name) from error
    strings = np.empty(len(texts), dtype=object)
    strings[:] = texts
    return strings.reshape(array.shape)


def _to_value(array: Array, dtype: str) -> onnxruntime.OrtValue:
    if dtype not in _BEYOND_NUMPY:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    same_width = np.uint8 if array.dtype.itemsize == 1 else np.uint16
    # The value holds the array that it is given, and with it the memory that both share.
    raw = np.ascontiguousarray(array).view(same_width)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, _BEYOND_NUMPY[dtype][1])


def _from_value(value: onnxruntime.OrtValue, dtype: str) -> Array:
    if dtype not in _BEYOND_NUMPY:
        array: Array = value.numpy()
        return array
    kind, shape = numpy_dtype(dtype), tuple(value.shape())
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    # numpy() of these types is missing or returns bytes: copy the memory, which dies with the value.
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size) if size else b"", dtype=kind).reshape(shape)


_UNKNOWN_OPERATOR: Final = (
    re.compile(r'In Node, \("(?P<layer>.*?)", (?P<kind>\w+), .*No (Op registered|opset import)', re.DOTALL),
    re.compile(r"Fatal error: (?P<kind>[\w.:]+)\(-?\d+\) is not a registered function/op()"),
    re.compile(r"implementation for (?P<kind>[\w.:]+)\(\d+\) node with name '(?P<layer>.*?)'"),
)


def _load_error(error: Exception, source: str) -> TierflowError:
    text = str(error)
    for pattern in _UNKNOWN_OPERATOR:
        found = pattern.search(text)
        if found:
            layer, kind = found.groupdict().get("layer") or "", found["kind"]
            return UnsupportedError(
                f"{source}: ONNX Runtime {VERSION} has no operator {kind}"
                + (f" as layer {layer} uses it" if layer else "")
                + "; replace it in the model, or convert the model to another opset or type",
                subject=layer or kind,
            )
    if "under development" in text or "is not currently registered or supported" in text:
        return UnsupportedError(
            f"{source}: ONNX Runtime {VERSION} does not support it: {_reason(text)}", subject=source
        )
    return InvalidModelError(f"{source}: ONNX Runtime can't load the model: {_reason(text)}", subject=source)


def _run_error(error: Exception, *, cancelled: bool) -> TierflowError:
    text = str(error)
    if cancelled:
        return DeadlineExceededError("the run was ended before its answer was there")
    layer = re.search(r"while running (\w+) node\. Name:'(.*?)'", text)
    if layer:
        return InvalidRequestError(
            f"layer {layer[2]} ({layer[1]}) can't compute with these inputs: {_reason(text)}", subject=layer[2]
        )
    name = re.search(r"for input: (\S+)", text)
    return InvalidRequestError(f"the model can't run: {_reason(text)}", subject=name[1] if name else "")


def _reason(text: str) -> str:
    """ONNX Runtime's message without its code, the paths of its sources, and line breaks."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.strip())
    text = re.sub(r"Non-zero status code returned while running.*?Status Message: ", "", text, flags=re.DOTALL)
    text = re.sub(r"Load model from .*? failed:", "", text)
    text = re.sub(r"/\S+\.(?:h|cc):\d+ [^)]*\)\s*", "", text)
    return " ".join(text.split())[:400] or "no reason given"
