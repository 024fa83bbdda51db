"""For each kind of layer, how its output at a place of the feature map depends on its input.

Feature maps are tensors [batch, channels, rows, columns]. A layer has a rule where an output place depends on a bounded
region of places of each input, in all channels; everything else ends a run. Kinds are those of ONNX and of the
fused kernels that ONNX Runtime makes of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tierflow.graph import Attribute
from tierflow.tiling.region import Interval, Need, Region, Window, scale_need, window_made, window_need


class Extents(NamedTuple):
    """The size of a whole feature map: rows and columns."""

    rows: int
    columns: int

    @property
    def region(self) -> Region:
        """All of the map."""
        return Region(Interval(0, self.rows), Interval(0, self.columns))


class NotTileableError(Exception):
    """A layer has no rule; the message says why, to be completed with the layer's name by who knows it."""


class RegionNeed(NamedTuple):
    """What an output region needs of one input: a region, and the padding that remains around it.

    `pads` is in ONNX's order: rows begin, columns begin, rows end, columns end.
    """

    region: Region
    pads: tuple[int, int, int, int]


NO_PADS: Final = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Sliding:
    """A window that slides: convolutions, pooling, padding, space-to-depth."""

    rows: Window
    columns: Window

    def output(self, extents: Extents) -> Extents:
        """The size of the whole output."""
        return Extents(_slide(self.rows, extents.rows), _slide(self.columns, extents.columns))

    def made(self, wanted: Region, extents: Extents) -> Region:
        """The output that is made where `wanted` is asked for, of an input of the whole size `extents`."""
        return Region(
            window_made(self.rows, wanted.rows, extents.rows),
            window_made(self.columns, wanted.columns, extents.columns),
        )

    def need(self, output: Region, extents: Extents) -> RegionNeed:
        """What `output` needs of an input of the whole size `extents`."""
        whole = self.output(extents)
        rows: Need = window_need(self.rows, output.rows, whole.rows, extents.rows)
        columns: Need = window_need(self.columns, output.columns, whole.columns, extents.columns)
        pads = (rows.pad_begin, columns.pad_begin, rows.pad_end, columns.pad_end)
        return RegionNeed(Region(rows.places, columns.places), pads)


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Each output place depends on the same place of each input; an input of one row or column is broadcast."""

    def output(self, extents: Extents) -> Extents:
        """The size of the whole output, for an input that isn't broadcast."""
        return extents

    def made(self, wanted: Region, extents: Extents) -> Region:
        """The output that is made where `wanted` is asked for."""
        return wanted

    def need(self, output: Region, extents: Extents) -> RegionNeed:
        """What `output` needs of an input of the whole size `extents`."""
        rows = Interval(0, 1) if extents.rows == 1 else output.rows
        columns = Interval(0, 1) if extents.columns == 1 else output.columns
        return RegionNeed(Region(rows, columns), NO_PADS)


@dataclass(frozen=True, slots=True)
class Repeating:
    """Each input place becomes a block of output places: nearest-neighbour upsampling, depth-to-space."""

    rows: int
    columns: int

    def output(self, extents: Extents) -> Extents:
        """The size of the whole output."""
        return Extents(extents.rows * self.rows, extents.columns * self.columns)

    def made(self, wanted: Region, extents: Extents) -> Region:
        """The output that is made where `wanted` is asked for: whole blocks."""
        return Region(scale_need(self.rows, wanted.rows)[1], scale_need(self.columns, wanted.columns)[1])

    def need(self, output: Region, extents: Extents) -> RegionNeed:
        """What `output` needs of an input of the whole size `extents`."""
        return RegionNeed(
            Region(scale_need(self.rows, output.rows)[0], scale_need(self.columns, output.columns)[0]), NO_PADS
        )


Rule = Sliding | Pointwise | Repeating


@dataclass(frozen=True, slots=True)
class Operation:
    """What a rule is derived from.

    Attributes:
        kind: The operator's type.
        attributes: Its attributes, with ONNX's names.
        inputs: Shapes of all inputs in order, weights included; () where an optional one is absent.
        constants: By input position, the values of small constant inputs (pads, scales, axes).
        outputs: How many of its outputs are read.
        maps: The positions of those inputs that depend on the model's inputs.
    """

    kind: str
    attributes: Mapping[str, Attribute]
    inputs: Sequence[tuple[int, ...]]
    constants: Mapping[int, Sequence[float]]
    outputs: int = 1
    maps: Sequence[int] = (0,)


BROADCASTING_KINDS: Final = frozenset([
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
    "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
])  # fmt: skip
"""Operators of several inputs whose output place depends on the same place of each."""

POINTWISE_KINDS: Final = BROADCASTING_KINDS | frozenset([
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LRN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
    "ThresholdedRelu", "ReorderInput", "ReorderOutput",
])  # fmt: skip
"""Operators whose output place depends on the same place alone. LRN and BatchNormalization look at channels only."""

JOINING_KINDS: Final = BROADCASTING_KINDS | {"Concat"}
"""Operators that read a feature map at any of their inputs."""

_CONVOLUTIONS: Final = frozenset({"Conv", "FusedConv"})
_ADDED: Final = 3
"""The input of a convolution's kernel that is added to its result."""

_POOLS: Final = frozenset({"MaxPool", "AveragePool", "LpPool"})


def rule_for(operation: Operation) -> Rule:
    """The rule of an operator on feature maps.

    Raises:
        NotTileableError: where its output depends on more than a bounded region, saying what stands in the way.
    """
    kind = operation.kind
    readable = (0, _ADDED) if kind in _CONVOLUTIONS else (0,)
    if kind not in JOINING_KINDS and any(place not in readable for place in operation.maps):
        raise NotTileableError("its weights or settings are not constants of the model")
    if kind in _CONVOLUTIONS or kind in _POOLS:
        return _sliding(operation)
    if kind in POINTWISE_KINDS:
        return _pointwise(operation)
    if kind == "Concat":
        if _integer(operation, "axis", 1) % 4 != 1:
            raise NotTileableError("it joins along another axis than the channels")
        return Pointwise()
    if kind == "Pad":
        return _padding(operation)
    if kind in ("Resize", "Upsample"):
        return _upsampling(operation)
    if kind == "DepthToSpace":
        block = _integer(operation, "blocksize", 1)
        return Repeating(block, block)
    if kind == "SpaceToDepth":
        block = _integer(operation, "blocksize", 1)
        return Sliding(Window(kernel=block, stride=block), Window(kernel=block, stride=block))
    raise NotTileableError(f"the result of a {kind} at one place can depend on the whole map")


def _sliding(operation: Operation) -> Sliding:
    data = operation.inputs[0]
    if len(data) != 4:
        raise NotTileableError(f"it works on {len(data) - 2} spatial dimensions, not on rows and columns")
    if operation.kind == "MaxPool" and _integer(operation, "storage_order", 0):
        raise NotTileableError("its storage order is by columns")
    if operation.kind == "MaxPool" and operation.outputs > 1:
        raise NotTileableError("the indices that it returns count places of the whole map")
    shape = operation.inputs[1][2:] if operation.kind in _CONVOLUTIONS else ()
    kernel = _integers(operation, "kernel_shape", tuple(shape))
    strides = _integers(operation, "strides", (1, 1))
    dilations = _integers(operation, "dilations", (1, 1))
    ceil = bool(_integer(operation, "ceil_mode", 0))
    pads = _pads(operation, kernel, strides, dilations)
    rows, columns = (
        Window(kernel[axis], strides[axis], dilations[axis], pads[axis], pads[axis + 2], ceil) for axis in (0, 1)
    )
    return Sliding(rows, columns)


def _pads(
    operation: Operation, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """The explicit padding, in ONNX's order, that `pads` and `auto_pad` come to."""
    mode = operation.attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return _integers(operation, "pads", (0, 0, 0, 0))
    if mode == "VALID":
        return (0, 0, 0, 0)
    begin, end = [], []
    for axis in (0, 1):
        extent = operation.inputs[0][2 + axis]
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        total = max(0, (-(-extent // strides[axis]) - 1) * strides[axis] + reach - extent)
        smaller, larger = total // 2, total - total // 2
        begin.append(smaller if mode == "SAME_UPPER" else larger)
        end.append(larger if mode == "SAME_UPPER" else smaller)
    return (*begin, *end)


def _pointwise(operation: Operation) -> Pointwise:
    ranks = {len(shape) for shape in operation.inputs if shape}
    if max(ranks, default=0) != 4:
        raise NotTileableError("it doesn't work on feature maps of rows and columns")
    if operation.kind == "BatchNormalization" and _integer(operation, "training_mode", 0):
        raise NotTileableError("in training mode its statistics depend on the whole map")
    return Pointwise()


def _padding(operation: Operation) -> Sliding:
    if operation.attributes.get("mode", "constant") != "constant":
        raise NotTileableError(f"it pads by {operation.attributes['mode']}, which looks at the map's inside")
    pads = operation.constants.get(1) or operation.attributes.get("pads")
    if not isinstance(pads, Sequence) or isinstance(pads, str) or len(operation.inputs[0]) != 4:
        raise NotTileableError("its padding is not a constant of the model on rows and columns")
    axes = [int(axis) % 4 for axis in operation.constants.get(3, range(len(pads) // 2))]
    amounts = {axis: (int(pads[at]), int(pads[at + len(axes)])) for at, axis in enumerate(axes)}
    rows, columns = amounts.get(2, (0, 0)), amounts.get(3, (0, 0))
    return Sliding(Window(pad_begin=rows[0], pad_end=rows[1]), Window(pad_begin=columns[0], pad_end=columns[1]))


def _upsampling(operation: Operation) -> Repeating:
    if operation.attributes.get("mode", "nearest") != "nearest":
        raise NotTileableError(f"it interpolates ({operation.attributes['mode']}) across the borders of tiles")
    factors = _factors(operation)
    if factors[:2] != [1.0, 1.0] or any(factor < 1 or factor != int(factor) for factor in factors[2:]):
        raise NotTileableError(f"it scales by {factors}; only whole factors on rows and columns repeat places")
    transformation = operation.attributes.get("coordinate_transformation_mode", "half_pixel")
    nearest = operation.attributes.get("nearest_mode", "round_prefer_floor")
    repeats = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
    if operation.kind == "Resize" and len(operation.inputs) > 2 and (transformation, nearest) not in repeats:
        raise NotTileableError(f"its nearest neighbour is chosen by {transformation} and {nearest}")
    return Repeating(int(factors[2]), int(factors[3]))


def _factors(operation: Operation) -> list[float]:
    """By how much each of the four axes grows: from scales (attribute or input, by opset) or from sizes."""
    data, constants = operation.inputs[0], operation.constants
    scales = operation.attributes.get("scales") or constants.get(1, ())
    if operation.kind == "Resize" and len(operation.inputs) > 2:
        scales = constants.get(2, ())
    axes = [axis % 4 for axis in _integers(operation, "axes", (0, 1, 2, 3))]
    sizes = constants.get(3, ())
    stretches = operation.attributes.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    if not scales and stretches and len(sizes) == len(axes):
        scales = tuple(size / data[axis] for size, axis in zip(sizes, axes, strict=True))
    if not isinstance(scales, Sequence) or isinstance(scales, str) or len(scales) != len(axes) or len(data) != 4:
        raise NotTileableError("its scales are not constants of the model for four axes")
    factors = [1.0] * 4
    for axis, scale in zip(axes, scales, strict=True):
        factors[axis] = float(scale)
    return factors


def _slide(window: Window, extent: int) -> int:
    room = extent + window.pad_begin + window.pad_end - window.reach
    if not window.ceil:
        return room // window.stride + 1
    count = -(-room // window.stride) + 1
    # A last window that would begin in the padding at the end is left out.
    return count - 1 if (count - 1) * window.stride >= extent + window.pad_begin else count


def _integer(operation: Operation, name: str, default: int) -> int:
    value = operation.attributes.get(name, default)
    return value if isinstance(value, int) else default


def _integers(operation: Operation, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = operation.attributes.get(name, default)
    return tuple(int(item) for item in value) if isinstance(value, tuple | list) else default
