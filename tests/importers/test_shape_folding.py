# SPDX-License-Identifier: Apache-2.0
"""Operators on constants and shapes are evaluated while importing, with the batch symbolic."""

from __future__ import annotations

from typing import Any

import pytest
from raw_tflite import RawModel, RawOperator, RawTensor, activation, constant
from tflite import BuiltinOperator, TensorType

from akida_backend.graph import AnyArray, Graph
from akida_backend.importers import flatbuffer_check, tflite_file
from akida_backend.importers.tflite import read_tflite


def read(model: RawModel) -> Graph:
    graph = read_tflite(model.to_bytes(), "m.tflite")
    assert list(graph.problems()) == []
    return graph


def on_constants(
    operator: str,
    results: list[RawTensor],
    *inputs: RawTensor,
    table: str = "",
    **options: Any,  # noqa: ANN401
) -> RawModel:
    count = len(results)
    return RawModel(
        [*results, *inputs],
        [
            RawOperator(
                getattr(BuiltinOperator, operator),
                list(range(count, count + len(inputs))),
                list(range(count)),
                table,
                options,
            )
        ],
        [],
        list(range(count)),
    )


def result(*shape: int, dtype: int = TensorType.INT32) -> RawTensor:
    return RawTensor(shape, dtype)


A = constant([[7, -3, 2**31 - 1], [0, 5, -9]], name="a")
B = constant([4, -3, 2], name="b")
HALVES = constant([0.5, -1.5, 3.25], "float32")

FOLDED = [
    pytest.param(on_constants("ADD", [result(2, 3)], A, B, table="AddOptions"), id="add-wraps"),
    pytest.param(on_constants("SUB", [result(2, 3)], A, B, table="SubOptions"), id="sub"),
    pytest.param(on_constants("MUL", [result(2, 3)], A, B, table="MulOptions"), id="mul"),
    pytest.param(on_constants("MAXIMUM", [result(2, 3)], A, B), id="maximum"),
    pytest.param(on_constants("MINIMUM", [result(2, 3)], A, B), id="minimum"),
    pytest.param(
        on_constants(
            "MUL", [result(3, dtype=TensorType.FLOAT32)], HALVES, HALVES, table="MulOptions"
        ),
        id="mul-of-reals",
    ),
    pytest.param(
        on_constants(
            "CAST",
            [result(2, 3, dtype=TensorType.INT64)],
            A,
            table="CastOptions",
            InDataType=TensorType.INT32,
            OutDataType=TensorType.INT64,
        ),
        id="cast",
    ),
    pytest.param(
        on_constants("CONCATENATION", [result(4, 3)], A, A, table="ConcatenationOptions", Axis=0),
        id="concatenation",
    ),
    pytest.param(
        on_constants("PACK", [result(3, 2)], B, B, table="PackOptions", ValuesCount=2, Axis=-1),
        id="pack",
    ),
    pytest.param(
        on_constants(
            "UNPACK", [result(2), result(2), result(2)], A, table="UnpackOptions", Num=3, Axis=1
        ),
        id="unpack",
    ),
    pytest.param(
        on_constants(
            "SPLIT", [result(1, 3), result(1, 3)], constant(0), A, table="SplitOptions", NumSplits=2
        ),
        id="split",
    ),
    pytest.param(
        on_constants(
            "SPLIT_V",
            [result(2, 1), result(2, 2)],
            A,
            constant([1, 2]),
            constant(1),
            table="SplitVOptions",
            NumSplits=2,
        ),
        id="split-v",
    ),
    pytest.param(
        on_constants("GATHER", [result(2, 2)], A, constant([2, 0]), table="GatherOptions", Axis=1),
        id="gather",
    ),
    pytest.param(on_constants("TRANSPOSE", [result(3, 2)], A, constant([1, 0])), id="transpose"),
    pytest.param(on_constants("RESHAPE", [result(6)], A, constant([-1])), id="reshape"),
    pytest.param(
        on_constants(
            "STRIDED_SLICE",
            [result(2)],
            A,
            constant([0, 2]),
            constant([2, 3]),
            constant([1, 1]),
            table="StridedSliceOptions",
            ShrinkAxisMask=2,
        ),
        id="strided-slice",
    ),
    pytest.param(
        on_constants(
            "DEQUANTIZE",
            [result(4, dtype=TensorType.FLOAT32)],
            constant([-128, -1, 0, 127], "int8", scale=[0.1], zero_point=[-7]),
        ),
        id="dequantize",
    ),
    pytest.param(
        on_constants(
            "DEQUANTIZE",
            [result(2, 2, dtype=TensorType.FLOAT32)],
            constant([[-128, -1], [0, 127]], "int8", scale=[0.1, 0.3], zero_point=[0, 0], axis=1),
        ),
        id="dequantize-per-channel",
    ),
    pytest.param(
        on_constants(
            "DEQUANTIZE",
            [result(3, dtype=TensorType.FLOAT32)],
            constant([0.1, -2, 65504], "float16"),
        ),
        id="dequantize-float16",
    ),
]


@pytest.mark.parametrize("model", FOLDED)
def test_constants_are_evaluated_as_litert_does(model: RawModel) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    graph = read(model)
    assert (len(graph.operations), len(graph.folded)) == (0, 1)
    interpreter = interpreter_module.Interpreter(
        model_content=model.to_bytes(),
        experimental_op_resolver_type=interpreter_module.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    interpreter.invoke()
    details = interpreter.get_output_details()
    assert len(details) == len(graph.outputs)
    for name, detail in zip(graph.outputs, details, strict=True):
        expected: AnyArray = interpreter.get_tensor(detail["index"])
        folded = graph.constant(name)
        assert folded.dtype == expected.dtype
        assert folded.tolist() == expected.tolist()


def test_folded_operators_are_listed_with_their_places() -> None:
    (folded,) = read(on_constants("RESHAPE", [result(6)], A, constant([-1]))).folded
    assert str(folded.location) == "m.tflite: op 0 RESHAPE 'tensor_0'"


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            on_constants(
                "ADD",
                [activation(3)],
                *[constant([1, 2, 3], "int8", scale=[1.0])] * 2,
                table="AddOptions",
            ),
            id="quantized",
        ),
        pytest.param(
            on_constants(
                "ADD", [result(2, 3)], A, B, table="AddOptions", FusedActivationFunction=1
            ),
            id="fused-activation",
        ),
        pytest.param(
            on_constants(
                "CONCATENATION",
                [activation(6)],
                constant([1, 2, 3], "int8", scale=[1.0]),
                constant([1, 2, 3], "int8", scale=[0.5]),
                table="ConcatenationOptions",
            ),
            id="two-scales",
        ),
        pytest.param(
            on_constants("LOGISTIC", [result(3, dtype=TensorType.FLOAT32)], HALVES), id="function"
        ),
        pytest.param(
            on_constants(
                "DEQUANTIZE", [result(2, dtype=TensorType.FLOAT32)], constant([1, 2], "int8")
            ),
            id="no-scale",
        ),
        pytest.param(on_constants("GELU", [activation(3)], HALVES), id="opaque"),
    ],
)
def test_what_rounds_or_has_no_meaning_is_left_to_the_executor(model: RawModel) -> None:
    graph = read(model)
    assert (len(graph.operations), len(graph.folded)) == (1, 0)
    assert graph.batch == 1


def test_constants_too_large_for_the_file_are_not_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = flatbuffer_check.Budget(1000)
    budget.memory = flatbuffer_check.Allowance(47)
    monkeypatch.setattr(tflite_file, "Budget", lambda _: budget)
    assert len(read(on_constants("ADD", [result(2, 3)], A, B, table="AddOptions")).operations) == 1


# Shapes with a symbolic batch


def target_from_shape(
    *more: RawOperator, batch: int = 1, picks: int = 0, tensors: list[RawTensor] | None = None
) -> RawModel:
    """RESHAPE of [batch, 4, 6] to PACK(one length of its own shape, 24)."""
    return RawModel(
        [
            activation(batch, 4, 6, name="x"),
            activation(batch, 24, name="y"),
            result(3),
            constant([picks]),
            constant([picks + 1]),
            constant([1]),
            result(),
            constant(24),
            result(2),
            *(tensors or []),
        ],
        [
            RawOperator(
                BuiltinOperator.SHAPE, [0], [2], "ShapeOptions", {"OutType": TensorType.INT32}
            ),
            RawOperator(
                BuiltinOperator.STRIDED_SLICE,
                [2, 3, 4, 5],
                [6],
                "StridedSliceOptions",
                {"ShrinkAxisMask": 1},
            ),
            *(
                more
                or [
                    RawOperator(
                        BuiltinOperator.PACK, [6, 7], [8], "PackOptions", {"ValuesCount": 2}
                    )
                ]
            ),
            RawOperator(BuiltinOperator.RESHAPE, [0, 8], [1], "ReshapeOptions"),
        ],
        [0],
        [1],
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_a_target_made_from_the_batch_keeps_it_symbolic(batch: int) -> None:
    graph = read(target_from_shape(batch=batch))
    assert [op.location.type for op in graph.operations] == ["RESHAPE"]
    assert [f.location.type for f in graph.folded] == ["SHAPE", "STRIDED_SLICE", "PACK"]
    assert graph.batch is None
    assert graph.tensors["y"].shape == (None, 24)
    assert set(graph.tensors) == {"x", "y"}


def test_a_target_calculated_from_the_batch_keeps_it_symbolic() -> None:
    calculation = RawOperator(BuiltinOperator.MUL, [6, 9], [10], "MulOptions")
    pack = RawOperator(BuiltinOperator.PACK, [10, 7], [8], "PackOptions", {"ValuesCount": 2})
    model = target_from_shape(calculation, pack, tensors=[constant(1), result()])
    assert read(model).batch is None


def test_a_target_that_mixes_the_batch_into_another_axis_fixes_it() -> None:
    model = target_from_shape(
        RawOperator(BuiltinOperator.PACK, [9, 6], [8], "PackOptions", {"ValuesCount": 2}),
        tensors=[constant(24)],
    )
    model.tensors[1].shape = [24, 1]
    graph = read(model)
    assert (graph.batch, graph.tensors["y"].shape) == (1, (24, 1))


def test_a_batch_that_is_data_fixes_it() -> None:
    """The batch is added to the samples, so each result depends on how many there are."""
    model = target_from_shape()
    model.tensors += [RawTensor([1, 24], TensorType.INT32, name="z")]
    model.tensors[0].type = model.tensors[1].type = TensorType.INT32
    model.operators.append(RawOperator(BuiltinOperator.ADD, [1, 6], [9], "AddOptions"))
    model.outputs = [9]
    graph = read(model)
    assert graph.batch == 1
    assert graph.constant("tensor_6").tolist() == 1


def test_a_batch_that_is_an_output_fixes_it() -> None:
    model = target_from_shape()
    model.outputs = [1, 6]
    assert read(model).batch == 1


def test_an_index_that_is_the_batch_fixes_it() -> None:
    """At another batch the index would lie beyond the table."""
    model = target_from_shape()
    model.tensors += [constant([5, 6, 7], "int32", name="table"), result()]
    model.operators.append(RawOperator(BuiltinOperator.GATHER, [9, 6], [10], "GatherOptions"))
    model.outputs = [1, 10]
    graph = read(model)
    assert graph.batch == 1
    assert graph.constant("tensor_10").tolist() == 6


def test_a_length_other_than_the_batch_is_a_plain_constant() -> None:
    model = target_from_shape(picks=1)
    model.tensors[7] = constant(6)
    model.tensors[1].shape = [4, 6]
    graph = read(model)
    assert graph.tensors["y"].shape == (4, 6)
