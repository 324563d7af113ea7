# SPDX-License-Identifier: Apache-2.0
"""FULLY_CONNECTED as Dense1D, with the flattening in front and 32-bit scores behind."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import compiled, layer_names, layers, row
from error_budget import Calm, assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, DType
from akida_backend.program import Dense1D
from akida_backend.reference import run_graph
from akida_backend.simulator import Simulator
from builders import GraphBuilder, random_inputs


@settings(max_examples=50, deadline=None)
@given(
    features=st.integers(1, 80),
    units=st.integers(1, 12),
    activation=st.sampled_from(list(Activation)),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    per_channel=st.booleans(),
    bias=st.booleans(),
    int4=st.booleans(),
    seed=st.integers(0, 999),
)
def test_strays_no_further_than_rounding_explains(
    features: int,
    units: int,
    activation: Activation,
    dtype: DType,
    per_channel: bool,
    bias: bool,
    int4: bool,
    seed: int,
) -> None:
    weights = DType.INT4 if int4 and dtype is DType.INT8 else DType.INT8
    b = GraphBuilder(seed, dtype=dtype, weight_dtype=weights)
    b.fully_connected(
        b.input(features), units, activation=activation, per_channel=per_channel, bias=bias
    )
    graph = b.build()
    plan = compiled(graph)
    assert layer_names(plan) == ["Dense1D"]
    assert_within_budget(graph, plan, seed=seed)


@pytest.mark.parametrize("activation", list(Activation))
def test_gives_its_accumulators_as_the_last_layer(activation: Activation) -> None:
    b = GraphBuilder(1)
    x = b.fully_connected(b.input(24), 16, activation=Activation.RELU)
    b.fully_connected(x, 5, activation=activation)
    plan = compiled(b.build())
    first, last = layers(plan)
    assert isinstance(first, Dense1D)
    assert isinstance(last, Dense1D)
    assert (first.output_bits, last.output_bits) == (8, 32)
    (program,) = plan.programs
    assert program.tensors[program.output.device].code.bits == 32


def test_scores_are_finer_than_the_sources() -> None:
    """With inputs on the device's grid only the rounded bias is left of the error."""
    b = GraphBuilder(1)
    b.fully_connected(b.input(24, scaling=(0.02, -128)), 5)
    graph = b.build()
    (program,) = compiled(graph).programs
    feeds = random_inputs(graph, 16)
    even = {
        name: (x.astype(np.int64) & ~1).astype(x.dtype) for name, x in feeds.items()
    }  # two source steps each
    _, scores = Simulator(program).run(even[graph.inputs[0]], raw=True)
    real = scores.reshape(16, -1) * np.asarray(program.tensors[program.output.device].code.scale)
    output = graph.tensors[graph.outputs[0]]
    source = run_graph(graph, even)[graph.outputs[0]].astype(np.float64)
    assert output.quantization is not None
    step, zero = output.quantization.single_scale, output.quantization.single_zero_point
    (op,) = graph.operations
    bias = np.abs(graph.constant(op.inputs[2])) * 0.01 * 1.5 * 0.02 * 1.25
    inside = (source > -128) & (source < 127)
    difference = np.abs(real - (source - zero) * step)
    assert (difference <= 0.51 * step + bias.max() / 127)[inside].all()


@pytest.mark.parametrize("behind", ["conv2d", "mean", "host"])
def test_flattens_rows_columns_and_channels_in_order(behind: str) -> None:
    b = Calm(2)
    x = b.input(3, 4, 5)
    if behind != "host":
        x = b.conv2d(x, 6)
    if behind == "mean":
        x = b.mean(x, keep_dims=True)
    b.fully_connected(b.flatten(x), 4)
    graph = b.build()
    plan = compiled(graph)
    expected = {"conv2d": ["Conv2D", "Dense1D"], "mean": ["Conv2D", "Dense1D"], "host": ["Dense1D"]}
    assert layer_names(plan) == expected[behind]
    flatten = len(graph.operations) - 2
    assert row(plan, flatten).on_device == (behind != "host")
    assert_within_budget(graph, plan, samples=16)


def test_keeps_eight_bits_in_front_of_another_layer() -> None:
    b = Calm(2)
    x = b.fully_connected(b.input(12), 16)
    y = b.fully_connected(x, 16)
    b.add(x, y)
    graph = b.build()
    plan = compiled(graph)
    assert layer_names(plan) == ["Dense1D", "Dense1D", "Add"]
    assert all(getattr(layer, "output_bits") == 8 for layer in layers(plan))  # noqa: B009
    assert_within_budget(graph, plan, samples=16)
