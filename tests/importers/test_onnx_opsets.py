# SPDX-License-Identifier: Apache-2.0
"""Operators in the forms of every opset, old opsets converted, functions expanded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import OnnxBuilder, assert_equals_onnxruntime, kinds, opaque

from akida_backend.errors import ImportModelError
from akida_backend.graph import Activation, Relu, Reshape, Softmax
from akida_backend.loading import load

NEWEST = onnx.defs.onnx_opset_version()
OPSETS = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)


def axes(b: OnnxBuilder, since: int, *values: int) -> tuple[list[str], dict[str, Any]]:
    """Axes as an input from an opset on, as an attribute before."""
    if b.opset >= since:
        return [b.constant(values, np.int64)], {}
    return [], {"axes": list(values)}


def squeeze(b: OnnxBuilder, x: str) -> str:
    inputs, keys = axes(b, 13, 2)
    long = b.node("Unsqueeze", x, *inputs, **keys)
    return b.node("Squeeze", long, *inputs, **keys)


def pad(b: OnnxBuilder, x: str) -> str:
    if b.opset < 11:
        return b.node("Pad", x, pads=[0, 1, 0, 2], value=0.0)
    if b.opset < 18:
        return b.node("Pad", x, b.constant([0, 1, 0, 2], np.int64))
    return b.node("Pad", x, b.constant([1, 2], np.int64), "", b.constant([1], np.int64))


def clip(b: OnnxBuilder, x: str) -> str:
    if b.opset < 11:
        return b.node("Clip", x, min=0.0, max=6.0)
    return b.node("Clip", x, b.constant(0.0), b.constant(6.0))


def mean(b: OnnxBuilder, x: str) -> str:
    inputs, keys = axes(b, 18, 1)
    return b.node("ReduceMean", x, *inputs, keepdims=0, **keys)


def split(b: OnnxBuilder, x: str) -> str:
    if b.opset < 13:
        return b.node("Relu", b.node("Split", x, axis=1, split=[2, 6], count=2) + ".1")
    return b.node("Relu", b.node("Split", x, b.constant([2, 6], np.int64), axis=1, count=2) + ".1")


def softmax(b: OnnxBuilder, x: str) -> str:
    return b.node("Softmax", x)


def dropout(b: OnnxBuilder, x: str) -> str:
    return b.node("Dropout", b.node("Relu", x))


def upsample(b: OnnxBuilder, x: str) -> str:
    image = b.node("Reshape", x, b.constant([1, 2, 2, 2], np.int64))
    scales = b.constant([1, 1, 2, 3])
    if b.opset < 11:
        return b.node("Resize", image, scales, mode="nearest")
    keys: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.node("Resize", image, "" if b.opset >= 13 else b.constant([]), scales, **keys)


def window(b: OnnxBuilder, x: str) -> str:
    names = [b.constant(v, np.int64) for v in ([1], [-1], [1])]
    return b.node("Slice", x, *names)


CASES: dict[str, tuple[Callable[[OnnxBuilder, str], str], str]] = {
    "Squeeze": (squeeze, "Reshape"),
    "Pad": (pad, "Pad"),
    "Clip": (clip, "Relu"),
    "ReduceMean": (mean, "Mean"),
    "Split": (split, "Split"),
    "Softmax": (softmax, "Softmax"),
    "Dropout": (dropout, "Relu"),
    "Resize": (upsample, "ResizeNearest"),
    "Slice": (window, "StridedSlice"),
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("case", CASES)
def test_every_opset_is_read(case: str, opset: int) -> None:
    build, kind = CASES[case]
    b = OnnxBuilder(opset=opset, ir_version=10)
    x = b.real_input((1, 8))
    b.finish(build(b, x), 2.0**-7 if case == "Softmax" else 1.0)
    graph = assert_equals_onnxruntime(b)
    assert kind in kinds(graph)
    assert not opaque(graph)


def test_clip_to_six_is_an_activation_in_both_forms() -> None:
    for opset in (10, 17):
        b = OnnxBuilder(opset=opset)
        b.finish(clip(b, b.real_input((1, 8))))
        (op,) = [op for op in b.graph().operations if isinstance(op, Relu)]
        assert op.bound is Activation.RELU6


def test_softmax_of_an_old_opset_over_several_axes_stays_on_the_host() -> None:
    b = OnnxBuilder(opset=12)
    b.finish(b.node("Softmax", b.real_input((1, 3, 4)), axis=1), 2.0**-7)
    assert "over several axes" in opaque(assert_equals_onnxruntime(b))["Softmax"]


def test_softmax_of_a_new_opset_has_one_axis() -> None:
    b = OnnxBuilder(opset=13)
    b.finish(b.node("Softmax", b.real_input((1, 3, 4)), axis=1), 2.0**-7)
    (op,) = [op for op in assert_equals_onnxruntime(b).operations if isinstance(op, Softmax)]
    assert op.axis == 1


def test_an_opset_newer_than_onnx_is_refused_with_both_numbers() -> None:
    b = OnnxBuilder(opset=NEWEST + 1)
    b.output(b.node("Relu", b.input((1, 2))))
    with pytest.raises(ImportModelError, match=rf"opset {NEWEST + 1}, but .* knows {NEWEST}"):
        load(b.content())


def test_an_opset_too_old_is_converted_and_keeps_the_files_indices() -> None:
    b = OnnxBuilder(opset=7, ir_version=3)
    x = b.input((1, 8))
    b.output(
        b.node("Reshape", b.node("Dropout", b.node("Relu", x)), b.constant([1, 2, 4], np.int64))
    )
    model = b.model()
    model.graph.input.append(helper.make_tensor_value_info("constant_3", TensorProto.INT64, [3]))
    graph = load(model)
    (reshape,) = [op for op in graph.operations if isinstance(op, Reshape)]
    assert (reshape.location.index, reshape.location.type) == (2, "Reshape")
    assert graph.inputs == ("x",)


def test_an_opset_that_cannot_be_converted_is_refused_by_its_number() -> None:
    b = OnnxBuilder(opset=1, ir_version=3)
    b.output(b.node("Add", b.input((1, 2)), b.constant([1.0, 2.0]), broadcast=1))
    with pytest.raises(ImportModelError, match=r"opset 1 is older than 10 and onnx cannot convert"):
        load(b.content())


def test_functions_of_the_model_are_expanded_in_place() -> None:
    b = OnnxBuilder(opset=17, ir_version=8)
    x = b.real_input((1, 8))
    b.finish(b.node("Gate", b.node("Relu", x), domain="mine"))
    model = b.model()
    body = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])]
    model.functions.append(
        helper.make_function("mine", "Gate", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    graph = load(model)
    assert [op.location.type for op in graph.operations if op.sources][-2:] == [
        "Gate",
        "QuantizeLinear",
    ]
    assert {f.location.index for f in graph.folded} | {
        i for op in graph.operations for i in op.sources
    } == set(range(len(b.nodes)))
