# SPDX-License-Identifier: Apache-2.0
"""One module per operation of the source dialect, and the table of all of them."""

if __name__ == "ops":
    raise ImportError("the folder 'ops' is the package akida_backend.ops: import that instead")

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from akida_backend.graph import Node
from akida_backend.ops import (
    add,
    arg_max,
    average_pool2d,
    cast,
    concatenation,
    conv2d,
    depthwise_conv2d,
    dequantize,
    fully_connected,
    gather,
    hard_swish,
    leaky_relu,
    logistic,
    max_pool2d,
    maximum,
    mean,
    minimum,
    mul,
    opaque,
    pack,
    pad,
    prelu,
    quantize,
    relu,
    reshape,
    resize_bilinear,
    resize_nearest,
    shape_of,
    softmax,
    split,
    strided_slice,
    sub,
    tanh,
    transpose,
    transpose_conv2d,
    unpack,
)
from akida_backend.spec import OpSpec

ALL_SPECS: Final[tuple[OpSpec[Any], ...]] = (
    conv2d.SPEC,
    depthwise_conv2d.SPEC,
    transpose_conv2d.SPEC,
    fully_connected.SPEC,
    add.SPEC,
    sub.SPEC,
    mul.SPEC,
    maximum.SPEC,
    minimum.SPEC,
    concatenation.SPEC,
    max_pool2d.SPEC,
    average_pool2d.SPEC,
    mean.SPEC,
    pad.SPEC,
    reshape.SPEC,
    transpose.SPEC,
    strided_slice.SPEC,
    split.SPEC,
    pack.SPEC,
    unpack.SPEC,
    shape_of.SPEC,
    gather.SPEC,
    cast.SPEC,
    arg_max.SPEC,
    softmax.SPEC,
    logistic.SPEC,
    tanh.SPEC,
    hard_swish.SPEC,
    leaky_relu.SPEC,
    prelu.SPEC,
    relu.SPEC,
    resize_nearest.SPEC,
    resize_bilinear.SPEC,
    quantize.SPEC,
    dequantize.SPEC,
    opaque.SPEC,
)

SPEC_OF: Final[Mapping[type[Node], OpSpec[Any]]] = MappingProxyType(
    {spec.op_type: spec for spec in ALL_SPECS}
)
