import hashlib
import subprocess
import sys
import tracemalloc

import numpy as np
import onnx
import pytest

from tierflow.errors import InvalidInputError, InvalidModelError
from tierflow.model.model import INLINE_BYTES
from tierflow.zoo.builder import learned_parameters
from tierflow.zoo.model import architecture, names, open_zoo_model
from tierflow.zoo.weights import Weight, content


def test_the_zoo_has_the_networks_of_the_d3_paper() -> None:
    assert names() == ("alexnet", "vgg16", "resnet18", "darknet53", "inceptionv4")


@pytest.mark.parametrize("name", names())
def test_parameters_and_multiply_accumulates_are_the_published_ones(name: str) -> None:
    model, known = open_zoo_model(name), architecture(name)
    parameters = learned_parameters(model.weights)
    assert parameters == pytest.approx(known.parameters.value, rel=known.parameters.tolerance), known.parameters.source
    operations = model.graph.multiply_accumulates
    published = known.multiply_accumulates
    assert operations == pytest.approx(published.value, rel=published.tolerance), published.source


@pytest.mark.parametrize(
    ("name", "parameters", "operations"),
    [
        ("alexnet", 60_965_224, 724_406_816),
        ("vgg16", 138_357_544, 15_470_264_320),
        ("resnet18", 11_689_512, 1_814_073_344),
        ("darknet53", 41_609_928, 9_285_115_904),
        ("inceptionv4", 42_679_816, 12_253_974_624),
    ],
)
def test_the_networks_stay_what_they_are(name: str, parameters: int, operations: int) -> None:
    model = open_zoo_model(name)
    assert learned_parameters(model.weights) == parameters
    assert model.graph.multiply_accumulates == operations


@pytest.mark.parametrize("name", names())
def test_a_skeleton_is_a_valid_model_whose_declared_shapes_are_those_that_onnx_infers(name: str) -> None:
    skeleton = open_zoo_model(name).skeleton
    declared = {value.name: _shape(value) for value in [*skeleton.graph.value_info, *skeleton.graph.output]}
    bare = onnx.ModelProto()
    bare.CopyFrom(skeleton)
    for initializer in bare.graph.initializer:
        initializer.ClearField("data_location")
    del bare.graph.value_info[:]
    bare.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    assert {value.name: _shape(value) for value in [*inferred.graph.value_info, *inferred.graph.output]} == declared
    assert declared[skeleton.graph.output[0].name] == (1, 1000)


@pytest.mark.parametrize("name", names())
def test_small_weights_are_in_the_skeleton_and_large_ones_are_not(name: str) -> None:
    model = open_zoo_model(name)
    for initializer in model.skeleton.graph.initializer:
        size = 4 * int(np.prod(initializer.dims))
        if size > INLINE_BYTES:
            assert initializer.data_location == onnx.TensorProto.EXTERNAL
            assert not initializer.raw_data
            assert not initializer.external_data
        else:
            assert initializer.raw_data == bytes(model.read_weight(initializer.name))


def test_layers_have_readable_names_that_their_outputs_share() -> None:
    graph = open_zoo_model("resnet18").graph
    assert [layer.name for layer in graph.layers][:6] == ["conv1", "bn1", "relu", "maxpool", *_block("layer1.0")[:2]]
    assert set(_block("layer1.0") + _block("layer4.1")) <= set(graph.place)
    assert {"layer2.0/downsample/conv", "layer2.0/downsample/bn", "avgpool", "flatten", "fc"} <= set(graph.place)
    assert all(layer.outputs == (layer.name,) for layer in graph.layers)
    assert len(graph.place) == len(graph.layers)


def test_weights_are_the_same_in_every_process() -> None:
    script = (
        "import hashlib; from tierflow.zoo.model import open_zoo_model; "
        "print(hashlib.sha256(open_zoo_model('resnet18').read_weight('layer3.1/conv1.weight')).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    here = open_zoo_model("resnet18").read_weight("layer3.1/conv1.weight")
    assert there == hashlib.sha256(here).hexdigest()


def test_weights_stay_what_they_are() -> None:
    # A change would make another model under the same identity: count `tierflow.zoo.model.VERSION` up instead.
    digest = hashlib.sha256(open_zoo_model("resnet18").read_weight("layer1.0/conv1.weight")).hexdigest()
    assert digest == "612a3148a3b81cd64fb81a31f4a0b8c9300703bfc05816c9aa82af627f2ba856"


def test_two_tensors_of_the_same_shape_differ() -> None:
    model = open_zoo_model("resnet18")
    assert model.read_weight("layer1.0/conv1.weight") != model.read_weight("layer1.0/conv2.weight")


@pytest.mark.parametrize("elements", [1, 2, 3, 5, 1023, (1 << 18) + 1])
def test_the_beginning_of_a_weight_does_not_depend_on_its_length(elements: int) -> None:
    short, long = (content(Weight("w", (count,), 0.0, 1.0), seed="s") for count in (elements, (1 << 19) + 7))
    assert np.array_equal(short, long[:elements])


def test_weights_are_spread_as_declared() -> None:
    values = content(Weight("w", (400, 500), 3.0, 0.5), seed="s")
    assert values.dtype == np.float32
    assert 2.5 <= values.min() < 2.501
    assert 3.499 < values.max() <= 3.5
    assert values.mean() == pytest.approx(3.0, abs=0.002)
    assert values.std() == pytest.approx(0.5 / np.sqrt(3), rel=0.01)


def test_one_weight_is_made_without_making_the_others() -> None:
    model = open_zoo_model("vgg16")
    tracemalloc.start()
    try:
        assert len(model.read_weight("conv5_3.weight")) == 512 * 512 * 9 * 4
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 512 * 512 * 9 * 4


def test_opening_makes_no_weight() -> None:
    tracemalloc.start()
    try:
        model = open_zoo_model("vgg16")
        assert model.graph.weight_bytes == 4 * 138_357_544
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_a_network_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        InvalidInputError, match=r"no network 'resnet50', did you mean resnet18.*; it has alexnet, vgg16"
    ):
        open_zoo_model("resnet50")


@pytest.mark.parametrize("spelling", ["Inception-v4", "inception_v4", "INCEPTIONV4"])
def test_spelling_does_not_change_the_identity(spelling: str) -> None:
    assert open_zoo_model(spelling).identity == "zoo:inceptionv4:1"


def test_a_weight_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidModelError, match=r"no weight 'conv1.weigth', did you mean conv1\.weight"):
        open_zoo_model("resnet18").read_weight("conv1.weigth")


def test_another_input_shape_changes_shapes_and_identity() -> None:
    model = open_zoo_model("resnet18", {"input": (2, 3, 320, 288)})
    assert model.identity == "zoo:resnet18:1;input=2x3x320x288"
    assert model.graph.tensors["maxpool"].shape == (2, 64, 80, 72)
    assert model.graph.tensors[model.graph.outputs[0]].shape == (2, 1000)


def test_the_own_input_shape_is_the_same_model() -> None:
    assert open_zoo_model("resnet18", {"input": (1, 3, 224, 224)}).identity == open_zoo_model("resnet18").identity


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("resnet18", {"image": (1, 3, 224, 224)}, "no input 'image'; its only one is 'input'"),
        ("resnet18", {"input": (1, 1, 224, 224)}, r"is \[batch, 3, height, width\], not 1x1x224x224"),
        ("resnet18", {"input": (3, 224, 224)}, r"is \[batch, 3, height, width\], not 3x224x224"),
        ("resnet18", {"input": (1, 3, 0, 224)}, r"is \[batch, 3, height, width\], not 1x3x0x224"),
        ("vgg16", {"input": (1, 3, 320, 320)}, "takes images of 224x224 only.*not 1x3x320x320"),
        ("inceptionv4", {"input": (1, 3, 40, 40)}, "too small.*give a larger one"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(name: str, shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        open_zoo_model(name, shapes)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def _block(name: str) -> list[str]:
    return [f"{name}/{layer}" for layer in ("conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu")]
