# SPDX-License-Identifier: Apache-2.0
"""Every check of a program, seen to fail, and the overflow proof against real accumulators."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
from akida1_malformed import AKIDA1_MALFORMED
from akida1_strategies import seeded_akida1_program
from program_samples import bias, rescale, sound, sound_akida1, table, tensor
from program_strategies import random_device_input, seeded_program

from akida_backend import program_check
from akida_backend.errors import ProgramError
from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Add,
    Akida1Layer,
    Bias,
    Code,
    Conv2D,
    Convolutional,
    Dense1D,
    DepthwiseConv2D,
    FullyConnected,
    InputConv2D,
    LookUpTable,
    MaxPool,
    NoActivation,
    Padding,
    Program,
    ReLU,
    Rescale,
    SeparableConvolutional,
)
from akida_backend.program_check import (
    check_program,
    output_limits,
    output_size,
    overflow,
    potential_limits,
    worst_case_accumulator,
)
from akida_backend.simulator import run_layer, run_layers

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

InstanceT = TypeVar("InstanceT", bound="DataclassInstance")

ONE = Size2D(1, 1)
TWO = Size2D(2, 2)


def changed(value: InstanceT, changes: Mapping[str, object]) -> InstanceT:
    """`dataclasses.replace` with fields whose types are deliberately wrong at times."""
    unchecked: dict[str, Any] = dict(changes)
    return dataclasses.replace(value, **unchecked)


def with_layer(key: str, **changes: object) -> Program:
    """The sound program with fields of one layer changed."""
    program = sound()
    layers = tuple(
        changed(layer, changes) if layer.name == key else layer for layer in program.layers
    )
    return dataclasses.replace(program, layers=layers)


def with_tensor(key: str, **changes: object) -> Program:
    program = sound()
    tensors = {**program.tensors, key: changed(program.tensors[key], changes)}
    return dataclasses.replace(program, tensors=tensors)


def with_code(key: str, **changes: object) -> Program:
    return with_tensor(key, code=changed(sound().tensors[key].code, changes))


def with_input(**changes: object) -> Program:
    program = sound()
    return dataclasses.replace(program, input=changed(program.input, changes))


def with_output(**changes: object) -> Program:
    program = sound()
    return dataclasses.replace(program, output=changed(program.output, changes))


def with_layers(*names: str) -> Program:
    """The sound program with these layers, in this order."""
    program = sound()
    by_name = {layer.name: layer for layer in program.layers}
    return dataclasses.replace(program, layers=tuple(by_name[name] for name in names))


def with_extra_tensor() -> Program:
    program = sound()
    return dataclasses.replace(
        program, tensors={**program.tensors, "spare": tensor("spare", (1, 1, 1))}
    )


def with_unread_layer() -> Program:
    program = sound()
    (_, conv, *_) = program.layers
    extra = dataclasses.replace(conv, name="spare", output="spare.out")
    *body, last = program.layers
    return dataclasses.replace(
        program,
        layers=(*body, extra, last),
        tensors={**program.tensors, "spare.out": tensor("spare.out", (4, 4, 4))},
    )


def last_layer_to_32_bits(name: str) -> Program:
    """An inner layer that claims int32 output, with the tensor to match."""
    program = with_layer(name, output_bits=32)
    output = next(layer.output for layer in program.layers if layer.name == name)
    wide = dataclasses.replace(program.tensors[output], code=Code((1.0,), bits=32))
    return dataclasses.replace(program, tensors={**program.tensors, output: wide})


def wide_add(output_shift: int) -> Program:
    """Only stem and an Add of 32-bit output."""
    program = sound()
    stem, _, add, *_ = program.layers
    assert isinstance(add, Add)
    add = dataclasses.replace(
        add, inputs=("stem.out", "stem.out"), output_bits=32, output_shift=output_shift
    )
    tensors = {name: program.tensors[name] for name in ("image", "stem.out")}
    tensors["sum"] = tensor("sum", (4, 4, 4), Code((1.0,), bits=32))
    output = dataclasses.replace(
        program.output, device="sum", shape=(None, 4, 4, 4), factor=np.ones(1)
    )
    return dataclasses.replace(program, layers=(stem, add), tensors=tensors, output=output)


def added_shapes_differ() -> Program:
    program = with_layer("conv", stride=TWO)
    small = dataclasses.replace(program.tensors["conv.out"], shape=(2, 2, 4))
    return dataclasses.replace(program, tensors={**program.tensors, "conv.out": small})


def image_of_4_channels() -> Program:
    program = with_layer("stem", weights=np.ones((4, 3, 3, 4), np.int8))
    wide = dataclasses.replace(program.tensors["image"], shape=(8, 8, 4))
    return dataclasses.replace(program, tensors={**program.tensors, "image": wide})


def summed_overflow() -> Program:
    """Filter 1 sums 64 positions of nearly 2**27 each."""
    program = sound()
    stem, conv, *rest = program.layers
    assert isinstance(stem, InputConv2D)
    assert isinstance(conv, Conv2D)
    stem = dataclasses.replace(stem, pool=None)
    conv = dataclasses.replace(
        conv,
        bias=Bias(np.full(4, 127, np.int8), np.array([0, 20, 0, 0], np.uint8)),
        activation=NoActivation(),
        global_average=True,
    )
    tensors = {
        **program.tensors,
        "stem.out": tensor("stem.out", (8, 8, 4)),
        "conv.out": tensor("conv.out", (1, 1, 4)),
    }
    return dataclasses.replace(program, layers=(stem, conv, *rest), tensors=tensors)


LAYER = r"program 'p', layer '{}' \({}\), field '{}': {}"


def layer_message(name: str, kind: str, field: str, problem: str) -> str:
    return LAYER.format(name, kind, field, problem)


def stem(field: str, problem: str) -> str:
    return layer_message("stem", "InputConv2D", field, problem)


def conv(field: str, problem: str) -> str:
    return layer_message("conv", "Conv2D", field, problem)


def depthwise(field: str, problem: str) -> str:
    return layer_message("depthwise", "DepthwiseConv2D", field, problem)


def add(field: str, problem: str) -> str:
    return layer_message("add", "Add", field, problem)


def join(field: str, problem: str) -> str:
    return layer_message("join", "Concatenate", field, problem)


def up(field: str, problem: str) -> str:
    return layer_message("up", "Conv2DTranspose", field, problem)


def logits(field: str, problem: str) -> str:
    return layer_message("logits", "Dense1D", field, problem)


def of_tensor(name: str, field: str, problem: str) -> str:
    return f"program 'p', tensor '{name}', field '{field}': {problem}"


def of_program(field: str, problem: str) -> str:
    return f"program 'p', field '{field}': {problem}"


def of_port(side: str, name: str, field: str, problem: str) -> str:
    return f"program 'p', {side} port '{name}', field '{field}': {problem}"


ORDER = ("stem", "conv", "add", "depthwise", "join", "up", "logits")

MALFORMED: dict[str, tuple[Callable[[], Program], str]] = {
    # tensors
    "tensor-under-another-name": (
        lambda: with_tensor("stem.out", name="other"),
        of_tensor("other", "name", "filed under 'stem.out'"),
    ),
    "tensor-without-values": (
        lambda: with_tensor("sum", shape=(4, 0, 4)),
        of_tensor("sum", "shape", r"needs three sides .*found \(4, 0, 4\)"),
    ),
    "tensor-of-two-axes": (
        lambda: with_tensor("sum", shape=(4, 4)),
        of_tensor("sum", "shape", r"needs three sides .*found \(4, 4\)"),
    ),
    "tensor-too-large": (
        lambda: with_tensor("sum", shape=(2**14, 2**14, 2)),
        of_tensor("sum", "shape", "needs three sides .*at most 268435456 values"),
    ),
    "tensor-of-5-bits": (
        lambda: with_code("sum", bits=5),
        of_tensor("sum", "code", "needs 4 unsigned.*found 5 signed bits"),
    ),
    "tensor-of-4-signed-bits": (
        lambda: with_code("sum", bits=4),
        of_tensor("sum", "code", "needs 4 unsigned.*found 4 signed bits"),
    ),
    "inner-zero-point": (
        lambda: with_code("sum", zero_point=1),
        of_tensor("sum", r"code\.zero_point", "needs 0, .*found 1"),
    ),
    "image-zero-point-beyond-8-bits": (
        lambda: with_code("image", zero_point=256),
        of_tensor("image", r"code\.zero_point", "needs 0, .*found 256"),
    ),
    "scale-zero": (
        lambda: with_code("sum", scale=(0.0,)),
        of_tensor("sum", r"code\.scale", "needs 1 or 4 positive finite numbers, found 1: 0"),
    ),
    "scale-not-a-number": (
        lambda: with_code("sum", scale=(math.nan,)),
        of_tensor("sum", r"code\.scale", "needs 1 or 4 positive finite numbers, found 1: nan"),
    ),
    "scales-of-other-count": (
        lambda: with_code("sum", scale=(1.0,) * 5),
        of_tensor("sum", r"code\.scale", r"needs 1 or 4 .*found 5: 1\.0, 1\.0, 1\.0, 1\.0, \.\.\."),
    ),
    "inner-parts": (
        lambda: with_code("sum", parts=2),
        of_tensor("sum", r"code\.parts", "needs 1, or 2 in the program's input .*found 2"),
    ),
    "parts-of-odd-channels": (
        lambda: with_code("image", parts=2),
        of_tensor("image", r"code\.parts", "needs 1, or 2 in the program's input .*found 2"),
    ),
    # order
    "no-layer": (
        lambda: dataclasses.replace(sound(), layers=()),
        of_program("layers", "no layer"),
    ),
    "input-port-without-tensor": (
        lambda: with_input(device="gone"),
        of_program(r"input\.device", "'gone' is not a tensor"),
    ),
    "output-port-without-tensor": (
        lambda: with_output(device="gone"),
        of_program(r"output\.device", "'gone' is not a tensor"),
    ),
    "two-layers-of-one-name": (
        lambda: with_layer("conv", name="stem"),
        layer_message("stem", "Conv2D", "name", "another layer has this name"),
    ),
    "reads-no-tensor": (
        lambda: with_layer("conv", inputs=("gone",)),
        conv("inputs", "'gone' is not a tensor"),
    ),
    "reads-too-early": (
        lambda: with_layers("stem", "add", "conv", *ORDER[3:]),
        add("inputs", "reads 'conv.out' before it is written"),
    ),
    "reads-its-own-output": (
        lambda: with_layer("conv", inputs=("conv.out",)),
        conv("inputs", "reads 'conv.out' before it is written"),
    ),
    "writes-no-tensor": (
        lambda: with_layer("logits", output="gone"),
        logits("output", "'gone' is not a tensor"),
    ),
    "writes-twice": (
        lambda: with_layer("conv", output="stem.out"),
        conv("output", "'stem.out' is already written"),
    ),
    "writes-the-input": (
        lambda: with_layer("conv", output="image"),
        conv("output", "'image' is already written"),
    ),
    "tensor-never-written": (
        with_extra_tensor,
        of_program("tensors", "'spare' is never written"),
    ),
    "tensor-never-read": (
        with_unread_layer,
        of_program("tensors", "'spare.out' is never read"),
    ),
    "output-is-the-input": (
        lambda: with_output(device="image"),
        of_program("tensors", "'logits.out' is never read"),
    ),
    "output-is-an-inner-tensor": (
        lambda: with_output(device="sum"),
        of_program("tensors", "'logits.out' is never read"),
    ),
    # operands
    "convolution-of-two": (
        lambda: with_layer("conv", inputs=("stem.out", "stem.out")),
        conv("inputs", "needs 1, found 2"),
    ),
    "add-of-one": (
        lambda: with_layer("depthwise", inputs=("sum", "conv.out")),
        depthwise("inputs", "needs 1, found 2"),
    ),
    "image-into-an-inner-layer": (
        lambda: with_layer("add", inputs=("image", "conv.out")),
        add("inputs", "'image' has 8 unsigned bits, which this layer cannot read"),
    ),
    "signed-into-the-input-layer": (
        lambda: with_code("image", signed=True, zero_point=0),
        stem("inputs", "'image' has 8 signed bits, which this layer cannot read"),
    ),
    # output
    "window-larger-than-its-map": (
        lambda: with_layer(
            "stem", padding=Padding.VALID, weights=np.ones((4, 9, 9, 3), np.int8), pool=None
        ),
        stem("output", r"a window is larger than its map: \(0, 0, 4\)"),
    ),
    "pool-larger-than-its-map": (
        lambda: with_layer("stem", pool=MaxPool(Size2D(9, 9), ONE, Padding.VALID)),
        stem("output", r"a window is larger than its map: \(0, 0, 4\)"),
    ),
    "output-of-other-shape": (
        lambda: with_layer("conv", stride=TWO),
        conv("output", r"'conv.out' has shape \(4, 4, 4\), the layer writes \(2, 2, 4\)"),
    ),
    "output-bits-of-no-kind": (
        lambda: with_layer("conv", output_bits=2),
        conv("output_bits", "needs 4 or 8 .*found 2"),
    ),
    "inner-32-bits": (
        lambda: last_layer_to_32_bits("add"),
        add("output_bits", "needs 4 or 8 .*found 32"),
    ),
    "4-bits-into-a-signed-tensor": (
        lambda: with_layer("conv", output_bits=4),
        conv("output_bits", "4 does not match the output tensor's 8 signed bits"),
    ),
    "32-bits-behind-a-rescale": (
        lambda: with_layer("logits", rescale=rescale(5, 1, -1)),
        logits("rescale", r"must be neutral \(1 and 0\) with 32-bit output"),
    ),
    "32-bits-behind-a-shift": (
        lambda: wide_add(-1),
        add("output_shift", r"must be neutral \(1 and 0\) with 32-bit output"),
    ),
    "32-bits-behind-a-table": (
        lambda: with_layer("logits", activation=LookUpTable(rescale(5), table())),
        logits("activation", "a look-up table has no 32-bit output"),
    ),
    # Concatenate
    "joined-signs-differ": (
        lambda: with_code("joined", bits=4, signed=False),
        join("inputs", "'joined' and 'sum' differ in bits or sign"),
    ),
    "joined-sizes-differ": (
        lambda: with_tensor("joined", shape=(4, 5, 8)),
        join("inputs", r"'joined' \(4, 5, 8\) and 'sum' \(4, 4, 4\) differ in map size"),
    ),
    "joined-scales-differ": (
        lambda: with_code("joined", scale=(1.0,)),
        join("output", "the scales of 'joined' are not those of the operands in turn"),
    ),
    # Add
    "added-shapes-differ": (
        added_shapes_differ,
        add("inputs", r"shapes \(4, 4, 4\) and \(2, 2, 4\) differ"),
    ),
    "a-shift": (
        lambda: with_layer("add", a_shift=32),
        add("a_shift", r"needs \[0, 31\], found 32"),
    ),
    "b-shift": (
        lambda: with_layer("add", b_shift=-1),
        add("b_shift", r"needs \[0, 31\], found -1"),
    ),
    "add-output-shift": (
        lambda: with_layer("add", output_shift=-33),
        add("output_shift", r"needs \[-32, 31\], found -33"),
    ),
    "add-with-a-table": (
        lambda: with_layer("add", activation=LookUpTable(rescale(4), table())),
        add("activation", "Add has no look-up table"),
    ),
    "add-bound-of-other-count": (
        lambda: with_layer("add", activation=ReLU(np.ones(3, np.uint8), np.ones(3, np.uint8))),
        add(r"activation\.max_value", r"needs uint8 of shape \(4,\), found uint8 of shape \(3,\)"),
    ),
    # MAC layers
    "weights-of-dense-with-4-axes": (
        lambda: with_layer("logits", weights=np.ones((5, 8, 8, 2), np.int8)),
        logits("weights", "needs 2 axes, OI"),
    ),
    "weights-of-convolution-with-2-axes": (
        lambda: with_layer("conv", weights=np.ones((4, 36), np.int8)),
        conv("weights", "needs 4 axes, OHWI"),
    ),
    "weights-of-depthwise-with-3-axes": (
        lambda: with_layer("depthwise", weights=np.ones((3, 3, 4), np.int8)),
        depthwise("weights", "needs 4 axes, 1HWC"),
    ),
    "weights-empty": (
        lambda: with_layer("conv", weights=np.ones((4, 0, 3, 4), np.int8)),
        conv("weights", r"an axis is empty: \(4, 0, 3, 4\)"),
    ),
    "weights-with-a-huge-axis": (
        lambda: with_layer("conv", weights=np.ones((1, 2**16, 1, 4), np.int8)),
        conv("weights", r"an axis exceeds 65535"),
    ),
    "weights-of-other-channels": (
        lambda: with_layer("conv", weights=np.ones((4, 3, 3, 5), np.int8)),
        conv("weights", r"needs int8 of shape \(4, 3, 3, 4\), found int8 of shape \(4, 3, 3, 5\)"),
    ),
    "depthwise-with-two-filters": (
        lambda: with_layer("depthwise", weights=np.ones((2, 3, 3, 4), np.int8)),
        depthwise("weights", r"needs int8 of shape \(1, 3, 3, 4\)"),
    ),
    "weights-of-other-type": (
        lambda: with_layer("conv", weights=np.ones((4, 3, 3, 4), np.int16)),
        conv("weights", r"needs int8 .*found int16"),
    ),
    "weights-bits": (
        lambda: with_layer("conv", weights_bits=2),
        conv("weights_bits", "needs 4 or 8, found 2"),
    ),
    "weights-beyond-4-bits": (
        lambda: with_layer("conv", weights=np.full((4, 3, 3, 4), 8, np.int8), weights_bits=4),
        conv("weights", r"needs values in \[-8, 7\], found \[8, 8\]"),
    ),
    "transposed-kernel": (
        lambda: with_layer("up", weights=np.ones((2, 5, 3, 8), np.int8)),
        up("weights", "needs kernel sides of 3 or 4, found 5x3"),
    ),
    "bias-of-other-count": (
        lambda: with_layer("conv", bias=bias(3)),
        conv(r"bias\.value", r"needs int8 of shape \(4,\), found int8 of shape \(3,\)"),
    ),
    "bias-shift-of-other-type": (
        lambda: with_layer("conv", bias=Bias(np.ones(4, np.int8), np.ones(4, np.int8))),
        conv(r"bias\.shift", r"needs uint8 of shape \(4,\), found int8"),
    ),
    "bias-shift-beyond-31": (
        lambda: with_layer("conv", bias=bias(4, 0, 32)),
        conv(r"bias\.shift", r"needs values in \[0, 31\], found \[32, 32\]"),
    ),
    "multiplier-of-other-type": (
        lambda: with_layer("conv", rescale=Rescale(np.ones(4, np.int8), np.ones(4, np.int8))),
        conv(r"rescale\.multiplier", r"needs uint8 of shape \(4,\), found int8"),
    ),
    "shift-of-other-count": (
        lambda: with_layer("conv", rescale=Rescale(np.ones(4, np.uint8), np.ones(1, np.int8))),
        conv(r"rescale\.shift", r"needs int8 of shape \(4,\), found int8 of shape \(1,\)"),
    ),
    "shift-beyond-31": (
        lambda: with_layer("conv", rescale=rescale(4, 1, 32)),
        conv(r"rescale\.shift", r"needs values in \[-32, 31\], found \[32, 32\]"),
    ),
    "shift-below-minus-32": (
        lambda: with_layer("conv", rescale=rescale(4, 1, -33)),
        conv(r"rescale\.shift", r"needs values in \[-32, 31\], found \[-33, -33\]"),
    ),
    "bound-without-shift": (
        lambda: with_layer("conv", activation=ReLU(np.ones(4, np.uint8))),
        conv("activation", "max_value and max_value_shift come together or not at all"),
    ),
    "bound-of-other-type": (
        lambda: with_layer("conv", activation=ReLU(np.ones(4, np.int8), np.ones(4, np.uint8))),
        conv(r"activation\.max_value", r"needs uint8 of shape \(4,\), found int8"),
    ),
    "bound-shift-beyond-31": (
        lambda: with_layer("conv", activation=ReLU(np.ones(4, np.uint8), np.full(4, 32, np.uint8))),
        conv(r"activation\.max_value_shift", r"needs values in \[0, 31\], found \[32, 32\]"),
    ),
    "table-of-other-length": (
        lambda: with_layer("depthwise", activation=LookUpTable(rescale(4), table()[:-1])),
        depthwise(r"activation\.table", r"needs int16 of shape \(2048,\), found .*\(2047,\)"),
    ),
    "table-beyond-14-bits": (
        lambda: with_layer("depthwise", activation=LookUpTable(rescale(4), table() * 9)),
        depthwise(r"activation\.table", r"needs values in \[-8192, 8191\], found \[-9216, 9207\]"),
    ),
    "table-rescale-of-other-count": (
        lambda: with_layer("depthwise", activation=LookUpTable(rescale(1), table())),
        depthwise(r"activation\.rescale\.multiplier", r"needs uint8 of shape \(4,\)"),
    ),
    "stride-0": (
        lambda: with_layer("conv", stride=Size2D(1, 0)),
        conv("stride", r"needs sides in \[1, 65535\], found 1x0"),
    ),
    "pool-size-0": (
        lambda: with_layer("conv", pool=MaxPool(Size2D(0, 1), ONE, Padding.SAME)),
        conv(r"pool\.size", r"needs sides in \[1, 65535\], found 0x1"),
    ),
    "pool-stride-0": (
        lambda: with_layer("conv", pool=MaxPool(TWO, Size2D(0, 0), Padding.SAME)),
        conv(r"pool\.stride", r"needs sides in \[1, 65535\], found 0x0"),
    ),
    "two-poolings": (
        lambda: with_layer("conv", pool=MaxPool(TWO, TWO, Padding.SAME), global_average=True),
        conv("pool", "excludes global_average"),
    ),
    "image-of-4-channels": (
        image_of_4_channels,
        stem("inputs", "needs 1 or 3 channels, found 4"),
    ),
    "padding-value-of-other-count": (
        lambda: with_layer("stem", padding_value=np.ones(1, np.uint8)),
        stem("padding_value", r"needs uint8 of shape \(3,\), found uint8 of shape \(1,\)"),
    ),
    "input-shift-of-other-count": (
        lambda: with_layer("conv", input_shift=np.ones(1, np.uint8)),
        conv("input_shift", r"needs uint8 of shape \(4,\)"),
    ),
    "dense-input-shift-per-channel": (
        lambda: with_layer("logits", input_shift=np.ones(2, np.uint8)),
        logits("input_shift", r"needs uint8 of shape \(128,\), found uint8 of shape \(2,\)"),
    ),
    "input-shift-beyond-the-buffer": (
        lambda: with_layer("conv", input_shift=np.full(4, 20, np.uint8)),
        conv("input_shift", "a shifted input may reach 134217728, 28 bits cannot hold it"),
    ),
    # proof
    "accumulator-overflow": (
        lambda: with_layer("conv", bias=bias(4, 127, 21)),
        conv("buffer_bits", r"accumulator of filter 0 may reach \d+, 28 bits hold 134217727"),
    ),
    "add-overflow": (
        lambda: with_layer("add", b_shift=31),
        add("buffer_bits", r"accumulator of filter 0 may reach \d+, 32 bits hold 2147483647"),
    ),
    "global-average-overflow": (
        summed_overflow,
        conv("buffer_bits", r"value before the rescale of filter 1 .* 32 bits hold 2147483647"),
    ),
    "table-index-overflow": (
        lambda: with_layer("depthwise", activation=LookUpTable(rescale(4, 255, 24), table())),
        depthwise("buffer_bits", "look-up table's index before it saturates of filter 0 may reach"),
    ),
    "rescale-overflow": (
        lambda: with_layer("up", rescale=rescale(2, 255, 12)),
        up("buffer_bits", r"output before it saturates of filter 0 may reach \d+, 32 bits hold"),
    ),
    # ports
    "input-port-dtype": (
        lambda: with_input(dtype=DType.INT16),
        of_port("input", "x", "dtype", "needs int8 or uint8, found int16"),
    ),
    "input-port-shape": (
        lambda: with_input(shape=(None, 8, 8)),
        of_port("input", "x", "shape", r".*does not hold the values of 'image' \(8, 8, 3\)"),
    ),
    "input-port-symbolic": (
        lambda: with_input(shape=(None, None, 8, 3)),
        of_port("input", "x", "shape", r".*does not hold the values of 'image'"),
    ),
    "input-port-of-negative-sides": (
        lambda: with_input(shape=(None, -8, -8, 3)),
        of_port("input", "x", "shape", r".*does not hold the values of 'image'"),
    ),
    "input-port-of-no-batch": (
        lambda: with_input(shape=(0, 8, 8, 3)),
        of_port("input", "x", "shape", r".*does not hold the values of 'image'"),
    ),
    "input-port-without-batch": (
        lambda: with_input(shape=()),
        of_port("input", "x", "shape", r".*does not hold the values of 'image'"),
    ),
    "recode-of-other-length": (
        lambda: with_input(recode=np.zeros(16, np.int16)),
        of_port("input", "x", "recode", r"needs int16 of shape \(256,\)"),
    ),
    "recode-beyond-the-codes": (
        lambda: with_input(recode=np.arange(-1, 255, dtype=np.int16)),
        of_port("input", "x", "recode", r"needs values in \[0, 255\], found \[-1, 254\]"),
    ),
    "output-port-shape": (
        lambda: with_output(shape=(None, 6)),
        of_port("output", "y", "shape", r".*does not hold the values of 'logits.out' \(1, 1, 5\)"),
    ),
    "factor-of-other-count": (
        lambda: with_output(factor=np.ones(4)),
        of_port("output", "y", "factor", r"needs float64 of shape \(1,\) or \(5,\), found"),
    ),
    "factor-of-other-type": (
        lambda: with_output(factor=np.ones(1, np.float32)),
        of_port("output", "y", "factor", r"needs float64 .*found float32"),
    ),
    "factor-infinite": (
        lambda: with_output(factor=np.full(1, np.inf)),
        of_port("output", "y", "factor", "needs positive finite numbers"),
    ),
    "output-port-dtype": (
        lambda: with_output(dtype=DType.FLOAT32),
        of_port("output", "y", "dtype", "needs an integer type .*found float32"),
    ),
    "output-port-range": (
        lambda: with_output(low=1, high=0),
        of_port("output", "y", "low, high", "needs -128 <= low <= high <= 127, found 1, 0"),
    ),
    "output-port-zero-point": (
        lambda: with_output(zero_point=128),
        of_port("output", "y", "zero_point", r"needs \[-128, 127\], found 128"),
    ),
}


def test_accepts_the_sound_program() -> None:
    check_program(sound())
    check_program(wide_add(0))
    check_program(sound_akida1())
    for seed in range(300):
        check_program(seeded_program(seed))
        check_program(seeded_akida1_program(seed))


@pytest.mark.parametrize(
    ("build", "message"),
    [pytest.param(*case, id=name) for name, case in (MALFORMED | AKIDA1_MALFORMED).items()],
)
def test_refuses_and_names_layer_and_field(build: Callable[[], Program], message: str) -> None:
    with pytest.raises(ProgramError, match=f"^{message}"):
        check_program(build())


def test_every_check_is_seen_to_fail() -> None:
    source = ast.parse(inspect.getsource(program_check))
    checks = {
        node.lineno
        for node in ast.walk(source)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "_require"
    }
    seen = set()
    for build, _ in (MALFORMED | AKIDA1_MALFORMED).values():
        with pytest.raises(ProgramError) as caught:
            check_program(build())
        seen.add(caught.traceback[-2].lineno + 1)
    assert checks - seen == set()


def test_worst_case_is_reached_by_the_worst_input() -> None:
    """Weights of every sign, each tap at the limit that makes its product largest."""
    weights = np.array([[3, -5, 0, 127], [-128, 1, 2, -3]], np.int8)
    layer = Dense1D(
        name="dense",
        inputs=("in",),
        output="out",
        weights=weights,
        bias=Bias(np.array([-3, 7], np.int8), np.array([2, 0], np.uint8)),
        activation=NoActivation(),
        rescale=rescale(2, 1, 0),
        input_shift=np.array([0, 1, 2, 3], np.uint8),
        output_bits=32,
    )
    # |w| << shift: 3, 10, 0, 1016 and 128, 2, 8, 24; the largest input magnitude is 128
    expected = [1029 * 128 + 12, 162 * 128 + 7]
    assert worst_case_accumulator(layer, (-128, 127)).tolist() == expected
    assert worst_case_accumulator(layer, (0, 127)).tolist() == [1029 * 127 + 12, 162 * 127 + 7]


def test_worst_case_of_depthwise_is_per_channel() -> None:
    weights = np.arange(-9, 9, dtype=np.int8).reshape(1, 3, 3, 2)
    layer = DepthwiseConv2D(
        name="depthwise",
        inputs=("in",),
        output="out",
        weights=weights,
        bias=bias(2, -4, 1),
        activation=NoActivation(),
        rescale=rescale(2),
        stride=ONE,
    )
    # channel 0: 9 7 5 3 1 1 3 5 7, channel 1: 8 6 4 2 0 2 4 6 8
    assert worst_case_accumulator(layer, (0, 15)).tolist() == [41 * 15 + 8, 40 * 15 + 8]


def test_proof_is_exact_to_the_last_unit() -> None:
    """2**27 - 1 fits 28 bits, one more does not."""

    def dense(bias_value: int) -> Dense1D:
        return Dense1D(
            name="dense",
            inputs=("in",),
            output="out",
            weights=np.array([[127, 63, 127, 127]], np.int8),
            bias=bias(1, bias_value),
            activation=NoActivation(),
            rescale=rescale(1, 1, 0),
            input_shift=np.array([20, 14, 7, 0], np.uint8),
            output_bits=32,
        )

    assert (127 << 20) + (63 << 14) + (127 << 7) + 127 == 2**27 - 1
    assert overflow(dense(0), (1, 1, 4), (0, 1)) is None
    assert overflow(dense(-1), (1, 1, 4), (0, 1)) == (
        "accumulator of filter 0 may reach 134217728, 28 bits hold 134217727"
    )


@pytest.mark.parametrize(
    ("multiplier", "shift", "fits"),
    [
        pytest.param(1, 31, False, id="2**31"),
        pytest.param(127, 24, True, id="127-times-2**24"),
        pytest.param(255, 23, True, id="255-times-2**23"),
        pytest.param(128, 24, False, id="2**31-by-the-multiplier"),
        pytest.param(0, 31, True, id="multiplier-0"),
    ],
)
def test_output_is_proven_before_it_saturates(multiplier: int, shift: int, fits: bool) -> None:
    layer = Dense1D(
        name="dense",
        inputs=("in",),
        output="out",
        weights=np.ones((1, 1), np.int8),
        bias=bias(1, 0),
        activation=NoActivation(),
        rescale=rescale(1, multiplier, shift),
    )
    assert (overflow(layer, (1, 1, 1), (0, 1)) is None) == fits


@pytest.mark.parametrize("seed", range(60))
def test_values_stay_within_the_limits_of_each_layer(seed: int) -> None:
    """Limits that a reader may count on contain what random inputs give."""
    program = seeded_program(seed)
    layers = run_layers(program, random_device_input(program, seed, batch=4))
    limits = {program.input.device: program.tensors[program.input.device].code.limits}
    for layer in program.layers:
        shape = program.tensors[layer.inputs[0]].shape
        low, high = output_limits(layer, shape, *(limits[name] for name in layer.inputs))
        limits[layer.output] = (low, high)
        assert low <= layers[layer.output].min()
        assert layers[layer.output].max() <= high


@pytest.mark.parametrize("seed", range(60))
def test_potentials_of_akida1_stay_within_their_limits_and_reach_them(seed: int) -> None:
    """The inputs that give a filter's largest potential, without the border and the pooling."""
    program = seeded_akida1_program(seed)
    *_, layer = program.layers
    tensor = program.tensors[layer.inputs[0]]
    assert isinstance(layer, Akida1Layer)
    highest = tensor.code.limits[1]
    low, high = potential_limits(layer, tensor.shape, highest)
    if isinstance(layer, FullyConnected):
        wide = dataclasses.replace(
            layer,
            threshold=np.zeros_like(layer.threshold),
            activation=NoActivation(),
            output_bits=32,
        )
        best = np.where(layer.weights > 0, highest, 0).reshape(-1, *tensor.shape)
        reached = run_layer(wide, (best.astype(np.int64),)).reshape(len(high), -1)
        np.testing.assert_array_equal(np.diag(reached), high)
        worst = (highest - best).astype(np.int64)
        worst[np.broadcast_to(layer.weights.reshape(worst.shape) == 0, worst.shape)] = 0
        np.testing.assert_array_equal(np.diag(run_layer(wide, (worst,))[:, 0, 0]), low)
    values = run_layers(program, random_device_input(program, seed, batch=4))[layer.output]
    if layer.output_bits == 32:
        assert (low - layer.threshold <= values).all()
        assert (values <= high - layer.threshold).all()
    assert output_limits(layer, tensor.shape, (0, highest))[0] <= values.min()
    assert output_limits(layer, tensor.shape, (0, highest))[1] >= values.max()


def test_separable_potentials_reach_their_limits() -> None:
    """One tap and one channel positive, the other negative: both signs meet in the pointwise."""
    layer = SeparableConvolutional(
        name="s",
        inputs=("x",),
        output="y",
        weights=np.array([[[[2, -3]]]], np.int8),
        pointwise_weights=np.array([[5, 7], [-5, -7], [5, -7]], np.int8),
        threshold=np.zeros(3, np.int32),
        activation=NoActivation(),
        output_bits=32,
        stride=ONE,
    )
    low, high = potential_limits(layer, (1, 1, 2), 15)
    assert low.tolist() == [-7 * 45, -5 * 30, 0]
    assert high.tolist() == [5 * 30, 7 * 45, 5 * 30 + 7 * 45]


def test_sums_over_a_map_beyond_64_bits_keep_their_sign() -> None:
    layer = Convolutional(
        name="c",
        inputs=("x",),
        output="y",
        weights=np.array([[[[7]]], [[[-7]]]], np.int8),
        threshold=np.zeros(2, np.int32),
        activation=NoActivation(),
        output_bits=32,
        stride=ONE,
        global_average=True,
    )
    low, high = potential_limits(layer, (1 << 30, 1 << 30, 1), 15)
    assert low[0] == high[1] == 0
    assert high[0] > 1 << 31
    assert low[1] < -(1 << 31)


def test_relu_output_starts_at_zero() -> None:
    program = sound()
    (first, *_) = program.layers
    assert output_limits(first, (8, 8, 3), (0, 255)) == (0, 127)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "expected"),
    [
        pytest.param(8, 3, 2, Padding.SAME, 4, id="same-even"),
        pytest.param(9, 3, 2, Padding.SAME, 5, id="same-odd"),
        pytest.param(9, 3, 2, Padding.VALID, 4, id="valid-odd"),
        pytest.param(8, 3, 2, Padding.VALID, 3, id="valid-even"),
        pytest.param(7, 7, 1, Padding.VALID, 1, id="valid-whole-map"),
        pytest.param(5, 1, 3, Padding.SAME, 2, id="stride-beyond-kernel"),
    ],
)
def test_output_size_by_padding(
    side: int, kernel: int, stride: int, padding: Padding, expected: int
) -> None:
    (stem, *_) = sound().layers
    assert isinstance(stem, InputConv2D)
    layer = dataclasses.replace(
        stem,
        weights=np.ones((4, kernel, 1, 3), np.int8),
        stride=Size2D(stride, 1),
        padding=padding,
        pool=None,
    )
    assert output_size(layer, (side, 6, 3)) == (expected, 6, 4)
