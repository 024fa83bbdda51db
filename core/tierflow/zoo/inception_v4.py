"""Inception-v4, with the filter counts of the authors' own code where the paper's figures are ambiguous."""

from typing import Final

from tierflow.zoo.architecture import Architecture, Published
from tierflow.zoo.builder import Builder, Pair, Value

_HEAD_GAIN: Final = 6.0  # logits of photographs get a standard deviation near 2: no flat or saturated softmax
_EPSILON: Final = 1e-3


def build(builder: Builder, image: Value) -> Value:
    """The stem, four, seven and three blocks of kinds A, B and C with a reduction between, one dense layer."""
    value = _stem(builder, image)
    for number in range(4):
        value = _block_a(builder, value, f"mixed_a.{number}")
    value = _reduction_a(builder, value, "reduction_a")
    for number in range(7):
        value = _block_b(builder, value, f"mixed_b.{number}")
    value = _reduction_b(builder, value, "reduction_b")
    for number in range(3):
        value = _block_c(builder, value, f"mixed_c.{number}")
    value = builder.flatten(builder.global_average_pool(value, "avgpool"), "flatten")
    return builder.dense(value, "fc", 1000, gain=_HEAD_GAIN)


class _Branch:
    """A run of units (convolution, normalisation, rectifier), numbered from 1 under the branch's name."""

    def __init__(self, builder: Builder, value: Value, name: str) -> None:
        self._builder, self._name, self._number, self.value = builder, name, 0, value

    def unit(self, channels: int, kernel: int | Pair, *, stride: int = 1, valid: bool = False) -> "_Branch":
        """Adds a unit; its border is padded so that the size stays, unless it is `valid` only."""
        self._number += 1
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else (height // 2, width // 2)
        place = f"{self._name}/{{}}{self._number}"
        value = self._builder.conv(
            self.value, place.format("conv"), channels, (height, width), stride=stride, padding=padding
        )
        value = self._builder.batch_norm(value, place.format("bn"), epsilon=_EPSILON)
        self.value = self._builder.relu(value, place.format("relu"))
        return self


def _stem(builder: Builder, image: Value) -> Value:
    """Figure 3: to 35x35x384."""
    first = _Branch(builder, image, "stem").unit(32, 3, stride=2, valid=True).unit(32, 3, valid=True).unit(64, 3).value
    pooled = builder.max_pool(first, "stem/split1/pool", 3, stride=2)
    convolved = _Branch(builder, first, "stem/split1").unit(96, 3, stride=2, valid=True).value
    second = builder.concat([pooled, convolved], "stem/split1/concat")
    left = _Branch(builder, second, "stem/split2/branch1").unit(64, 1).unit(96, 3, valid=True).value
    right = _Branch(builder, second, "stem/split2/branch2").unit(64, 1).unit(64, (1, 7)).unit(64, (7, 1))
    third = builder.concat([left, right.unit(96, 3, valid=True).value], "stem/split2/concat")
    convolved = _Branch(builder, third, "stem/split3").unit(192, 3, stride=2, valid=True).value
    pooled = builder.max_pool(third, "stem/split3/pool", 3, stride=2)
    return builder.concat([convolved, pooled], "stem/split3/concat")


def _block_a(builder: Builder, value: Value, name: str) -> Value:
    """Figure 4, 35x35."""
    branches = [
        _pooled(builder, value, f"{name}/branch1", 96),
        _Branch(builder, value, f"{name}/branch2").unit(96, 1).value,
        _Branch(builder, value, f"{name}/branch3").unit(64, 1).unit(96, 3).value,
        _Branch(builder, value, f"{name}/branch4").unit(64, 1).unit(96, 3).unit(96, 3).value,
    ]
    return builder.concat(branches, f"{name}/concat")


def _block_b(builder: Builder, value: Value, name: str) -> Value:
    """Figure 5, 17x17."""
    third = _Branch(builder, value, f"{name}/branch3").unit(192, 1).unit(224, (1, 7)).unit(256, (7, 1))
    fourth = _Branch(builder, value, f"{name}/branch4").unit(192, 1).unit(192, (7, 1)).unit(224, (1, 7))
    branches = [
        _pooled(builder, value, f"{name}/branch1", 128),
        _Branch(builder, value, f"{name}/branch2").unit(384, 1).value,
        third.value,
        fourth.unit(224, (7, 1)).unit(256, (1, 7)).value,
    ]
    return builder.concat(branches, f"{name}/concat")


def _block_c(builder: Builder, value: Value, name: str) -> Value:
    """Figure 6, 8x8."""
    third = _Branch(builder, value, f"{name}/branch3").unit(384, 1).value
    fourth = _Branch(builder, value, f"{name}/branch4").unit(384, 1).unit(448, (3, 1)).unit(512, (1, 3)).value
    branches = [
        _pooled(builder, value, f"{name}/branch1", 256),
        _Branch(builder, value, f"{name}/branch2").unit(256, 1).value,
        *_fan(builder, third, f"{name}/branch3"),
        *_fan(builder, fourth, f"{name}/branch4"),
    ]
    return builder.concat(branches, f"{name}/concat")


def _fan(builder: Builder, value: Value, name: str) -> tuple[Value, Value]:
    """A row filter and a column filter side by side."""
    return (
        _Branch(builder, value, f"{name}/row").unit(256, (1, 3)).value,
        _Branch(builder, value, f"{name}/column").unit(256, (3, 1)).value,
    )


def _reduction_a(builder: Builder, value: Value, name: str) -> Value:
    """Figure 7 with k, l, m, n = 192, 224, 256, 384 (table 1): to 17x17x1024."""
    third = _Branch(builder, value, f"{name}/branch3").unit(192, 1).unit(224, 3)
    branches = [
        builder.max_pool(value, f"{name}/branch1/pool", 3, stride=2),
        _Branch(builder, value, f"{name}/branch2").unit(384, 3, stride=2, valid=True).value,
        third.unit(256, 3, stride=2, valid=True).value,
    ]
    return builder.concat(branches, f"{name}/concat")


def _reduction_b(builder: Builder, value: Value, name: str) -> Value:
    """Figure 8: to 8x8x1536."""
    third = _Branch(builder, value, f"{name}/branch3").unit(256, 1).unit(256, (1, 7)).unit(320, (7, 1))
    branches = [
        builder.max_pool(value, f"{name}/branch1/pool", 3, stride=2),
        _Branch(builder, value, f"{name}/branch2").unit(192, 1).unit(192, 3, stride=2, valid=True).value,
        third.unit(320, 3, stride=2, valid=True).value,
    ]
    return builder.concat(branches, f"{name}/concat")


def _pooled(builder: Builder, value: Value, name: str, channels: int) -> Value:
    pooled = builder.average_pool(value, f"{name}/pool", 3, padding=1)
    return _Branch(builder, pooled, name).unit(channels, 1).value


INCEPTION_V4: Final = Architecture(
    name="inceptionv4",
    title="Inception-v4",
    paper="Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the Impact of Residual Connections on "
    "Learning, AAAI 2017, figures 3 to 9",
    input_shape=(1, 3, 299, 299),
    parameters=Published(42.68e6, "timm, inception_v4", 0.001),
    multiply_accumulates=Published(12.28e9, "timm, inception_v4 at 299x299", 0.005),
    build=build,
    resizable=True,
    mean=(0.5, 0.5, 0.5),
    deviation=(0.5, 0.5, 0.5),
)
