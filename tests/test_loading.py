# SPDX-License-Identifier: Apache-2.0
"""`load` tells formats apart and says what it cannot read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from akida_backend import loading
from akida_backend.errors import ImportModelError, InputError
from akida_backend.loading import load
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder


@pytest.fixture(scope="module")
def content() -> bytes:
    b = GraphBuilder()
    return write_tflite(b.build(b.relu(b.input(3))))


def onnx_model() -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    return helper.make_model(graph)


def test_a_path_a_string_and_bytes_give_one_graph(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    graphs = [load(path), load(str(path)), load(content), load(bytearray(content))]
    assert {graph.sha256 for graph in graphs} == {graphs[0].sha256}
    assert [graph.name for graph in graphs] == [str(path), str(path), "model", "model"]


def test_the_name_may_be_given(content: bytes) -> None:
    graph = load(content, name="mine")
    assert graph.name == "mine"
    assert graph.operations[0].location.file == "mine"


def test_errors_name_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(content[:40])
    with pytest.raises(ImportModelError) as caught:
        load(path)
    assert caught.value.where.startswith(str(path))


@pytest.mark.parametrize("form", ["proto", "bytes", "path"])
def test_onnx_is_recognised_in_every_form(form: str, tmp_path: Path) -> None:
    model = onnx_model()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    given = {"proto": model, "bytes": model.SerializeToString(), "path": path}[form]
    graph = load(given)
    assert (graph.format, graph.inputs, graph.outputs) == ("onnx", ("x",), ("y",))
    assert graph.name == (str(path) if form == "path" else "model")


def test_dimensions_are_for_onnx(content: bytes) -> None:
    with pytest.raises(InputError, match="dimensions are for ONNX models"):
        load(content, dimensions={"N": 3})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "model: is empty"),
        (b"PK\x03\x04zipped", "starts with .*, which is neither TFLite nor ONNX"),
        (b"\x1c\x00\x00\x00TFL2", "which is neither TFLite nor ONNX"),
    ],
)
def test_other_content_is_refused(given: bytes, message: str) -> None:
    with pytest.raises(ImportModelError, match=message):
        load(given)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.tflite: cannot read the model: No such file"):
        load(tmp_path / "absent.tflite")


def test_a_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the model"):
        load(tmp_path)


def test_an_impossible_path_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot read the model"):
        load("a\0b")


@pytest.mark.parametrize("given", [None, 7, np.zeros(3)])
def test_other_objects_are_an_input_error(given: object) -> None:
    with pytest.raises(
        InputError, match=r"given as a path, as bytes or as an onnx\.ModelProto, not as"
    ):
        load(given)


def test_a_file_too_large_is_refused_unread(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    monkeypatch.setattr(loading, "MAX_FILE_BYTES", len(content) - 1)
    with pytest.raises(ImportModelError, match=r"more than \d+ bytes"):
        load(path)
