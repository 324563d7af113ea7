# SPDX-License-Identifier: Apache-2.0
"""ONNX files that contradict themselves, keep data elsewhere, or leave sizes open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import OnnxBuilder, assert_equals_onnxruntime, feeds_of, in_onnxruntime

from akida_backend.errors import ImportModelError, InputError
from akida_backend.execute import run_source
from akida_backend.graph import Conv2D, DType, FullyConnected
from akida_backend.importers import protobuf_check
from akida_backend.loading import load

RANDOM = np.random.default_rng(1)


def network(**changes: object) -> OnnxBuilder:
    b = OnnxBuilder(**changes)  # type: ignore[arg-type]
    x = b.real_input((1, 2, 5, 5), 0.5, 3)
    weights = b.weights(RANDOM.integers(-9, 9, (3, 2, 3, 3)), [0.1, 0.2, 0.3], axis=0)
    b.finish(b.node("Conv", x, weights), 0.25, 7)
    return b


def refusal(model: onnx.ModelProto | bytes) -> str:
    with pytest.raises(ImportModelError) as caught:
        load(model, name="m.onnx")
    assert caught.value.remedy
    return str(caught.value)


def changed(change: Callable[[onnx.ModelProto], object]) -> str:
    model = network().model()
    change(model)
    return refusal(model)


def replace(model: onnx.ModelProto, name: str, values: object, dtype: type) -> None:
    (old,) = [t for t in model.graph.initializer if t.name == name]
    old.CopyFrom(numpy_helper.from_array(np.asarray(values, dtype), name))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_a_scale_that_is_no_positive_number_is_refused(value: float) -> None:
    message = changed(lambda m: replace(m, "constant_1", value, np.float32))
    assert "m.onnx: op 0 DequantizeLinear 'dequantizelinear_3_node', field scale" in message
    assert "'constant_1' is not finite and above 0" in message


def test_scales_have_to_be_one_per_channel() -> None:
    message = changed(lambda m: replace(m, "constant_4", [0.1, 0.2], np.float32))
    assert "field zero_point: 'constant_5' beside 2 scales" in message

    def both(m: onnx.ModelProto) -> None:
        replace(m, "constant_4", [0.1, 0.2], np.float32)
        replace(m, "constant_5", [0, 0], np.int8)

    assert "2 scales for 'constant_6' [3, 2, 3, 3] along axis 0" in changed(both)


def test_weights_have_to_fit_the_image() -> None:
    message = changed(lambda m: replace(m, "constant_6", np.ones((3, 4, 3, 3)), np.int8))
    assert "op 2 Conv 'conv_8_node', field group: 1 groups of weights [3, 4, 3, 3]" in message


def test_a_window_has_to_fit_the_map() -> None:
    message = changed(lambda m: replace(m, "constant_6", np.ones((3, 2, 7, 3)), np.int8))
    assert "a window of 7x3 does not fit a map of 5x5" in message


def test_a_value_has_to_be_computed_before_it_is_read() -> None:
    def swap(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend(nodes[::-1])

    assert "field input: 'conv_8' is read before it is computed" in changed(swap)


def test_a_value_is_computed_once() -> None:
    message = changed(lambda m: m.graph.node.append(m.graph.node[0]))
    assert "field output: 'dequantizelinear_3' already has a value" in message


def test_an_output_has_to_be_computed() -> None:
    message = changed(lambda m: m.graph.output.append(onnx.ValueInfoProto(name="nowhere")))
    assert "output 'nowhere', field name: is never computed" in message


def test_a_constant_holds_as_many_values_as_its_shape() -> None:
    message = changed(lambda m: m.graph.initializer[0].dims.extend([2, 2]))
    assert "constant 'constant_1', field raw_data: holds 4 bytes, but [2, 2] of float32" in message


def test_a_constant_too_large_is_refused_before_it_is_made() -> None:
    def grow(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[4]
        del tensor.dims[:]
        tensor.dims.extend([2**20, 2**20])
        tensor.ClearField("raw_data")

    assert "the constants take over 1073741824 bytes" in changed(grow)


def test_a_negative_length_is_refused() -> None:
    message = changed(lambda m: m.graph.initializer[0].dims.append(-1))
    assert "field dims: [-1] of 1 axes" in message


def test_an_attribute_has_to_be_of_its_type() -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[2].attribute.append(helper.make_attribute("group", 1.0))

    assert "op 2 Conv 'conv_8_node', field group: an attribute of type" in changed(change)


def test_sparse_constants_are_refused() -> None:
    assert "sparse constants are not read" in changed(lambda m: m.graph.sparse_initializer.add())


def test_a_declared_shape_may_be_wrong_or_missing() -> None:
    """Declared shapes of computed values are what a writer believed: shapes are inferred."""
    model = network().model()
    graph = load(model)
    assert graph.tensors[graph.outputs[0]].shape == (None, 3, 3, 3)


def test_a_cut_file_is_refused() -> None:
    content = network().content()
    for length in (1, len(content) // 2, len(content) - 1):
        assert "not a sound ONNX file" in refusal(content[:length]) or length == 1


def test_a_file_of_other_bytes_is_refused() -> None:
    assert "the file holds no graph" in refusal(b"\x08\x08")
    with pytest.raises(ImportModelError, match="not a sound ONNX file"):
        load(b"\x08\x08\x3a\xff\xff\xff\xff\x0f", name="m.onnx")


def test_too_many_records_are_refused_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_check, "MAX_RECORDS", 50)
    assert "the file holds more than 50 records" in refusal(network().content())


def test_text_has_to_be_text() -> None:
    content = network().content().replace(b"conv_8_node", b"conv_8_\xff\xfe\xfd\xfc")
    assert "is not UTF-8" in refusal(content)


# Open sizes


def open_network() -> OnnxBuilder:
    b = OnnxBuilder()
    x = b.real_input(("N", 2, "height", "width"), 0.5, 3)
    b.finish(b.node("Conv", x, b.weights(RANDOM.integers(-9, 9, (3, 2, 3, 3)), 0.125)), 0.25, 7)
    return b


@pytest.mark.parametrize("length", [0, -1])
def test_an_axis_without_a_sound_length_needs_no_name_to_be_refused(length: int) -> None:
    model = open_network().model()
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_value = length
    assert "\n  " in refusal(model)


def test_an_open_axis_is_refused_by_its_name() -> None:
    message = refusal(open_network().model())
    assert "input 'x', field shape: axis 2 of [N, 2, height, width] has no fixed length" in message
    assert "dimensions=" in message


def test_open_axes_may_be_given_lengths() -> None:
    b = open_network()
    graph = load(b.content(), dimensions={"height": 6, "width": 7})
    assert graph.tensors["x"].shape == (None, 2, 6, 7)
    feeds = feeds_of(graph)
    (expected,) = in_onnxruntime(b.content(), feeds)
    np.testing.assert_array_equal(run_source(graph, feeds)[graph.outputs[0]], expected)
    np.testing.assert_array_equal(
        run_source(graph, feeds, host="runtime")[graph.outputs[0]], expected
    )


@pytest.mark.parametrize("dimensions", [{"depth": 3}, {"height": 0, "width": 3}])
def test_lengths_are_for_axes_that_are_open(dimensions: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"any of \['N', 'height', 'width'\]"):
        load(open_network().content(), dimensions=dimensions)


# Data in other files


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(
        network().model(),
        path,
        save_as_external_data=True,
        location="data.bin",
        size_threshold=0,
    )
    return path


def test_data_beside_the_model_are_read_and_kept(outside: Path) -> None:
    graph = load(outside)
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D)]
    assert graph.tensors[op.weights].dtype is DType.INT8
    (outside.parent / "data.bin").unlink()
    feeds = feeds_of(graph)
    mine = run_source(graph, feeds)[graph.outputs[0]]
    theirs = run_source(graph, feeds, host="runtime")[graph.outputs[0]]
    np.testing.assert_array_equal(mine, theirs)


def test_data_that_are_missing_or_short_are_refused(outside: Path) -> None:
    data = outside.parent / "data.bin"
    content = data.read_bytes()
    data.write_bytes(content[:-3])
    with pytest.raises(ImportModelError, match=r"'data.bin' ends \d+ bytes too early"):
        load(outside)
    data.unlink()
    with pytest.raises(ImportModelError, match=r"cannot read .data\.bin.: No such file"):
        load(outside)


def test_data_without_a_folder_are_refused(outside: Path) -> None:
    with pytest.raises(ImportModelError, match=r"the data are in .data\.bin."):
        load(outside.read_bytes())


@pytest.mark.parametrize("location", ["../data.bin", "/etc/passwd", "", "link.bin"])
def test_data_outside_the_folder_are_refused(
    outside: Path, tmp_path_factory: pytest.TempPathFactory, location: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "data.bin"
    elsewhere.write_bytes((outside.parent / "data.bin").read_bytes())
    (outside.parent / "link.bin").symlink_to(elsewhere)
    model = onnx.load(outside, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(ImportModelError, match="lies outside the model's folder"):
        load(outside)


def test_offset_and_length_have_to_fit(outside: Path) -> None:
    model = onnx.load(outside, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "length":
                entry.value = "99"
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(ImportModelError, match="99 bytes at"):
        load(outside)


# Constants of every kind


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.INT4, DType.INT4),
        (TensorProto.UINT4, DType.UINT4),
        (TensorProto.INT8, DType.INT8),
    ],
    ids=["int4", "uint4", "int8"],
)
def test_weights_of_four_and_eight_bits_are_read(kind: int, dtype: DType, *, raw: bool) -> None:
    b = OnnxBuilder(opset=21, ir_version=10)
    values = RANDOM.integers(0, 8, (3, 2, 1, 1)) - (0 if dtype is DType.UINT4 else 4)
    tensor = helper.make_tensor("weights", kind, values.shape, values.ravel().tolist())
    if raw:
        stored = numpy_helper.from_array(numpy_helper.to_array(tensor), "weights")
        assert stored.HasField("raw_data")
        tensor = stored
    zero = helper.make_tensor("zero", kind, [], [1])
    b.constants += [tensor, zero]
    real = b.node("DequantizeLinear", "weights", b.constant(0.5), "zero")
    x = b.real_input((1, 2, 4, 4), 0.5, 8)
    b.finish(b.node("Conv", x, real), 0.5, 9)
    graph = assert_equals_onnxruntime(b)
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D)]
    assert graph.tensors[op.weights].dtype is dtype
    np.testing.assert_array_equal(graph.constant(op.weights), values.transpose(0, 2, 3, 1))


def test_unsigned_weights_beside_signed_activations_are_shifted() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 2, 4, 4), 0.5, -3, np.int8)
    values = RANDOM.integers(0, 256, (3, 2, 1, 1))
    b.finish(b.node("Conv", x, b.weights(values, 0.0625, 130, dtype=np.uint8)), 4.0, 1, np.int8)
    graph = assert_equals_onnxruntime(b)
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D)]
    weights = graph.tensors[op.weights]
    assert (weights.dtype, weights.quantization.single_zero_point) == (DType.INT8, 2)  # type: ignore[union-attr]


def test_weights_quantized_in_the_file_are_folded() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 2, 4, 4), 0.5, 8)
    scales = b.scales([0.5, 0.25], [0, 0], np.int8)
    codes = b.node("QuantizeLinear", b.constant(RANDOM.normal(size=(2, 2, 3, 3))), *scales, axis=0)
    b.finish(b.node("Conv", x, b.node("DequantizeLinear", codes, *scales, axis=0)), 0.5, 9)
    graph = assert_equals_onnxruntime(b)
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D)]
    assert graph.tensors[op.weights].dtype is DType.INT8


def test_shared_weights_and_one_dequantize_for_two_readers() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 2, 4, 4), 0.5, 8)
    weights = b.weights(RANDOM.integers(-9, 9, (2, 2, 1, 1)), 0.125)
    first, second = (b.node("Conv", x, weights) for _ in range(2))
    total = b.node("Add", *(b.dequantize(b.quantize(r, 0.5, 9), 0.5, 9) for r in (first, second)))
    b.finish(total, 0.5, 9)
    graph = assert_equals_onnxruntime(b)
    convolutions = [op for op in graph.operations if isinstance(op, Conv2D)]
    assert len({op.weights for op in convolutions}) == 1
    assert len({i for op in graph.operations for i in op.sources}) == sum(
        len(op.sources) for op in graph.operations
    )


def test_dequantized_weights_may_be_moved_before_they_are_used() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 8), 0.5, 8)
    weights = b.weights(RANDOM.integers(-9, 9, (3, 2, 4)), 0.125)
    rows = b.node("Reshape", weights, b.constant([3, 8], np.int64))
    b.finish(b.node("MatMul", x, b.node("Transpose", rows, perm=[1, 0])), 0.5, 9)
    graph = assert_equals_onnxruntime(b)
    (op,) = [op for op in graph.operations if isinstance(op, FullyConnected)]
    assert graph.tensors[op.weights].shape == (3, 8)
    assert [b.nodes[i].op_type for i in op.sources][1:4] == [
        "DequantizeLinear",
        "Reshape",
        "Transpose",
    ]


def test_arithmetic_on_dequantized_constants_is_folded() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 8), 0.5, 8)
    constant = b.node("Neg", b.weights([3], 0.5))
    b.finish(b.node("Add", x, constant), 0.5, 9)
    graph = assert_equals_onnxruntime(b)
    assert [type(op).__name__ for op in graph.operations] == ["Add"]
