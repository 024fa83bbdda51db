import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tierflow.errors import DeadlineExceededError, InvalidModelError, InvalidRequestError, UnsupportedError
from tierflow_worker.runtime import DTYPES, Cancellation, Session, create_session, numpy_dtype


def load(tmp_path: Path, nodes: list[onnx.NodeProto], *, dtype: str = "float32", opset: int = 21) -> Session:
    kind = TensorProto.DataType.Value(dtype.upper() if dtype not in ("float32", "float64") else _onnx_name(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [2, 3])],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return create_session(path)


def _onnx_name(dtype: str) -> str:
    return {"float32": "FLOAT", "float64": "DOUBLE"}[dtype]


def reshape(dtype: str) -> list[onnx.NodeProto]:
    shape = helper.make_node("Constant", [], ["s"], value=helper.make_tensor("s", TensorProto.INT64, [1], [6]))
    return [shape, helper.make_node("Reshape", ["x", "s"], ["y"], name="flat")]


@pytest.mark.parametrize("dtype", sorted(DTYPES - {"string"}))
def test_every_fixed_size_type_goes_through_unchanged(tmp_path: Path, dtype: str) -> None:
    session = load(tmp_path, reshape(dtype), dtype=dtype)
    x = (np.arange(6).reshape(2, 3) % 2).astype(numpy_dtype(dtype))
    assert session.inputs == {"x": dtype}
    answer = session.run({"x": x})["y"]
    assert answer.dtype == x.dtype
    assert answer.tobytes() == x.tobytes()


@pytest.mark.parametrize("kind", ["object of str", "object of bytes", "unicode", "bytes"])
def test_strings_are_fed_in_every_form_that_numpy_has_for_them(tmp_path: Path, kind: str) -> None:
    texts = [["a", "", "ü"], ["long " * 50, "é", "z"]]
    as_bytes = [[text.encode() for text in row] for row in texts]
    x = {
        "object of str": np.array(texts, dtype=object),
        "object of bytes": np.array(as_bytes, dtype=object),
        "unicode": np.array(texts),
        "bytes": np.array(as_bytes),
    }[kind]
    session = load(tmp_path, reshape("string"), dtype="string")
    assert session.run({"x": x})["y"].tolist() == [text for row in texts for text in row]


def test_a_string_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    session = load(tmp_path, reshape("string"), dtype="string")
    with pytest.raises(InvalidRequestError, match="input x has a string that is not UTF-8"):
        session.run({"x": np.array([[b"\xff"] * 3] * 2, dtype=object)})


def test_an_array_that_is_not_contiguous_is_read_by_its_strides(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        session = load(tmp_path, reshape(dtype), dtype=dtype)
        x = np.arange(6).reshape(3, 2).astype(numpy_dtype(dtype)).T
        assert session.run({"x": x})["y"].tolist() == x.ravel().tolist()


def test_an_unknown_operator_is_named_with_its_layer(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no operator Frob as layer stem/frob uses it") as caught:
        load(tmp_path, [helper.make_node("Frob", ["x"], ["y"], name="stem/frob")])
    assert caught.value.subject == "stem/frob"


def test_an_operator_of_an_unknown_domain_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Frob"):
        load(tmp_path, [helper.make_node("Frob", ["x"], ["y"], name="frob", domain="org.example")])


def test_a_type_that_no_kernel_moves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no operator Reshape.* as layer flat"):
        load(tmp_path, reshape("int4"), dtype="int4")
    with pytest.raises(UnsupportedError, match="can't take or return complex64"):
        numpy_dtype("complex64")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x0a\x12"])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=r"odd\.onnx"):
        create_session(path)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"gone\.onnx"):
        create_session(tmp_path / "gone.onnx")


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="not acyclic"):
        load(tmp_path, [helper.make_node("Add", ["x", "b"], ["y"]), helper.make_node("Relu", ["y"], ["b"])])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input x is missing"),
        ({"x": np.ones((2, 3), np.float32), "z": np.ones(1)}, "no input z; there are x"),
        ({"x": np.ones((2, 3))}, "input x must be float32, not float64"),
        ({"x": np.ones((2, 4), np.float32)}, "Got: 4 Expected: 3"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(tmp_path: Path, feeds: dict[str, np.ndarray], message: str) -> None:
    session = load(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(InvalidRequestError, match=message):
        session.run(feeds)
    assert session.run({"x": -np.ones((2, 3), np.float32)})["y"].max() == 0


def test_a_layer_that_fails_on_its_values_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="flat")],
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 3]), helper.make_tensor_value_info("s", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    with pytest.raises(InvalidRequestError, match=r"layer flat \(Reshape\)"):
        create_session(path).run({"x": np.ones((2, 3), np.float32), "s": np.array([7])})


def test_nan_goes_through_as_in_any_model(tmp_path: Path) -> None:
    session = load(tmp_path, [helper.make_node("Neg", ["x"], ["y"])])
    assert np.isnan(session.run({"x": np.full((2, 3), np.nan, np.float32)})["y"]).all()


def test_a_cancelled_run_ends_without_an_answer(tmp_path: Path) -> None:
    session = load(tmp_path, [helper.make_node("Neg", ["x"], ["y"])])
    cancellation = Cancellation()
    cancellation.cancel()
    assert cancellation.cancelled
    with pytest.raises(DeadlineExceededError):
        session.run({"x": np.ones((2, 3), np.float32)}, cancellation=cancellation)


def test_a_run_under_way_is_ended_from_another_thread(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Relu", ["v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", 1, [2, 3]),
        ],
        [helper.make_tensor_value_info("c_out", TensorProto.BOOL, []), helper.make_tensor_value_info("v_out", 1, None)],
    )
    endless = helper.make_tensor("n", TensorProto.INT64, [], [2**62])
    nodes = [
        helper.make_node("Constant", [], ["n"], value=endless),
        helper.make_node("Loop", ["n", "", "x"], ["y"], name="loop", body=body),
    ]
    session, cancellation = load(tmp_path, nodes), Cancellation()
    timer = threading.Timer(0.05, cancellation.cancel)
    timer.start()
    with pytest.raises(DeadlineExceededError):
        session.run({"x": np.ones((2, 3), np.float32)}, cancellation=cancellation)
    timer.join()
