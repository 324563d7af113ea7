# SPDX-License-Identifier: Apache-2.0
"""A convolution over its whole map becomes Dense1D: the same sums, rounded once instead of twice.

TFLite's convolutions round the product of accumulator and multiplier twice, its fully connected
layers once; the two differ by one step at most.
"""

from __future__ import annotations

import pytest
from compiling import compiled, kinds, layer_names, reasons, rewrite_once, row, steps_apart
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, Arithmetic, DType, FullyConnected, Graph, Pads
from akida_backend.rewrites.dense_window import apply
from builders import GraphBuilder


def _window(
    *,
    size: tuple[int, int] = (3, 4),
    kernel: tuple[int, int] = (3, 4),
    channels: int = 4,
    padding: str | Pads = "valid",
    activation: Activation = Activation.NONE,
    dtype: DType = DType.INT8,
    arithmetic: Arithmetic = Arithmetic.TFLITE,
    seed: int = 0,
) -> Graph:
    b = GraphBuilder(seed, dtype=dtype, arithmetic=arithmetic)
    x = b.input(*size, channels)
    b.conv2d(x, 5, kernel=kernel, padding=padding, activation=activation)
    return b.build()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.integers(4, 9),
    activation=st.sampled_from([Activation.NONE, Activation.RELU]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 99),
)
def test_differs_by_one_step_at_most(
    size: tuple[int, int], channels: int, activation: Activation, dtype: DType, seed: int
) -> None:
    graph = _window(
        size=size, kernel=size, channels=channels, activation=activation, dtype=dtype, seed=seed
    )
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert kinds(rewritten.graph) == [FullyConnected]
    assert steps_apart(graph, rewritten.graph, samples=8) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_is_exact_where_both_round_alike(seed: int) -> None:
    graph = _window(seed=seed, arithmetic=Arithmetic.TFLITE_2_14)
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    # The kernel keeps the convolution's own shape of output, (1, 1, filters).
    assert steps_apart(graph, rewritten.graph, samples=16) == 0


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_window(size=(4, 4), kernel=(3, 3)), id="several-positions"),
        pytest.param(_window(size=(3, 3), kernel=(3, 3), padding="same"), id="padded"),
    ],
)
def test_leaves_other_convolutions_alone(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_leaves_an_inner_layer_the_device_takes_alone() -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(1, 1, 4), 4, kernel=1)
    b.max_pool(x, window=1)
    assert rewrite_once(apply, b.build()) is None


def test_gives_the_networks_scores_all_their_bits() -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(6, 6, 4), 8, activation=Activation.RELU)
    x = b.average_pool(x)
    x = b.conv2d(x, 5, kernel=1)
    b.softmax(b.reshape(x, 5))
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Dense1D"]
    assert row(plan, 2).rewrites == ("dense-window",)
    (program,) = plan.programs
    assert program.tensors[program.output.device].code.bits == 32


def test_takes_a_whole_map_kernel_from_the_host() -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(6, 8, 4), 8)
    x = b.conv2d(x, 6, kernel=(6, 8), padding="valid")
    b.tanh(x)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Dense1D"]
    assert row(plan, 1).rewrites == ("dense-window",)


def test_says_why_too_large_a_window_stays() -> None:
    plan = compiled(_window(size=(30, 30), kernel=(30, 30)))
    assert set(reasons(plan, 0)) >= {"V2-CONV-KERNEL", "V2-CONV-PADDING"}
    assert row(plan, 0).rewrites == ()
