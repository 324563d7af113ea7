# SPDX-License-Identifier: Apache-2.0
"""What makes a Program well-formed, and the proof that no buffer of the device overflows.

Limits of one device (kernel sides, map sizes, which layer may pool) are the constraints' affair;
here is what every reader of a Program relies on.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.akida1_arithmetic import (
    MAX_STEP,
    MAX_STEP_SHIFT,
    above_threshold,
    level_limits,
    weight_limits,
)
from akida_backend.akida_arithmetic import (
    TABLE_LIMITS,
    Integers,
    Limits,
    activate,
    code_limits,
    left_shifted,
    output_rescale,
    rescale,
)
from akida_backend.errors import ProgramError
from akida_backend.graph import DType, Shape, Size2D
from akida_backend.program import (
    POST_OP_BITS,
    POTENTIAL_BITS,
    SUMMED_POTENTIAL_BITS,
    Add,
    Akida1Layer,
    Bias,
    Code,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Convolutional,
    ConvolutionLayer,
    Dense1D,
    DepthwiseConv2D,
    DepthwiseConv2DTranspose,
    DeviceTensor,
    FullyConnected,
    InputConv2D,
    InputConvolutional,
    InputPort,
    LookUpTable,
    MacLayer,
    MaxPool,
    NoActivation,
    OutputPort,
    Padding,
    Program,
    ProgramLayer,
    ReLU,
    Rescale,
    SeparableConvolutional,
    StepActivation,
)

MapShape = tuple[int, int, int]  # height, width, channels

MAX_SIDE: Final = 2**16 - 1
MAX_VALUES: Final = 2**28  # of one tensor, so that offsets fit 32 bits
MAX_SHIFT: Final = 31  # of a bias, a ReLU bound or an operand
_BEYOND: Final = 1 << 31  # every buffer
TRANSPOSE_KERNELS: Final = (3, 4)
LEVEL_BITS: Final = (1, 2, 4)  # of Akida 1.0 activations
TENSOR_CODES: Final = (
    *((bits, False) for bits in (1, 2, 4, 8)),
    *((bits, True) for bits in (8, 32)),
)  # bits, signed
IMAGE_LAYERS: Final = InputConv2D | InputConvolutional


# Sizes


def pool_of(layer: MacLayer) -> MaxPool | None:
    """Max pooling of the accumulators, where the layer has it."""
    pooling = Conv2D | DepthwiseConv2D | Convolutional | SeparableConvolutional
    return layer.pool if isinstance(layer, IMAGE_LAYERS | pooling) else None


def has_global_average(layer: MacLayer) -> bool:
    averaging = Conv2D | DepthwiseConv2D | Convolutional | SeparableConvolutional
    return isinstance(layer, averaging) and layer.global_average


def padding_of(layer: MacLayer) -> Padding:
    """Only the input layers have a choice."""
    return layer.padding if isinstance(layer, IMAGE_LAYERS) else Padding.SAME


def window_count(size: Size2D, kernel: Size2D, stride: Size2D, padding: Padding) -> Size2D:
    """Windows per axis: Same gives ``ceil(n / stride)``, Valid those wholly inside."""
    if padding is Padding.SAME:
        return Size2D(-(-size.height // stride.height), -(-size.width // stride.width))
    return Size2D(
        (size.height - kernel.height) // stride.height + 1,
        (size.width - kernel.width) // stride.width + 1,
    )


def accumulator_size(layer: MacLayer, input_shape: MapShape) -> MapShape:
    """(height, width, filters) of the accumulators, or potentials, before any pooling."""
    height, width, channels = input_shape
    size = Size2D(height, width)
    match layer:
        case InputConv2D() | Conv2D() | InputConvolutional() | Convolutional():
            filters, *kernel, _ = layer.weights.shape
            size = window_count(size, Size2D(*kernel), layer.stride, padding_of(layer))
            return size.height, size.width, filters
        case DepthwiseConv2D():
            _, *kernel, _ = layer.weights.shape
            size = window_count(size, Size2D(*kernel), layer.stride, Padding.SAME)
            return size.height, size.width, channels
        case SeparableConvolutional():
            _, *kernel, _ = layer.weights.shape
            filters, _ = layer.pointwise_weights.shape
            size = window_count(size, Size2D(*kernel), layer.stride, Padding.SAME)
            return size.height, size.width, filters
        case Conv2DTranspose():
            filters, *_ = layer.weights.shape
            return 2 * height, 2 * width, filters
        case DepthwiseConv2DTranspose():
            return 2 * height, 2 * width, channels
        case Dense1D() | FullyConnected():
            filters, _ = layer.weights.shape
            return 1, 1, filters


def layer_macs(layer: ProgramLayer, input_shape: MapShape) -> int:
    """Multiply-accumulates per sample; taps that fall on the border count."""
    if isinstance(layer, Add | Concatenate):
        return 0
    height, width, _ = accumulator_size(layer, input_shape)
    if isinstance(layer, Conv2DTranspose | DepthwiseConv2DTranspose):
        height, width, _ = input_shape
    pointwise = layer.pointwise_weights.size if isinstance(layer, SeparableConvolutional) else 0
    return height * width * (layer.weights.size + pointwise)


def output_size(layer: ProgramLayer, *input_shapes: MapShape) -> MapShape:
    """(height, width, channels) a layer writes for inputs of the given shapes.

    A Valid window larger than its map gives sides below 1.
    """
    height, width, channels = input_shapes[0]
    match layer:
        case Add():
            return height, width, channels
        case Concatenate():
            return height, width, sum(depth for _, _, depth in input_shapes)
        case _:
            height, width, filters = accumulator_size(layer, input_shapes[0])
            pool = pool_of(layer)
            if pool is not None:
                size = window_count(Size2D(height, width), pool.size, pool.stride, pool.padding)
                height, width = size.height, size.width
            return (1, 1, filters) if has_global_average(layer) else (height, width, filters)


# Proof


def potential_limits(
    layer: Akida1Layer, input_shape: MapShape, highest_input: int
) -> tuple[Integers, Integers]:
    """Smallest and largest potential per filter, whatever the order of summation.

    Args:
        layer: Its weights are read, nothing behind them.
        input_shape: Height, width and channels of the input.
        highest_input: Largest input value; the smallest is 0.
    """
    low, high = _sum_limits(layer.weights, highest_input)
    if isinstance(layer, SeparableConvolutional):
        low, high = _sum_limits(np.moveaxis(layer.weights, -1, 0), highest_input)
        pointwise = layer.pointwise_weights.astype(np.int64)
        ends = np.stack([low, high]) * pointwise[:, None]  # filters, ends, channels
        low, high = ends.min(axis=1).sum(axis=1), ends.max(axis=1).sum(axis=1)
    if has_global_average(layer):
        low, high = _summed((low, high), layer, input_shape)
    return low, high


def _summed(
    limits: tuple[Integers, Integers], layer: MacLayer, input_shape: MapShape
) -> tuple[Integers, Integers]:
    """Limits of sums over a layer's whole map, cut off where no buffer holds them anyway."""
    height, width, _ = accumulator_size(layer, input_shape)
    area = min(height * width, _BEYOND)  # so that products fit 64 bits
    low, high = (np.clip(ends, -_BEYOND, _BEYOND) * area for ends in limits)
    return low, high


def _sum_limits(filters: NDArray[np.int8], highest_input: int) -> tuple[Integers, Integers]:
    """Ends of ``sum(w * x)`` per filter, filters on axis 0, for inputs from 0 on."""
    weights = filters.reshape(len(filters), -1).astype(np.int64)
    low: Integers = np.minimum(weights, 0).sum(axis=1) * highest_input
    high: Integers = np.maximum(weights, 0).sum(axis=1) * highest_input
    return low, high


def worst_case_accumulator(layer: ConvolutionLayer | Add, *input_limits: Limits) -> Integers:
    """Bound of ``|accumulator|`` per filter, whatever the order of summation.

    ``sum(|w| * (max|x| << input_shift)) + |bias|``; one value for Add.

    Args:
        layer: Its weights, bias and operand shifts are read, nothing behind them.
        input_limits: Smallest and largest input value, per operand.
    """
    peaks = [max(-low, high) for low, high in input_limits]
    if isinstance(layer, Add):
        a_peak, b_peak = peaks
        return np.array([(a_peak << layer.a_shift) + (b_peak << layer.b_shift)], np.int64)
    magnitude = np.abs(layer.weights.astype(np.int64))
    if isinstance(layer, Conv2D | Dense1D) and layer.input_shift is not None:
        magnitude = left_shifted(magnitude, layer.input_shift)
    if isinstance(layer, DepthwiseConv2D | DepthwiseConv2DTranspose):
        magnitude = np.moveaxis(magnitude, -1, 0)  # 1HWC: filters first
    filters, *_ = magnitude.shape
    # Cut off where no buffer holds them anyway, so that sums and products fit 64 bits.
    sums: Integers = np.minimum(magnitude, _BEYOND).reshape(filters, -1).sum(axis=1)
    return np.minimum(sums, _BEYOND) * peaks[0] + np.abs(layer.bias.effective)


def _final_values(
    layer: ConvolutionLayer | Add, worst: Integers, input_shape: MapShape
) -> tuple[Integers, Integers]:
    """Bounds per filter, below and above, of the values in front of the output rescale."""
    match layer.activation:
        case LookUpTable(table=table):
            low, high = np.full_like(worst, table.min()), np.full_like(worst, table.max())
        case activation:
            low, high = activate(-worst, activation), activate(worst, activation)
    if not isinstance(layer, Add) and has_global_average(layer):
        return _summed((low, high), layer, input_shape)
    return low, high


def output_limits(layer: ProgramLayer, input_shape: MapShape, *input_limits: Limits) -> Limits:
    """Smallest and largest code a layer can give for inputs within `input_limits`.

    A ReLU's output starts at 0, for one, so its reader may count on 127 rather than 128.
    """
    if isinstance(layer, Concatenate):
        lows, highs = zip(*input_limits, strict=True)
        return min(lows), max(highs)
    if isinstance(layer, Akida1Layer):
        ((_, highest),) = input_limits
        low, high = potential_limits(layer, input_shape, highest)
        if layer.output_bits != 32:
            return level_limits(layer.output_bits)
        low, high = above_threshold(low, layer.threshold), above_threshold(high, layer.threshold)
        return int(low.min()), int(high.max())
    worst = worst_case_accumulator(layer, *input_limits)
    low, high = _final_values(layer, worst, input_shape)
    if layer.output_bits != 32:
        codes = code_limits(layer.output_bits)
        low = rescale(low, output_rescale(layer), codes)
        high = rescale(high, output_rescale(layer), codes)
    return int(low.min()), int(high.max())


def overflow(layer: MacLayer | Add, input_shape: MapShape, *input_limits: Limits) -> str | None:
    """The first buffer not proven to hold a layer's worst case, as a sentence; None if all are.

    The accumulator has `buffer_bits`. Sums of global average pooling, and values behind a
    rescale before they saturate, have 32. Potentials of Akida 1.0 have 32, summed ones 20.
    """
    if isinstance(layer, Akida1Layer):
        ((_, highest),) = input_limits
        low, high = potential_limits(layer, input_shape, highest)
        bits = SUMMED_POTENTIAL_BITS if has_global_average(layer) else POTENTIAL_BITS
        problem = _exceeds("potential", np.maximum(-low, high), bits)
        if problem is None and layer.output_bits == 32:
            low, high = (
                above_threshold(low, layer.threshold),
                above_threshold(high, layer.threshold),
            )
            problem = _exceeds("potential less its threshold", np.maximum(-low, high), bits=32)
        return problem
    worst = worst_case_accumulator(layer, *input_limits)
    problem = _exceeds("accumulator", worst, layer.buffer_bits)
    if problem is not None:
        return problem
    low, high = _final_values(layer, worst, input_shape)
    final = np.maximum(-low, high)
    problem = _exceeds("value before the rescale", final, POST_OP_BITS)
    if problem is None and isinstance(layer.activation, LookUpTable):
        index = _rescaled_magnitude(worst, layer.activation.rescale)
        problem = _exceeds("look-up table's index before it saturates", index, POST_OP_BITS)
    if problem is None and layer.output_bits != 32:
        output = _rescaled_magnitude(final, output_rescale(layer))
        problem = _exceeds("output before it saturates", output, POST_OP_BITS)
    return problem


def _rescaled_magnitude(magnitude: Integers, factor: Rescale) -> NDArray[np.float64]:
    """Magnitudes of at most 32 bits behind a rescale; float64 holds them exactly."""
    return np.floor(np.ldexp(magnitude * factor.multiplier.astype(np.float64), factor.shift) + 0.5)


def _exceeds(what: str, magnitude: Integers | NDArray[np.float64], bits: int) -> str | None:
    limit = (1 << (bits - 1)) - 1
    worst = int(magnitude.argmax())
    if magnitude[worst] <= limit:
        return None
    return f"{what} of filter {worst} may reach {int(magnitude[worst])}, {bits} bits hold {limit}"


# Form


def check_program(program: Program) -> None:
    """Refuse a program that is not well-formed or whose buffers could overflow.

    Raises:
        ProgramError: The first problem, naming layer (or tensor, or port) and field.
    """
    where = f"program '{program.name}'"
    for key, tensor in program.tensors.items():
        is_input = key == program.input.device
        _check_tensor(f"{where}, tensor '{tensor.name}'", key, tensor, is_input=is_input)
    _check_order(where, program)
    generations = {layer.generation for layer in program.layers}
    _require(len(generations) == 1, where, "layers", "layers of Akida 1.0 and 2.0 in one program")
    limits = {program.input.device: program.tensors[program.input.device].code.limits}
    last = len(program.layers) - 1
    for index, layer in enumerate(program.layers):
        label = f"{where}, layer '{layer.name}' ({type(layer).__name__})"
        inputs = tuple(program.tensors[name] for name in layer.inputs)
        output = program.tensors[layer.output]
        _check_layer(label, layer, inputs, output, is_last=index == last)
        input_limits = tuple(limits[name] for name in layer.inputs)
        if not isinstance(layer, Concatenate):
            problem = overflow(layer, inputs[0].shape, *input_limits)
            _require(problem is None, label, "buffer_bits", f"{problem}")
        limits[layer.output] = output_limits(layer, inputs[0].shape, *input_limits)
    device = program.tensors[program.input.device]
    label = f"{where}, input port '{program.input.tensor}'"
    _check_input_port(label, program.input, device, per_channel=program.generation == 1)
    device = program.tensors[program.output.device]
    _check_output_port(f"{where}, output port '{program.output.tensor}'", program.output, device)


def _require(condition: bool, where: str, field: str, problem: str) -> None:
    if not condition:
        raise ProgramError(f"{where}, field '{field}': {problem}")


def _check_array(
    where: str,
    field: str,
    array: NDArray[np.generic],
    dtype: type[np.generic],
    shape: tuple[int, ...],
    limits: Limits | None = None,
) -> None:
    _require(
        array.dtype == dtype and array.shape == shape,
        where,
        field,
        f"needs {np.dtype(dtype)} of shape {shape}, found {array.dtype} of shape {array.shape}",
    )
    if limits is not None and array.size:
        low, high = limits
        found = (int(array.min()), int(array.max()))
        _require(
            low <= found[0] and found[1] <= high,
            where,
            field,
            f"needs values in [{low}, {high}], found [{found[0]}, {found[1]}]",
        )


def _check_tensor(where: str, key: str, tensor: DeviceTensor, *, is_input: bool) -> None:
    _require(key == tensor.name, where, "name", f"filed under '{key}'")
    sides_fit = all(1 <= side <= MAX_SIDE for side in tensor.shape)
    _require(
        len(tensor.shape) == 3 and sides_fit and math.prod(tensor.shape) <= MAX_VALUES,
        where,
        "shape",
        f"needs three sides in [1, {MAX_SIDE}] and at most {MAX_VALUES} values, "
        f"found {tensor.shape}",
    )
    code = tensor.code
    _require(
        (code.bits, code.signed) in TENSOR_CODES,
        where,
        "code",
        f"needs 4 unsigned, 8 signed or 32 signed bits, or 8 unsigned ones in front of "
        f"InputConv2D or InputConvolutional (of Akida 1.0 1, 2 or 4 unsigned or 32 signed bits), "
        f"found {_kind(code)}",
    )
    _require(
        code.zero_point == 0 or (_is_image(code) and 0 <= code.zero_point <= 255),
        where,
        "code.zero_point",
        f"needs 0, or an unsigned 8-bit code, found {code.zero_point}",
    )
    _, _, channels = tensor.shape
    _require(
        code.parts == 1 or (is_input and code.parts == 2 and channels % 2 == 0),
        where,
        "code.parts",
        f"needs 1, or 2 in the program's input of an even number of channels, found {code.parts}",
    )
    scale = np.array(code.scale, np.float64)
    _require(
        scale.shape in ((1,), (channels,)) and bool((np.isfinite(scale) & (scale > 0)).all()),
        where,
        "code.scale",
        f"needs 1 or {channels} positive finite numbers, found {_few(code.scale)}",
    )


def _few(values: tuple[float, ...]) -> str:
    return f"{len(values)}: {', '.join(map(str, values[:4]))}{', ...' if len(values) > 4 else ''}"


def _kind(code: Code) -> str:
    return f"{code.bits} {'signed' if code.signed else 'unsigned'} bits"


def _is_image(code: Code) -> bool:
    """Whether only InputConv2D or InputConvolutional can read it: unsigned 8 bits."""
    return code.bits == 8 and not code.signed


def _check_order(where: str, program: Program) -> None:
    _require(bool(program.layers), where, "layers", "no layer")
    ports = {"input": program.input.device, "output": program.output.device}
    for field, name in ports.items():
        _require(name in program.tensors, where, f"{field}.device", f"'{name}' is not a tensor")
    known = {program.input.device}
    read = {program.output.device}
    names: set[str] = set()
    for layer in program.layers:
        label = f"{where}, layer '{layer.name}' ({type(layer).__name__})"
        _require(layer.name not in names, label, "name", "another layer has this name")
        for name in layer.inputs:
            _require(name in program.tensors, label, "inputs", f"'{name}' is not a tensor")
            _require(name in known, label, "inputs", f"reads '{name}' before it is written")
        _require(
            layer.output in program.tensors, label, "output", f"'{layer.output}' is not a tensor"
        )
        _require(layer.output not in known, label, "output", f"'{layer.output}' is already written")
        names.add(layer.name)
        known.add(layer.output)
        read.update(layer.inputs)
    for name in program.tensors:
        _require(name in known, where, "tensors", f"'{name}' is never written")
        _require(name in read, where, "tensors", f"'{name}' is never read")


def _check_layer(
    where: str,
    layer: ProgramLayer,
    inputs: tuple[DeviceTensor, ...],
    output: DeviceTensor,
    *,
    is_last: bool,
) -> None:
    operands = 2 if isinstance(layer, Add | Concatenate) else 1
    _require(
        len(inputs) == operands,
        where,
        "inputs",
        f"needs {operands}, found {len(inputs)}",
    )
    for tensor in inputs:
        _require(
            _is_readable(layer, tensor.code),
            where,
            "inputs",
            f"'{tensor.name}' has {_kind(tensor.code)}, which this layer cannot read",
        )
    match layer:
        case Concatenate():
            _check_concatenate(where, inputs, output)
        case Add():
            _check_add(where, layer, inputs)
        case InputConvolutional() | Convolutional() | SeparableConvolutional() | FullyConnected():
            _check_akida1(where, layer, inputs[0])
        case _:
            _check_convolution(where, layer, inputs[0])
    if not isinstance(layer, Concatenate | Akida1Layer):
        _check_output_bits(where, layer, output.code, is_last=is_last)
    expected = output_size(layer, *(tensor.shape for tensor in inputs))
    _require(min(expected) >= 1, where, "output", f"a window is larger than its map: {expected}")
    if not isinstance(layer, Add | Concatenate):
        sums = accumulator_size(layer, inputs[0].shape)
        _require(
            math.prod(sums) <= MAX_VALUES,
            where,
            "weights",
            f"needs at most {MAX_VALUES} accumulators, found {sums}",
        )
    _require(
        output.shape == expected,
        where,
        "output",
        f"'{output.name}' has shape {output.shape}, the layer writes {expected}",
    )
    if isinstance(layer, Akida1Layer):
        _check_array(where, "threshold", layer.threshold, np.int32, output.shape[2:])
        _check_levels(where, layer, output, is_last=is_last)


def _is_readable(layer: ProgramLayer, code: Code) -> bool:
    if _is_image(code) or isinstance(layer, IMAGE_LAYERS):
        return _is_image(code) and isinstance(layer, IMAGE_LAYERS)
    if isinstance(layer, Akida1Layer):
        return code.bits in LEVEL_BITS and not code.signed
    return code.bits in (4, 8)


def _check_akida1(where: str, layer: Akida1Layer, tensor: DeviceTensor) -> None:
    height, width, channels = tensor.shape
    shape = layer.weights.shape
    match layer:
        case InputConvolutional():
            bits: tuple[int, ...] = tuple(range(1, 9))
            _check_channels(where, channels)
            value = layer.padding_value
            _require(0 <= value <= 255, where, "padding_value", f"needs [0, 255], found {value}")
        case SeparableConvolutional():
            bits = (2, 4)
        case _:
            bits = LEVEL_BITS
    _require(
        layer.weights_bits in bits,
        where,
        "weights_bits",
        f"needs {', '.join(map(str, bits))}, found {layer.weights_bits}",
    )
    limits = weight_limits(layer.weights_bits)
    match layer:
        case FullyConnected():
            _check_axes(where, shape, "OI")
            expected: tuple[int, ...] = (shape[0], height * width * channels)
        case SeparableConvolutional():
            _check_axes(where, shape, "1HWC")
            expected = (1, *shape[1:3], channels)
            pointwise = layer.pointwise_weights
            filters = len(pointwise) if pointwise.ndim else 0
            _require(
                1 <= filters <= MAX_SIDE,
                where,
                "pointwise_weights",
                f"needs 1 to {MAX_SIDE} filters, found {filters}",
            )
            field = "pointwise_weights"
            _check_array(where, field, pointwise, np.int8, (filters, channels), limits)
        case _:
            _check_axes(where, shape, "OHWI")
            expected = (*shape[:3], channels)
    _check_array(where, "weights", layer.weights, np.int8, expected, limits)
    if not isinstance(layer, FullyConnected):
        _check_size(where, "stride", layer.stride)
    pool = pool_of(layer)
    if pool is not None:
        _check_pool(where, layer, pool)
        _require(
            pool.padding is padding_of(layer),
            where,
            "pool",
            f"needs the layer's own padding, found {pool.padding.value}",
        )


def _check_levels(where: str, layer: Akida1Layer, output: DeviceTensor, *, is_last: bool) -> None:
    """Activation and output bits of an Akida 1.0 layer whose output has the right shape."""
    filters = output.shape[2:]
    match layer.activation:
        case StepActivation(step, step_shift):
            _check_array(where, "activation.step", step, np.uint32, filters, (1, MAX_STEP))
            limits = (0, MAX_STEP_SHIFT)
            _check_array(where, "activation.step_shift", step_shift, np.uint8, filters, limits)
            bits: tuple[int, ...] = LEVEL_BITS
        case NoActivation():
            _require(is_last, where, "activation", "only the last layer may give its potentials")
            bits = (32,)
    _require(
        layer.output_bits in bits,
        where,
        "output_bits",
        f"needs {', '.join(map(str, bits))} with this activation, found {layer.output_bits}",
    )
    _require(
        (output.code.bits, output.code.signed) == (layer.output_bits, layer.output_bits == 32),
        where,
        "output_bits",
        f"{layer.output_bits} does not match the output tensor's {_kind(output.code)}",
    )


def _check_output_bits(
    where: str, layer: ConvolutionLayer | Add, code: Code, *, is_last: bool
) -> None:
    may_be_wide = is_last and isinstance(layer, Dense1D | Add)
    _require(
        layer.output_bits in ((4, 8, 32) if may_be_wide else (4, 8)),
        where,
        "output_bits",
        f"needs 4 or 8 (32 only in a Dense1D or Add that ends the program), "
        f"found {layer.output_bits}",
    )
    _require(
        (code.bits, code.signed) == (layer.output_bits, layer.output_bits != 4),
        where,
        "output_bits",
        f"{layer.output_bits} does not match the output tensor's {_kind(code)}",
    )
    if layer.output_bits == 32:
        factor = output_rescale(layer)
        field = "output_shift" if isinstance(layer, Add) else "rescale"
        _require(
            bool((factor.multiplier == 1).all() and (factor.shift == 0).all()),
            where,
            field,
            "must be neutral (1 and 0) with 32-bit output",
        )
        _require(
            not isinstance(layer.activation, LookUpTable),
            where,
            "activation",
            "a look-up table has no 32-bit output",
        )


def _check_concatenate(where: str, inputs: tuple[DeviceTensor, ...], output: DeviceTensor) -> None:
    first, second = inputs
    for other in (second, output):
        _require(
            other.shape[:2] == first.shape[:2],
            where,
            "inputs",
            f"'{other.name}' {other.shape} and '{first.name}' {first.shape} differ in map size",
        )
        _require(
            (other.code.bits, other.code.signed) == (first.code.bits, first.code.signed),
            where,
            "inputs",
            f"'{other.name}' and '{first.name}' differ in bits or sign",
        )
    scales = [_channel_scales(tensor) for tensor in inputs]
    _require(
        np.array_equal(np.concatenate(scales), _channel_scales(output)),
        where,
        "output",
        f"the scales of '{output.name}' are not those of the operands in turn",
    )


def _channel_scales(tensor: DeviceTensor) -> NDArray[np.float64]:
    _, _, channels = tensor.shape
    return np.broadcast_to(np.array(tensor.code.scale, np.float64), (channels,))


def _check_add(where: str, layer: Add, inputs: tuple[DeviceTensor, ...]) -> None:
    a, b = inputs
    _require(a.shape == b.shape, where, "inputs", f"shapes {a.shape} and {b.shape} differ")
    for field, value, low, high in (
        ("a_shift", layer.a_shift, 0, MAX_SHIFT),
        ("b_shift", layer.b_shift, 0, MAX_SHIFT),
        ("output_shift", layer.output_shift, -32, 31),
    ):
        _require(low <= value <= high, where, field, f"needs [{low}, {high}], found {value}")
    _, _, channels = a.shape
    if isinstance(layer.activation, ReLU):
        _check_relu(where, layer.activation, channels)
    else:
        _require(
            isinstance(layer.activation, NoActivation),
            where,
            "activation",
            "Add has no look-up table",
        )


def _check_convolution(where: str, layer: ConvolutionLayer, tensor: DeviceTensor) -> None:
    filters = _check_weights(where, layer, tensor)
    _check_bias(where, layer.bias, filters)
    _check_rescale(where, "rescale", layer.rescale, filters)
    match layer.activation:
        case ReLU():
            _check_relu(where, layer.activation, filters)
        case LookUpTable():
            _check_rescale(where, "activation.rescale", layer.activation.rescale, filters)
            table = layer.activation.table
            _check_array(where, "activation.table", table, np.int16, (2048,), TABLE_LIMITS)
        case NoActivation():
            pass
    if isinstance(layer, InputConv2D | Conv2D | DepthwiseConv2D):
        _check_size(where, "stride", layer.stride)
    pool = pool_of(layer)
    if pool is not None:
        _check_pool(where, layer, pool)
    _, _, channels = tensor.shape
    match layer:
        case InputConv2D():
            _check_channels(where, channels)
            value = layer.padding_value
            _check_array(where, "padding_value", value, np.uint8, (channels,))
        case Conv2D() | Dense1D() if layer.input_shift is not None:
            _, *_, read = layer.weights.shape
            _check_array(where, "input_shift", layer.input_shift, np.uint8, (read,))
            reach = max(-tensor.code.limits[0], tensor.code.limits[1])
            largest = reach << int(layer.input_shift.max())
            _require(
                largest < 1 << (layer.buffer_bits - 1),
                where,
                "input_shift",
                f"a shifted input may reach {largest}, {layer.buffer_bits} bits cannot hold it",
            )
        case _:
            pass


def _check_channels(where: str, channels: int) -> None:
    """Of an image."""
    _require(channels in (1, 3), where, "inputs", f"needs 1 or 3 channels, found {channels}")


def _check_pool(where: str, layer: MacLayer, pool: MaxPool) -> None:
    _check_size(where, "pool.size", pool.size)
    _check_size(where, "pool.stride", pool.stride)
    _require(
        not has_global_average(layer),
        where,
        "pool",
        "excludes global_average: a layer has one pooling type",
    )


def _check_axes(where: str, shape: tuple[int, ...], axes: str) -> None:
    """Number and length of the weights' axes, before anything is read from them."""
    _require(
        len(shape) == len(axes),
        where,
        "weights",
        f"needs {len(axes)} axes, {axes}, found shape {shape}",
    )
    _require(min(shape) >= 1, where, "weights", f"an axis is empty: {shape}")
    _require(
        max(shape) <= MAX_SIDE or axes == "OI",
        where,
        "weights",
        f"an axis exceeds {MAX_SIDE}: {shape}",
    )


def _check_weights(where: str, layer: ConvolutionLayer, tensor: DeviceTensor) -> int:
    """Number of filters, once weights are found to fit the input."""
    height, width, channels = tensor.shape
    shape = layer.weights.shape
    match layer:
        case Dense1D():
            _check_axes(where, shape, "OI")
            expected = (shape[0], height * width * channels)
        case InputConv2D() | Conv2D() | Conv2DTranspose():
            _check_axes(where, shape, "OHWI")
            expected = (*shape[:3], channels)
        case DepthwiseConv2D() | DepthwiseConv2DTranspose():
            _check_axes(where, shape, "1HWC")
            expected = (1, *shape[1:3], channels)
    if isinstance(layer, Conv2DTranspose | DepthwiseConv2DTranspose):
        _require(
            shape[1] in TRANSPOSE_KERNELS and shape[2] in TRANSPOSE_KERNELS,
            where,
            "weights",
            f"needs kernel sides of 3 or 4, found {Size2D(shape[1], shape[2])}",
        )
    _require(
        layer.weights_bits in (4, 8),
        where,
        "weights_bits",
        f"needs 4 or 8, found {layer.weights_bits}",
    )
    limits = (-(1 << (layer.weights_bits - 1)), (1 << (layer.weights_bits - 1)) - 1)
    _check_array(where, "weights", layer.weights, np.int8, expected, limits)
    is_depthwise = isinstance(layer, DepthwiseConv2D | DepthwiseConv2DTranspose)
    return channels if is_depthwise else shape[0]


def _check_bias(where: str, bias: Bias, filters: int) -> None:
    _check_array(where, "bias.value", bias.value, np.int8, (filters,))
    _check_array(where, "bias.shift", bias.shift, np.uint8, (filters,), (0, MAX_SHIFT))


def _check_rescale(where: str, field: str, factor: Rescale, filters: int) -> None:
    _check_array(where, f"{field}.multiplier", factor.multiplier, np.uint8, (filters,))
    _check_array(where, f"{field}.shift", factor.shift, np.int8, (filters,), (-32, 31))


def _check_relu(where: str, activation: ReLU, filters: int) -> None:
    value, shift = activation.max_value, activation.max_value_shift
    _require(
        (value is None) == (shift is None),
        where,
        "activation",
        "max_value and max_value_shift come together or not at all",
    )
    if value is not None and shift is not None:
        _check_array(where, "activation.max_value", value, np.uint8, (filters,))
        field = "activation.max_value_shift"
        _check_array(where, field, shift, np.uint8, (filters,), (0, MAX_SHIFT))


def _check_size(where: str, field: str, size: Size2D) -> None:
    _require(
        1 <= size.height <= MAX_SIDE and 1 <= size.width <= MAX_SIDE,
        where,
        field,
        f"needs sides in [1, {MAX_SIDE}], found {size}",
    )


def _check_port_shape(where: str, shape: Shape, device: DeviceTensor) -> None:
    batch, *sides = shape or (0,)
    known = [side or 0 for side in sides]
    _require(
        (batch is None or batch >= 1)
        and min(known, default=1) >= 1
        and math.prod(known) * device.code.parts == math.prod(device.shape),
        where,
        "shape",
        f"{shape} without the batch does not hold the values of '{device.name}' {device.shape}",
    )


def _check_input_port(
    where: str, port: InputPort, device: DeviceTensor, *, per_channel: bool
) -> None:
    _require(
        port.dtype in (DType.INT8, DType.UINT8),
        where,
        "dtype",
        f"needs int8 or uint8, found {port.dtype.value}",
    )
    _, _, channels = device.shape
    codes: tuple[int, ...] = (256 * device.code.parts,)
    if per_channel and port.recode.shape == (256 * channels,):
        codes = port.recode.shape
    _check_array(where, "recode", port.recode, np.int16, codes, device.code.limits)
    _check_port_shape(where, port.shape, device)


def _check_output_port(where: str, port: OutputPort, device: DeviceTensor) -> None:
    _check_port_shape(where, port.shape, device)
    _, _, channels = device.shape
    factor = port.factor
    _require(
        factor.dtype == np.float64 and factor.shape in ((1,), (channels,)),
        where,
        "factor",
        f"needs float64 of shape (1,) or ({channels},), found {factor.dtype} of {factor.shape}",
    )
    _require(
        bool((np.isfinite(factor) & (factor > 0)).all()),
        where,
        "factor",
        "needs positive finite numbers",
    )
    integers = (DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32)
    _require(
        port.dtype in integers,
        where,
        "dtype",
        f"needs an integer type of at most 32 bits, found {port.dtype.value}",
    )
    low, high = port.dtype.code_range
    _require(
        low <= port.low <= port.high <= high,
        where,
        "low, high",
        f"needs {low} <= low <= high <= {high}, found {port.low}, {port.high}",
    )
    _require(
        low <= port.zero_point <= high,
        where,
        "zero_point",
        f"needs [{low}, {high}], found {port.zero_point}",
    )
