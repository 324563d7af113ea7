# SPDX-License-Identifier: Apache-2.0
"""Calibration inputs: too few are refused; enough make scales per channel and tuned biases."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from compiling import compiled, layers
from hypothesis import HealthCheck, given, settings
from random_graphs import graphs

from akida_backend.calibration import FEWEST_SAMPLES, Calibration
from akida_backend.candidate import device_shape
from akida_backend.errors import InputError
from akida_backend.execute import Executor
from akida_backend.graph import Activation, AnyArray, DType, Graph, Quantization
from akida_backend.plan import Plan
from akida_backend.program import Conv2D, Dense1D
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs


def _narrow(samples: int, graph: Graph, *, reach: int = 40, seed: int = 0) -> AnyArray:
    """Inputs that use a part of their codes only."""
    (name,) = graph.inputs
    random = np.random.default_rng(seed)
    shape = tuple(samples if d is None else d for d in graph.tensors[name].shape)
    return random.integers(-reach, reach + 1, shape).astype(np.int8)


def _network(*, separable: bool = True, add: bool = False, seed: int = 3) -> Graph:
    b = GraphBuilder(seed)
    x = b.conv2d(b.input(8, 8, 4, scaling=(0.02, 0)), 8, activation=Activation.RELU)
    if separable:
        x = b.depthwise(x, activation=Activation.RELU)
    y = b.conv2d(x, 8, kernel=1, activation=Activation.RELU)
    if add:
        y = b.add(x, y)
        y = b.conv2d(y, 8, kernel=1, activation=Activation.RELU)
    return b.build(b.fully_connected(b.mean(y), 5))


def _with_fine_output(graph: Graph, x: AnyArray) -> Graph:
    """The graph with an output scale that spreads what `x` gives over most of its codes."""
    (name,), (feed,) = graph.outputs, graph.inputs
    tensor = graph.tensors[name]
    assert tensor.quantization is not None
    codes = run_graph(graph, {feed: x})[name].astype(np.float64)
    real = (codes - tensor.quantization.single_zero_point) * tensor.quantization.single_scale
    middle = (real.max() + real.min()) / 2
    scale = (real.max() - real.min()) / 240
    fine = dataclasses.replace(
        tensor, quantization=Quantization.per_tensor(scale, int(-middle / scale))
    )
    return dataclasses.replace(graph, tensors={**graph.tensors, name: fine})


def _noise(plan: Plan, x: AnyArray) -> float:
    """Mean squared error of the output against the source, in squared steps."""
    (name,), (feed,) = plan.graph.outputs, plan.graph.inputs
    source = run_graph(plan.graph, {feed: x})[name].astype(np.float64)
    device = Executor(plan).run({feed: x}).values[name].astype(np.float64)
    return float(((source - device) ** 2).mean())


@pytest.mark.parametrize("count", [1, 4, FEWEST_SAMPLES - 1])
def test_too_few_inputs_are_refused(count: int) -> None:
    graph = _network()
    with pytest.raises(InputError, match=rf"calibration has {count} samples; at least 16") as error:
        compiled(graph, calibration=_narrow(count, graph))
    assert "64 typical inputs" in str(error.value)


def test_equal_inputs_count_once() -> None:
    graph = _network()
    x = np.repeat(_narrow(15, graph), 5, axis=0)
    with pytest.raises(InputError, match="64 samples, 13 of them distinct; at least 16"):
        compiled(graph, calibration=x)
    assert "Scales: calibrated" in compiled(graph, calibration=_narrow(16, graph)).report()
    assert (
        "Scales: calibrated" not in compiled(graph, calibration=x, allow_uncalibrated=True).report()
    )


def test_the_limit_counts_before_they_are_too_few() -> None:
    graph = _network()
    with pytest.raises(InputError, match="calibration has 8 samples"):
        compiled(graph, calibration=_narrow(64, graph), calibration_limit=8)


def test_only_the_first_inputs_are_used() -> None:
    graph = _network()
    x = _narrow(40, graph)
    other = x.copy()
    other[20:] = 127
    plans = [compiled(graph, calibration=data, calibration_limit=20) for data in (x, other)]
    for first, second in zip(*(layers(plan) for plan in plans), strict=True):
        assert isinstance(first, type(second))
        for field in ("weights", "bias", "rescale"):
            a, b = getattr(first, field), getattr(second, field)
            for part in ("value", "shift", "multiplier"):
                if hasattr(a, part):
                    np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("separable", [False, True])
def test_brings_outputs_nearer_to_the_source(separable: bool, add: bool) -> None:
    without, calibrated = [], []
    for seed in range(6):
        graph = _network(separable=separable, add=add, seed=seed)
        unseen = _narrow(64, graph, seed=1)
        graph = _with_fine_output(graph, unseen)
        without.append(_noise(compiled(graph), unseen))
        calibrated.append(_noise(compiled(graph, calibration=_narrow(64, graph)), unseen))
    assert max(calibrated) < 2.0
    # A network that fares badly without calibration does not make up for the others.
    assert sum(calibrated) < 0.7 * sum(min(noise, 4.0) for noise in without)


def test_channels_have_their_own_scale_in_front_of_a_depthwise_layer() -> None:
    graph = _network()
    (program,) = compiled(graph, calibration=_narrow(64, graph)).programs
    first, second = program.layers[:2]
    assert len(program.tensors[first.output].code.scale) == 8
    scales = np.array(program.tensors[second.output].code.scale)
    exponents = np.log2(scales / scales.min())
    np.testing.assert_allclose(exponents, np.rint(exponents))


def test_channels_differ_by_powers_of_two_in_front_of_a_convolution() -> None:
    graph = _network(separable=False)
    (program,) = compiled(graph, calibration=_narrow(64, graph)).programs
    shifted = [
        layer
        for layer in program.layers
        if isinstance(layer, Conv2D | Dense1D) and layer.input_shift is not None
    ]
    assert shifted
    for layer in shifted:
        assert layer.input_shift is not None
        scale = np.array(program.tensors[layer.inputs[0]].code.scale)
        expected = np.rint(np.log2(scale / scale.min()))
        np.testing.assert_array_equal(layer.input_shift, expected)


def test_measures_the_largest_magnitude_of_every_channel() -> None:
    graph = _network()
    feeds = random_inputs(graph, 16)
    measured = Calibration(feeds).measure(graph)
    values = run_graph(graph, feeds, keep=True)
    for name, peak in measured.peaks.items():
        tensor = graph.tensors[name]
        assert tensor.quantization is not None
        scale, zero = tensor.quantization.single_scale, tensor.quantization.single_zero_point
        real = (values[name].astype(np.float64) - zero) * scale
        np.testing.assert_allclose(
            peak, np.abs(real.reshape(-1, device_shape(tensor)[2])).max(axis=0)
        )


def test_a_channel_that_stayed_silent_keeps_a_margin() -> None:
    graph = _network()
    silent = np.zeros_like(_narrow(16, graph))
    silent[:, 0, 0, 0] = np.arange(16) - 8  # samples have to differ
    plan = compiled(graph, calibration=silent)
    assert _noise(plan, silent) <= 4
    for program in plan.programs:
        for tensor in program.tensors.values():
            scale = np.array(tensor.code.scale)
            if tensor.code.bits == 8:
                assert scale.max() <= 16 * scale.min()


def test_scales_that_would_overflow_an_accumulator_become_one() -> None:
    """200 channels of 7x7 leave no room for input shifts, but for the layer itself."""
    b = GraphBuilder(3)
    x = b.conv2d(b.input(7, 7, 4, scaling=(0.02, 0)), 160, activation=Activation.RELU)
    weights = np.full((2, 7, 7, 160), 100)
    graph = b.build(b.conv2d(x, 2, kernel=7, weights=weights, bias=False))
    plan = compiled(graph, calibration=_narrow(16, graph))
    assert all(placed.on_device for placed in plan.placement)
    _, last = layers(plan)
    assert isinstance(last, Conv2D)
    assert last.input_shift is None or not last.input_shift.any()


def test_the_same_inputs_give_the_same_program() -> None:
    graph = _network(add=True)
    x = _narrow(32, graph)
    one, two = (compiled(graph, calibration=x) for _ in range(2))
    for first, second in zip(layers(one), layers(two), strict=True):
        assert first.output == second.output
        if isinstance(first, Conv2D | Dense1D) and isinstance(second, Conv2D | Dense1D):
            np.testing.assert_array_equal(first.bias.value, second.bias.value)
            np.testing.assert_array_equal(first.rescale.multiplier, second.rescale.multiplier)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(graphs(most_operations=6))
def test_any_graph_compiles_with_calibration(graph: Graph) -> None:
    feeds = random_inputs(graph, FEWEST_SAMPLES)
    plan = compiled(graph, calibration=feeds)
    found = Executor(plan).run(feeds).values
    assert {name: values.dtype for name, values in found.items()} == {
        name: graph.tensors[name].dtype.numpy for name in graph.outputs
    }


def test_uint8_networks_calibrate_too() -> None:
    b = GraphBuilder(3, dtype=DType.UINT8)
    x = b.depthwise(b.conv2d(b.input(8, 8, 3), 6, activation=Activation.RELU))
    graph = b.build(b.conv2d(x, 4))
    plan = compiled(graph, calibration=random_inputs(graph, 32))
    assert all(placed.on_device for placed in plan.placement)
