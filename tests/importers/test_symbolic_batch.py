# SPDX-License-Identifier: Apache-2.0
"""The batch is symbolic exactly where every operation keeps samples apart."""

from __future__ import annotations

import numpy as np
import pytest
from raw_tflite import RawModel, RawOperator, RawTensor, activation, chain, constant
from tflite import BuiltinOperator, TensorType

from akida_backend.graph import AnyArray, Graph
from akida_backend.importers.tflite import read_tflite


def read(model: RawModel) -> Graph:
    return read_tflite(model.to_bytes(), "m.tflite")


def weights(*shape: int) -> RawTensor:
    values = np.arange(np.prod(shape)).reshape(shape) % 11 - 5
    return constant(values, "int8", scale=[0.5], zero_point=[0])


def binary(*constants: RawTensor, shape: list[int], result: list[int]) -> RawModel:
    return chain("ADD", shape, result, *constants, table="AddOptions")


def two_inputs(a: list[int], b: list[int], result: list[int]) -> RawModel:
    return RawModel(
        [activation(*a, name="x"), activation(*b, name="z"), activation(*result, name="y")],
        [RawOperator(BuiltinOperator.ADD, [0, 1], [2], "AddOptions")],
        [0, 1],
        [2],
    )


def concatenation(axis: int, shape: list[int], result: list[int]) -> RawModel:
    model = chain("CONCATENATION", shape, result, table="ConcatenationOptions", Axis=axis)
    model.operators[0].inputs = [0, 0]
    return model


def pack(axis: int, shape: list[int], result: list[int]) -> RawModel:
    model = chain("PACK", shape, result, table="PackOptions", Axis=axis, ValuesCount=2)
    model.operators[0].inputs = [0, 0]
    return model


def cut(begin: list[int], end: list[int], shape: list[int], result: list[int]) -> RawModel:
    steps = constant([1] * len(begin))
    return chain(
        "STRIDED_SLICE",
        shape,
        result,
        constant(begin),
        constant(end),
        steps,
        table="StridedSliceOptions",
    )


def split(axis: int, shape: list[int], part: list[int]) -> RawModel:
    return RawModel(
        [activation(*shape, name="x"), activation(*part), activation(*part), constant(axis)],
        [RawOperator(BuiltinOperator.SPLIT, [3, 0], [1, 2], "SplitOptions", {"NumSplits": 2})],
        [0],
        [1, 2],
    )


def arg_max(axis: int, shape: list[int], result: list[int]) -> RawModel:
    model = chain("ARG_MAX", shape, result, constant(axis), table="ArgMaxOptions", OutputType=4)
    model.tensors[1] = RawTensor(result, TensorType.INT64, name="y")
    return model


def fully_connected(shape: list[int], result: list[int]) -> RawModel:
    return chain("FULLY_CONNECTED", shape, result, weights(3, 4), table="FullyConnectedOptions")


def softmax(shape: list[int]) -> RawModel:
    model = chain("SOFTMAX", shape, shape, table="SoftmaxOptions", Beta=1)
    model.tensors[1].scale, model.tensors[1].zero_point = [1 / 256], [-128]
    return model


def gather(axis: int, shape: list[int], result: list[int]) -> RawModel:
    return chain("GATHER", shape, result, constant([0, 0]), table="GatherOptions", Axis=axis)


def embedding(shape: list[int]) -> RawModel:
    """Rows of a constant table picked by the input."""
    model = chain("GATHER", shape, [*shape, 4], weights(5, 4), table="GatherOptions")
    model.tensors[0] = RawTensor(shape, TensorType.INT32, name="x")
    model.operators[0].inputs = [2, 0]
    return model


SEPARATE = [
    pytest.param(binary(weights(4), shape=[2, 4], result=[2, 4]), id="add-vector"),
    pytest.param(binary(weights(1, 4), shape=[2, 4], result=[2, 4]), id="add-row"),
    pytest.param(two_inputs([2, 4], [2, 1], [2, 4]), id="add-of-two"),
    pytest.param(concatenation(1, [2, 4], [2, 8]), id="concatenation"),
    pytest.param(pack(1, [2, 4], [2, 2, 4]), id="pack"),
    pytest.param(split(1, [2, 4], [2, 2]), id="split"),
    pytest.param(arg_max(1, [2, 4], [2]), id="arg-max"),
    pytest.param(fully_connected([2, 4], [2, 3]), id="fully-connected"),
    pytest.param(fully_connected([2, 2, 2], [2, 3]), id="fully-connected-flattens"),
    pytest.param(softmax([2, 4]), id="softmax"),
    pytest.param(
        chain("MEAN", [2, 3, 4], [2, 4], constant([1]), table="ReducerOptions"), id="mean"
    ),
    pytest.param(chain("PAD", [2, 4], [2, 5], constant([[0, 0], [1, 0]])), id="pad"),
    pytest.param(chain("TRANSPOSE", [2, 3, 4], [2, 4, 3], constant([0, 2, 1])), id="transpose"),
    pytest.param(chain("RESHAPE", [2, 3, 4], [2, 12], constant([-1, 12])), id="reshape"),
    pytest.param(gather(1, [2, 4], [2, 2]), id="gather"),
    pytest.param(embedding([2, 3]), id="embedding"),
]

MIXED = [
    pytest.param(binary(weights(2, 4), shape=[2, 4], result=[2, 4]), id="constant-per-sample"),
    pytest.param(two_inputs([2, 4], [4], [2, 4]), id="operand-without-a-batch"),
    pytest.param(two_inputs([2, 1, 4], [2, 4], [2, 2, 4]), id="operand-of-lower-rank"),
    pytest.param(two_inputs([2, 4], [1, 4], [2, 4]), id="inputs-of-different-batch"),
    pytest.param(concatenation(0, [2, 4], [4, 4]), id="concatenation"),
    pytest.param(pack(0, [2, 4], [2, 2, 4]), id="pack"),
    pytest.param(cut([1, 0], [2, 4], [2, 4], [1, 4]), id="slice"),
    pytest.param(split(0, [2, 4], [1, 4]), id="split"),
    pytest.param(arg_max(0, [2, 2], [2]), id="arg-max"),
    pytest.param(fully_connected([2, 2], [1, 3]), id="fully-connected-joins-samples"),
    pytest.param(fully_connected([2, 8], [4, 3]), id="fully-connected-splits-samples"),
    pytest.param(softmax([4]), id="softmax"),
    pytest.param(chain("MEAN", [2, 2], [2], constant([0]), table="ReducerOptions"), id="mean"),
    pytest.param(chain("PAD", [2, 4], [3, 4], constant([[1, 0], [0, 0]])), id="pad"),
    pytest.param(chain("TRANSPOSE", [2, 2], [2, 2], constant([1, 0])), id="transpose"),
    pytest.param(chain("RESHAPE", [2, 4], [4, 2], constant([4, 2])), id="reshape"),
    pytest.param(chain("RESHAPE", [1, 4], [4], constant([4])), id="reshape-drops-the-batch"),
    pytest.param(gather(0, [2, 4], [2, 4]), id="gather"),
    pytest.param(chain("GELU", [2, 4], [3, 4]), id="opaque"),
]


@pytest.mark.parametrize("model", SEPARATE)
def test_samples_apart_leave_the_batch_symbolic(model: RawModel) -> None:
    graph = read(model)
    assert graph.batch is None
    activations = [t for t in graph.tensors.values() if not t.is_constant]
    assert {tensor.shape[0] for tensor in activations} == {None}


@pytest.mark.parametrize("model", MIXED)
def test_samples_mixed_fix_the_batch_and_leave_shapes_as_they_are(model: RawModel) -> None:
    graph = read(model)
    assert graph.batch == model.tensors[0].shape[0]
    assert graph.tensors["x"].shape == tuple(model.tensors[0].shape)
    assert not any(None in tensor.shape for tensor in graph.tensors.values())


def test_a_cut_through_all_samples_of_the_file_is_one_through_all() -> None:
    """Kernels would cut a larger batch at 2; a converter that fixed the batch meant all."""
    assert read(cut([0, 1], [2, 3], [2, 4], [2, 2])).batch is None


def test_an_opaque_result_with_the_batch_in_front_keeps_it() -> None:
    assert read(chain("GELU", [2, 4], [2, 7])).batch is None


def test_state_between_calls_fixes_the_batch() -> None:
    model = chain("GELU", [2, 4], [2, 4], activation(2, 4, is_variable=True))
    assert read(model).batch == 2


def test_a_scalar_input_has_no_batch() -> None:
    graph = read(chain("TANH", [], []))
    assert (graph.batch, graph.tensors["x"].shape) == (1, ())


def litert(model: RawModel, feeds: list[AnyArray]) -> list[AnyArray]:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreter_module.Interpreter(
        model_content=model.to_bytes(),
        experimental_op_resolver_type=interpreter_module.OpResolverType.BUILTIN_REF,
    )
    for index, values in zip(model.inputs, feeds, strict=True):
        interpreter.resize_tensor_input(index, values.shape)
    interpreter.allocate_tensors()
    for index, values in zip(model.inputs, feeds, strict=True):
        interpreter.set_tensor(index, values)
    interpreter.invoke()
    return [interpreter.get_tensor(index) for index in model.outputs]


@pytest.mark.parametrize("model", SEPARATE)
def test_litert_computes_such_a_batch_sample_by_sample(model: RawModel) -> None:
    samples = 3
    random = np.random.default_rng(0)
    feeds = []
    for index in model.inputs:
        tensor = model.tensors[index]
        dtype = np.int32 if tensor.type == TensorType.INT32 else np.int8
        feeds.append(random.integers(0, 5, (samples, *tensor.shape[1:])).astype(dtype))
    together = litert(model, feeds)
    apart = [litert(model, [values[n : n + 1] for values in feeds]) for n in range(samples)]
    for position, values in enumerate(together):
        assert values.tolist() == np.concatenate([one[position] for one in apart]).tolist()
