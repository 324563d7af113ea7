# SPDX-License-Identifier: Apache-2.0
"""NCHW files as NHWC graphs: where values are transposed, and where they are not."""

from __future__ import annotations

import numpy as np
from onnx_models import OnnxBuilder, assert_equals_onnxruntime, kinds, opaque

from akida_backend.graph import Concatenation, Conv2D, FullyConnected, Mean, Pad, Reshape, Transpose
from akida_backend.importers.onnx_forms import file_forms

RANDOM = np.random.default_rng(5)
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def conv(b: OnnxBuilder, x: str, channels: int = 4, filters: int = 4, kernel: int = 1) -> str:
    values = RANDOM.integers(-7, 8, (filters, channels, kernel, kernel))
    real = b.node("Conv", x, b.weights(values, 0.125))
    return b.dequantize(b.quantize(real, 1.0, 128), 1.0, 128)


def transposes(b: OnnxBuilder) -> list[tuple[int, ...]]:
    graph = assert_equals_onnxruntime(b)
    return [op.permutation for op in graph.operations if isinstance(op, Transpose)]


def test_a_chain_of_convolutions_is_transposed_at_its_ends() -> None:
    b = OnnxBuilder()
    x = conv(b, conv(b, conv(b, b.real_input((1, 4, 6, 8)))))
    b.finish(x, 1.0)
    graph = assert_equals_onnxruntime(b)
    assert kinds(graph) == ["Transpose", "Conv2D", "Conv2D", "Conv2D", "Transpose"]
    (first, *_, last) = graph.operations
    # The last pair of QuantizeLinear and DequantizeLinear changes nothing.
    assert (first.sources, last.sources) == ((), (12, 13))
    assert graph.tensors["x"].shape == (None, 4, 6, 8)
    assert graph.tensors[graph.outputs[0]].shape == (None, 4, 6, 8)
    assert graph.tensors[first.outputs[0]].shape == (None, 6, 8, 4)


def test_transposes_of_the_file_cancel_against_the_layout() -> None:
    b = OnnxBuilder()
    x = b.node("Transpose", b.real_input((1, 6, 8, 4)), perm=list(TO_FIRST))
    y = b.node("Transpose", conv(b, x), perm=list(TO_LAST))
    b.finish(y, 1.0)
    graph = assert_equals_onnxruntime(b)
    assert kinds(graph) == ["Conv2D"]
    assert [b.nodes[i].op_type for i in graph.operations[0].sources].count("Transpose") == 2


def test_a_transpose_that_stays_is_the_files_own() -> None:
    b = OnnxBuilder()
    b.finish(b.node("Transpose", conv(b, b.real_input((1, 4, 6, 8))), perm=[0, 2, 1, 3]), 1.0)
    graph = assert_equals_onnxruntime(b)
    last = graph.operations[-1]
    assert isinstance(last, Transpose)
    assert [b.nodes[i].op_type for i in last.sources].count("Transpose") == 1


def test_a_residual_sum_needs_no_transpose_of_its_own() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 4, 6, 8))
    b.finish(b.node("Add", conv(b, x), x), 1.0)
    graph = assert_equals_onnxruntime(b)
    assert kinds(graph) == ["Transpose", "Conv2D", "Add", "Transpose"]


def test_axes_follow_the_layout() -> None:
    b = OnnxBuilder()
    x = conv(b, b.real_input((1, 4, 6, 8)))
    y = conv(b, x)
    joined = b.node("Concat", x, y, axis=1)
    padded = b.node("Pad", joined, b.constant([0, 0, 1, 2, 0, 0, 0, 3], np.int64))
    b.finish(b.node("ReduceMean", padded, axes=[3], keepdims=0), 0.5)
    graph = assert_equals_onnxruntime(b)
    (concat,) = [op for op in graph.operations if isinstance(op, Concatenation)]
    (pad,) = [op for op in graph.operations if isinstance(op, Pad)]
    (mean,) = [op for op in graph.operations if isinstance(op, Mean)]
    assert concat.axis == 3
    assert pad.amounts == ((0, 0), (1, 0), (2, 3), (0, 0))
    assert mean.axes == (2,)


def test_constants_beside_images_are_transposed_while_importing() -> None:
    b = OnnxBuilder()
    x = conv(b, b.real_input((1, 4, 6, 8)))
    factors = b.weights(np.array([1, 2, 3, 4]).reshape(4, 1, 1), 0.25, 0, dtype=np.uint8)
    b.finish(b.node("Mul", x, factors), 1.0)
    graph = assert_equals_onnxruntime(b)
    (constant,) = [
        t
        for t in graph.tensors.values()
        if t.data is not None and t.data.size == 4 and t.data.max() == 4
    ]
    assert constant.shape == (1, 1, 1, 4)


def test_weights_of_a_dense_layer_take_the_order_of_a_flattened_image() -> None:
    b = OnnxBuilder()
    x = conv(b, b.real_input((1, 4, 6, 8)))
    flat = b.node("Flatten", x)
    weights = RANDOM.integers(-7, 8, (192, 3))
    b.finish(b.node("Gemm", flat, b.weights(weights, 0.03125)), 1.0)
    graph = assert_equals_onnxruntime(b)
    assert kinds(graph)[:2] == ["Transpose", "Conv2D"]
    assert kinds(graph).count("Transpose") == 1
    (dense,) = [op for op in graph.operations if isinstance(op, FullyConnected)]
    stored = graph.constant(dense.weights).reshape(3, 6, 8, 4)
    np.testing.assert_array_equal(stored, weights.T.reshape(3, 4, 6, 8).transpose(0, 2, 3, 1))


def test_a_flattened_image_that_others_read_is_transposed() -> None:
    b = OnnxBuilder()
    flat = b.node("Flatten", conv(b, b.real_input((1, 4, 6, 8))))
    b.finish(b.node("Gemm", flat, b.weights(RANDOM.integers(-7, 8, (192, 3)), 0.03125)), 1.0)
    b.finish(flat, 1.0)
    assert TO_FIRST in transposes(b)


def test_one_channel_or_one_cell_is_reshaped_instead() -> None:
    b = OnnxBuilder()
    x = conv(b, b.real_input((1, 1, 6, 8)), channels=1)
    pooled = b.node("GlobalAveragePool", x)
    b.finish(b.node("Flatten", pooled), 0.5)
    graph = assert_equals_onnxruntime(b)
    assert "Transpose" not in kinds(graph)
    assert isinstance(graph.operations[0], Reshape)


def test_opaque_operators_see_the_layout_of_the_file() -> None:
    b = OnnxBuilder()
    x = conv(b, b.real_input((1, 4, 6, 8)))
    odd = b.node("LRN", x, size=3)
    b.finish(conv(b, b.dequantize(b.quantize(odd, 0.5, 128), 0.5, 128)), 1.0)
    graph = assert_equals_onnxruntime(b)
    (op,) = [op for op in graph.operations if op.location.type == "LRN" and op.sources]
    assert [graph.tensors[n].shape for n in (*op.inputs, *op.outputs)] == [(None, 4, 6, 8)] * 2
    assert set(opaque(graph)) == {"LRN"}


def test_forms_say_which_value_of_the_file_a_tensor_holds() -> None:
    b = OnnxBuilder()
    weights = b.weights(RANDOM.integers(-7, 8, (4, 4, 1, 1)), 0.125)
    codes = b.quantize(b.node("Conv", b.real_input((1, 4, 6, 8)), weights), 1.0, 128)
    b.output(b.node("MaxPool", codes, kernel_shape=[2, 2]), np.uint8)
    graph = b.graph()
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D)]
    forms = file_forms(graph)
    assert [(f.value, f.layout) for f in forms[op.input]] == [("x", TO_LAST)]
    assert [(f.value, f.layout) for f in forms[op.output]] == [(codes, TO_LAST)]


def test_an_identity_that_is_an_output_keeps_its_name() -> None:
    b = OnnxBuilder()
    real = b.input((1, 5))
    b.output(b.node("Identity", real))
    b.output(b.node("Identity", b.node("Identity", b.quantize(real, 0.5, 128))), np.uint8)
    graph = assert_equals_onnxruntime(b)
    assert graph.outputs == ("identity_1", "identity_6")


def test_any_number_of_samples_runs_where_the_file_keeps_them_apart() -> None:
    b = OnnxBuilder()
    x = conv(b, b.real_input(("N", 4, 6, 8)))
    shape = b.node(
        "Concat",
        b.node("Slice", b.node("Shape", x), *(b.constant([v], np.int64) for v in (0, 1))),
        b.constant([-1], np.int64),
        axis=0,
    )
    b.finish(b.node("Reshape", x, shape), 1.0)
    graph = assert_equals_onnxruntime(b)
    assert graph.batch is None
    assert graph.tensors[graph.outputs[0]].shape == (None, 192)


def test_a_batch_that_moves_to_another_axis_is_fixed() -> None:
    b = OnnxBuilder()
    x = b.real_input((2, 4, 6))
    b.finish(b.node("Transpose", x, perm=[1, 0, 2]), 1.0)
    assert b.graph().batch == 2
