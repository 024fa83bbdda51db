"""VGG-16: configuration D of the paper."""

from typing import Final

from tierflow.zoo.architecture import Architecture, Published
from tierflow.zoo.builder import Builder, Value

_HEAD_GAIN: Final = 0.6  # logits of photographs get a standard deviation near 2: no flat or saturated softmax
_STAGES: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def build(builder: Builder, image: Value) -> Value:
    """Thirteen 3x3 convolutions in five stages, three dense layers."""
    value = image
    for stage, (channels, depth) in enumerate(_STAGES, start=1):
        for number in range(1, depth + 1):
            value = builder.conv(value, f"conv{stage}_{number}", channels, 3, padding=1, bias=True)
            value = builder.relu(value, f"relu{stage}_{number}")
        value = builder.max_pool(value, f"pool{stage}", 2, stride=2)
    value = builder.flatten(value, "flatten")
    for number in (6, 7):
        value = builder.relu(builder.dense(value, f"fc{number}", 4096), f"relu{number}")
    return builder.dense(value, "fc8", 1000, gain=_HEAD_GAIN)


VGG16: Final = Architecture(
    name="vgg16",
    title="VGG-16",
    paper="Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, "
    "table 1, configuration D",
    input_shape=(1, 3, 224, 224),
    parameters=Published(138_357_544, "torchvision, vgg16; the paper's table 2 rounds to 138 million"),
    multiply_accumulates=Published(15.47e9, "torchvision, vgg16 (15.47 GFLOPS, a multiply-add counted once)", 0.001),
    build=build,
    resizable=False,
)
