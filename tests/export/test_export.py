"""Run by `make test-torch`, with the extra [torch]; without it they are skipped."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tierflow.errors import InvalidInputError, MismatchError, UnsupportedError
from tierflow.model import open_model
from tierflow_cli.export_torch import export_source, load_source, module_source

torch = pytest.importorskip("torch", reason="needs the extra [torch]", exc_type=ImportError)
pytestmark = [pytest.mark.torch, pytest.mark.slow]


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, image: Any) -> Any:
        return self.dropout(torch.relu(self.norm(self.conv(image)))).mean(dim=(2, 3))


class Several(torch.nn.Module):
    def forward(self, left: Any, right: Any, index: Any) -> dict[str, Any]:
        return {"sum": left + right, "pair": (left * 2, torch.index_select(right, 0, index))}


class Chance(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x + torch.rand_like(x)


class FrozenExample(torch.nn.Module):
    """Computes a constant from its example while it is traced."""

    def forward(self, x: Any) -> Any:
        return x * (2.0 if torch.compiler.is_compiling() else 3.0)


class Unsupported(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.eigvals(x).abs()


def test_a_module_is_exported_in_evaluation_mode_and_read_by_tierflow(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    exported = export_source(module_source(Tiny(), input_shapes={"image": (1, 3, 8, 8)}), path)
    assert exported.path == path
    assert exported.inputs == {"image": (1, 3, 8, 8)}
    assert exported.largest_relative_difference <= 1e-5
    graph = open_model(str(path)).graph
    assert len(graph.layers) == exported.layers
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_torchvision_model_is_exported_by_its_name(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torchvision")
    exported = export_source(load_source(name, input_shapes={"x": (1, 3, 64, 64)}), tmp_path / "model.onnx")
    assert exported.largest_relative_difference <= 1e-4
    assert open_model(str(tmp_path / "model.onnx")).graph.multiply_accumulates > 1_000_000


def test_a_torchvision_model_takes_the_images_that_it_was_trained_with() -> None:
    pytest.importorskip("torchvision")
    assert load_source("inception_v3").example[0].shape == (1, 3, 299, 299)
    assert load_source("resnet18").example[0].shape == (1, 3, 224, 224)


def test_the_same_torchvision_model_is_exported_twice_alike() -> None:
    pytest.importorskip("torchvision")
    first, second = (load_source("squeezenet1_1").module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_exported_program_is_taken_from_its_file(tmp_path: Path) -> None:
    program = torch.export.export(Tiny().eval(), (torch.randn(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "tiny.pt2")
    exported = export_source(load_source(str(tmp_path / "tiny.pt2")), tmp_path / "tiny.onnx")
    assert exported.largest_relative_difference <= 1e-5


def test_several_inputs_and_outputs_of_several_types(tmp_path: Path) -> None:
    example = (torch.randn(3, 2), torch.randn(3, 2), torch.tensor([2, 0]))
    exported = export_source(module_source(Several(), example=example), tmp_path / "several.onnx")
    assert list(exported.inputs) == ["left", "right", "index"]
    assert len(exported.outputs) == 3
    assert exported.largest_relative_difference == 0


@pytest.mark.parametrize(
    "body", ["return Net()", "return Net(), (torch.randn(1, 3),)", "return Net(), torch.randn(1, 3)"]
)
def test_a_factory_of_the_current_folder_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    module = f"factory_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n    def forward(self, x):\n        return x + 1\n"
        f"def make():\n    {body}\n"
        "ready = Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    shapes = {"x": (1, 3)} if "randn" not in body else {}
    exported = export_source(load_source(f"{module}:make", input_shapes=shapes), tmp_path / "net.onnx")
    assert exported.inputs == {"x": (1, 3)}
    for other in ("Net", "ready"):
        assert load_source(f"{module}:{other}", input_shapes={"x": (1, 3)}).example[0].shape == (1, 3)
    with pytest.raises(InvalidInputError, match="no 'mak', did you mean make"):
        load_source(f"{module}:mak")


def test_a_model_that_depends_on_chance_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(MismatchError, match="Chance: ONNX Runtime's answer differs from torch's"):
        export_source(module_source(Chance(), input_shapes={"x": (4,)}), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_module_that_computes_otherwise_while_it_is_traced_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="differs"):
        export_source(module_source(FrozenExample(), input_shapes={"x": (4,)}), tmp_path / "model.onnx")


def test_what_torch_can_not_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="torch can't export Unsupported"):
        export_source(module_source(Unsupported(), input_shapes={"x": (3, 3)}), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet19", "no model 'resnet19', did you mean resnet18"),
        ("weights.pth", "holds weights without the model"),
        ("gone.pt2", "there is no file gone.pt2"),
        ("no_such_package:make", "No module named 'no_such_package'"),
        ("json:dumps", "json:dumps failed: TypeError"),
        ("collections:OrderedDict", "gives a OrderedDict; it must return a torch.nn.Module"),
    ],
)
def test_a_source_that_is_none_is_refused_by_name(text: str, message: str) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InvalidInputError, match=message):
        load_source(text)


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt2"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidInputError, match=r"odd\.pt2 is no program"):
        load_source(str(path))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "the shape of Tiny's input 'image' is not known"),
        ({"imgae": (1,)}, "no parameter 'imgae', did you mean image"),
    ],
)
def test_missing_or_misspelt_inputs_are_named(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        module_source(Tiny(), input_shapes=shapes)


def test_weights_are_chosen_for_torchvision_models_only() -> None:
    with pytest.raises(InvalidInputError, match="only be chosen for torchvision"):
        load_source("package.module:make", weights="DEFAULT")


def test_torch_is_not_imported_before_it_is_needed() -> None:
    script = "import sys, tierflow_cli.export_torch; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
