# SPDX-License-Identifier: Apache-2.0
"""Channels of real zero come from filters of zeros, without changing an integer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from compiling import assert_same_integers, compiled, kinds, layer_names, rewrite_once, row
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, Conv2D, DType, Graph, Pad, Quantization
from akida_backend.rewrites.channel_pad import apply
from akida_backend.rewrites.rewriting import TooLargeError
from builders import GraphBuilder

SPREAD = ((0, 0), (0, 0), (0, 0), (1, 2))


def _padded(
    amounts: tuple[tuple[int, int], ...] = SPREAD,
    *,
    shared: bool = False,
    depthwise: bool = False,
    on_device: bool = True,
    value: int | None = None,
    dtype: DType = DType.INT8,
    activation: Activation = Activation.NONE,
    bias: bool = True,
    per_channel: bool = True,
    seed: int = 0,
) -> Graph:
    b = GraphBuilder(seed, dtype=dtype, per_channel=per_channel)
    x = b.input(5, 6, 4)
    if depthwise:
        x = b.depthwise(x, activation=activation, bias=bias)
    elif on_device:
        x = b.conv2d(x, 3, activation=activation, bias=bias)
    padded = b.pad(x, amounts, value=value)
    return b.build(*((padded, x) if shared else (padded,)))


@settings(max_examples=60, deadline=None)
@given(
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    shared=st.booleans(),
    depthwise=st.booleans(),
    bias=st.booleans(),
    per_channel=st.booleans(),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    activation=st.sampled_from([Activation.NONE, Activation.RELU, Activation.RELU6]),
    seed=st.integers(0, 9),
)
def test_keeps_every_integer(
    before: int,
    after: int,
    shared: bool,
    depthwise: bool,
    bias: bool,
    per_channel: bool,
    dtype: DType,
    activation: Activation,
    seed: int,
) -> None:
    graph = _padded(
        ((0, 0), (0, 0), (0, 0), (before, after)),
        shared=shared,
        depthwise=depthwise,
        bias=bias,
        per_channel=per_channel,
        dtype=dtype,
        activation=activation,
        seed=seed,
    )
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert Pad not in kinds(rewritten.graph)
    assert len(rewritten.graph.operations) == (2 if shared or depthwise else 1)
    assert_same_integers(graph, rewritten.graph)


def test_widens_the_producer_and_names_both_operators() -> None:
    rewritten = rewrite_once(apply, _padded())
    assert rewritten is not None
    (wide,) = rewritten.graph.operations
    assert isinstance(wide, Conv2D)
    assert wide.sources == rewritten.sources == (0, 1)
    weights = rewritten.graph.constant(wide.weights)
    assert [bool(np.any(filter_)) for filter_ in weights] == [False, True, True, True, False, False]


def test_inserts_an_identity_where_others_read_the_tensor() -> None:
    rewritten = rewrite_once(apply, _padded(shared=True))
    assert rewritten is not None
    assert kinds(rewritten.graph) == [Conv2D, Conv2D]
    assert rewritten.sources == (1,)


def _requantizing() -> Graph:
    graph = _padded()
    pad = graph.operations[-1].outputs[0]
    other = dataclasses.replace(graph.tensors[pad], quantization=Quantization.per_tensor(0.5, 3))
    return dataclasses.replace(graph, tensors={**graph.tensors, pad: other})


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_padded(((0, 0), (0, 1), (0, 0), (1, 2))), id="also-rows"),
        pytest.param(_padded(value=99), id="border-not-zero"),
        pytest.param(_padded(on_device=False), id="on-the-host"),
        pytest.param(_requantizing(), id="another-scale"),
    ],
)
def test_leaves_other_pads_alone(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_runs_on_the_device() -> None:
    plan = compiled(_padded())
    assert layer_names(plan) == ["Conv2D"]
    assert row(plan, 0).rewrites == row(plan, 1).rewrites == ("channel-pad",)
    assert row(plan, 1).on_device


def test_does_not_touch_a_denied_producer() -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(5, 6, 4), 3)
    b.pad(x, SPREAD)
    plan = compiled(b.build(), deny=("type:CONV_2D",))
    assert plan.programs == ()
    assert all(placed.rewrites == () for placed in plan.placement)


@pytest.mark.parametrize("shared", [False, True], ids=["widened", "identity"])
def test_refuses_weights_of_gigabytes(*, shared: bool) -> None:
    graph = _padded(((0, 0), (0, 0), (0, 0), (1, 2**29)), shared=shared)
    with pytest.raises(TooLargeError):
        rewrite_once(apply, graph)
