# SPDX-License-Identifier: Apache-2.0
"""One small well-formed Program of each generation by hand, and parts to change them with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Add,
    Bias,
    Code,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Convolutional,
    Dense1D,
    DepthwiseConv2D,
    DeviceTensor,
    FullyConnected,
    InputConv2D,
    InputConvolutional,
    InputPort,
    LookUpTable,
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

ONE = Size2D(1, 1)
TWO = Size2D(2, 2)
SIGNED = Code((1.0,))


def bias(filters: int, value: int = 1, shift: int = 0) -> Bias:
    return Bias(np.full(filters, value, np.int8), np.full(filters, shift, np.uint8))


def rescale(filters: int, multiplier: int = 128, shift: int = -7) -> Rescale:
    return Rescale(np.full(filters, multiplier, np.uint8), np.full(filters, shift, np.int8))


def table() -> NDArray[np.int16]:
    return np.arange(-1024, 1024, dtype=np.int16)


def tensor(name: str, shape: tuple[int, int, int], code: Code = SIGNED) -> DeviceTensor:
    return DeviceTensor(name, shape, code)


def sound() -> Program:
    """One well-formed program with a layer of nearly every type.

    image (8, 8, 3) -> stem (4, 4, 4) -> conv (4, 4, 4) + stem -> sum (4, 4, 4)
    -> depthwise (4, 4, 4), joined with sum -> joined (4, 4, 8) -> up (8, 8, 2) -> logits (1, 1, 5)
    """
    layers: tuple[ProgramLayer, ...] = (
        InputConv2D(
            name="stem",
            inputs=("image",),
            output="stem.out",
            weights=np.ones((4, 3, 3, 3), np.int8),
            bias=bias(4),
            activation=ReLU(),
            rescale=rescale(4),
            stride=ONE,
            padding=Padding.SAME,
            padding_value=np.full(3, 9, np.uint8),
            pool=MaxPool(TWO, TWO, Padding.SAME),
        ),
        Conv2D(
            name="conv",
            inputs=("stem.out",),
            output="conv.out",
            weights=np.ones((4, 3, 3, 4), np.int8),
            bias=bias(4),
            activation=ReLU(np.full(4, 6, np.uint8), np.full(4, 3, np.uint8)),
            rescale=rescale(4),
            stride=ONE,
            input_shift=np.array([0, 1, 2, 3], np.uint8),
        ),
        Add(
            name="add",
            inputs=("stem.out", "conv.out"),
            output="sum",
            a_shift=0,
            b_shift=2,
            output_shift=-2,
            activation=ReLU(),
        ),
        DepthwiseConv2D(
            name="depthwise",
            inputs=("sum",),
            output="depthwise.out",
            weights=np.ones((1, 3, 3, 4), np.int8),
            bias=bias(4),
            activation=LookUpTable(rescale(4), table()),
            rescale=rescale(4),
            stride=ONE,
        ),
        Concatenate(name="join", inputs=("sum", "depthwise.out"), output="joined"),
        Conv2DTranspose(
            name="up",
            inputs=("joined",),
            output="up.out",
            weights=np.ones((2, 3, 3, 8), np.int8),
            bias=bias(2),
            activation=NoActivation(),
            rescale=rescale(2),
        ),
        Dense1D(
            name="logits",
            inputs=("up.out",),
            output="logits.out",
            weights=np.ones((5, 128), np.int8),
            bias=bias(5),
            activation=NoActivation(),
            rescale=rescale(5, 1, 0),
            output_bits=32,
        ),
    )
    tensors = [
        tensor("image", (8, 8, 3), Code((0.1,), signed=False, zero_point=9)),
        tensor("stem.out", (4, 4, 4)),
        tensor("conv.out", (4, 4, 4)),
        tensor("sum", (4, 4, 4)),
        tensor("depthwise.out", (4, 4, 4), Code((1.0, 2.0, 3.0, 4.0))),
        tensor("joined", (4, 4, 8), Code((1.0,) * 5 + (2.0, 3.0, 4.0))),
        tensor("up.out", (8, 8, 2)),
        tensor("logits.out", (1, 1, 5), Code((1.0,), bits=32)),
    ]
    return Program(
        name="p",
        device="akida2",
        tensors={t.name: t for t in tensors},
        layers=layers,
        input=InputPort("x", DType.UINT8, (None, 8, 8, 3), "image", np.arange(256, dtype=np.int16)),
        output=OutputPort("y", DType.INT8, (None, 5), "logits.out", np.full(5, 0.5), -3, -128, 127),
    )


def levels(bits: int) -> Code:
    return Code((0.5,), bits, signed=False)


def thresholds(filters: int, value: int = 0) -> NDArray[np.int32]:
    return np.full(filters, value, np.int32)


def steps(filters: int, step: int = 3, step_shift: int = 0) -> StepActivation:
    return StepActivation(np.full(filters, step, np.uint32), np.full(filters, step_shift, np.uint8))


def sound_akida1() -> Program:
    """One well-formed Akida 1.0 program with every layer type.

    image (8, 8, 3) -> stem (3, 3, 4) -> conv (3, 3, 4), 2 bits -> separable (1, 1, 6)
    -> logits (1, 1, 5)
    """
    layers: tuple[ProgramLayer, ...] = (
        InputConvolutional(
            name="stem",
            inputs=("image",),
            output="stem.out",
            weights=np.ones((4, 3, 3, 3), np.int8),
            weights_bits=8,
            threshold=thresholds(4, 100),
            activation=steps(4, step=1000, step_shift=3),
            stride=ONE,
            padding=Padding.VALID,
            padding_value=9,
            pool=MaxPool(TWO, TWO, Padding.VALID),
        ),
        Convolutional(
            name="conv",
            inputs=("stem.out",),
            output="conv.out",
            weights=np.ones((4, 3, 3, 4), np.int8),
            weights_bits=4,
            threshold=thresholds(4, -5),
            activation=steps(4, step=70),
            output_bits=2,
            stride=ONE,
        ),
        SeparableConvolutional(
            name="separable",
            inputs=("conv.out",),
            output="separable.out",
            weights=np.ones((1, 3, 3, 4), np.int8),
            weights_bits=2,
            pointwise_weights=np.full((6, 4), -1, np.int8),
            threshold=thresholds(6, -400),
            activation=steps(6, step=40),
            stride=ONE,
            global_average=True,
        ),
        FullyConnected(
            name="logits",
            inputs=("separable.out",),
            output="logits.out",
            weights=np.ones((5, 6), np.int8),
            threshold=thresholds(5, -20),
            activation=NoActivation(),
            output_bits=32,
        ),
    )
    tensors = [
        tensor("image", (8, 8, 3), Code((0.1,), signed=False, zero_point=9)),
        tensor("stem.out", (3, 3, 4), levels(4)),
        tensor("conv.out", (3, 3, 4), levels(2)),
        tensor("separable.out", (1, 1, 6), levels(4)),
        tensor("logits.out", (1, 1, 5), Code((1.0,), bits=32)),
    ]
    return Program(
        name="p1",
        device="akd1000",
        tensors={t.name: t for t in tensors},
        layers=layers,
        input=InputPort("x", DType.UINT8, (None, 8, 8, 3), "image", np.arange(256, dtype=np.int16)),
        output=OutputPort("y", DType.INT8, (None, 5), "logits.out", np.full(5, 0.5), -3, -128, 127),
    )
