"""Reading ONNX files: what is kept, what is passed over, and what is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factories.models import convolutions, model_of, node, saved, value, weight, whole_numbers
from tierflow.errors import InvalidModelError, UnsupportedError
from tierflow.model import open_model
from tierflow.model.model import INLINE_BYTES


def initialisers(skeleton: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in skeleton.graph.initializer}


def adding(
    constant: onnx.TensorProto | None, *nodes: onnx.NodeProto, shape: tuple[int, ...] = (1000,)
) -> onnx.ModelProto:
    """A model that adds the tensor `w` to its input."""
    return model_of(
        [*nodes, node("Add", "x w", "y")], [value("x", shape)], [value("y", shape)], [constant] if constant else []
    )


def floats(tensor_name: str, content: list[float], **fields: object) -> TensorProto:
    return TensorProto(name=tensor_name, data_type=TensorProto.FLOAT, dims=[len(content)], **fields)


def test_large_weights_are_left_in_the_file_and_read_by_name(tmp_path: Path) -> None:
    whole = convolutions()
    model = open_model(str(saved(whole, tmp_path)))
    for original in whole.graph.initializer:
        kept = initialisers(model.skeleton)[original.name]
        assert bytes(model.read_weight(original.name)) == original.raw_data
        assert kept.dims == original.dims
        if len(original.raw_data) > INLINE_BYTES:
            assert kept.data_location == TensorProto.EXTERNAL
            assert not kept.raw_data
            assert not kept.external_data
        else:
            assert kept.raw_data == original.raw_data
    assert any(len(original.raw_data) > INLINE_BYTES for original in whole.graph.initializer)


def test_a_weight_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    model = open_model(str(saved(convolutions(), tmp_path)))
    with pytest.raises(InvalidModelError, match="has no weight w9"):
        model.read_weight("w9")


CONTENT = [float(number) / 7 for number in range(1000)]


@pytest.mark.parametrize(
    ("tensor", "array"),
    [
        (floats("w", CONTENT, float_data=CONTENT), np.array(CONTENT, dtype=np.float32)),
        (
            TensorProto(name="w", data_type=TensorProto.DOUBLE, dims=[1000], double_data=CONTENT),
            np.array(CONTENT),
        ),
        (
            TensorProto(name="w", data_type=TensorProto.INT64, dims=[1000], int64_data=range(-500, 500)),
            np.arange(-500, 500, dtype=np.int64),
        ),
        (
            TensorProto(name="w", data_type=TensorProto.INT32, dims=[1000], int32_data=range(-500, 500)),
            np.arange(-500, 500, dtype=np.int32),
        ),
        (
            TensorProto(name="w", data_type=TensorProto.UINT64, dims=[1000], uint64_data=range(1000)),
            np.arange(1000, dtype=np.uint64),
        ),
        (
            helper.make_tensor("w", TensorProto.FLOAT16, [1000], np.array(CONTENT, dtype=np.float16)),
            np.array(CONTENT, dtype=np.float16),
        ),
        (
            TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=[500], float_data=CONTENT),
            np.array(CONTENT, dtype=np.float32).view(np.complex64),
        ),
    ],
    ids=["float", "double", "int64", "int32", "uint64", "float16", "complex64"],
)
def test_content_in_typed_fields_is_read_as_its_raw_bytes(
    tmp_path: Path, tensor: TensorProto, array: np.ndarray[tuple[int], np.dtype[np.generic]]
) -> None:
    model = open_model(str(saved(adding(tensor), tmp_path)))
    assert initialisers(model.skeleton)["w"].data_location == TensorProto.EXTERNAL
    assert bytes(model.read_weight("w")) == array.tobytes()


def test_small_content_in_typed_fields_becomes_raw(tmp_path: Path) -> None:
    model = open_model(str(saved(adding(floats("w", [1.0, 2.0], float_data=[1.0, 2.0]), shape=(2,)), tmp_path)))
    assert initialisers(model.skeleton)["w"].raw_data == np.array([1, 2], dtype=np.float32).tobytes()


def test_elements_that_are_not_packed_are_read_alike(tmp_path: Path) -> None:
    array = np.array(CONTENT, dtype=np.float32)
    one_by_one = b"".join(b"\x25" + number.tobytes() for number in array)
    tensor = floats("w", CONTENT).SerializeToString() + one_by_one
    whole = adding(None).SerializeToString()
    graph = adding(None).graph.SerializeToString()
    from tierflow.model.wire import header

    with_tensor = graph + header(5, len(tensor)) + tensor
    changed = whole.replace(header(7, len(graph)) + graph, header(7, len(with_tensor)) + with_tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(changed)
    assert bytes(open_model(str(path)).read_weight("w")) == array.tobytes()


def test_packed_four_bit_weights_keep_their_packing(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.INT4, [5000], np.arange(5000) % 16 - 8)
    model = open_model(
        str(saved(model_of([node("Identity", "x", "y")], [value("x", [1])], [value("y", [1])], [tensor]), tmp_path))
    )
    assert len(model.read_weight("w")) == 2500


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("attribute", "dtype"),
    [("value", np.float32), ("value_floats", np.float32), ("value_ints", np.int64), ("sparse_value", np.float32)],
)
def test_a_constant_node_becomes_an_initialiser(
    tmp_path: Path, attribute: str, dtype: type[np.generic], large: bool
) -> None:
    count = 1000 if large else 10
    array = np.arange(count).astype(dtype)
    given: dict[str, object] = {
        "value": numpy_helper.from_array(array),
        "value_floats": array.tolist(),
        "value_ints": array.tolist(),
        "sparse_value": helper.make_sparse_tensor(
            numpy_helper.from_array(array, "values"),
            numpy_helper.from_array(np.arange(count, dtype=np.int64), "indices"),
            [count],
        ),
    }
    constant = helper.make_node("Constant", [], ["w"], **{attribute: given[attribute]})
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    whole = model_of([constant, node("Add", "x w", "y")], [value("x", [count], kind)], [value("y", [count], kind)])
    model = open_model(str(saved(whole, tmp_path)))
    assert [made.op_type for made in model.skeleton.graph.node] == ["Add"]
    assert bytes(model.read_weight("w")) == array.tobytes()
    assert initialisers(model.skeleton)["w"].HasField("raw_data") is not large


@pytest.mark.parametrize(("attribute", "given"), [("value_float", 2.5), ("value_int", 3)])
def test_a_scalar_constant_becomes_an_initialiser_without_dimensions(
    tmp_path: Path, attribute: str, given: float
) -> None:
    kind = TensorProto.FLOAT if attribute == "value_float" else TensorProto.INT64
    whole = model_of(
        [helper.make_node("Constant", [], ["w"], **{attribute: given}), node("Add", "x w", "y")],
        [value("x", [2], kind)],
        [value("y", [2], kind)],
    )
    model = open_model(str(saved(whole, tmp_path)))
    tensor = initialisers(model.skeleton)["w"]
    assert numpy_helper.to_array(tensor) == given
    assert tensor.dims == []


def test_string_constants_stay_inline(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value_strings=["a" * 2000, "b"])
    whole = model_of(
        [constant, node("Identity", "w", "copy"), node("Equal", "x copy", "y")],
        [value("x", [2], TensorProto.STRING)],
        [value("y", [2], TensorProto.BOOL)],
    )
    tensor = initialisers(open_model(str(saved(whole, tmp_path))).skeleton)["w"]
    assert list(tensor.string_data) == [b"a" * 2000, b"b"]


def test_a_sparse_initialiser_becomes_dense(tmp_path: Path) -> None:
    whole = adding(None)
    whole.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([5, 6], dtype=np.float32), "w"),
            numpy_helper.from_array(np.array([3, 999], dtype=np.int64), "places"),
            [1000],
        )
    )
    dense = np.zeros(1000, dtype=np.float32)
    dense[3], dense[999] = 5, 6
    model = open_model(str(saved(whole, tmp_path)))
    assert bytes(model.read_weight("w")) == dense.tobytes()
    assert not model.skeleton.graph.sparse_initializer


def branching(name_of_weight: str = "w", output: str = "") -> onnx.ModelProto:
    """A model whose If adds a large weight in one branch; the weight, or the sum, is the branch's result."""
    taken = helper.make_graph(
        [] if output else [node("Add", f"x {name_of_weight}", "then")],
        "yes",
        [],
        [value(output or "then", [1000])],
        [weight(name_of_weight, 1000)],
    )
    other = helper.make_graph([node("Neg", "x", "else")], "no", [], [value("else", [1000])])
    return model_of(
        [
            node("ReduceSum", "x", "total", keepdims=0),
            node("Greater", "total zero", "positive"),
            node("If", "positive", "y", then_branch=taken, else_branch=other),
            node("Relu", "y", "z"),
        ],
        [value("x", [1000])],
        [value("z", [1000])],
        [numpy_helper.from_array(np.array(0, dtype=np.float32), "zero")],
    )


@pytest.mark.parametrize("make", [branching, lambda: branching("y"), lambda: branching("w", "w")])
def test_a_large_weight_of_a_subgraph_is_left_in_the_file_too(
    tmp_path: Path, make: Callable[[], onnx.ModelProto]
) -> None:
    import onnxruntime

    from tierflow.model.extract import whole_model

    original = make()
    path = saved(original, tmp_path)
    model = open_model(str(path))
    (large,) = [tensor for tensor in model.skeleton.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert bytes(model.read_weight(large.name)) == weight("w", 1000).raw_data
    assert model.skeleton.ByteSize() < 2000
    whole_model(model, tmp_path / "copy.onnx")
    for sign in (1, -1):
        given = {"x": np.full(1000, sign, dtype=np.float32)}
        first, second = (
            onnxruntime.InferenceSession(file).run(None, given)[0] for file in (path, tmp_path / "copy.onnx")
        )
        assert np.array_equal(first, second)


def with_external_data(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save_model(convolutions(), path, save_as_external_data=True, location="all.bin", size_threshold=0)
    return path


def test_external_data_is_read_from_beside_the_model(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    model = open_model(str(path))
    for original in convolutions().graph.initializer:
        assert bytes(model.read_weight(original.name)) == original.raw_data
    assert initialisers(model.skeleton)["b1"].raw_data == convolutions().graph.initializer[1].raw_data


@pytest.mark.parametrize("size", [3, 3000])
def test_constants_with_external_data_are_read_too(tmp_path: Path, size: int) -> None:
    content = np.arange(size, dtype=np.float32)
    (tmp_path / "all.bin").write_bytes(content.tobytes())
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[size], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="all.bin")
    yes = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor), node("Add", "x c", "then")],
        "yes",
        [],
        [value("then", [size])],
    )
    no = helper.make_graph([node("Neg", "x", "else")], "no", [], [value("else", [size])])
    whole = model_of(
        [
            helper.make_node("Constant", [], ["w"], value=tensor),
            node("If", "chosen", "y", then_branch=yes, else_branch=no),
            node("Add", "y w", "z"),
        ],
        [value("x", [size]), value("chosen", [], TensorProto.BOOL)],
        [value("z", [size])],
    )
    model = open_model(str(saved(whole, tmp_path)))
    assert model.graph.layers[0].weights == ("c",)
    for name in ("c", "w"):
        assert bytes(model.read_weight(name)) == content.tobytes()


def test_a_changed_external_file_changes_the_identity(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    before = open_model(str(path), cache_dir=tmp_path / "cache").identity
    content = bytearray((tmp_path / "all.bin").read_bytes())
    content[5000] ^= 1
    (tmp_path / "all.bin").unlink()
    (tmp_path / "all.bin").write_bytes(content)
    assert open_model(str(path), cache_dir=tmp_path / "cache").identity != before


def test_a_missing_external_file_is_named_with_the_weight(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    (tmp_path / "all.bin").unlink()
    with pytest.raises(InvalidModelError, match=r"weight w1 is in .*all\.bin, which is not there; put that file"):
        _ = open_model(str(path)).graph


def test_an_external_file_that_is_too_short_is_named_with_the_weight(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    content = (tmp_path / "all.bin").read_bytes()
    (tmp_path / "all.bin").write_bytes(content[:3000])
    with pytest.raises(InvalidModelError, match=r"weight w2 ends at byte \d+ of .*all\.bin, which has only 3000"):
        _ = open_model(str(path)).graph


def test_an_external_file_that_shrinks_after_opening_is_named(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    model = open_model(str(path))
    _ = model.graph
    (tmp_path / "all.bin").write_bytes(b"")
    with pytest.raises(InvalidModelError, match=r"all\.bin ends before the content of weight w2"):
        model.read_weight("w2")
    (tmp_path / "all.bin").unlink()
    with pytest.raises(InvalidModelError, match=r"weight w2 can't be read from .*all\.bin: No such file"):
        model.read_weight("w2")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", ""])
def test_external_data_outside_of_the_models_folder_is_refused(tmp_path: Path, location: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(InvalidModelError, match="no path below the model's folder"):
        _ = open_model(str(saved(adding(tensor), tmp_path))).skeleton


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"just some text\n", "no ONNX model"),
        (bytes(range(256)) * 16, "no ONNX model"),
        (b"<!DOCTYPE html><html></html>", "no ONNX model"),
        (b"\x00" * 100, "no ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "git lfs pull"),
        (TensorProto(name="no model", dims=[5]).SerializeToString(), "no ONNX model"),
    ],
    ids=["empty", "text", "bytes", "html", "zeros", "lfs", "tensor"],
)
def test_a_file_that_is_no_onnx_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=says) as caught:
        _ = open_model(str(path)).graph
    assert caught.value.subject == str(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_directory_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"gone\.onnx can't be read: No such file"):
        _ = open_model(str(tmp_path / "gone.onnx")).graph
    with pytest.raises(InvalidModelError, match=r"is a directory; give the path of the \.onnx file in it"):
        _ = open_model(str(tmp_path)).graph
    with pytest.raises(InvalidModelError, match="no regular file"):
        _ = open_model("/dev/null").graph


def test_a_model_cut_short_at_any_byte_is_refused(tmp_path: Path) -> None:
    content = convolutions().SerializeToString()
    path = tmp_path / "short.onnx"
    ends = {*range(1, 60), *range(60, len(content), 97), *range(len(content) - 60, len(content))}
    for end in sorted(ends):
        path.write_bytes(content[:end])
        with pytest.raises(InvalidModelError, match=r"short\.onnx (was cut short|is no ONNX model)"):
            _ = open_model(str(path)).graph
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidModelError, match=r"was cut short \(\d+ bytes\).*get the model again"):
        _ = open_model(str(path)).graph


def test_a_weight_whose_content_does_not_fit_its_shape_is_named(tmp_path: Path) -> None:
    for dims, count in (([1000], 999), ([4], 3)):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 4 * count)
        with pytest.raises(InvalidModelError, match=rf"weight w .*has {4 * count} bytes of content"):
            _ = open_model(str(saved(adding(tensor), tmp_path))).skeleton
    empty = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000])
    with pytest.raises(InvalidModelError, match="weight w has 1000 elements by its shape and no content"):
        _ = open_model(str(saved(adding(empty), tmp_path))).skeleton


def test_two_initialisers_of_one_name_are_refused(tmp_path: Path) -> None:
    whole = adding(weight("w", 1000))
    whole.graph.initializer.append(weight("w", 1000))
    with pytest.raises(InvalidModelError, match="two initialisers are called w"):
        _ = open_model(str(saved(whole, tmp_path))).skeleton


def test_an_element_type_that_onnx_does_not_know_is_refused(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=99, dims=[1000], raw_data=b"\0" * 4000)
    with pytest.raises(UnsupportedError, match="element type 99"):
        _ = open_model(str(saved(adding(tensor), tmp_path))).skeleton


def test_initialisers_that_are_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    whole = convolutions()
    whole.ir_version = 3
    whole.graph.input.extend(value(tensor.name, list(tensor.dims)) for tensor in whole.graph.initializer)
    graph = open_model(str(saved(whole, tmp_path))).graph
    assert graph.inputs == ("image",)
    assert set(graph.weights) == {tensor.name for tensor in whole.graph.initializer}


def test_functions_of_the_model_are_inlined(tmp_path: Path) -> None:
    twice = helper.make_function(
        "local", "Twice", ["a"], ["c"], [node("Add", "a a", "b"), node("Relu", "b", "c")], [helper.make_opsetid("", 21)]
    )
    whole = model_of(
        [helper.make_node("Twice", ["x"], ["y"], domain="local", name="first"), node("Add", "y w", "z")],
        [value("x", [2])],
        [value("z", [2])],
        [weight("w", 2)],
        domains=["local"],
    )
    whole.functions.append(twice)
    graph = open_model(str(saved(whole, tmp_path))).graph
    assert [layer.kind for layer in graph.layers] == ["Add", "Relu", "Add"]


def test_shape_values_stay_inline_for_shape_inference(tmp_path: Path) -> None:
    whole = model_of(
        [node("Reshape", "x shape", "y")], [value("x", [6])], [value("y", None)], [whole_numbers("shape", 2, 3)]
    )
    assert open_model(str(saved(whole, tmp_path))).graph.tensors["y"].shape == (2, 3)


PROBE = """
import sys
import onnx
def peak():
    # Not getrusage: its figure outlives exec, and so would be the test runner's.
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
before = peak()
from tierflow.model import open_model
graph = open_model(sys.argv[1]).graph
assert graph.weight_bytes > 2**30, graph.weight_bytes
print(peak() - before)
"""


def test_reading_a_model_takes_no_memory_for_its_weights(tmp_path: Path) -> None:
    from tierflow.model.wire import header

    tensors = [TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[4096, 4096]) for number in range(20)]
    nodes = [node("Gemm", f"h{number} w{number}", f"h{number + 1}", transB=1) for number in range(20)]
    whole = model_of(nodes, [value("h0", [1, 4096])], [value("h20", [1, 4096])])
    size = 4096 * 4096 * 4
    heads = [tensor.SerializeToString() + header(9, size) for tensor in tensors]
    graph = whole.graph.SerializeToString()
    length = len(graph) + sum(len(header(5, len(head) + size)) + len(head) + size for head in heads)
    whole.ClearField("graph")
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.write(whole.SerializeToString() + header(7, length) + graph)
        for head in heads:
            file.write(header(5, len(head) + size) + head)
            file.truncate(file.tell() + size)  # a hole: it takes no room on the disk
            file.seek(0, 2)
    child = subprocess.run([sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 100, "megabytes"
