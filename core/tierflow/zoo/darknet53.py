"""Darknet-53, the classifier under YOLOv3."""

from typing import Final

from tierflow.zoo.architecture import Architecture, Published
from tierflow.zoo.builder import Builder, Value

_HEAD_GAIN: Final = 0.1  # logits of photographs get a standard deviation near 2: no flat or saturated softmax
_STAGES: Final = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
_SLOPE: Final = 0.1
_EPSILON: Final = 1e-6  # of Darknet's own batch normalisation
_BRANCH_SCALE: Final = 0.3  # of a block's residual branch, so that the sum over 23 blocks stays in range


def build(builder: Builder, image: Value) -> Value:
    """52 convolutions, most of them in residual blocks of a 1x1 and a 3x3 one, and one dense layer."""
    value = _unit(builder, image, "stem/{}", 32, 3)
    for stage, (channels, blocks) in enumerate(_STAGES, start=1):
        value = _unit(builder, value, f"stage{stage}/{{}}", channels, 3, stride=2)
        for number in range(blocks):
            name = f"stage{stage}.{number}"
            branch = _unit(builder, value, f"{name}/{{}}1", channels // 2, 1)
            branch = _unit(builder, branch, f"{name}/{{}}2", channels, 3, scale=_BRANCH_SCALE)
            value = builder.add(value, branch, f"{name}/add")
    value = builder.flatten(builder.global_average_pool(value, "avgpool"), "flatten")
    return builder.dense(value, "fc", 1000, gain=_HEAD_GAIN)


def _unit(
    builder: Builder, value: Value, name: str, channels: int, kernel: int, *, stride: int = 1, scale: float = 1.0
) -> Value:
    """Convolution, normalisation and leaky rectifier; `name` has a place for which of them it is."""
    value = builder.conv(value, name.format("conv"), channels, kernel, stride=stride, padding=kernel // 2)
    value = builder.batch_norm(value, name.format("bn"), epsilon=_EPSILON, scale=scale)
    return builder.leaky_relu(value, name.format("leaky"), slope=_SLOPE)


DARKNET53: Final = Architecture(
    name="darknet53",
    title="Darknet-53",
    paper="Redmon, Farhadi: YOLOv3: An Incremental Improvement, arXiv 1804.02767, table 1",
    input_shape=(1, 3, 256, 256),
    parameters=Published(41.61e6, "timm, darknet53; the paper gives none", 0.001),
    multiply_accumulates=Published(18.7e9 / 2, "the paper's table 2: 18.7 billion operations at 256x256", 0.01),
    build=build,
    resizable=True,
    mean=(0.0, 0.0, 0.0),
    deviation=(1.0, 1.0, 1.0),
)
