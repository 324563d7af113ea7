# SPDX-License-Identifier: Apache-2.0
"""Time of Akida 1.0's separable layer by that of Akida 2.0's depthwise and pointwise pair.

    python tools/separable_speed.py [--rounds N] [--sets SET ...]

Same maps, same number of multiplications, one thread, in turns. Weights are random and use all of
their bits; the codes between the layers are spread over theirs. A layer's time is what two more of
them add to a network; of all rounds the least quarter counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from akida_backend.engine import NativeEngine, engine_status
from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Bias,
    Code,
    Conv2D,
    DepthwiseConv2D,
    DeviceTensor,
    InputPort,
    NoActivation,
    OutputPort,
    Program,
    ReLU,
    Rescale,
    SeparableConvolutional,
    StepActivation,
)
from akida_backend.simulator import Simulator

# Those of MobileNetV1 of width 0.25, 0.5 and 1.0 for images of 224 x 224.
SHAPES: Final = (
    *((112, 8), (56, 32), (28, 64), (14, 128), (7, 256)),
    *((112, 16), (56, 64), (28, 128), (14, 256), (7, 512)),
    *((112, 32), (56, 128), (28, 256), (14, 512), (7, 1024)),
)
ONE: Final = Size2D(1, 1)
SpeedLayer: TypeAlias = SeparableConvolutional | DepthwiseConv2D | Conv2D
CODES_1, CODES_2 = Code((1.0,), bits=4, signed=False), Code((1.0,))


def program(code: Code, side: int, channels: int, layers: list[SpeedLayer]) -> Program:
    """Layers in a row that keep the shape."""
    shape = (side, side, channels)
    tensors = {"0": DeviceTensor("0", shape, code)}
    for layer in layers:
        wide = dataclasses.replace(code, bits=32, signed=True) if layer.output_bits == 32 else code
        tensors[layer.output] = DeviceTensor(layer.output, shape, wide)
    low, high = code.limits
    recode = np.clip(np.arange(256) + low, low, high).astype(np.int16)
    host = DType.INT32 if layers[-1].output_bits == 32 else DType.INT8
    return Program(
        name="speed",
        device="akd1000" if code is CODES_1 else "akida2",
        tensors=tensors,
        layers=tuple(layers),
        input=InputPort("x", DType.INT8 if low else DType.UINT8, (None, *shape), "0", recode),
        output=OutputPort(
            "y", host, (None, *shape), layers[-1].output, np.ones(1), 0, *host.code_range
        ),
    )


def akida1(side: int, channels: int, count: int) -> list[SpeedLayer]:
    """Separable layers whose codes have the mean and the deviation of uniform ones."""
    random = np.random.default_rng(channels)
    x = random.integers(0, 16, (1, side, side, channels)).astype(np.uint8)
    layers: list[SpeedLayer] = []
    for number in range(count):
        layer = SeparableConvolutional(
            name=f"separable{number}",
            inputs=(str(number),),
            output=str(number + 1),
            weights=random.integers(-8, 8, (1, 3, 3, channels)).astype(np.int8),
            pointwise_weights=random.integers(-8, 8, (channels, channels)).astype(np.int8),
            weights_bits=4,
            threshold=np.zeros(channels, np.int32),
            activation=NoActivation(),
            output_bits=32,
            stride=ONE,
        )
        alone = dataclasses.replace(layer, inputs=("0",), output="1")
        potentials = Simulator(program(CODES_1, side, channels, [alone])).run(x).astype(np.int64)
        step = np.maximum(potentials.std(axis=(0, 1, 2)) / np.std(np.arange(16)), 1)
        step = np.rint(step).astype(np.uint32)
        threshold = np.rint(potentials.mean(axis=(0, 1, 2)) - 8.0 * step).astype(np.int32)
        layer = dataclasses.replace(
            layer,
            threshold=threshold,
            activation=StepActivation(step, np.zeros(channels, np.uint8)),
            output_bits=4,
        )
        codes = np.ceil((potentials - threshold) / step)
        x = np.clip(codes, 0, 15).astype(np.uint8)
        layers.append(layer)
    return layers


def akida2(channels: int, count: int) -> list[SpeedLayer]:
    """Pairs of a depthwise and a pointwise layer."""
    random = np.random.default_rng(channels)
    bias = Bias(np.zeros(channels, np.int8), np.zeros(channels, np.uint8))

    def rescale(taps: int) -> Rescale:
        shift = -round(np.log2(128 * np.sqrt(taps)))
        return Rescale(np.ones(channels, np.uint8), np.full(channels, shift, np.int8))

    def weights(*shape: int) -> NDArray[np.int8]:
        return random.integers(-128, 128, shape).astype(np.int8)

    layers: list[SpeedLayer] = []
    for number in range(0, 2 * count, 2):
        layers.append(
            DepthwiseConv2D(
                name=f"depthwise{number}",
                inputs=(str(number),),
                output=str(number + 1),
                weights=weights(1, 3, 3, channels),
                weights_bits=8,
                bias=bias,
                rescale=rescale(9),
                activation=ReLU(),
                stride=ONE,
            )
        )
        layers.append(
            Conv2D(
                name=f"pointwise{number}",
                inputs=(str(number + 1),),
                output=str(number + 2),
                weights=weights(channels, 1, 1, channels),
                weights_bits=8,
                bias=bias,
                rescale=rescale(channels),
                activation=ReLU(),
                stride=ONE,
            )
        )
    return layers


def runner(of: Program, instruction_set: str) -> Callable[[], object]:
    engine = NativeEngine(of, instruction_set=instruction_set)
    random = np.random.default_rng(0)
    _, *shape = of.input.shape
    low, high = (-128, 128) if of.input.dtype is DType.INT8 else (0, 16)
    x = random.integers(low, high, (1, *(n or 1 for n in shape))).astype(of.input.dtype.numpy)
    return lambda: engine.run(x)


def ratio(instruction_set: str, side: int, channels: int, rounds: int) -> tuple[float, float]:
    """Microseconds of a layer of Akida 1.0 and of a pair of Akida 2.0."""
    first, second = akida1(side, channels, 3), akida2(channels, 3)
    runs = [
        runner(program(code, side, channels, layers), instruction_set)
        for code, layers in (
            *((CODES_1, first), (CODES_1, first[:1])),
            *((CODES_2, second), (CODES_2, second[:2])),
        )
    ]
    times = np.zeros((rounds, len(runs)))
    for row in times:
        for i, run in enumerate(runs):
            run()
            start = time.perf_counter()
            run()
            row[i] = time.perf_counter() - start
    best = np.sort(times, axis=0)[: max(rounds // 4, 1)].mean(axis=0)
    long_1, short_1, long_2, short_2 = best * 1e6 / 2
    return long_1 - short_1, long_2 - short_2


def main() -> None:
    parser = argparse.ArgumentParser(description="Separable layers of Akida 1.0 by pairs of 2.0.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--sets", nargs="+", help="instruction sets; all that run here")
    given = parser.parse_args()
    known = engine_status().instruction_sets
    sets = given.sets or [name for name, problem in known.items() if problem is None]
    print("shape, us of a separable layer / us of a pair = ratio")
    for name in sets:
        for side, channels in SHAPES:
            one, two = ratio(name, side, channels, given.rounds)
            print(
                f"{name}: {side}x{side}x{channels}: {one:.0f} / {two:.0f} = {one / two:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
