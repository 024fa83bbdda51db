"""The real architectures that the onnx package ships."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tierflow.model import open_model
from tierflow.model.extract import extract_segment, whole_model

LIGHT = sorted(Path(onnx.__file__).parent.glob("backend/test/data/light/light_*.onnx"))

# Parameters in millions and multiply-accumulates in billions, as the papers and model cards give them.
PUBLISHED = {
    "light_bvlc_alexnet": (61.0, 0.65),
    "light_densenet121": (8.0, 2.83),
    "light_inception_v1": (7.0, 1.43),
    "light_inception_v2": (11.2, 2.02),
    "light_resnet50": (25.6, 4.09),
    "light_squeezenet": (1.24, 0.35),
    "light_vgg19": (143.7, 19.63),
}


def run(path: Path, given: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, given)


def test_all_light_models_are_there() -> None:
    assert len(LIGHT) == 9


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_a_light_models_graph_has_the_published_size(path: Path) -> None:
    graph = open_model(str(path)).graph
    if path.stem in PUBLISHED:
        millions, billions = PUBLISHED[path.stem]
        assert graph.weight_bytes / 4e6 == pytest.approx(millions, rel=0.03)
        assert graph.multiply_accumulates / 1e9 == pytest.approx(billions, rel=0.03)
    assert all(layer.kind != "ConstantOfShape" for layer in graph.layers)
    assert len(graph.place) == len(graph.layers)


@pytest.mark.slow
@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_a_light_model_cut_in_the_middle_equals_the_whole(path: Path, tmp_path: Path) -> None:
    model = open_model(str(path))
    graph = model.graph
    half = len(graph.layers) // 2
    lower = {name for layer in graph.layers[:half] for name in layer.outputs}.union(graph.inputs)
    upper = {name for layer in graph.layers[half:] for name in layer.inputs}
    boundary = sorted(lower & upper)
    whole_model(model, tmp_path / "whole.onnx")
    extract_segment(model, graph.inputs, boundary, tmp_path / "head.onnx")
    extract_segment(model, boundary, graph.outputs, tmp_path / "tail.onnx")
    for name in ("whole", "head", "tail"):
        onnx.checker.check_model(tmp_path / f"{name}.onnx", full_check=True)
    generator = np.random.default_rng(0)
    given = {name: generator.standard_normal(graph.tensors[name].shape, dtype=np.float32) for name in graph.inputs}
    between = dict(zip(boundary, run(tmp_path / "head.onnx", given), strict=True))
    for one, other in zip(run(tmp_path / "whole.onnx", given), run(tmp_path / "tail.onnx", between), strict=True):
        assert np.abs(one - other).max() <= 1e-6 * np.abs(one).max()
