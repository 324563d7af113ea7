# SPDX-License-Identifier: Apache-2.0
"""Integer parameters of one layer: how near they come, and what they refuse."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from compiling import compiled, layers, reasons, row
from error_budget import assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from akida_backend.execute import Executor
from akida_backend.graph import Activation, Conv2D, DType, Graph, Quantization, Tensor
from akida_backend.parameters import (
    FilterBank,
    LayerParameters,
    Lut,
    Refusal,
    bounded_relu,
    fit_weights,
    layer_parameters,
    nearest_bias,
    nearest_rescale,
)
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.program import Code, LookUpTable, NoActivation, ReLU
from akida_backend.program import Conv2D as Conv2DLayer
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs

ratios = st.floats(-25.0, 38.0).map(lambda exponent: 2.0**exponent)
biases = st.floats(-(2.0**27), 2.0**27)


# Rescale, bias and bound


@settings(max_examples=300, deadline=None)
@given(ratios)
def test_a_rescale_is_the_nearest_with_eight_bits(ratio: float) -> None:
    rescale = nearest_rescale(np.array([ratio]))
    (multiplier,), (shift,) = rescale.multiplier.tolist(), rescale.shift.tolist()
    assert 128 <= multiplier <= 255
    assert -32 <= shift <= 31
    error = abs(Fraction(multiplier) * Fraction(2) ** shift - Fraction(ratio))
    neighbours = [
        abs(Fraction(m) * Fraction(2) ** s - Fraction(ratio))
        for s in (shift - 1, shift, shift + 1)
        for m in range(128, 256)
    ]
    assert error == min(neighbours)
    assert error <= Fraction(ratio) / 256


@pytest.mark.parametrize(
    ("ratio", "multiplier", "shift"),
    [
        pytest.param(1.0, 128, -7, id="one"),
        pytest.param(255.4, 255, 0, id="below-256"),
        pytest.param(255.6, 128, 1, id="carried-from-256"),
        pytest.param(2.0**-25, 128, -32, id="least-exact-shift"),
        pytest.param(2.0**-33, 0, -32, id="rounds-to-nothing"),
        pytest.param(2.0**-27, 32, -32, id="fewer-bits-below"),
        pytest.param(255.0 * 2**31, 255, 31, id="largest"),
    ],
)
def test_a_rescale_at_the_ends(ratio: float, multiplier: int, shift: int) -> None:
    rescale = nearest_rescale(np.array([ratio]))
    assert (rescale.multiplier.tolist(), rescale.shift.tolist()) == ([multiplier], [shift])


@settings(max_examples=300, deadline=None)
@given(biases)
def test_a_bias_is_the_nearest_with_eight_bits(bias: float) -> None:
    stored = nearest_bias(np.array([bias]))
    (value,), (shift,) = stored.value.tolist(), stored.shift.tolist()
    assert 0 <= shift <= 21
    assert shift == 0 or abs(value) >= 63  # no bit is given away
    error = abs(Fraction(value) * 2**shift - Fraction(bias))
    assert error <= Fraction(2) ** (shift - 1)
    assert int(stored.effective[0]) == value * 2**shift


@pytest.mark.parametrize(
    ("bias", "value", "shift"),
    [
        pytest.param(0.0, 0, 0, id="zero"),
        pytest.param(-128.0, -64, 1, id="power-of-two"),
        pytest.param(127.5, 127, 0, id="half-above-the-largest"),
        pytest.param(127.6, 64, 1, id="next-shift"),
        pytest.param(-99.0, -99, 0, id="small"),
    ],
)
def test_a_bias_at_the_ends(bias: float, value: int, shift: int) -> None:
    stored = nearest_bias(np.array([bias]))
    assert (stored.value.tolist(), stored.shift.tolist()) == ([value], [shift])


@settings(max_examples=200, deadline=None)
@given(st.floats(0.0, 2.0**27))
def test_a_bound_is_the_nearest_with_eight_bits(bound: float) -> None:
    relu = bounded_relu(np.array([bound]))
    assert relu.max_value is not None
    assert relu.max_value_shift is not None
    (value,), (shift,) = relu.max_value.tolist(), relu.max_value_shift.tolist()
    assert 0 <= value <= 255
    assert abs(Fraction(value) * 2**shift - Fraction(bound)) <= Fraction(2) ** (shift - 1)


# Weights


def _bank(weights: object, *, scale: float = 0.01, bias: float = 0.0, bits: int = 8) -> FilterBank:
    array = np.array(weights, np.int64)
    return FilterBank(array, np.full(len(array), scale), np.full(len(array), bias), bits)


def test_weights_inside_the_signed_range_stay() -> None:
    bank = _bank([[-128, 127, 0], [5, -3, 1]])
    fitted, change = fit_weights(bank)
    assert fitted is bank
    assert change is None


def test_only_the_filters_outside_the_range_are_stretched() -> None:
    bank = _bank([[-204, 51, 102], [127, -128, 1], [0, 255, 3]])
    fitted, change = fit_weights(bank)
    assert change is not None
    assert change.filters == 2
    np.testing.assert_array_equal(fitted.weights, [[-127, 32, 64], [127, -128, 1], [0, 127, 1]])
    np.testing.assert_allclose(fitted.scale, [0.01 * 204 / 127, 0.01, 0.01 * 255 / 127])
    reals = fitted.weights * fitted.scale[:, None] / 0.01
    assert change.max_error == pytest.approx(np.abs(reals - bank.weights).max())
    assert change.max_error <= 0.5 * 255 / 127


def test_four_bit_weights_have_a_range_of_their_own() -> None:
    _, change = fit_weights(_bank([[-8, 7]], bits=4))
    assert change is None
    fitted, change = fit_weights(_bank([[-15, 7]], bits=4))
    assert change is not None
    np.testing.assert_array_equal(fitted.weights, [[-7, 3]])


# Layers

EIGHT_BITS = Code((0.05,))


def _layer(
    bank: FilterBank, *, output: Code | None = EIGHT_BITS, **options: object
) -> LayerParameters | Refusal:
    settings_: dict[str, object] = {
        "input_scale": np.full(len(bank.weights), 0.02),
        "input_peak": np.array(128),
        "buffer_bits": 28,
        "relu": False,
        **options,
    }
    return layer_parameters(bank, Code((0.02,)), output, **settings_)  # type: ignore[arg-type]


def test_an_accumulator_that_just_fits_is_taken_and_one_more_refused() -> None:
    # 128 * 127 * n + |bias| against 2**27
    full = [127] * (2**27 // (127 * 128))
    room = 2**27 - 1 - 127 * 128 * len(full)
    scale = 0.01 * 0.02
    fits = _layer(_bank([full], bias=room * scale * 0.98))
    assert isinstance(fits, LayerParameters)
    worst = 128 * 127 * len(full) + int(fits.bias.effective[0])
    assert worst < 2**27
    over = _layer(_bank([[*full, 127]], bias=0.0))
    assert isinstance(over, Refusal)
    assert over.code == "LOWER-ACCUMULATOR"
    assert over.found == "filter 0 may reach 2^27.0, the buffer holds 2^27"
    assert isinstance(_layer(_bank([[*full, 127]]), buffer_bits=32), LayerParameters)


def test_a_bias_beyond_the_accumulator_is_refused() -> None:
    refused = _layer(_bank([[1, 2], [3, 4]], bias=2.0**27 * 0.01 * 0.02))
    assert isinstance(refused, Refusal)
    assert refused.code == "LOWER-ACCUMULATOR"


@pytest.mark.parametrize("exponent", [28, 63, 64, 141, 255, 256, 263, 500])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [28, 32])
def test_no_bias_is_too_large_to_be_refused(exponent: int, sign: int, bits: int) -> None:
    """Shifts that leave 64 bits, or the 8 bits of their field, included."""
    bank = _bank([[1, 2], [3, 4]], bias=sign * 2.0 ** (exponent + 4) * 0.01 * 0.02)
    refused = _layer(bank, buffer_bits=bits)
    assert isinstance(refused, Refusal)
    assert f" may reach 2^{exponent + 4}.0, the buffer holds 2^{bits - 1}" in refused.found
    silent = _layer(bank, buffer_bits=bits, relu=True)
    assert isinstance(silent, Refusal if sign > 0 else LayerParameters)


def test_a_filter_that_never_fires_loses_its_weights_only_where_it_must() -> None:
    small = _layer(_bank([[1, 2]], bias=-1e4 * 0.01 * 0.02), relu=True)
    assert isinstance(small, LayerParameters)
    assert small.weights.any()
    large = _layer(_bank([[1, 2]], bias=-(2.0**40) * 0.01 * 0.02), relu=True)
    assert isinstance(large, LayerParameters)
    assert not large.weights.any()
    assert not large.bias.effective.any()
    assert isinstance(_layer(_bank([[1, 2]], bias=2.0**40 * 0.01 * 0.02), relu=True), Refusal)


def test_a_pooled_sum_beyond_32_bits_is_refused() -> None:
    heavy = _bank([[127] * 4000])
    for options in ({"relu": True}, {"relu": False}, {"relu": True, "bound": 1e9}):
        refused = _layer(heavy, area=144, **options)
        assert isinstance(refused, Refusal)
        assert refused.code == "LOWER-POST-OP"
        assert "pooled sum" in refused.found
    assert isinstance(_layer(heavy, relu=True), LayerParameters)
    assert isinstance(_layer(heavy, relu=True, bound=6.0, area=144), LayerParameters)


def test_a_tables_index_beyond_32_bits_is_refused() -> None:
    refused = _layer(_bank([[127] * 4000], scale=1e3), lut=Lut(np.abs, -1e-3, 1e-3))
    assert isinstance(refused, Refusal)
    assert refused.code == "LOWER-POST-OP"
    assert "index" in refused.found


def test_a_bound_out_of_reach_needs_few_bits() -> None:
    made = _layer(_bank([[1, 2]], scale=1e-12), relu=True, bound=6.0, area=4)
    assert isinstance(made, LayerParameters)
    assert isinstance(made.activation, ReLU)
    assert made.activation.max_value_shift is not None
    assert made.activation.max_value_shift.max() < 8
    assert made.activation.max_value is not None
    bound = made.activation.max_value.astype(int) << made.activation.max_value_shift
    assert (bound >= 128 * 3).all()


def test_a_rescaled_value_beyond_32_bits_is_refused() -> None:
    refused = _layer(_bank([[127] * 4000], scale=1e3), output=Code((1e-3,)))
    assert isinstance(refused, Refusal)
    assert refused.code == "LOWER-POST-OP"
    assert "rescaled value" in refused.found


def test_a_table_has_eight_bits_behind_it() -> None:
    refused = _layer(_bank([[1, 2]]), output=None, lut=Lut(np.abs, -1.0, 1.0))
    assert isinstance(refused, Refusal)
    assert refused.code == "LOWER-POST-OP"


def test_a_table_holds_its_function_where_the_argument_can_be() -> None:
    lut = Lut(lambda x: np.exp(x), -2.0, 1.0)
    made = _layer(_bank([[1, 2]]), lut=lut)
    assert isinstance(made, LayerParameters)
    assert isinstance(made.activation, LookUpTable)
    table = made.activation.table.astype(np.float64)
    assert table.max() == 8191
    arguments = np.clip(np.arange(-1024, 1024) * 2.0 / 1023, -2.0, 1.0)
    np.testing.assert_allclose(table / 8191, np.exp(arguments - 1.0), atol=0.51 / 8191)


@pytest.mark.parametrize(
    ("bound", "area", "kind"),
    [
        pytest.param(math.inf, 1, "open", id="no-bound"),
        pytest.param(127 * 0.05, 1, "open", id="where-the-codes-end"),
        pytest.param(3.0, 1, "bounded", id="below"),
        pytest.param(127 * 0.05, 9, "bounded", id="summed-behind"),
    ],
)
def test_a_relu_is_bounded_only_where_its_codes_go_on(bound: float, area: int, kind: str) -> None:
    made = _layer(_bank([[1, 2]]), relu=True, bound=bound, area=area)
    assert isinstance(made, LayerParameters)
    assert isinstance(made.activation, ReLU)
    assert (made.activation.max_value is not None) == (kind == "bounded")


def test_no_clamp_is_no_activation() -> None:
    made = _layer(_bank([[1, 2]]))
    assert isinstance(made, LayerParameters)
    assert isinstance(made.activation, NoActivation)


# The same in whole graphs


def _convolution(
    *,
    filters: int = 6,
    dead: tuple[int, ...] = (),
    biases: dict[int, int] | None = None,
    activation: Activation = Activation.NONE,
    channels: int = 4,
    dtype: DType = DType.INT8,
    average: bool = False,
    pool: bool = False,
    wide: bool = False,
) -> Graph:
    """A convolution with chosen filters without weights, and chosen stored biases."""
    b = GraphBuilder(8, dtype=dtype)
    x = b.input(6, 6, channels)
    if wide:
        x = b.fully_connected(b.flatten(x), filters, activation=activation)
    else:
        x = b.conv2d(x, filters, activation=activation)
    if average:
        x = b.mean(x)
    if pool:
        x = b.conv2d(b.max_pool(x), 3)
    weights_name = "fully_connected_weights" if wide else "conv_weights"
    weights = b.tensors[weights_name]
    assert weights.data is not None
    assert weights.quantization is not None
    data = weights.data.copy()
    for index in dead:
        data[index] = weights.quantization.zero_point[0]
    b.tensors[weights_name] = Tensor(
        weights_name, weights.dtype, weights.shape, weights.quantization, data
    )
    bias_name = "fully_connected_bias" if wide else "conv_bias"
    bias = b.tensors[bias_name]
    assert bias.data is not None
    stored = bias.data.copy()
    for index, value in (biases or {}).items():
        stored[index] = value
    b.tensors[bias_name] = Tensor(bias_name, bias.dtype, bias.shape, bias.quantization, stored)
    return b.build(x)


HUGE = {0: 2**30, 1: -(2**30), 2: 77_000, 3: -77_000}


@pytest.mark.parametrize("activation", [Activation.NONE, Activation.RELU, Activation.RELU6])
@pytest.mark.parametrize(
    ("what", "channels"),
    [("alone", 3), ("alone", 4), ("average", 4), ("pool", 3), ("pool", 4), ("wide", 4)],
)
def test_filters_without_weights_are_constants(
    activation: Activation, what: str, channels: int
) -> None:
    graph = _convolution(
        dead=(0, 1, 2, 3),
        biases=HUGE,
        activation=activation,
        channels=channels,
        average=what == "average",
        pool=what == "pool",
        wide=what == "wide",
    )
    plan = compiled(graph)
    assert len(plan.programs) == 1
    assert all(placed.on_device for placed in plan.placement if placed.type != "RESHAPE")
    feeds = random_inputs(graph, 4)
    (name,) = graph.outputs
    source = run_graph(graph, feeds)[name].astype(np.int64)
    device = Executor(plan).run(feeds).values[name].astype(np.int64)
    difference = np.abs(source - device)
    if what != "pool":  # constants: what the source gives, to the step
        assert difference.reshape(-1, 6)[:, :4].max() <= 1
    assert difference.max() <= 4


@pytest.mark.parametrize("activation", [Activation.RELU, Activation.RELU6])
def test_a_filter_behind_relu_that_never_fires_stays_zero(activation: Activation) -> None:
    graph = _convolution(biases={0: -(2**30), 4: -(2**29)}, activation=activation)
    plan = compiled(graph)
    assert row(plan, 0).on_device
    (name,) = graph.outputs
    output = Executor(plan).run(random_inputs(graph, 4)).values[name]
    quantization = graph.tensors[name].quantization
    assert quantization is not None
    zero = quantization.single_zero_point
    assert (output[..., [0, 4]] == zero).all()


def test_a_live_filter_with_a_bias_near_the_buffers_end() -> None:
    """Its output saturates everywhere; the proof counts |bias| and all products."""
    fits = compiled(_convolution(biases={0: 99_000_000}))
    (layer,) = layers(fits)
    assert isinstance(layer, Conv2DLayer)
    assert 2**26 < layer.bias.effective[0] < 2**27
    (name,) = fits.graph.outputs
    feeds = random_inputs(fits.graph, 2)
    np.testing.assert_array_equal(
        Executor(fits).run(feeds).values[name][..., 0],
        run_graph(fits.graph, feeds)[name][..., 0],
    )
    found = reasons(compiled(_convolution(biases={0: 2**28})), 0)
    assert set(found) == {"LOWER-ACCUMULATOR"}
    assert "filter 0" in found["LOWER-ACCUMULATOR"]


def test_asymmetric_weights_are_stretched_and_reported() -> None:
    b = GraphBuilder(2, dtype=DType.UINT8)
    weights: NDArray[np.integer] = np.full((3, 3, 3, 4), 130)
    weights[0, 0, 0, 0] = 255
    weights[1, 1, 1, 1] = 0
    b.conv2d(b.input(6, 6, 4), 3, weights=weights)
    old = b.tensors["conv_weights"]
    b.tensors["conv_weights"] = Tensor(
        old.name, old.dtype, old.shape, Quantization.per_tensor(0.01, 100), old.data
    )
    graph = b.build()
    plan = compiled(graph)
    (segment,) = plan.segments
    assert isinstance(segment, DeviceSegment)
    (note,) = segment.weight_notes
    assert note.filters == 1  # 255 - 100 is out, 0 - 100 is in
    assert 0 < note.max_error <= 0.5 * 155 / 127
    (layer,) = layers(plan)
    assert note.layer == layer.name
    assert isinstance(layer, Conv2DLayer)
    (op,) = graph.operations
    assert isinstance(op, Conv2D)
    np.testing.assert_array_equal(layer.weights[1:], weights[1:] - 100)
    assert layer.weights[0].max() == 127
    assert_within_budget(graph, plan)


def test_a_layer_too_deep_for_the_proof_stays_on_the_host() -> None:
    b = GraphBuilder(2)
    weights: NDArray[np.integer] = np.full((2, 7, 7, 200), 127)
    b.conv2d(b.input(7, 7, 200), 2, kernel=7, weights=weights)
    plan = compiled(b.build())
    assert reasons(plan, 0) == {
        "LOWER-ACCUMULATOR": "filter 0 may reach 2^27.3, the buffer holds 2^27"
    }
    assert _refused_once(plan)


def _refused_once(plan: Plan) -> bool:
    return all(len({r.code for r in p.reasons}) == len(p.reasons) for p in plan.placement)
