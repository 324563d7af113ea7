# SPDX-License-Identifier: Apache-2.0
"""What the sections of a TFLite file may hold, and how a wrong one is named."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from raw_tflite import RawModel, RawOperator, RawTensor, activation, chain, constant
from tflite import BuiltinOperator, TensorType

from akida_backend.errors import ImportModelError
from akida_backend.graph import DType, Graph, Opaque, Tensor
from akida_backend.importers import flatbuffer_check, tflite_file
from akida_backend.importers.tflite import read_tflite


def read(model: RawModel) -> Graph:
    return read_tflite(model.to_bytes(), "m.tflite")


def opaque_model(*constants: RawTensor) -> RawModel:
    """A custom operator, which takes any tensor."""
    tensors = [activation(1, 2, name="x"), activation(1, 2, name="y"), *constants]
    return RawModel(tensors, [RawOperator("Mine", [0, *range(2, len(tensors))], [1])], [0], [1])


def read_constant(tensor: RawTensor) -> Tensor:
    tensor.name = "c"
    return read(opaque_model(tensor)).tensors["c"]


def packed(values: list[int]) -> bytes:
    """Two 4-bit numbers a byte, the first in the low half."""
    nibbles = [value & 15 for value in values] + [0] * (len(values) % 2)
    return bytes(a | b << 4 for a, b in zip(nibbles[0::2], nibbles[1::2], strict=True))


# Constants


@pytest.mark.parametrize(
    ("number", "dtype", "content", "expected"),
    [
        (TensorType.INT8, DType.INT8, b"\xff\x7f", [-1, 127]),
        (TensorType.UINT8, DType.UINT8, b"\xff\x7f", [255, 127]),
        (TensorType.INT16, DType.INT16, b"\xff\x7f\x00\x80", [32767, -32768]),
        (TensorType.UINT16, DType.UINT16, b"\xff\xff\x01\x00", [65535, 1]),
        (TensorType.INT32, DType.INT32, b"\x01\x02\x00\x00\xff\xff\xff\xff", [513, -1]),
        (TensorType.UINT32, DType.UINT32, b"\x01\x02\x00\x00\xff\xff\xff\xff", [513, 2**32 - 1]),
        (TensorType.INT64, DType.INT64, b"\x01" + bytes(7) + b"\xff" * 8, [1, -1]),
        (TensorType.FLOAT32, DType.FLOAT32, b"\x00\x00\x80\x3f\x00\x00\x00\xc0", [1.0, -2.0]),
        (TensorType.FLOAT16, DType.FLOAT16, b"\x00\x3c\x00\xc0", [1.0, -2.0]),
        (TensorType.BFLOAT16, DType.BFLOAT16, b"\x80\x3f\x00\xc0", [1.0, -2.0]),
        (TensorType.BOOL, DType.BOOL, b"\x00\x02", [False, True]),
        (TensorType.INT4, DType.INT4, packed([-8, 7]), [-8, 7]),
        (20, DType.UINT4, packed([15, 3]), [15, 3]),
    ],
)
def test_constants_are_decoded_by_type(
    number: int, dtype: DType, content: bytes, expected: list[float]
) -> None:
    tensor = read_constant(RawTensor([2], number, content))
    assert (tensor.dtype, tensor.shape) == (dtype, (2,))
    assert tensor.data is not None
    assert tensor.data.dtype == dtype.numpy
    assert tensor.data.tolist() == expected


def test_an_odd_number_of_4_bit_values_ends_in_a_filler() -> None:
    values = [-8, -1, 0, 1, 7]
    tensor = read_constant(RawTensor([5], TensorType.INT4, packed(values)))
    assert tensor.data is not None
    assert tensor.data.tolist() == values


def test_tensors_of_different_length_may_share_packed_values() -> None:
    values = packed([1, 2, 3, 4])
    first = RawTensor([4], TensorType.INT4, values, name="even")
    second = RawTensor([3], TensorType.INT4, name="odd", buffer=1)
    tensors = read(opaque_model(first, second)).tensors
    assert {name: tensors[name].data.tolist() for name in ("even", "odd")} == {  # type: ignore[union-attr]
        "even": [1, 2, 3, 4],
        "odd": [1, 2, 3],
    }


def test_types_without_numbers_keep_their_bytes() -> None:
    tensor = read_constant(RawTensor([1], TensorType.STRING, b"text"))
    assert tensor.dtype is DType.OTHER
    assert tensor.data is not None
    assert tensor.data.tobytes() == b"text"


def test_a_tensor_without_values_is_a_constant_unless_computed() -> None:
    model = opaque_model(RawTensor([0], TensorType.INT32, name="empty"))
    model.tensors[1].shape = [0, 4]
    graph = read(model)
    assert graph.tensors["empty"].is_constant
    assert not graph.tensors["y"].is_constant


def test_a_buffer_may_lie_behind_the_flatbuffer() -> None:
    tensor = RawTensor([3], TensorType.INT8, name="c", external=(2, 3))
    model = opaque_model(tensor)
    place = len(model.to_bytes())
    model.tensors[2] = dataclasses.replace(tensor, external=(place, 3))
    model.tail = bytes([5, 6, 7])
    data = read(model).tensors["c"].data
    assert data is not None
    assert data.tolist() == [5, 6, 7]


def test_offset_one_is_no_place_behind_the_flatbuffer() -> None:
    model = opaque_model(RawTensor([1, 2], name="c", external=(1, 1)))
    model.inputs = [0, 2]
    assert not read(model).tensors["c"].is_constant


def test_a_file_without_buffers_has_no_constants() -> None:
    model = opaque_model()
    model.buffers = False
    assert not any(tensor.is_constant for tensor in read(model).tensors.values())


# Names and scales


def test_names_are_made_unique() -> None:
    model = opaque_model(
        constant([1], name="x"), constant([1], name="x.1"), constant([1], name=""), constant([1])
    )
    model.tensors[1].name = "x"
    names = ["tensor_4", "tensor_5", "x", "x.1", "x.1.1", "x.2"]
    assert sorted(read(model).tensors) == names


def test_names_do_not_reach_a_terminal_with_control_characters() -> None:
    tensors = read(opaque_model(constant([1], name="a\x1b[2J"))).tensors
    assert "a\N{REPLACEMENT CHARACTER}[2J" in tensors


def test_scales_per_channel_come_with_their_axis() -> None:
    tensor = read_constant(
        constant(np.ones((2, 3)), "int8", scale=[0.5, 1.0, 2.0], zero_point=[0, 1, 2], axis=1)
    )
    assert tensor.quantization is not None
    assert tensor.quantization.scale.tolist() == [0.5, 1.0, 2.0]
    assert tensor.quantization.zero_point.tolist() == [0, 1, 2]
    assert tensor.quantization.axis == 1


def test_scales_of_a_vector_lie_on_its_only_axis() -> None:
    """Old converters copy the axis of depthwise weights to their bias."""
    tensor = read_constant(constant([1, 2], "int32", scale=[0.5, 1.0], axis=3))
    assert tensor.quantization is not None
    assert tensor.quantization.axis == 0


@pytest.mark.parametrize("zero_point", [[], [3]])
def test_zero_points_may_be_left_out_or_shared(zero_point: list[int]) -> None:
    tensor = read_constant(constant([1, 2], "int8", scale=[0.5, 1.0], zero_point=zero_point))
    assert tensor.quantization is not None
    assert tensor.quantization.zero_point.tolist() == (zero_point or [0]) * 2


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(constant([1], "int8"), id="no-record"),
        pytest.param(constant([1], "int8", scale=[0.0], zero_point=[0]), id="scale-zero"),
        pytest.param(constant([1], "float32", scale=[0.5]), id="float"),
        pytest.param(constant([1], "bool", scale=[0.5]), id="bool"),
        pytest.param(constant([1], "int8", zero_point=[3]), id="zero-point-only"),
        pytest.param(constant([1], "int8", scale=[0.5], details=2), id="blockwise"),
    ],
)
def test_no_usable_scale_is_no_quantization(tensor: RawTensor) -> None:
    assert read_constant(tensor).quantization is None


# Operator codes


@pytest.mark.parametrize(("deprecated", "builtin"), [(True, True), (True, False), (False, True)])
def test_operator_codes_are_read_from_either_field(deprecated: bool, builtin: bool) -> None:
    model = chain("DEQUANTIZE", [1, 2], [1, 2])
    model.tensors[1] = RawTensor([1, 2], TensorType.FLOAT32)
    model.deprecated_codes, model.builtin_codes = deprecated, builtin
    assert read(model).operations[0].location.type == "DEQUANTIZE"


def test_an_operator_code_beyond_127_is_read() -> None:
    (op,) = read(chain("GELU", [1, 2], [1, 2])).operations
    assert (op.location.type, getattr(op, "reason", "")) == ("GELU", "GELU is not modelled")


def test_working_memory_of_a_custom_operator_is_no_operand() -> None:
    (op,) = read(opaque_model(activation(1, 2**10, name="scratch"))).operations
    assert op.inputs == ("x",)


# Subgraphs, batch and open sizes


def test_further_subgraphs_are_left_to_opaque_operators() -> None:
    model = chain("WHILE", [1, 2], [1, 2])
    model.subgraphs = 3
    model.signatures = [0]
    (op,) = read(model).operations
    assert isinstance(op, Opaque)


@pytest.mark.parametrize("signature", [[-1, 2], None])
def test_an_open_batch_is_symbolic(signature: list[int] | None) -> None:
    model = chain("TANH", [1, 2], [1, 2])
    model.tensors[0].signature = signature
    graph = read(model)
    assert (graph.tensors["x"].shape, graph.batch) == ((None, 2), None)


def test_an_open_batch_may_stand_in_the_shape_itself() -> None:
    model = chain("TANH", [-1, 2], [-1, 2])
    assert read(model).tensors["y"].shape == (None, 2)


# What is refused


def broken(change: Callable[[RawModel], None]) -> RawModel:
    model = opaque_model(constant([1, 2], "int8", name="c", scale=[0.5, 1.0]))
    change(model)
    return model


def change_tensor(position: int, **fields: object) -> Callable[[RawModel], None]:
    def change(model: RawModel) -> None:
        model.tensors[position] = dataclasses.replace(model.tensors[position], **fields)  # type: ignore[arg-type]

    return change


def change_operator(**fields: object) -> Callable[[RawModel], None]:
    def change(model: RawModel) -> None:
        model.operators[0] = dataclasses.replace(model.operators[0], **fields)  # type: ignore[arg-type]

    return change


def change_model(**fields: object) -> Callable[[RawModel], None]:
    def change(model: RawModel) -> None:
        for name, value in fields.items():
            setattr(model, name, value)

    return change


def cycle(model: RawModel) -> None:
    model.tensors.append(activation(1, 2, name="z"))
    model.operators = [RawOperator("Mine", [3], [1]), RawOperator("Mine", [1], [3])]


def wrong_order(model: RawModel) -> None:
    model.tensors.append(activation(1, 2, name="z"))
    model.operators = [RawOperator("Mine", [3], [1]), RawOperator("Mine", [0], [3])]


def read_but_never_written(model: RawModel) -> None:
    model.tensors.append(activation(1, 2, name="z"))
    model.operators = [RawOperator(BuiltinOperator.GELU, [3], [1])]


def written_twice(model: RawModel) -> None:
    model.operators.append(model.operators[0])


def many_large_tensors(model: RawModel) -> None:
    model.tensors += [activation(1, 2**29) for _ in range(40)]
    model.operators += [RawOperator("Mine", [0], [n]) for n in range(3, 43)]


def many_scales_on_an_activation(model: RawModel) -> None:
    model.tensors[1].scale, model.tensors[1].zero_point = [0.5, 1.0], [0]
    model.tensors[1].axis = 1


REFUSED = [
    (change_model(version=2), "m.tflite, field version: schema version 2"),
    (change_model(subgraphs=0), "m.tflite, field subgraphs: the file holds no subgraph"),
    (change_model(signatures=[0, 1]), "field signature_defs: the signatures start at subgraphs"),
    (change_model(inputs=[9]), "subgraph 0, field inputs: tensor 9, but there are 3"),
    (change_model(inputs=[-1]), "subgraph 0, field inputs: tensor -1, but"),
    (change_model(inputs=[0, 0]), "field inputs: tensor 0 is a constant, a variable, or listed"),
    (change_model(inputs=[0, 2]), "field inputs: tensor 2 is a constant"),
    (change_model(outputs=[3]), "subgraph 0, field outputs: tensor 3, but there are 3"),
    (change_model(operators=[]), "field outputs: tensor 1 is never computed"),
    (change_operator(opcode_index=1), "op 0, field opcode_index: 1, but there are 1 codes"),
    (change_operator(outputs=[]), "op 0 Mine, field outputs: an operator without an output"),
    (change_operator(outputs=[3]), "op 0 Mine, field outputs: tensor 3, but there are 3"),
    (change_operator(inputs=[-2]), "op 0 Mine 'y', field inputs: tensor -2, but there are 3"),
    (change_operator(inputs=[1]), "op 0 Mine 'y', field inputs: tensor 1 'y' is read before"),
    (read_but_never_written, "op 0 GELU 'y', field inputs: tensor 3 'z' is read before"),
    (change_operator(outputs=[2]), "op 0 Mine 'c', field outputs: tensor 2 'c' already has"),
    (change_operator(outputs=[0]), "op 0 Mine 'x', field outputs: tensor 0 'x' already has"),
    (written_twice, "op 1 Mine 'y', field outputs: tensor 1 'y' already has a value"),
    (cycle, "op 0 Mine 'y', field inputs: tensor 3 'z' is read before any operator writes"),
    (wrong_order, "op 0 Mine 'y', field inputs: tensor 3 'z' is read before any operator"),
    (change_tensor(2, type=99), "tensor 2 'c', field type: 99 is not a tensor type"),
    (change_tensor(2, sparse=True), "tensor 2 'c', field sparsity: sparse tensors are not read"),
    (change_tensor(0, shape=[1] * 17), "tensor 0 'x', field shape: 17 axes, more than 16"),
    (change_tensor(0, signature=[1]), "field shape_signature: 1 axes, but the shape has 2"),
    (change_tensor(0, shape=[1, -2]), r"field shape: \[1, -2\] has a negative length"),
    (change_tensor(0, signature=[-7, 2]), r"field shape_signature: \[-7, 2\] has a negative"),
    (change_tensor(0, shape=[2**31 - 1] * 4), "tensor 0 'x', field shape: .* takes more than"),
    (change_tensor(0, shape=[2**31 - 1, 2, 0]), "tensor 0 'x', field shape: .* takes more than"),
    (many_large_tensors, "subgraph 0, field tensors: the shapes add up to"),
    (change_tensor(0, shape=[1, 0]), r"input 'x', field shape: \[1, 0\] holds no value"),
    (change_tensor(0, signature=[1, -1]), "input 'x', field shape: axis 1 has no fixed length"),
    (
        change_tensor(1, signature=[1, -1]),
        "op 0 Mine 'y', field shape: axis 1 of result 'y' has no fixed length",
    ),
    (change_tensor(2, buffer=7), "tensor 2 'c', field buffer: buffer 7, but there are 2"),
    (
        change_tensor(2, shape=[3]),
        r"tensor 2 'c', field buffer: buffer 1 holds 2 bytes, but \[3\] of int8 takes 3",
    ),
    (change_tensor(2, external=(2**20, 2)), "buffer 1, field offset: 2 bytes at 1048576, but"),
    (
        change_tensor(2, scale=[float("nan"), 1.0]),
        "tensor 2 'c', quantization, field scale: nan is not a finite number above zero",
    ),
    (change_tensor(2, scale=[float("inf"), 1.0]), "quantization, field scale: inf is not"),
    (change_tensor(2, scale=[-1.0, 1.0]), "quantization, field scale: -1.0 is not a finite"),
    (change_tensor(2, scale=[0.0, 1.0]), "quantization, field scale: 0.0 is not a finite"),
    (change_tensor(2, zero_point=[0, 128]), "field zero_point: 128 lies outside int8"),
    (change_tensor(2, zero_point=[0, 0, 0]), "field zero_point: 3 zero points beside 2 scales"),
    (
        change_tensor(2, shape=[1, 2], axis=2),
        "field quantized_dimension: axis 2 of a tensor with 2",
    ),
    (change_tensor(2, shape=[1, 2], axis=-1), "field quantized_dimension: axis -1 of a tensor"),
    (change_tensor(2, scale=[1.0] * 3), r"field scale: 3 scales, but axis 0 of \[2\] has 2"),
    (many_scales_on_an_activation, "tensor 'y', field quantization: 2 scales for a tensor that"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_a_wrong_field_is_refused_and_named(
    change: Callable[[RawModel], None], message: str
) -> None:
    with pytest.raises(ImportModelError, match=message) as caught:
        read(broken(change))
    assert caught.value.where.startswith("m.tflite")
    assert caught.value.remedy.endswith(".")


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x1c\x00\x00\x00TFL2", bytes(100)])
def test_a_file_without_the_identifier_is_refused(content: bytes) -> None:
    with pytest.raises(ImportModelError, match="has the identifier TFL3"):
        read_tflite(content, "m.tflite")


@pytest.mark.parametrize("root", [0, 8, 2**31, 2**32 - 1])
def test_a_root_outside_the_file_is_refused(root: int) -> None:
    content = root.to_bytes(4, "little") + b"TFL3"
    with pytest.raises(ImportModelError, match=r"m\.tflite, field version"):
        read_tflite(content, "m.tflite")


def test_nothing_at_all_is_a_model_without_operators() -> None:
    """An input that is an output: nothing to do, and nothing wrong."""
    graph = read(RawModel([activation(1, 2, name="x")], [], [0], [0]))
    assert (graph.inputs, graph.outputs, graph.operations) == (("x",), ("x",), ())


def test_limits_on_numbers_of_records_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_file, "MAX_TENSORS", 2)
    with pytest.raises(ImportModelError, match="field tensors: 3 entries, more than the 2"):
        read(broken(lambda _: None))


def test_index_vectors_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = flatbuffer_check.Budget(1000)
    budget.entries = flatbuffer_check.Allowance(5)
    monkeypatch.setattr(tflite_file, "Budget", lambda _: budget)
    with pytest.raises(ImportModelError, match="over a million entries"):
        read(broken(lambda _: None))


def test_vectors_are_bounded_by_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = flatbuffer_check.Budget(1000)
    budget.scanned = flatbuffer_check.Allowance(30)
    monkeypatch.setattr(tflite_file, "Budget", lambda _: budget)
    with pytest.raises(ImportModelError, match="add up to over 30 bytes, but it has 1000"):
        read(broken(lambda _: None))


def test_unpacked_constants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = flatbuffer_check.Budget(1000)
    budget.memory = flatbuffer_check.Allowance(3)
    monkeypatch.setattr(tflite_file, "Budget", lambda _: budget)
    with pytest.raises(ImportModelError, match="unpacking its data takes too much memory"):
        read(opaque_model(RawTensor([2], TensorType.INT4, b"\x21")))


def test_a_string_that_leaves_the_file_is_refused() -> None:
    content = bytearray(broken(lambda _: None).to_bytes())
    place = content.index(b"\x01\x00\x00\x00c\x00")
    content[place : place + 4] = (len(content)).to_bytes(4, "little")
    with pytest.raises(ImportModelError, match=r"tensor 2, field name: a string of .* leaves"):
        read_tflite(bytes(content), "m.tflite")


def test_a_signalling_nan_is_refused_without_a_warning() -> None:
    content = chain("TANH", [1, 2], [1, 2]).to_bytes()
    copy = content.replace(np.float32(0.5).tobytes(), b"\x01\x00\xa0\x7f")
    assert copy != content
    with pytest.raises(ImportModelError, match="field scale: nan is not a finite number"):
        read_tflite(copy, "m.tflite")


def test_an_offset_beyond_the_file_is_named_by_its_field() -> None:
    content = chain("SOFTMAX", [1, 2], [1, 2], table="SoftmaxOptions", Beta=1).to_bytes()
    messages = set()
    for place in range(8, len(content), 4):
        copy = bytearray(content)
        copy[place : place + 4] = b"\xf0\xff\xff\xff"
        try:
            read_tflite(bytes(copy), "m.tflite")
        except ImportModelError as error:
            messages.add(f"{error.where}: {error.problem}")
    for section in (
        "m.tflite, field operator_codes",
        "m.tflite: operator code 0, field deprecated_builtin_code",
        "m.tflite: tensor 0, field name",
        "m.tflite: tensor 0 'x', field shape",
        "m.tflite: tensor 1 'y', quantization, field scale",
        "m.tflite: op 0 SOFTMAX 'y', field builtin_options",
    ):
        assert f"{section}: points outside the file" in messages


def test_a_long_vector_is_refused_before_it_is_read() -> None:
    content = bytearray(broken(lambda _: None).to_bytes())
    place = content.index(b"\x02\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00")  # a shape
    content[place : place + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(ImportModelError, match="field shape: a vector of 2147483647 entries in"):
        read_tflite(bytes(content), "m.tflite")


def test_missing_options_with_a_type_are_refused() -> None:
    model = chain("SOFTMAX", [1, 2], [1, 2])
    model.operators[0].options_type = 9
    with pytest.raises(ImportModelError, match="SOFTMAX 'y', field builtin_options: is missing"):
        read(model)


def test_the_source_comes_with_its_checksum() -> None:
    content = opaque_model().to_bytes()
    graph = read_tflite(content, "m.tflite")
    assert graph.source == content
    assert graph.sha256 == hashlib.sha256(content).hexdigest()
    assert (graph.name, graph.format) == ("m.tflite", "tflite")


def test_a_custom_operator_without_a_name_is_called_custom() -> None:
    model = opaque_model()
    model.operators[0].code = ""
    (op,) = read(model).operations
    assert op.location.type == "CUSTOM"
