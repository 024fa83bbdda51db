"""Which layers give a tile the same bits as the whole map.

ONNX Runtime's blocked convolution kernels sum in an order that doesn't depend on the map's size. Others don't: the
matrix product behind an unblocked convolution takes its blocks of summands by the number of output places, and some
functions round otherwise for the last few values of a map, which don't fill a vector register. Some of these do so at
the end of each thread's part as well; in a run they are computed by one thread. The rules here were established on
ONNX Runtime 1.32 with random tiles of single layers and of random runs; `tests/property/tiling` repeats that.
"""

from typing import Final

from tierflow.tiling.rules import Operation

_CONVOLUTIONS: Final = frozenset({"Conv", "FusedConv"})

_ROUNDS_BY_PLACE: Final = frozenset([
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "LRN", "Log",
    "LpPool", "Mish", "Pow", "QuickGelu", "Selu", "Sin", "Sinh", "Softplus", "Swish", "Tan",
])  # fmt: skip
"""Functions that round otherwise for what doesn't fill a register at a map's end."""

_ROUNDS_BY_THREAD: Final = frozenset({"Celu", "Elu", "LRN", "Log", "Mish", "Selu", "Softplus"})
"""Of these, those that several threads divide at places that don't fill a register."""

_NEEDS_SEVERAL_PLACES: Final = frozenset({"AveragePool"})
"""Layers that take another way for a map of a single place."""

SMALLEST_AREA: Final = 4
"""Places that a tile of such a layer has at least."""

_DIRECT_CHANNELS: Final = 8
_CHANNEL_ALIGNMENT: Final = 4
_BLOCK: Final = 16
_REGISTER: Final = 16  # values of the widest vector register: with so many channels, any map fills its registers


def reason_against(operation: Operation, *, blocked: bool) -> str:
    """Why a tile of a kernel could differ in bits from the whole; "" where it can't.

    Args:
        operation: The kernel.
        blocked: Whether it is one of the runtime's blocked kernels.
    """
    if operation.kind in _CONVOLUTIONS:
        if not blocked:
            return "the order of its sums depends on the size of the map"
        kernel = operation.attributes.get("kernel_shape", operation.inputs[1][2:])
        pads = operation.attributes.get("pads", ())
        if isinstance(kernel, tuple) and set(kernel) == {1} and isinstance(pads, tuple) and any(pads):
            return "a padded 1x1 convolution sums in another order than one without padding"
        return ""
    if operation.kind in _ROUNDS_BY_PLACE and not blocked and operation.inputs[0][1] % _REGISTER:
        channels = operation.inputs[0][1]
        return f"its {channels} channels don't fill vector registers, so that a map's last values round otherwise"
    return ""


def needs_one_thread(operation: Operation, *, blocked: bool) -> bool:
    """Whether the bits of a kernel's result depend on how many threads compute it."""
    return operation.kind in _ROUNDS_BY_THREAD and not blocked


def smallest_area(operation: Operation, *, blocked: bool) -> int:
    """How many places a tile of this kernel's output must have at least, so that no bit differs."""
    return SMALLEST_AREA if operation.kind in _NEEDS_SEVERAL_PLACES and not blocked else 1


def will_be_blocked(operation: Operation) -> bool:
    """Whether the runtime makes a blocked kernel of a convolution, on every machine that has blocked kernels.

    Blocks are of 8 or 16 channels by the machine; what this function says holds for both.
    """
    if operation.kind not in _CONVOLUTIONS:
        return False
    weight = operation.inputs[1]
    group = operation.attributes.get("group", 1)
    if group == 1:
        return weight[1] <= _DIRECT_CHANNELS or weight[1] % _CHANNEL_ALIGNMENT == 0
    if weight[1] == 1 and group == weight[0]:
        return weight[0] % _CHANNEL_ALIGNMENT == 0
    return isinstance(group, int) and weight[1] % _BLOCK == 0 and (weight[0] // group) % _BLOCK == 0
