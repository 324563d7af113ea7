# SPDX-License-Identifier: Apache-2.0
"""Each ONNX operator as operations of the Graph: one function per operator, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from akida_backend.graph import (
    Add,
    HardSwish,
    Logistic,
    Maximum,
    Minimum,
    Mul,
    Sub,
    Tanh,
)
from akida_backend.importers.onnx_elementwise import (
    batch_normalization,
    binary,
    clamp,
    div,
    leaky_relu,
    prelu,
    softmax,
    unary,
)
from akida_backend.importers.onnx_moves import (
    concat,
    pad,
    reshape_to,
    reshaped,
    slice_values,
    split,
)
from akida_backend.importers.onnx_resize import resize
from akida_backend.importers.onnx_units import Unit
from akida_backend.importers.onnx_weighted import (
    conv,
    conv_transpose,
    gemm,
    matmul,
)
from akida_backend.importers.onnx_windows import (
    arg_max,
    average_pool,
    global_average_pool,
    global_max_pool,
    max_pool,
    reduce_mean,
)

_NO_LIMIT: Final = 2**14


@dataclass(frozen=True, slots=True)
class Conversion:
    """How an operator becomes operations.

    Attributes:
        convert: Writes them.
        inputs: Fewest and most operands.
        outputs: Most results.
        moves: Whether stored values are moved as they are, whatever they stand for.
    """

    convert: Callable[[Unit], None]
    inputs: tuple[int, int]
    outputs: int = 1
    moves: bool = False


CONVERSIONS: Final[Mapping[str, Conversion]] = {
    "Conv": Conversion(conv, (2, 3)),
    "ConvTranspose": Conversion(conv_transpose, (2, 3)),
    "Gemm": Conversion(gemm, (2, 3)),
    "MatMul": Conversion(matmul, (2, 3)),
    "Add": Conversion(binary(Add, fuses=True), (2, 2)),
    "Sub": Conversion(binary(Sub, fuses=True), (2, 2)),
    "Mul": Conversion(binary(Mul, fuses=True), (2, 2)),
    "Div": Conversion(div, (2, 2)),
    "Max": Conversion(binary(Maximum, fuses=False), (1, _NO_LIMIT)),
    "Min": Conversion(binary(Minimum, fuses=False), (1, _NO_LIMIT)),
    "PRelu": Conversion(prelu, (2, 2)),
    "BatchNormalization": Conversion(batch_normalization, (5, 5), 5),
    "AveragePool": Conversion(average_pool, (1, 1)),
    "GlobalAveragePool": Conversion(global_average_pool, (1, 1)),
    "ReduceMean": Conversion(reduce_mean, (1, 2)),
    "Sigmoid": Conversion(unary(Logistic), (1, 1)),
    "Tanh": Conversion(unary(Tanh), (1, 1)),
    "HardSwish": Conversion(unary(HardSwish), (1, 1)),
    "LeakyRelu": Conversion(leaky_relu, (1, 1)),
    "Relu": Conversion(clamp, (1, 1)),
    "Clip": Conversion(clamp, (1, 3)),
    "Softmax": Conversion(softmax, (1, 1)),
    "Concat": Conversion(concat, (1, _NO_LIMIT)),
    "MaxPool": Conversion(max_pool, (1, 1), 2, moves=True),
    "GlobalMaxPool": Conversion(global_max_pool, (1, 1), moves=True),
    "Reshape": Conversion(lambda unit: reshape_to(unit, reshaped(unit)), (2, 2), moves=True),
    "Flatten": Conversion(lambda unit: reshape_to(unit, reshaped(unit)), (1, 1), moves=True),
    "Squeeze": Conversion(lambda unit: reshape_to(unit, reshaped(unit)), (1, 2), moves=True),
    "Unsqueeze": Conversion(lambda unit: reshape_to(unit, reshaped(unit)), (1, 2), moves=True),
    "Pad": Conversion(pad, (1, 4), moves=True),
    "Slice": Conversion(slice_values, (3, 5), moves=True),
    "Split": Conversion(split, (1, 2), _NO_LIMIT, moves=True),
    "Resize": Conversion(resize, (1, 4), moves=True),
    "Upsample": Conversion(resize, (2, 2), moves=True),
    "ArgMax": Conversion(arg_max, (1, 1)),
}
