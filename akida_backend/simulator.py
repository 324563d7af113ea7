# SPDX-License-Identifier: Apache-2.0
"""Reference execution of a Program in int64, the oracle of every other engine.

Products are summed by float64 matrix multiplication where that is exact: `check_program` has
proven every partial sum below 2**32, float64 holds integers to 2**53. All else is int64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, overload

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from akida_backend import akida1_arithmetic
from akida_backend.akida_arithmetic import (
    Integers,
    activate,
    aligned_sum,
    code_limits,
    left_shifted,
    output_rescale,
    rescale,
)
from akida_backend.errors import InputError
from akida_backend.graph import NO_PADS, AnyArray, Pads, Size2D
from akida_backend.program import (
    Add,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Convolutional,
    Dense1D,
    DepthwiseConv2D,
    DepthwiseConv2DTranspose,
    FullyConnected,
    InputConv2D,
    InputConvolutional,
    InputPort,
    MacLayer,
    MaxPool,
    Padding,
    Program,
    ProgramLayer,
    SeparableConvolutional,
    same_pads,
)
from akida_backend.program_check import (
    IMAGE_LAYERS,
    accumulator_size,
    check_program,
    has_global_average,
    padding_of,
    pool_of,
)

Floats = NDArray[np.float64]

WORKING_BYTES: Final = 8 * 2**20  # of temporaries; bounds the samples computed at a time


class Simulator:
    """A checked program, ready to run on batches of any size.

    Raises:
        ProgramError: The program is not well-formed.
    """

    def __init__(self, program: Program) -> None:
        check_program(program)
        self.program = program
        self._weights = {
            layer.name: _float_weights(layer)
            for layer in program.layers
            if not isinstance(layer, Add | Concatenate)
        }
        self._last_reader = {name: layer.name for layer in program.layers for name in layer.inputs}
        self._samples = max(1, WORKING_BYTES // max(map(self._bytes, program.layers)))

    @overload
    def run(self, x: AnyArray, *, raw: Literal[False] = False) -> AnyArray: ...
    @overload
    def run(self, x: AnyArray, *, raw: Literal[True]) -> tuple[AnyArray, AnyArray]: ...
    def run(self, x: AnyArray, *, raw: bool = False) -> AnyArray | tuple[AnyArray, AnyArray]:
        """Host integers in, host integers out.

        Args:
            x: Batch of the input port's tensor, in its dtype, batch on axis 0.
            raw: Also return the device's output codes, (batch, height, width, channels), int8,
                uint8 or int32.

        Raises:
            InputError: Shape or dtype of `x` is not the port's.
        """
        device_input = encode_input(self.program, x)
        output = self.program.tensors[self.program.output.device]
        codes = np.empty((len(x), *output.shape), output.code.dtype)
        for part in self._parts(len(x)):
            for name, values in self._execute(device_input[part]):
                if name == output.name:
                    codes[part] = values
        stored = decode_output(self.program, codes)
        return (stored, codes) if raw else stored

    def run_layers(self, device_input: NDArray[np.integer]) -> dict[str, Integers]:
        """Every tensor of the program by name, in device codes.

        Args:
            device_input: Codes of the input tensor, (batch, height, width, channels).

        Raises:
            InputError: Shape or values do not fit the input tensor.
        """
        tensors = self.program.tensors
        entry = tensors[self.program.input.device]
        low, high = entry.code.limits
        if device_input.shape[1:] != entry.shape or device_input.ndim != 4:
            raise InputError(
                f"device input of shape {device_input.shape}: needs (batch, *{entry.shape})"
            )
        if device_input.size and not (low <= device_input.min() and device_input.max() <= high):
            raise InputError(f"device input has codes outside [{low}, {high}]")
        batch = len(device_input)
        values = {name: np.empty((batch, *t.shape), np.int64) for name, t in tensors.items()}
        values[entry.name][:] = device_input
        for part in self._parts(batch):
            for name, computed in self._execute(device_input[part]):
                values[name][part] = computed
        return values

    def _parts(self, batch: int) -> Iterator[slice]:
        for start in range(0, batch, self._samples):
            yield slice(start, start + self._samples)

    def _execute(self, device_input: NDArray[np.integer]) -> Iterator[tuple[str, Integers]]:
        """Layer outputs in order; a value is dropped after its last reader."""
        values = {self.program.input.device: device_input.astype(np.int64)}
        for layer in self.program.layers:
            operands = tuple(values[name] for name in layer.inputs)
            result = run_layer(layer, operands, self._weights.get(layer.name))
            yield layer.output, result
            values[layer.output] = result
            for name in set(layer.inputs):
                if self._last_reader[name] == layer.name:
                    del values[name]

    def _bytes(self, layer: ProgramLayer) -> int:
        """Temporaries of one sample: window columns and a few copies of the accumulators."""
        tensors = self.program.tensors
        shapes = [tensors[name].shape for name in layer.inputs]
        if isinstance(layer, Add | Concatenate):
            return 32 * math.prod(tensors[layer.output].shape)
        height, width, filters = accumulator_size(layer, shapes[0])
        columns = 0
        if isinstance(layer, InputConv2D | Conv2D | InputConvolutional | Convolutional):
            columns = height * width * math.prod(layer.weights.shape[1:])
        elif isinstance(layer, SeparableConvolutional):
            columns = 2 * height * width * layer.weights.shape[-1]
        elif isinstance(layer, Conv2DTranspose):
            columns = math.prod(shapes[0][:2]) * filters
        return 8 * (columns + 2 * math.prod(shapes[0]) + 3 * height * width * filters)


def run_layer(
    layer: ProgramLayer, operands: tuple[Integers, ...], weights: Floats | None = None
) -> Integers:
    """Output codes of one layer.

    Args:
        layer: Well-formed, as `check_program` judges it.
        operands: Codes of its inputs, (batch, height, width, channels).
        weights: The layer's weights as this module multiplies them, where they are at hand.
    """
    match layer:
        case Concatenate():
            return np.concatenate(operands, axis=-1)
        case Add():
            a, b = operands
            values = aligned_sum(a, b, layer.a_shift, layer.b_shift)
            values = activate(values, layer.activation)
        case InputConvolutional() | Convolutional() | SeparableConvolutional() | FullyConnected():
            (x,) = operands
            values = _accumulate(layer, x, _float_weights(layer) if weights is None else weights)
            pool = pool_of(layer)
            if pool is not None:
                values = _max_pool(values, pool)
            if has_global_average(layer):
                values = values.sum(axis=(1, 2), keepdims=True)
            values = akida1_arithmetic.above_threshold(values, layer.threshold)
            return akida1_arithmetic.activate(values, layer.activation, layer.output_bits)
        case _:
            (x,) = operands
            values = _accumulate(layer, x, _float_weights(layer) if weights is None else weights)
            values += layer.bias.effective
            pool = pool_of(layer)
            if pool is not None:
                values = _max_pool(values, pool)
            values = activate(values, layer.activation)
            if has_global_average(layer):
                values = values.sum(axis=(1, 2), keepdims=True)
    if layer.output_bits == 32:
        return values
    return rescale(values, output_rescale(layer), code_limits(layer.output_bits))


@overload
def run_program(program: Program, x: AnyArray, *, raw: Literal[False] = False) -> AnyArray: ...
@overload
def run_program(
    program: Program, x: AnyArray, *, raw: Literal[True]
) -> tuple[AnyArray, AnyArray]: ...
def run_program(
    program: Program, x: AnyArray, *, raw: bool = False
) -> AnyArray | tuple[AnyArray, AnyArray]:
    """`Simulator.run` of a program used once."""
    simulator = Simulator(program)
    return simulator.run(x, raw=True) if raw else simulator.run(x)


def run_layers(program: Program, device_input: NDArray[np.integer]) -> dict[str, Integers]:
    """`Simulator.run_layers` of a program used once."""
    return Simulator(program).run_layers(device_input)


def encode_input(program: Program, x: AnyArray) -> NDArray[np.int16]:
    """Device codes (batch, height, width, channels) of a batch of host integers.

    Raises:
        InputError: Shape or dtype of `x` is not the input port's.
    """
    port = program.input
    if x.dtype != port.dtype.numpy or x.ndim != len(port.shape) or x.shape[1:] != port.shape[1:]:
        raise wrong_input(program.name, port, x)
    return encode(port, x, program.tensors[port.device].shape)


def wrong_input(name: str, port: InputPort, x: AnyArray) -> InputError:
    """What `x` should be at a port of the program of that name."""
    return InputError(
        f"input '{port.tensor}' of program '{name}': needs {port.dtype.value} of "
        f"shape (batch, {', '.join(map(str, port.shape[1:]))}), found {x.dtype} of {x.shape}"
    )


def encode(port: InputPort, x: AnyArray, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """Device codes of host integers, as a map of `shape` per sample."""
    lowest, _ = port.dtype.code_range
    height, width, channels = shape
    stored = math.prod(side for side in port.shape[1:] if side is not None) // (height * width)
    index = x.astype(np.intp).reshape(len(x), height, width, stored) - lowest
    tables = port.recode.reshape(-1, 256)
    if len(tables) == channels:
        copies = [index] * (channels // stored)
        return tables[np.arange(channels), np.concatenate(copies, axis=-1)]
    return np.concatenate([table[index] for table in tables], axis=-1)


def decode_output(program: Program, codes: NDArray[np.integer]) -> AnyArray:
    """Host integers of a batch of device codes.

    ``clip(rint_half_even(codes * factor[channel]) + zero_point)`` in float64.
    """
    port = program.output
    with np.errstate(over="ignore"):  # infinity is clipped, too
        real = np.rint(codes.astype(np.float64) * port.factor) + port.zero_point
    stored: AnyArray = np.clip(real, port.low, port.high).astype(port.dtype.numpy)
    sides = [side for side in port.shape[1:] if side is not None]
    return stored.reshape(len(codes), *sides)


def _float_weights(layer: MacLayer) -> Floats:
    """Weights in the layout `_accumulate` multiplies by, input shifts multiplied in.

    Convolutions and dense layers: (taps * inputs, filters). Transposed: (height, width, inputs,
    filters). Depthwise, and that half of a separable layer: (height, width, channels).
    """
    weights = layer.weights.astype(np.int64)
    if isinstance(layer, Conv2D | Dense1D) and layer.input_shift is not None:
        weights = left_shifted(weights, layer.input_shift)
    match layer:
        case (
            InputConv2D()
            | Conv2D()
            | Dense1D()
            | InputConvolutional()
            | Convolutional()
            | FullyConnected()
        ):
            filters, *_ = weights.shape
            weights = weights.reshape(filters, -1).T
        case Conv2DTranspose():
            weights = weights.transpose(1, 2, 3, 0)
        case DepthwiseConv2D() | DepthwiseConv2DTranspose() | SeparableConvolutional():
            (weights,) = weights
    return np.ascontiguousarray(weights, np.float64)


def _accumulate(layer: MacLayer, x: Integers, weights: Floats) -> Integers:
    """``sum(w * x)`` per output position and filter, (batch, height, width, filters)."""
    batch, height, width, channels = x.shape
    size = Size2D(height, width)
    out_height, out_width, filters = accumulator_size(layer, (height, width, channels))
    match layer:
        case InputConv2D() | Conv2D() | InputConvolutional() | Convolutional():
            _, kernel_height, kernel_width, _ = layer.weights.shape
            kernel = Size2D(kernel_height, kernel_width)
            valid = padding_of(layer) is Padding.VALID
            pads = NO_PADS if valid else same_pads(size, kernel, layer.stride)
            border = layer.padding_value if isinstance(layer, IMAGE_LAYERS) else 0
            padded = _padded(x, pads, border)
            columns = _windows(padded, kernel, layer.stride).reshape(-1, weights.shape[0])
            sums = columns @ weights
        case Dense1D() | FullyConnected():
            sums = x.reshape(batch, -1).astype(np.float64) @ weights
        case DepthwiseConv2D() | SeparableConvolutional():
            kernel_height, kernel_width, _ = weights.shape
            kernel = Size2D(kernel_height, kernel_width)
            padded = _padded(x, same_pads(size, kernel, layer.stride), 0)
            windows = _windows(padded, kernel, layer.stride)
            sums = np.zeros((batch, out_height, out_width, channels))
            for row, column in np.ndindex(kernel_height, kernel_width):
                sums += windows[:, :, :, row, column] * weights[row, column]
            if isinstance(layer, SeparableConvolutional):
                sums = sums @ layer.pointwise_weights.T.astype(np.float64)
        case Conv2DTranspose() | DepthwiseConv2DTranspose():
            kernel_height, kernel_width, *_ = weights.shape
            full = np.zeros(
                (batch, 2 * height - 2 + kernel_height, 2 * width - 2 + kernel_width, filters)
            )
            real = x.astype(np.float64)
            for row, column in np.ndindex(kernel_height, kernel_width):
                tap = weights[row, column]
                product = real * tap if tap.ndim == 1 else real @ tap
                full[:, row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2] += (
                    product
                )
            top, left = (kernel_height - 2) // 2, (kernel_width - 2) // 2
            sums = full[:, top : top + out_height, left : left + out_width]
    return sums.reshape(batch, out_height, out_width, filters).astype(np.int64)


def _padded(x: Integers, pads: Pads, border: NDArray[np.uint8] | int) -> Floats:
    """The map as float64 inside a border that holds `border` (per channel or one value)."""
    if pads == NO_PADS:
        return x.astype(np.float64)
    batch, height, width, channels = x.shape
    padded = np.empty(
        (batch, height + pads.top + pads.bottom, width + pads.left + pads.right, channels)
    )
    padded[:] = border
    padded[:, pads.top : pads.top + height, pads.left : pads.left + width] = x
    return padded


def _windows(padded: Floats, kernel: Size2D, stride: Size2D) -> Floats:
    """View (batch, height, width, kernel height, kernel width, channels) of all windows."""
    sides = (kernel.height, kernel.width)
    windows = sliding_window_view(padded, sides, axis=(1, 2))
    return windows[:, :: stride.height, :: stride.width].transpose(0, 1, 2, 4, 5, 3)


def _max_pool(accumulator: Integers, pool: MaxPool) -> Integers:
    """Largest accumulator of each window; cells outside the map do not take part."""
    batch, height, width, channels = accumulator.shape
    same = pool.padding is Padding.SAME
    pads = same_pads(Size2D(height, width), pool.size, pool.stride) if same else NO_PADS
    padded = np.full(
        (batch, height + pads.top + pads.bottom, width + pads.left + pads.right, channels),
        np.iinfo(np.int64).min,
    )
    padded[:, pads.top : pads.top + height, pads.left : pads.left + width] = accumulator
    windows = sliding_window_view(padded, (pool.size.height, pool.size.width), axis=(1, 2))
    largest: Integers = windows[:, :: pool.stride.height, :: pool.stride.width].max(axis=(-2, -1))
    return largest
