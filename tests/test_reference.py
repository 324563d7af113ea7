# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from akida_backend.errors import UnsupportedOperationError
from akida_backend.graph import Arithmetic, DType, Graph, Quantization
from akida_backend.reference import Environment, run_graph, run_operations
from builders import GraphBuilder, random_inputs


def small_network(seed: int = 0) -> Graph:
    """Two branches that meet, so that values live for different times."""
    b = GraphBuilder(seed)
    x = b.input(8, 8, 3)
    first = b.conv2d(x, 4, stride=2)
    second = b.depthwise(first)
    total = b.add(first, second)
    return b.build(b.softmax(b.fully_connected(b.flatten(total), 5)))


def test_returns_the_outputs_only() -> None:
    graph = small_network()
    assert list(run_graph(graph, random_inputs(graph, 2))) == list(graph.outputs)


def test_keeps_every_activation_when_asked() -> None:
    graph = small_network()
    values = run_graph(graph, random_inputs(graph, 2), keep=True)
    activations = {name for name, tensor in graph.tensors.items() if not tensor.is_constant}
    assert set(values) == activations
    for name in activations:
        _, *expected = graph.tensors[name].shape
        assert values[name].shape == (2, *expected)
        assert values[name].dtype == graph.tensors[name].dtype.numpy


def test_keeping_changes_no_output() -> None:
    graph = small_network()
    feeds = random_inputs(graph, 3)
    kept = run_graph(graph, feeds, keep=True)
    for name, values in run_graph(graph, feeds).items():
        np.testing.assert_array_equal(values, kept[name])


def test_does_not_change_the_feeds() -> None:
    graph = small_network()
    feeds = random_inputs(graph, 2)
    copies = {name: values.copy() for name, values in feeds.items()}
    run_graph(graph, feeds)
    assert list(feeds) == list(copies)
    for name, values in feeds.items():
        np.testing.assert_array_equal(values, copies[name])


@pytest.mark.parametrize("samples", [1, 2, 70])
def test_a_batch_gives_what_its_samples_give(samples: int) -> None:
    graph = small_network(seed=samples)
    feeds = random_inputs(graph, samples)
    (together,) = run_graph(graph, feeds).values()
    for index in range(samples):
        part = {name: values[index : index + 1] for name, values in feeds.items()}
        (alone,) = run_graph(graph, part).values()
        np.testing.assert_array_equal(together[index : index + 1], alone)


def test_an_empty_batch_gives_empty_outputs() -> None:
    graph = small_network()
    (output,) = run_graph(graph, random_inputs(graph, 0)).values()
    assert output.shape == (0, 5)


def test_an_input_can_be_an_output() -> None:
    b = GraphBuilder(0)
    x = b.input(4)
    graph = b.build(b.logistic(x), x)
    feeds = random_inputs(graph, 2)
    np.testing.assert_array_equal(run_graph(graph, feeds)[x], feeds[x])


def test_a_constant_can_be_an_output() -> None:
    b = GraphBuilder(0)
    x = b.input(4)
    constant = b.constant([1, 2], scaling=(1.0, 0))
    graph = b.build(b.logistic(x), constant)
    assert run_graph(graph, random_inputs(graph, 2))[constant].tolist() == [1, 2]


def test_executes_a_part_of_the_operations() -> None:
    graph = small_network()
    feeds = random_inputs(graph, 2)
    whole = run_graph(graph, feeds, keep=True)
    part = graph.operations[1:3]
    known = {name for op in part for name in graph.activations_of(op)} - {
        name for op in part for name in op.outputs
    }
    values = {name: whole[name] for name in known}
    run_operations(part, graph, values)
    assert set(values) == known | {name for op in part for name in op.outputs}
    for name, found in values.items():
        np.testing.assert_array_equal(found, whole[name])


def test_a_constant_operand_serves_every_sample() -> None:
    b = GraphBuilder(0)
    x = b.input(2, 2, 1, scaling=(0.5, 3))
    constant = b.constant(np.arange(4).reshape(1, 2, 2, 1), scaling=(0.5, 3))
    graph = b.build(b.concatenation(x, constant))
    (output,) = run_graph(graph, random_inputs(graph, 3)).values()
    assert output[:, :, :, 1].tolist() == [[[0, 1], [2, 3]]] * 3


def test_refuses_an_opaque_operator_by_name_and_says_what_to_install() -> None:
    b = GraphBuilder(0)
    graph = b.build(b.opaque(b.input(4), shape=(None, 4), code="GATHER_ND"))
    with pytest.raises(
        UnsupportedOperationError,
        match=r"built: op 0 GATHER_ND 'opaque'.*GATHER_ND is not modelled\n.*extra 'litert'",
    ):
        run_graph(graph, random_inputs(graph, 1))


def test_refuses_types_without_arithmetic_and_says_why() -> None:
    b = GraphBuilder(0, dtype=DType.INT16)
    x, y = b.input(4, scaling=(0.5, 0)), b.input(4, scaling=(0.5, 0))
    graph = b.build(b.add(x, y, scaling=(1.0, 0)))
    with pytest.raises(
        UnsupportedOperationError,
        match=r"op 0 ADD 'add': no reference arithmetic for tensors of int16 and int16 and int16",
    ):
        run_graph(graph, random_inputs(graph, 1))


def test_fully_connected_follows_the_runtime_the_graph_names() -> None:
    """0.375 steps: the double rounding of 2.14 gives one, the single one of LiteRT zero."""
    b = GraphBuilder(0, per_channel=False)
    x = b.input(1, scaling=(1.0, 0))
    y = b.fully_connected(x, 1, bias=False, weights=np.ones((1, 1), np.int8), scaling=(8.0, 0))
    weights = b.tensors["fully_connected_weights"]
    quantization = Quantization.per_tensor(1.0)
    b.tensors["fully_connected_weights"] = dataclasses.replace(weights, quantization=quantization)
    graph = b.build(y)
    found = {}
    for arithmetic in Arithmetic:
        variant = dataclasses.replace(graph, arithmetic=arithmetic)
        (output,) = run_graph(variant, {x: np.array([[3], [4], [-4], [12]], np.int8)}).values()
        found[arithmetic] = output[:, 0].tolist()
    assert found == {
        Arithmetic.TFLITE: [0, 1, -1, 2],
        Arithmetic.TFLITE_2_14: [1, 1, -1, 2],
        Arithmetic.ONNX: [0, 0, 0, 2],
    }


def test_the_environment_sizes_a_tensor_by_the_batch_at_hand() -> None:
    graph = small_network()
    env = Environment(graph, {})
    (name,) = graph.inputs
    assert env.sized(name, np.zeros((7, 1))) == (7, 8, 8, 3)
