"""AlexNet with its two groups and local response normalisation, as the paper of 2012 defines it."""

from typing import Final

from tierflow.zoo.architecture import Architecture, Published
from tierflow.zoo.builder import Builder, Value

_HEAD_GAIN: Final = 4.0  # logits of photographs get a standard deviation near 2: no flat or saturated softmax


def build(builder: Builder, image: Value) -> Value:
    """Five convolutions (the second, fourth and fifth in two groups, one per GPU of the day), three dense layers."""
    value = builder.conv(image, "conv1", 96, 11, stride=4, bias=True)
    value = _normalised_pool(builder, builder.relu(value, "relu1"), 1)
    value = builder.conv(value, "conv2", 256, 5, padding=2, groups=2, bias=True)
    value = _normalised_pool(builder, builder.relu(value, "relu2"), 2)
    for number, channels, groups in ((3, 384, 1), (4, 384, 2), (5, 256, 2)):
        value = builder.conv(value, f"conv{number}", channels, 3, padding=1, groups=groups, bias=True)
        value = builder.relu(value, f"relu{number}")
    value = builder.flatten(builder.max_pool(value, "pool5", 3, stride=2), "flatten")
    for number in (6, 7):
        value = builder.relu(builder.dense(value, f"fc{number}", 4096), f"relu{number}")
    return builder.dense(value, "fc8", 1000, gain=_HEAD_GAIN)


def _normalised_pool(builder: Builder, value: Value, number: int) -> Value:
    # The paper's alpha is 1e-4 per channel of n = 5; ONNX divides its alpha by n.
    value = builder.local_response_norm(value, f"norm{number}", size=5, alpha=5e-4, beta=0.75, bias=2.0)
    return builder.max_pool(value, f"pool{number}", 3, stride=2)


ALEXNET: Final = Architecture(
    name="alexnet",
    title="AlexNet",
    paper="Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012",
    # The paper says 224, but its 55x55 outputs of conv1 take 227.
    input_shape=(1, 3, 227, 227),
    parameters=Published(60_965_224, "BVLC reference CaffeNet/AlexNet, two groups; the paper rounds to 60 million"),
    multiply_accumulates=Published(
        724e6, "Sze et al.: Efficient Processing of Deep Neural Networks, 2017, table II", 0.005
    ),
    build=build,
    resizable=False,
)
