# SPDX-License-Identifier: Apache-2.0
"""ADD of two maps: shifts, clamps, free bases, and what it cannot take."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compiling import compiled, layer_names, layers, reasons
from error_budget import Calm, assert_within_budget
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, DType
from akida_backend.program import Add, NoActivation, ReLU
from builders import GraphBuilder


@settings(max_examples=60, deadline=None)
@given(
    branches=st.sampled_from(["two", "with input", "chain"]),
    ratio=st.floats(0.1, 10.0),
    operands=st.sampled_from([Activation.NONE, Activation.RELU]),
    activation=st.sampled_from([Activation.NONE, Activation.RELU, Activation.RELU6]),
    behind=st.sampled_from(["nothing", "relu", "quantize", "conv2d"]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 999),
)
def test_strays_no_further_than_rounding_explains(
    branches: str,
    ratio: float,
    operands: Activation,
    activation: Activation,
    behind: str,
    dtype: DType,
    seed: int,
) -> None:
    b = Calm(seed, dtype=dtype)
    x = b.input(5, 6, 4)
    a = b.conv2d(x, 4, activation=operands)
    scale, zero_point = b.scaling(a)
    # The second branch is wider or narrower than its own values need.
    if branches == "with input":
        c = x
    else:
        c = b.conv2d(x, 4, activation=operands, scaling=(scale * max(ratio, 1.0), zero_point))
    y = b.add(a, c, activation=activation)
    if branches == "chain":
        y = b.add(b.conv2d(y, 4), y)
    if behind == "relu":
        y = b.relu(y)
    elif behind == "quantize":
        wide, zero = b.scaling(y)
        y = b.quantize(y, scaling=(1.5 * wide, zero))
    elif behind == "conv2d":
        y = b.conv2d(y, 3)
    graph = b.build(y)
    plan = compiled(graph)
    # Behind ReLU6 the builder's bias can be too large for the finer steps of six.
    refusals = {r.code for placed in plan.placement for r in placed.reasons}
    assume("LOWER-ACCUMULATOR" not in refusals)
    assert len(plan.programs) == 1
    assert "Add" in layer_names(plan)
    assert_within_budget(graph, plan, seed=seed)


def _sum(
    *,
    activation: Activation = Activation.NONE,
    scaling: tuple[float, int] | None = None,
    first: Activation = Activation.NONE,
) -> GraphBuilder:
    b = Calm(4)
    x = b.input(5, 6, 4)
    b.add(
        b.conv2d(x, 4, activation=first),
        b.conv2d(x, 4, activation=first),
        activation=activation,
        scaling=scaling,
    )
    return b


@pytest.mark.parametrize(
    ("activation", "scaling", "first", "expected"),
    [
        pytest.param(Activation.NONE, None, Activation.NONE, NoActivation, id="none"),
        pytest.param(Activation.RELU, None, Activation.NONE, ReLU, id="relu"),
        pytest.param(Activation.RELU, None, Activation.RELU, ReLU, id="relu-of-stored-negatives"),
        pytest.param(Activation.NONE, (0.5, -128), Activation.NONE, ReLU, id="range-from-zero"),
    ],
)
def test_clamps_where_the_source_does_and_says_what_it_assumes(
    activation: Activation, scaling: tuple[float, int] | None, first: Activation, expected: type
) -> None:
    plan = compiled(_sum(activation=activation, scaling=scaling, first=first).build())
    (add,) = (layer for layer in layers(plan) if isinstance(layer, Add))
    assert isinstance(add.activation, expected)
    (segment,) = plan.segments
    assumed = getattr(segment, "assumptions")  # noqa: B009 - of a device segment
    assert bool(assumed) == (expected is ReLU)


def test_bounds_a_sum_of_positives_that_relu6_clamps() -> None:
    b = Calm(4)
    x = b.input(5, 6, 4)
    parts = [b.conv2d(x, 4, activation=Activation.RELU, scaling=(0.04 * k, -128)) for k in (1, 1.5)]
    b.add(*parts, activation=Activation.RELU6, scaling=(0.05, -128))
    graph = b.build()
    plan = compiled(graph)
    assert_within_budget(graph, plan, samples=16)


def test_keeps_scales_of_a_residual_network_in_power_of_two_ratios() -> None:
    b = Calm(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    for _ in range(3):
        x = b.add(b.conv2d(x, 4), x)
    b.conv2d(x, 4)
    plan = compiled(b.build())
    (program,) = plan.programs
    adds = [layer for layer in program.layers if isinstance(layer, Add)]
    scales = [
        program.tensors[name].code.scale[0] for add in adds for name in (*add.inputs, add.output)
    ]
    for scale in scales:
        exponent = math.log2(scale / scales[0])
        assert abs(exponent - round(exponent)) < 1e-9
    assert all(min(add.a_shift, add.b_shift) == 0 for add in adds)


def test_strict_converter_makes_the_scales_powers_of_two() -> None:
    b = Calm(1)
    x = b.input(6, 6, 4)
    graph = b.build(b.add(b.conv2d(x, 4), b.conv2d(x, 4)))
    free, strict = (compiled(graph, strict_converter=flag) for flag in (False, True))

    def exponents(plan: object) -> list[float]:
        (program,) = plan.programs  # type: ignore[attr-defined]
        (add,) = (layer for layer in program.layers if isinstance(layer, Add))
        names = (*add.inputs, add.output)
        return [math.log2(program.tensors[name].code.scale[0]) for name in names]

    assert all(abs(e - round(e)) < 1e-9 for e in exponents(strict))
    assert not all(abs(e - round(e)) < 1e-9 for e in exponents(free))
    assert_within_budget(graph, strict)


@pytest.mark.parametrize(
    ("operands", "found"),
    [
        pytest.param("same", "one map taken twice", id="same-tensor"),
        pytest.param("broadcast", "operands of different shapes", id="broadcast"),
        pytest.param("constant", "a constant operand", id="constant-map"),
    ],
)
def test_names_the_operands_it_cannot_take(operands: str, found: str) -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(4, 4, 4), 4)
    if operands == "same":
        b.add(x, x)
    elif operands == "broadcast":
        b.add(x, b.mean(x, keep_dims=True))
    else:
        b.add(x, b.constant(np.ones((4, 4, 4)), scaling=(0.1, 0)))
    plan = compiled(b.build())
    index = plan.placement[-1].index
    assert reasons(plan, index) == {"V2-CNV-ADD-OPERANDS": found}


def test_names_the_branch_that_stays_on_the_host() -> None:
    b = GraphBuilder(1)
    x = b.input(4, 4, 4)
    y = b.conv2d(x, 4)
    b.add(y, b.tanh(x))
    found = reasons(compiled(b.build()), 2)
    assert set(found) == {"V2-GRAPH-BRANCHES"}
    assert "'conv' comes from another segment" in found["V2-GRAPH-BRANCHES"]
    assert "'tanh' comes from the host" in found["V2-GRAPH-BRANCHES"]


@pytest.mark.parametrize("behind", ["add", "concatenation", "average"])
def test_refuses_a_lower_clamp_that_wider_codes_would_lose(behind: str) -> None:
    b = Calm(1)
    x = b.input(4, 4, 4)
    clamped = b.conv2d(x, 4, activation=Activation.RELU_N1_TO_1, scaling=(0.3, 0))
    wide = b.conv2d(x, 4, scaling=(0.3, 0))
    if behind == "add":
        b.add(clamped, wide)
    elif behind == "concatenation":
        b.concatenation(clamped, wide)
    else:
        b.mean(clamped)
    plan = compiled(b.build())
    assert reasons(plan, 0) == {"LOWER-CLAMP": "a clamp at -1"}


def test_refuses_a_lower_clamp_of_its_own() -> None:
    b = Calm(1)
    x = b.input(4, 4, 4)
    y = b.add(
        b.conv2d(x, 4, scaling=(0.3, 0)),
        b.conv2d(x, 4, scaling=(0.3, 0)),
        activation=Activation.RELU_N1_TO_1,
        scaling=(0.3, 0),
    )
    b.conv2d(y, 4)
    plan = compiled(b.build())
    add = next(layer for layer in plan.placement if layer.type == "ADD")
    clamps = [r.code for r in add.reasons]
    assert clamps in ([], ["LOWER-CLAMP"])
    if not clamps:
        assert_within_budget(plan.graph, plan)
