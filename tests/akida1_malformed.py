# SPDX-License-Identifier: Apache-2.0
"""Akida 1.0 programs with one fault each, and how they are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from program_samples import levels, sound, sound_akida1, steps, tensor, thresholds

from akida_backend.graph import Size2D
from akida_backend.program import Code, Convolutional, MaxPool, NoActivation, Padding, Program

POOL = MaxPool(Size2D(2, 2), Size2D(2, 2), Padding.SAME)


def with_layer(key: str, **changes: object) -> Program:
    """The sound program with fields of one layer changed, to wrong types at times."""
    program = sound_akida1()
    unchecked: dict[str, Any] = dict(changes)
    layers = tuple(
        dataclasses.replace(layer, **unchecked) if layer.name == key else layer
        for layer in program.layers
    )
    return dataclasses.replace(program, layers=layers)


def with_input(**changes: object) -> Program:
    program = sound_akida1()
    unchecked: dict[str, Any] = dict(changes)
    return dataclasses.replace(program, input=dataclasses.replace(program.input, **unchecked))


def with_tensor(key: str, **changes: object) -> Program:
    program = sound_akida1()
    unchecked: dict[str, Any] = dict(changes)
    tensors = {**program.tensors, key: dataclasses.replace(program.tensors[key], **unchecked)}
    return dataclasses.replace(program, tensors=tensors)


def mixed_generations() -> Program:
    """An Akida 1.0 layer behind one of Akida 2.0."""
    program = sound_akida1()
    stem = sound().layers[0]
    tensors = {**program.tensors, "stem.out": tensor("stem.out", (4, 4, 4))}
    return dataclasses.replace(program, layers=(stem, *program.layers[1:]), tensors=tensors)


def inner_potentials() -> Program:
    program = with_layer("conv", activation=NoActivation(), output_bits=32)
    tensors = {
        **program.tensors,
        "conv.out": tensor("conv.out", (3, 3, 4), Code((1.0,), bits=32)),
    }
    return dataclasses.replace(program, tensors=tensors)


def beginning_with_conv(code: Code) -> Program:
    """Without the input layer, what it wrote comes from the host in another code."""
    program = with_tensor("stem.out", code=code)
    tensors = {name: t for name, t in program.tensors.items() if name != "image"}
    source = dataclasses.replace(program.input, shape=(None, 3, 3, 4), device="stem.out")
    return dataclasses.replace(program, layers=program.layers[1:], tensors=tensors, input=source)


def many_accumulators() -> Program:
    """A map of the largest size, and two filters whose sums take one number each."""
    program = beginning_with_conv(levels(4))
    tensors = {
        "stem.out": tensor("stem.out", (16384, 16384, 1), levels(4)),
        "conv.out": tensor("conv.out", (1, 1, 2), levels(4)),
    }
    (conv,) = (layer for layer in program.layers if isinstance(layer, Convolutional))
    only = dataclasses.replace(
        conv,
        weights=np.zeros((2, 1, 1, 1), np.int8),
        threshold=thresholds(2),
        activation=steps(2),
        output_bits=4,
        global_average=True,
    )
    sink = dataclasses.replace(program.output, device="conv.out")
    return dataclasses.replace(program, layers=(only,), tensors=tensors, output=sink)


def large_sums() -> Program:
    """Global average pooling whose sum may exceed 20 bits."""
    program = with_layer(
        "separable",
        weights=np.full((1, 7, 7, 4), -8, np.int8),
        pointwise_weights=np.full((6, 4), 7, np.int8),
        weights_bits=4,
    )
    layers = tuple(
        dataclasses.replace(layer, output_bits=4) if isinstance(layer, Convolutional) else layer
        for layer in program.layers
    )
    wider = dataclasses.replace(program.tensors["conv.out"], code=levels(4))
    return dataclasses.replace(
        program, layers=layers, tensors={**program.tensors, "conv.out": wider}
    )


def image_of_2_channels() -> Program:
    program = with_layer("stem", weights=np.ones((4, 3, 3, 2), np.int8))
    image = dataclasses.replace(program.tensors["image"], shape=(8, 8, 2))
    source = dataclasses.replace(program.input, shape=(None, 8, 8, 2))
    return dataclasses.replace(program, tensors={**program.tensors, "image": image}, input=source)


def message(layer: str, kind: str, field: str, problem: str) -> str:
    return rf"program 'p1', layer '{layer}' \({kind}\), field '{field}': {problem}"


def stem(field: str, problem: str) -> str:
    return message("stem", "InputConvolutional", field, problem)


def conv(field: str, problem: str) -> str:
    return message("conv", "Convolutional", field, problem)


def separable(field: str, problem: str) -> str:
    return message("separable", "SeparableConvolutional", field, problem)


def logits(field: str, problem: str) -> str:
    return message("logits", "FullyConnected", field, problem)


AKIDA1_MALFORMED: dict[str, tuple[Callable[[], Program], str]] = {
    "akida1-mixed-with-akida2": (
        mixed_generations,
        "program 'p1', field 'layers': layers of Akida 1.0 and 2.0 in one program",
    ),
    "akida1-image-into-conv": (
        lambda: beginning_with_conv(Code((1.0,), signed=False)),
        conv("inputs", "'stem.out' has 8 unsigned bits, which this layer cannot read"),
    ),
    "akida1-signed-into-conv": (
        lambda: beginning_with_conv(Code((1.0,))),
        conv("inputs", "'stem.out' has 8 signed bits, which this layer cannot read"),
    ),
    "akida1-potentials-into-conv": (
        lambda: beginning_with_conv(Code((1.0,), bits=32)),
        conv("inputs", "'stem.out' has 32 signed bits, which this layer cannot read"),
    ),
    "akida1-levels-into-input-layer": (
        lambda: with_tensor("image", code=levels(4)),
        stem("inputs", "'image' has 4 unsigned bits, which this layer cannot read"),
    ),
    "akida1-image-channels": (
        image_of_2_channels,
        stem("inputs", "needs 1 or 3 channels, found 2"),
    ),
    "akida1-padding-value": (
        lambda: with_layer("stem", padding_value=256),
        stem("padding_value", r"needs \[0, 255\], found 256"),
    ),
    "akida1-weights-bits-of-input-layer": (
        lambda: with_layer("stem", weights_bits=9),
        stem("weights_bits", "needs 1, 2, 3, 4, 5, 6, 7, 8, found 9"),
    ),
    "akida1-weights-bits": (
        lambda: with_layer("conv", weights_bits=8),
        conv("weights_bits", "needs 1, 2, 4, found 8"),
    ),
    "akida1-weights-bits-of-separable": (
        lambda: with_layer("separable", weights_bits=1),
        separable("weights_bits", "needs 2, 4, found 1"),
    ),
    "akida1-weights-beyond-their-bits": (
        lambda: with_layer("conv", weights=np.full((4, 3, 3, 4), 8, np.int8)),
        conv("weights", r"needs values in \[-8, 7\], found \[8, 8\]"),
    ),
    "akida1-negative-weights-of-one-bit": (
        lambda: with_layer("logits", weights=np.full((5, 6), -1, np.int8), weights_bits=1),
        logits("weights", r"needs values in \[0, 1\], found \[-1, -1\]"),
    ),
    "akida1-weights-shape": (
        lambda: with_layer("conv", weights=np.ones((4, 3, 3, 5), np.int8)),
        conv("weights", r"needs int8 of shape \(4, 3, 3, 4\), found int8 of shape \(4, 3, 3, 5\)"),
    ),
    "akida1-weights-axes": (
        lambda: with_layer("logits", weights=np.ones((5, 1, 1, 6), np.int8)),
        logits("weights", r"needs 2 axes, OI, found shape \(5, 1, 1, 6\)"),
    ),
    "akida1-depthwise-weights": (
        lambda: with_layer("separable", weights=np.ones((2, 3, 3, 4), np.int8)),
        separable("weights", r"needs int8 of shape \(1, 3, 3, 4\)"),
    ),
    "akida1-pointwise-weights": (
        lambda: with_layer("separable", pointwise_weights=np.ones((6, 5), np.int8)),
        separable("pointwise_weights", r"needs int8 of shape \(6, 4\)"),
    ),
    "akida1-pointwise-weights-beyond-their-bits": (
        lambda: with_layer("separable", pointwise_weights=np.full((6, 4), 2, np.int8)),
        separable("pointwise_weights", r"needs values in \[-2, 1\], found \[2, 2\]"),
    ),
    "akida1-no-pointwise-filter": (
        lambda: with_layer("separable", pointwise_weights=np.ones((0, 4), np.int8)),
        separable("pointwise_weights", "needs 1 to 65535 filters, found 0"),
    ),
    "akida1-stride": (
        lambda: with_layer("conv", stride=Size2D(0, 1)),
        conv("stride", r"needs sides in \[1, 65535\], found 0x1"),
    ),
    "akida1-pool-and-average": (
        lambda: with_layer("separable", pool=POOL),
        separable("pool", "excludes global_average"),
    ),
    "akida1-pool-with-another-padding": (
        lambda: with_layer("stem", pool=POOL),
        stem("pool", "needs the layer's own padding, found same"),
    ),
    "akida1-window-larger-than-the-map": (
        lambda: with_layer("stem", weights=np.ones((4, 9, 3, 3), np.int8)),
        stem("output", r"a window is larger than its map: \(0, 3, 4\)"),
    ),
    "akida1-accumulators": (
        many_accumulators,
        conv("weights", r"needs at most 268435456 accumulators, found \(16384, 16384, 2\)"),
    ),
    "akida1-threshold": (
        lambda: with_layer("conv", threshold=thresholds(5)),
        conv("threshold", r"needs int32 of shape \(4,\), found int32 of shape \(5,\)"),
    ),
    "akida1-step": (
        lambda: with_layer("conv", activation=steps(4, step=0)),
        conv("activation.step", r"needs values in \[1, 16777215\], found \[0, 0\]"),
    ),
    "akida1-step-shift": (
        lambda: with_layer("conv", activation=steps(4, step_shift=25)),
        conv("activation.step_shift", r"needs values in \[0, 24\], found \[25, 25\]"),
    ),
    "akida1-inner-potentials": (
        lambda: with_layer("conv", activation=NoActivation()),
        conv("activation", "only the last layer may give its potentials"),
    ),
    "akida1-inner-potentials-of-32-bits": (
        inner_potentials,
        conv("activation", "only the last layer may give its potentials"),
    ),
    "akida1-output-bits": (
        lambda: with_layer("conv", output_bits=8),
        conv("output_bits", "needs 1, 2, 4 with this activation, found 8"),
    ),
    "akida1-output-bits-without-activation": (
        lambda: with_layer("logits", output_bits=4),
        logits("output_bits", "needs 32 with this activation, found 4"),
    ),
    "akida1-output-tensor": (
        lambda: with_layer("conv", output_bits=4),
        conv("output_bits", "4 does not match the output tensor's 2 unsigned bits"),
    ),
    "akida1-wide-threshold": (
        lambda: with_layer("logits", threshold=thresholds(5, -(2**31))),
        logits("buffer_bits", "potential less its threshold of filter 0 may reach 2147483738, 32"),
    ),
    "akida1-tables": (
        lambda: with_input(recode=np.zeros(512, np.int16)),
        r"program 'p1', input port 'x', field 'recode': needs int16 of shape \(256,\)",
    ),
    "akida1-summed-potentials": (
        large_sums,
        # -8 * 15 * 49 taps * 7 * 4 channels * 9 positions
        separable("buffer_bits", "potential of filter 0 may reach 1481760, 20 bits hold 524287"),
    ),
}
