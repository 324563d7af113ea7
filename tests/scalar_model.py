# SPDX-License-Identifier: Apache-2.0
"""The device's arithmetic on Python's own integers, one value at a time.

Written from the published rules alone and sharing no code with the package's simulator: it
judges the oracle. Maps are nested lists ``[row][column][channel]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from akida_backend import program as dialect

Map = list[list[list[int]]]
Position = tuple[int, int]


def rescaled(value: int, multiplier: int, shift: int, low: int, high: int) -> int:
    """Nearest integer to ``value * multiplier * 2**shift``, ties up, saturated."""
    exact = Fraction(value * multiplier) * Fraction(2) ** shift
    return max(low, min(high, math.floor(exact + Fraction(1, 2))))


def same_begin(length: int, kernel: int, stride: int) -> int:
    """Rows in front of the map: the smaller half of what the windows lack."""
    lacking = (-(-length // stride) - 1) * stride + kernel - length
    return max(lacking, 0) // 2


def codes_between(bits: int) -> tuple[int, int]:
    return {4: (0, 15), 8: (-128, 127)}[bits]


def run_layers(program: dialect.Program, device_input: Map) -> dict[str, Map]:
    """Every tensor of one sample."""
    maps = {program.input.device: device_input}
    for layer in program.layers:
        maps[layer.output] = run_layer(layer, [maps[name] for name in layer.inputs])
    return maps


def run_layer(layer: dialect.ProgramLayer, inputs: list[Map]) -> Map:
    match layer:
        case dialect.Concatenate():
            first, second = inputs
            return [
                [a + b for a, b in zip(row_a, row_b, strict=True)]
                for row_a, row_b in zip(first, second, strict=True)
            ]
        case dialect.Add():
            return _add(layer, *inputs)
        case dialect.InputConv2D():
            border = [int(v) for v in layer.padding_value]
            same = layer.padding is dialect.Padding.SAME
            accumulators = _convolve(layer, inputs[0], border, same=same, depthwise=False)
            return _finish(layer, accumulators, layer.pool, average=False)
        case dialect.Conv2D():
            shifted = _shift_inputs(inputs[0], layer.input_shift)
            accumulators = _convolve(layer, shifted, None, same=True, depthwise=False)
            return _finish(layer, accumulators, layer.pool, average=layer.global_average)
        case dialect.DepthwiseConv2D():
            accumulators = _convolve(layer, inputs[0], None, same=True, depthwise=True)
            return _finish(layer, accumulators, layer.pool, average=layer.global_average)
        case dialect.Conv2DTranspose():
            accumulators = _transpose(layer, inputs[0], depthwise=False)
            return _finish(layer, accumulators, None, average=False)
        case dialect.DepthwiseConv2DTranspose():
            accumulators = _transpose(layer, inputs[0], depthwise=True)
            return _finish(layer, accumulators, None, average=False)
        case dialect.Dense1D():
            flat = [value for row in inputs[0] for cell in row for value in cell]
            [[vector]] = _shift_inputs([[flat]], layer.input_shift)
            sums = [
                sum(w * x for w, x in zip(weights, vector, strict=True))
                for weights in layer.weights.tolist()
            ]
            return _finish(layer, [[_biased(layer, sums)]], None, average=False)
        case dialect.InputConvolutional():
            border = [layer.padding_value] * len(inputs[0][0][0])
            same = layer.padding is dialect.Padding.SAME
            potentials = _convolve(layer, inputs[0], border, same=same, depthwise=False)
            return _to_levels(layer, potentials, layer.pool, average=False)
        case dialect.Convolutional():
            potentials = _convolve(layer, inputs[0], None, same=True, depthwise=False)
            return _to_levels(layer, potentials, layer.pool, average=layer.global_average)
        case dialect.SeparableConvolutional():
            depthwise = _convolve(layer, inputs[0], None, same=True, depthwise=True)
            pointwise = layer.pointwise_weights.tolist()
            potentials = [[[_dot(w, cell) for w in pointwise] for cell in row] for row in depthwise]
            return _to_levels(layer, potentials, layer.pool, average=layer.global_average)
        case dialect.FullyConnected():
            flat = [value for row in inputs[0] for cell in row for value in cell]
            sums = [_dot(weights, flat) for weights in layer.weights.tolist()]
            return _to_levels(layer, [[sums]], None, average=False)


def _dot(weights: list[int], values: list[int]) -> int:
    return sum(w * x for w, x in zip(weights, values, strict=True))


def level(potential: int, threshold: int, step: Fraction, bits: int) -> int:
    """Levels counted one by one: the next begins where the potential exceeds its foot."""
    reached = 0
    while reached < 2**bits - 1 and potential > threshold + reached * step:
        reached += 1
    return reached


def _to_levels(
    layer: dialect.Akida1Layer, potentials: Map, pool: dialect.MaxPool | None, *, average: bool
) -> Map:
    if pool is not None:
        potentials = _pooled(potentials, pool)
    if average:
        cells = [cell for row in potentials for cell in row]
        potentials = [[[sum(column) for column in zip(*cells, strict=True)]]]
    limit = 2**19 if average else 2**31
    assert all(-limit <= v < limit for row in potentials for cell in row for v in cell)
    thresholds = layer.threshold.tolist()
    if isinstance(layer.activation, dialect.NoActivation):
        return [
            [[v - t for v, t in zip(cell, thresholds, strict=True)] for cell in row]
            for row in potentials
        ]
    steps = [
        Fraction(step, 2**shift)
        for step, shift in zip(
            layer.activation.step.tolist(), layer.activation.step_shift.tolist(), strict=True
        )
    ]
    return [
        [
            [level(v, thresholds[f], steps[f], layer.output_bits) for f, v in enumerate(cell)]
            for cell in row
        ]
        for row in potentials
    ]


def host_codes(program: dialect.Program, stored: list[int]) -> Map:
    """Device codes of one sample's host integers in row-major order."""
    lowest = {"int8": -128, "uint8": 0}[program.input.dtype.value]
    tensor = program.tensors[program.input.device]
    height, width, channels = tensor.shape
    recode = program.input.recode.tolist()
    tables = [recode[begin : begin + 256] for begin in range(0, len(recode), 256)]
    parts = tensor.code.parts
    values = iter(stored)
    cells = [[next(values) for _ in range(channels // parts)] for _ in range(height * width)]
    if len(tables) == parts:  # one for all channels of a part
        tables = [table for table in tables for _ in range(channels // parts)]
    coded = [
        [table[v - lowest] for table, v in zip(tables, cell * parts, strict=True)] for cell in cells
    ]
    return [coded[row * width : (row + 1) * width] for row in range(height)]


def host_integers(program: dialect.Program, output: Map) -> list[int]:
    """Host integers of one sample in row-major order."""
    port = program.output
    factors = port.factor.tolist()
    stored = []
    for row in output:
        for cell in row:
            for channel, value in enumerate(cell):
                factor = factors[channel] if len(factors) > 1 else factors[0]
                shifted = round(value * factor) + port.zero_point  # round() is half to even
                stored.append(max(port.low, min(port.high, shifted)))
    return stored


def _shift_inputs(x: Map, shifts: np.ndarray | None) -> Map:
    if shifts is None:
        return x
    factors = [2 ** int(s) for s in shifts]
    return [[[v * f for v, f in zip(cell, factors, strict=True)] for cell in row] for row in x]


def _biased(layer: dialect.MacLayer, sums: list[int]) -> list[int]:
    if isinstance(layer, dialect.Akida1Layer):
        return sums
    values, shifts = layer.bias.value.tolist(), layer.bias.shift.tolist()
    return [s + v * 2**k for s, v, k in zip(sums, values, shifts, strict=True)]


def _convolve(
    layer: dialect.InputConv2D
    | dialect.Conv2D
    | dialect.DepthwiseConv2D
    | dialect.InputConvolutional
    | dialect.Convolutional
    | dialect.SeparableConvolutional,
    x: Map,
    border: list[int] | None,
    *,
    same: bool,
    depthwise: bool,
) -> Map:
    height, width, channels = len(x), len(x[0]), len(x[0][0])
    weights = layer.weights.tolist()
    kernel_height, kernel_width = len(weights[0]), len(weights[0][0])
    down, right = layer.stride.height, layer.stride.width
    if same:
        rows, columns = -(-height // down), -(-width // right)
        top, left = (
            same_begin(height, kernel_height, down),
            same_begin(width, kernel_width, right),
        )
    else:
        rows, columns = (height - kernel_height) // down + 1, (width - kernel_width) // right + 1
        top = left = 0
    outside = [0] * channels if border is None else border

    def at(row: int, column: int) -> list[int]:
        inside = 0 <= row < height and 0 <= column < width
        return x[row][column] if inside else outside

    def sums(row: int, column: int) -> list[int]:
        totals = [0] * (channels if depthwise else len(weights))
        for ky in range(kernel_height):
            for kx in range(kernel_width):
                cell = at(row * down - top + ky, column * right - left + kx)
                if depthwise:
                    for c in range(channels):
                        totals[c] += weights[0][ky][kx][c] * cell[c]
                else:
                    for f, filter_weights in enumerate(weights):
                        for c in range(channels):
                            totals[f] += filter_weights[ky][kx][c] * cell[c]
        return _biased(layer, totals)

    return [[sums(row, column) for column in range(columns)] for row in range(rows)]


def _transpose(
    layer: dialect.Conv2DTranspose | dialect.DepthwiseConv2DTranspose, x: Map, *, depthwise: bool
) -> Map:
    height, width, channels = len(x), len(x[0]), len(x[0][0])
    weights = layer.weights.tolist()
    kernel_height, kernel_width = len(weights[0]), len(weights[0][0])
    top = {3: 0, 4: 1}[kernel_height]
    left = {3: 0, 4: 1}[kernel_width]

    def sums(row: int, column: int) -> list[int]:
        totals = [0] * (channels if depthwise else len(weights))
        for y in range(height):
            for x_position in range(width):
                ky, kx = row + top - 2 * y, column + left - 2 * x_position
                if not (0 <= ky < kernel_height and 0 <= kx < kernel_width):
                    continue
                cell = x[y][x_position]
                for c in range(channels):
                    if depthwise:
                        totals[c] += weights[0][ky][kx][c] * cell[c]
                    else:
                        for f, filter_weights in enumerate(weights):
                            totals[f] += filter_weights[ky][kx][c] * cell[c]
        return _biased(layer, totals)

    return [[sums(row, column) for column in range(2 * width)] for row in range(2 * height)]


def _pooled(accumulators: Map, pool: dialect.MaxPool) -> Map:
    height, width, channels = len(accumulators), len(accumulators[0]), len(accumulators[0][0])
    if pool.padding is dialect.Padding.SAME:
        rows, columns = -(-height // pool.stride.height), -(-width // pool.stride.width)
        top = same_begin(height, pool.size.height, pool.stride.height)
        left = same_begin(width, pool.size.width, pool.stride.width)
    else:
        rows = (height - pool.size.height) // pool.stride.height + 1
        columns = (width - pool.size.width) // pool.stride.width + 1
        top = left = 0

    def cells(row: int, column: int) -> list[Position]:
        first, left_edge = row * pool.stride.height - top, column * pool.stride.width - left
        return [
            (y, x)
            for y in range(first, first + pool.size.height)
            for x in range(left_edge, left_edge + pool.size.width)
            if 0 <= y < height and 0 <= x < width
        ]

    return [
        [
            [max(accumulators[y][x][c] for y, x in cells(row, column)) for c in range(channels)]
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def _activation(activation: dialect.LayerActivation) -> Callable[[int, int], int]:
    """Function of (accumulator, filter)."""
    match activation:
        case dialect.NoActivation():
            return lambda value, _: value
        case dialect.ReLU(max_value=None):
            return lambda value, _: max(value, 0)
        case dialect.ReLU(max_value=bounds, max_value_shift=shifts):
            assert bounds is not None
            assert shifts is not None
            highest = [int(b) * 2 ** int(s) for b, s in zip(bounds, shifts, strict=True)]
            return lambda value, f: min(max(value, 0), highest[f])
        case dialect.LookUpTable(rescale=rescale, table=table):
            multipliers, table_shifts = rescale.multiplier.tolist(), rescale.shift.tolist()
            entries = {index - 1024: int(entry) for index, entry in enumerate(table)}
            return lambda value, f: entries[
                rescaled(value, multipliers[f], table_shifts[f], -1024, 1023)
            ]


def _finish(
    layer: dialect.ConvolutionLayer,
    accumulators: Map,
    pool: dialect.MaxPool | None,
    *,
    average: bool,
) -> Map:
    limit = 2 ** (layer.buffer_bits - 1)
    assert all(-limit <= v < limit for row in accumulators for cell in row for v in cell)
    if pool is not None:
        accumulators = _pooled(accumulators, pool)
    function = _activation(layer.activation)
    values = [
        [[function(v, f) for f, v in enumerate(cell)] for cell in row] for row in accumulators
    ]
    if average:
        cells = [cell for row in values for cell in row]
        values = [[[sum(column) for column in zip(*cells, strict=True)]]]
    assert all(-(2**31) <= v < 2**31 for row in values for cell in row for v in cell)
    if layer.output_bits == 32:
        return values
    low, high = codes_between(layer.output_bits)
    multipliers, shifts = layer.rescale.multiplier.tolist(), layer.rescale.shift.tolist()
    return [
        [
            [rescaled(v, multipliers[f], shifts[f], low, high) for f, v in enumerate(cell)]
            for cell in row
        ]
        for row in values
    ]


def _add(layer: dialect.Add, a: Map, b: Map) -> Map:
    function = _activation(layer.activation)

    def one(left: int, right: int, channel: int) -> int:
        total = function(left * 2**layer.a_shift + right * 2**layer.b_shift, channel)
        assert -(2**31) <= total < 2**31
        if layer.output_bits == 32:
            return total
        return rescaled(total, 1, layer.output_shift, *codes_between(layer.output_bits))

    return [
        [
            [one(p, q, c) for c, (p, q) in enumerate(zip(cell_a, cell_b, strict=True))]
            for cell_a, cell_b in zip(row_a, row_b, strict=True)
        ]
        for row_a, row_b in zip(a, b, strict=True)
    ]
