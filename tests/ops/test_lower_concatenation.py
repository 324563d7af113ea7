# SPDX-License-Identifier: Apache-2.0
"""CONCATENATION on channels: one code for all, nothing computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from compiling import compiled, layer_names, reasons
from error_budget import Calm, assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, Concatenation, DType, Graph
from builders import GraphBuilder


@settings(max_examples=40, deadline=None)
@given(
    filters=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    activation=st.sampled_from([Activation.NONE, Activation.RELU]),
    with_input=st.booleans(),
    behind=st.booleans(),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 999),
)
def test_strays_no_further_than_rounding_explains(
    filters: list[int],
    activation: Activation,
    with_input: bool,
    behind: bool,
    dtype: DType,
    seed: int,
) -> None:
    b = Calm(seed, dtype=dtype)
    x = b.input(5, 6, 4)
    scaling = b.scaling(b.conv2d(x, 4))
    b.operations.clear()
    b.tensors = {x: dataclasses.replace(b.tensors[x])}
    parts = [b.conv2d(x, n, activation=activation, scaling=scaling) for n in filters]
    if with_input:
        parts[0] = b.input(5, 6, 4, scaling=scaling)
        b.operations.pop(0)
        b.inputs = b.inputs[-1:]
        return  # two inputs: the partition's tests look at those
    y = b.concatenation(*parts)
    if behind:
        y = b.conv2d(y, 3)
    graph = b.build(y)
    plan = compiled(graph)
    assert layer_names(plan).count("Concatenate") == len(filters) - 1
    assert_within_budget(graph, plan, seed=seed)


def _joined(*, axis: int = 3, activation: Activation = Activation.NONE) -> Graph:
    b = GraphBuilder(1)
    x = b.input(4, 4, 4)
    b.concatenation(b.conv2d(x, 4, scaling=(0.3, 1)), b.conv2d(x, 4, scaling=(0.3, 1)), axis=axis)
    *others, last = b.operations
    assert isinstance(last, Concatenation)
    b.operations = [*others, dataclasses.replace(last, activation=activation)]
    return b.build()


def test_joins_rows_on_the_host() -> None:
    found = reasons(compiled(_joined(axis=1)), 2)
    assert found == {"V2-CNV-CONCAT-AXIS": "concatenation on axis 0"}


def test_clamps_on_the_host() -> None:
    found = reasons(compiled(_joined(activation=Activation.RELU)), 2)
    assert found == {"OP-NOT-FUSED": "a fused relu in CONCATENATION"}


def test_names_all_that_stands_against_it() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(4, 4, 4), 4)
    constant = b.constant(np.ones((1, 4, 4, 4)), scaling=b.scaling(x))
    b.concatenation(x, x, constant, axis=2)
    assert reasons(compiled(b.build()), 1) == {
        "V2-CNV-CONCAT-AXIS": "concatenation on axis 1",
        "V2-CNV-CONCAT-OPERANDS": "3 operands, a constant operand",
    }


def test_operands_of_one_code_come_from_the_device_alone() -> None:
    b = GraphBuilder(1)
    x = b.input(4, 4, 4, scaling=(0.3, 1))
    y = b.conv2d(x, 4, scaling=(0.3, 1))
    z = b.tanh(b.input(4, 4, 4))
    b.tensors[z] = dataclasses.replace(b.tensors[z], quantization=b.tensors[x].quantization)
    b.concatenation(y, z)
    found = reasons(compiled(b.build()), 2)
    assert set(found) == {"V2-GRAPH-BRANCHES"}


@pytest.mark.parametrize("scale", [0.15, 0.6])
def test_uint8_operands_on_other_scales_share_the_widest(scale: float) -> None:
    b = Calm(1, dtype=DType.UINT8)
    x = b.input(4, 4, 4)
    y = b.conv2d(x, 4, scaling=(0.9, 128))
    z = b.conv2d(x, 4, scaling=(0.9 * scale / 0.6, 128))
    b.concatenation(y, z)
    graph = b.build()
    plan = compiled(graph)
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Concatenate"]
    (program,) = plan.programs
    assert len({tensor.code.scale for n, tensor in program.tensors.items() if n != x}) == 1
