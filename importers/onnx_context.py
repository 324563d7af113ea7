# SPDX-License-Identifier: Apache-2.0
"""What translating any node looks at: the file, the values known so far, who reads what."""

from __future__ import annotations

import dataclasses

from akida_backend.graph import (
    AnyArray,
    Quantization,
)
from akida_backend.importers.onnx_file import FileNode, OnnxFile
from akida_backend.importers.onnx_scales import check_channels, quantized_type, read_scale
from akida_backend.importers.onnx_tails import (
    Consumers,
    Lookup,
)
from akida_backend.importers.onnx_units import (
    same_scale,
)
from akida_backend.importers.onnx_values import (
    Builder,
    NotModelledError,
    Target,
    Value,
    dequantized,
)


class Context:
    """The state of reading one file.

    Attributes:
        file: What is read.
        builder: Where operations go.
        consumers: Who reads what.
        lookup: Constants, for those who look ahead.
        done: Positions of nodes that other nodes took along.
        mixes_batch: Whether a parameter depends on the batch other than on axis 0.
    """

    def __init__(self, file: OnnxFile, builder: Builder) -> None:
        self.file = file
        self.builder = builder
        self.consumers = Consumers(file)
        self.lookup = Lookup(self.constant_value, self.constant_reals, self.quantize_target)
        self.done: dict[int, None] = {}
        self.mixes_batch = False

    def value(self, name: str) -> Value:
        known = self.builder.values.get(name)
        if known is None:
            dtype, data = self.file.constants.read(name)
            known = Value(name, dtype, data.shape, data=data)
            self.builder.add_value(known)
        return known

    def optional(self, node: FileNode, position: int) -> Value | None:
        name = node.inputs[position] if position < len(node.inputs) else ""
        return self.value(name) if name else None

    def given(self, node: FileNode, position: int) -> Value:
        value = self.optional(node, position)
        if value is None:
            raise node.error("input", f"input {position} is absent")
        return value

    def coded(self, node: FileNode, value: Value, scales: Quantization) -> Value:
        """A value as integers on the scale that a reader names."""
        check_channels(node, scales, value)
        if value.data is not None:
            if value.quantization is not None and same_scale(value.quantization, scales):
                return value
            return dataclasses.replace(value, quantization=scales, forms={})
        if scales.axis is not None:
            raise NotModelledError(f"{node.kind} of activations with several scales")
        if value.quantization is None:
            self.builder.assign_scale(value, scales)
        elif not same_scale(value.quantization, scales):
            raise NotModelledError(
                f"{node.kind} reads '{value.name}' on another scale than it is written with"
            )
        return value

    def constant_value(self, name: str) -> Value | None:
        if name not in self.builder.values and name not in self.file.constants.names:
            return None
        value = self.value(name)
        return value if value.is_constant else None

    def constant_reals(self, name: str) -> AnyArray | None:
        """Reals of a constant in float32, None for what is computed."""
        if name not in self.builder.values and name not in self.file.constants.names:
            return None
        value = self.value(name)
        if value.codes is not None:
            return None if value.codes.data is None else dequantized(value.codes)
        return value.data

    def quantize_target(self, node: FileNode, rank: int) -> Target | None:
        """What a QuantizeLinear of activations writes."""
        try:
            zero = self.optional(node, 2)
            dtype = quantized_type(node, zero)
            scales = read_scale(
                node, self.given(node, 1), zero, dtype, axis=node.integer("axis", 1), rank=rank
            )
        except (NotModelledError, KeyError):
            return None
        return None if scales.axis is not None else Target(node.outputs[0], dtype, scales)
