"""ResNet-18, with projections where the shape changes (option B of the paper)."""

from typing import Final

from tierflow.zoo.architecture import Architecture, Published
from tierflow.zoo.builder import Builder, Value

_HEAD_GAIN: Final = 0.8  # logits of photographs get a standard deviation near 2: no flat or saturated softmax
_STAGES: Final = (64, 128, 256, 512)
_BRANCH_SCALE: Final = 0.5  # of a block's residual branch, so that the sum over eight blocks stays in range


def build(builder: Builder, image: Value) -> Value:
    """A 7x7 convolution, eight residual blocks of two 3x3 convolutions, one dense layer."""
    value = builder.conv(image, "conv1", 64, 7, stride=2, padding=3)
    value = builder.relu(builder.batch_norm(value, "bn1"), "relu")
    value = builder.max_pool(value, "maxpool", 3, stride=2, padding=1)
    for stage, channels in enumerate(_STAGES, start=1):
        for number in range(2):
            stride = 2 if stage > 1 and number == 0 else 1
            value = _block(builder, value, f"layer{stage}.{number}", channels, stride)
    value = builder.flatten(builder.global_average_pool(value, "avgpool"), "flatten")
    return builder.dense(value, "fc", 1000, gain=_HEAD_GAIN)


def _block(builder: Builder, value: Value, name: str, channels: int, stride: int) -> Value:
    branch = builder.conv(value, f"{name}/conv1", channels, 3, stride=stride, padding=1)
    branch = builder.relu(builder.batch_norm(branch, f"{name}/bn1"), f"{name}/relu1")
    branch = builder.conv(branch, f"{name}/conv2", channels, 3, padding=1)
    branch = builder.batch_norm(branch, f"{name}/bn2", scale=_BRANCH_SCALE)
    if stride > 1 or value.channels != channels:
        # No rectifier stands between this convolution and the sum: its mean square is to stay.
        value = builder.conv(value, f"{name}/downsample/conv", channels, 1, stride=stride, gain=1.0)
        value = builder.batch_norm(value, f"{name}/downsample/bn")
    return builder.relu(builder.add(branch, value, f"{name}/add"), f"{name}/relu")


RESNET18: Final = Architecture(
    name="resnet18",
    title="ResNet-18",
    paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, table 1",
    input_shape=(1, 3, 224, 224),
    parameters=Published(11_689_512, "torchvision, resnet18"),
    multiply_accumulates=Published(1.81e9, "torchvision, resnet18 (1.81 GFLOPS, a multiply-add counted once)", 0.005),
    build=build,
    resizable=True,
)
