# SPDX-License-Identifier: Apache-2.0
"""The 8/4/4 quantizer on small random chains."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray

from akida_backend.four_bit import (
    LowBitCode,
    QuantizedChain,
    QuantizedLayer,
    RealLayer,
    SourceCode,
    Window,
    quantize_chain,
)
from akida_backend.four_bit import weights as weights_module
from akida_backend.four_bit.codes import coded, searched_scale
from akida_backend.four_bit.rows import convolved, pooled
from akida_backend.four_bit.weights import STEPS
from akida_backend.graph import Pads, Size2D

Reals = NDArray[np.float64]

SAME = Pads(1, 1, 1, 1)
TWO = Size2D(2, 2)
SAMPLES = 24


def naive(values: Reals, layer: RealLayer, weights: Reals) -> Reals:
    """Convolution as the definition reads, one product at a time."""
    samples, height, width, channels = values.shape
    filters = weights.shape[3] if layer.depthwise else weights.shape[0]
    _, kernel_height, kernel_width, _ = weights.shape
    pads, stride = layer.pads, layer.stride
    rows = (height + pads.top + pads.bottom - kernel_height) // stride.height + 1
    columns = (width + pads.left + pads.right - kernel_width) // stride.width + 1
    sums = np.zeros((samples, rows, columns, filters))
    for (n, y, x, f), _ in np.ndenumerate(sums):
        for i in range(kernel_height):
            for j in range(kernel_width):
                row = y * stride.height + i - pads.top
                column = x * stride.width + j - pads.left
                if not (0 <= row < height and 0 <= column < width):
                    continue
                if layer.depthwise:
                    sums[n, y, x, f] += values[n, row, column, f] * weights[0, i, j, f]
                else:
                    for c in range(channels):
                        sums[n, y, x, f] += values[n, row, column, c] * weights[f, i, j, c]
    return sums


def layer(rng: np.random.Generator, *shape: int, depthwise: bool = False) -> RealLayer:
    filters = shape[3] if depthwise else shape[0]
    spread = 1 / np.sqrt(np.prod(shape[1:3] if depthwise else shape[1:]))
    return RealLayer(
        name="layer",
        weights=rng.normal(0, spread, shape) * rng.uniform(0.3, 3, (1, 1, 1, 1)),
        bias=rng.normal(0, 0.1, filters),
        depthwise=depthwise,
        pads=SAME if shape[1] == 3 else Pads(),
    )


def chain(seed: int) -> tuple[list[RealLayer], list[Reals]]:
    """Convolution, depthwise, pointwise, and the real input of each."""
    rng = np.random.default_rng(seed)
    layers = [
        layer(rng, 8, 3, 3, 3),
        layer(rng, 1, 3, 3, 8, depthwise=True),
        replace(layer(rng, 6, 1, 1, 8), activated=False),
    ]
    return layers, sources(layers, rng.normal(0, 1, (SAMPLES, 6, 5, 3)))


def sources(layers: list[RealLayer], values: Reals) -> list[Reals]:
    inputs = []
    for part in layers:
        inputs.append(values)
        sums = pooled(convolved(values, part, part.weights) + part.bias, part)
        if part.average:
            sums = sums / (values.shape[1] * values.shape[2])
        values = (np.clip(sums, 0, part.bound) if part.activated else sums).astype(np.float64)
    return inputs


def image_chain(seed: int) -> tuple[list[RealLayer], list[Reals], SourceCode]:
    layers, _ = chain(seed)
    rng = np.random.default_rng(seed)
    image = rng.integers(-128, 128, (SAMPLES, 6, 5, 3)).astype(np.float64)
    layers[0] = replace(layers[0], weight_bits=8)
    return layers, sources(layers, image * 0.02), SourceCode(0.02)


def run(quantized: QuantizedChain, layers: list[RealLayer], codes: Reals) -> Reals:
    """Real outputs of the integers, in plain numpy."""
    for part, result in zip(layers, quantized.layers, strict=True):
        potentials = pooled(convolved(codes, part, result.weights.astype(np.float64)), part)
        if result.output_scale is None:
            return (potentials * result.scale + result.offset).astype(np.float64)
        highest = 2**part.output_bits - 1
        levels = np.ceil((potentials - result.threshold) / result.step)
        codes = np.clip(levels, 0, highest).astype(np.float64)
    assert result.output_scale is not None
    return codes * result.output_scale


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_the_definition(depthwise: bool, stride: int) -> None:
    rng = np.random.default_rng(stride)
    shape = (1, 3, 3, 4) if depthwise else (5, 3, 3, 4)
    part = replace(
        layer(rng, *shape, depthwise=depthwise),
        stride=Size2D(stride, stride),
        pads=Pads(0, 1, 1, 0),
    )
    values = rng.integers(0, 16, (2, 5, 6, 4)).astype(np.float64)
    weights = rng.integers(-8, 8, shape).astype(np.float64)
    assert np.array_equal(convolved(values, part, weights), naive(values, part, weights))


def test_quantized_integers_fit_their_bits() -> None:
    layers, inputs, code = image_chain(1)
    result = quantize_chain(layers, inputs, inputs[0], code)
    first, second, last = result.layers
    assert np.abs(first.weights).max() > 8
    for part in (second, last):
        assert part.weights.min() >= -8
        assert part.weights.max() <= 7
    for part in result.layers:
        assert (part.scale > 0).all()
    assert last.output_scale is None


def test_result_is_near_the_source_and_the_errors_say_how_near() -> None:
    layers, inputs, code = image_chain(2)
    result = quantize_chain(layers, inputs, inputs[0], code)
    last = layers[-1]
    wanted = convolved(inputs[-1], last, last.weights) + last.bias
    found = run(result, layers, np.rint(inputs[0] / code.scale))
    error = np.mean((found - wanted) ** 2) / np.mean(wanted**2)
    assert error == pytest.approx(result.errors[-1], rel=1e-6)
    assert error < 0.05


def test_every_step_that_stays_lowers_the_error() -> None:
    layers, inputs = chain(3)
    result = quantize_chain(layers, inputs, inputs[0], LowBitCode())
    assert [gain.step for gain in result.gains] == [*STEPS, "activation range", "equalisation"]
    for gain in result.gains:
        assert 0 <= gain.kept <= gain.layers
        assert gain.decibels >= 0
    assert sum(gain.decibels for gain in result.gains) > 0


def test_beats_rounding_to_nearest_on_new_inputs() -> None:
    better = 0
    for seed in range(6):
        layers, inputs, code = image_chain(seed)
        fresh: Reals = (
            np.random.default_rng(seed + 100)
            .integers(-128, 128, inputs[0].shape)
            .astype(np.float64)
            * code.scale
        )
        last = layers[-1]
        new = sources(layers, fresh)
        wanted = convolved(new[-1], last, last.weights) + last.bias
        found = run(
            quantize_chain(layers, inputs, inputs[0], code), layers, np.rint(fresh / code.scale)
        )
        naive_ = run(nearest(layers, inputs, code), layers, np.rint(fresh / code.scale))
        better += bool(np.mean((found - wanted) ** 2) < np.mean((naive_ - wanted) ** 2))
    assert better == 6


def nearest(layers: list[RealLayer], inputs: list[Reals], code: SourceCode) -> QuantizedChain:
    """Whole ranges, per tensor, every weight rounded on its own."""
    scale: Reals = np.full(3, code.scale)
    results = []
    for number, part in enumerate(layers):
        real = part.weights * scale
        axes = (1, 2) if part.depthwise else (1, 2, 3)
        highest = 2 ** (part.weight_bits - 1) - 1
        steps = np.abs(real).max(axis=axes).ravel() / highest
        shape = (1, 1, 1, -1) if part.depthwise else (-1, 1, 1, 1)
        weights = np.rint(real / steps.reshape(shape)).astype(np.int8)
        last = number + 1 == len(layers)
        output: Reals = np.full(len(part.bias), 0.0 if last else inputs[number + 1].max() / 15)
        results.append(QuantizedLayer(weights, steps, part.bias, None if last else output))
        scale = output
    return QuantizedChain(np.full(3, code.scale), tuple(results), (), ())


def test_threshold_and_step_are_rounding_to_the_nearest_code() -> None:
    rng = np.random.default_rng(5)
    count = 40
    quantized = QuantizedLayer(
        np.zeros((count, 1, 1, 1), np.int8),
        rng.uniform(0.001, 0.1, count),
        rng.normal(0, 1, count),
        rng.uniform(0.01, 1, count),
    )
    assert quantized.output_scale is not None
    for f in range(count):
        threshold, step = int(quantized.threshold[f]), Fraction(float(quantized.step[f]))
        scale, offset = Fraction(float(quantized.scale[f])), Fraction(float(quantized.offset[f]))
        height = Fraction(float(quantized.output_scale[f]))
        for potential in range(-300, 300, 7):
            code = ceil((potential - threshold) / step)
            # The threshold is an integer, so the staircase may lie half a potential off.
            distance = abs(code * height - (potential * scale + offset))
            assert distance <= height / 2 + scale / 2 + Fraction(1, 10**9)


def test_thresholds_stay_in_32_bits() -> None:
    quantized = QuantizedLayer(
        np.zeros((2, 1, 1, 1), np.int8),
        np.array([1e-12, 1e-12]),
        np.array([-1e9, 1e9]),
        np.array([1.0, 1.0]),
    )
    assert quantized.threshold.tolist() == [2**31 - 1, -(2**31 - 1)]


def test_layer_without_activation_has_no_threshold() -> None:
    part = QuantizedLayer(np.zeros((1, 1, 1, 1), np.int8), np.ones(1), np.zeros(1), None)
    with pytest.raises(ValueError, match="no thresholds"):
        _ = part.threshold
    with pytest.raises(ValueError, match="no steps"):
        _ = part.step


def test_low_bit_input_gets_a_scale_per_channel_before_a_depthwise_layer() -> None:
    rng = np.random.default_rng(6)
    part = replace(layer(rng, 1, 3, 3, 4, depthwise=True), activated=False)
    values = np.abs(rng.normal(0, 1, (SAMPLES, 6, 6, 4))) * np.array([0.01, 1, 10, 100])
    result = quantize_chain([part], [values], values, LowBitCode())
    assert (np.diff(result.input_scale) > 0).all()
    codes = np.clip(np.rint(values / result.input_scale), 0, 15)
    assert [int(codes[..., c].max()) for c in range(4)] == [15] * 4


def test_pooling_average_and_separable_halves_come_near_the_source() -> None:
    rng = np.random.default_rng(7)
    layers = [
        replace(layer(rng, 8, 3, 3, 4), pool=Window(TWO, TWO)),
        replace(layer(rng, 1, 3, 3, 8, depthwise=True), activated=False),
        layer(rng, 10, 1, 1, 8),
        replace(layer(rng, 6, 1, 1, 10), average=True, activated=False),
    ]
    inputs = sources(layers, np.abs(rng.normal(0, 1, (40, 8, 8, 4))))
    result = quantize_chain(layers, inputs, inputs[0], LowBitCode())
    assert result.layers[1].output_scale is None
    assert len(result.errors) == 4
    assert result.errors[1] < 0.02
    assert result.errors[3] < 0.1
    codes = np.clip(np.rint(inputs[0] / result.input_scale), 0, 15)
    middle = pooled(convolved(codes, layers[0], result.layers[0].weights.astype(float)), layers[0])
    assert middle.shape == (40, 4, 4, 8)


def test_bounded_activation_uses_its_codes_below_the_bound() -> None:
    rng = np.random.default_rng(8)
    part = replace(layer(rng, 6, 1, 1, 5), bound=0.25)
    values = np.abs(rng.normal(0, 1, (SAMPLES, 5, 5, 5)))
    scale = quantize_chain([part], [values], values, LowBitCode()).layers[0].output_scale
    assert scale is not None
    assert scale.max() <= 0.25 / 15 * (1 + 1e-9)


def test_dead_filters_and_channels_are_harmless() -> None:
    rng = np.random.default_rng(9)
    part = layer(rng, 5, 3, 3, 4)
    part.weights[2] = 0
    values = np.abs(rng.normal(0, 1, (SAMPLES, 6, 6, 4)))
    values[..., 1] = 0
    quantized = quantize_chain([part], [values], values, LowBitCode())
    result = quantized.layers[0]
    assert np.isfinite(result.scale).all()
    assert np.isfinite(result.threshold).all()
    assert result.output_scale is not None
    codes = np.clip(np.rint(values / quantized.input_scale), 0, 15)
    potentials = convolved(codes, part, result.weights.astype(float))
    found = np.clip(np.ceil((potentials - result.threshold) / result.step), 0, 15)[..., 2]
    height = result.output_scale[2]
    assert np.abs(found * height - max(0.0, float(part.bias[2]))).max() <= height / 2 * (1 + 1e-6)


def test_very_wide_filters_are_chosen_without_their_covariance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its size is the square of the inputs; without it the error stays that of four bits."""
    layers, inputs, code = image_chain(12)
    shapes: list[tuple[int, ...]] = []
    damped = weights_module._damped

    def seen(covariance: Reals, share: float) -> Reals:
        shapes.append(covariance.shape)
        return damped(covariance, share)

    monkeypatch.setattr(weights_module, "WIDEST", 3)
    monkeypatch.setattr(weights_module, "_damped", seen)
    diagonal = quantize_chain(layers, inputs, inputs[0], code)
    assert {len(shape) for shape in shapes} == {2}
    assert diagonal.errors[-1] < 0.1
    kept = {gain.step: gain.kept for gain in diagonal.gains}
    assert kept["bias correction"] > 0
    for part in diagonal.layers[1:]:
        assert np.abs(part.weights).max() in (7, 8)


@pytest.mark.full
def test_the_widest_dense_layer_is_quantized_in_bounded_memory() -> None:
    width = 57_334  # most inputs of a fully connected layer
    rng = np.random.default_rng(13)
    values = np.abs(rng.normal(0, 1, (SAMPLES, 1, 1, width)))
    part = replace(layer(rng, 4, 1, 1, width), activated=False)
    tracemalloc.start()
    result = quantize_chain([part], [values], values, LowBitCode())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500e6
    assert result.errors[0] < 0.1


def test_source_integers_of_few_bits_stay_and_so_do_their_levels() -> None:
    rng = np.random.default_rng(14)
    wanted = rng.integers(-8, 8, (6, 3, 3, 4))
    grid = rng.uniform(0.01, 0.05, 6)
    part = replace(
        layer(rng, 6, 3, 3, 4), weights=wanted * grid[:, None, None, None], grid=grid, level=0.3
    )
    last = replace(layer(rng, 5, 1, 1, 6), activated=False)
    inputs = sources([part, last], np.abs(rng.normal(0, 1, (SAMPLES, 6, 6, 4))))
    result = quantize_chain([part, last], inputs, inputs[0], LowBitCode())
    np.testing.assert_array_equal(result.layers[0].weights, wanted)
    assert result.layers[0].output_scale is not None
    assert set(result.layers[0].output_scale.tolist()) == {0.3}
    assert len(set(result.input_scale.tolist())) == 1


def test_the_codes_of_an_input_in_two_parts_are_those_the_device_has() -> None:
    """Two 4-bit codes add up to 30 at most."""
    values = np.linspace(0, 1, 200).reshape(1, 10, 20, 1)
    part = replace(layer(np.random.default_rng(15), 3, 1, 1, 1), activated=False)
    seen = searched_scale(values, values, LowBitCode(30).highest)[0]
    assert coded(values, seen, 30).max() == 30
    result = quantize_chain([part], [values], values, LowBitCode(30))
    assert 1 / 31 < result.input_scale[0] * (1 + 1e-9) <= 1 / 30 * (1 + 1e-6)


def test_same_inputs_give_the_same_integers() -> None:
    layers, inputs, code = image_chain(10)
    first, second = (quantize_chain(layers, inputs, inputs[0], code) for _ in range(2))
    for a, b in zip(first.layers, second.layers, strict=True):
        assert np.array_equal(a.weights, b.weights)
        assert np.array_equal(a.scale, b.scale)
    assert first.gains == second.gains


def test_progress_names_each_layer() -> None:
    layers, inputs, code = image_chain(11)
    named = [replace(part, name=f"conv{i}") for i, part in enumerate(layers)]
    calls: list[tuple[int, int, str]] = []
    quantize_chain(named, inputs, inputs[0], code, lambda *call: calls.append(call))
    assert calls == [(0, 3, "conv0"), (1, 3, "conv1"), (2, 3, "conv2")]
