# SPDX-License-Identifier: Apache-2.0
"""Changes of a Graph: a layer's facts, an activation, a pool, the input, an inserted convolution.

A changed graph stands for a network that would be trained again: only its shapes and types matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from akida_backend.advice.search import FactChange
from akida_backend.advice.shapes import Tensors, cropped, same_of, settled, with_outputs
from akida_backend.candidate import device_size
from akida_backend.constraints import LayerFacts
from akida_backend.graph import (
    NO_PADS,
    ONE,
    Activation,
    AveragePool2D,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    HardSwish,
    LeakyRelu,
    Logistic,
    MaxPool2D,
    Operation,
    Prelu,
    Quantization,
    Relu,
    Reshape,
    Size2D,
    Tanh,
    Tensor,
)
from akida_backend.rewrites.rewriting import identity_convolution, replaced, zero_filled

Edit = Callable[[Graph], Graph | None]
Weighted = Conv2D | DepthwiseConv2D | FullyConnected
CurvedActivation = Tanh | Logistic | HardSwish | LeakyRelu | Prelu


def operator(graph: Graph, index: int) -> Operation | None:
    """The operation that stands for an operator of the file."""
    return next((op for op in graph.operations if op.sources and op.location.index == index), None)


def with_facts(index: int, before: LayerFacts, change: FactChange, pool: int | None) -> Edit | None:
    """The layer that operator `index` carries, with the max pool that joined it, changed.

    None where a graph has no form for the change.
    """
    names = set(change.names)
    pooling = names & {"pool_size", "pool_stride", "pool_pads"}
    carried = names - pooling
    after = change.facts

    def edit(graph: Graph) -> Graph | None:
        original = graph
        if carried & {"input_size", "input_channels"}:
            resized = _with_input(graph, index, after)
            if resized is None:
                return None
            graph = original = resized
        op = operator(graph, index)
        tensors: Tensors = dict(graph.tensors)
        changed: Operation
        match op:
            case Conv2D() | DepthwiseConv2D():
                changed = _convolution(op, carried, before, after, tensors)
            case FullyConnected() if carried <= {"filters", "activation"}:
                if "filters" in carried and after.filters is not None:
                    with_outputs(op.weights, op.bias, 0, after.filters, tensors)
                activation = _activation(op.activation, carried, after, op.output, tensors)
                changed = dataclasses.replace(op, activation=activation)
            case _ if op is not None and not carried:
                changed = op
            case _:
                return None
        graph = replaced(graph, (op,), (changed,), tensors)
        graph = dataclasses.replace(graph, tensors=_kept(tensors, graph))
        result = settled(graph, original)
        if result is None or not pooling or pool is None:
            return result
        return _with_pool(result, pool, after)

    return edit


def _kept(tensors: Tensors, graph: Graph) -> Tensors:
    return {name: tensors[name] for name in graph.tensors}


def _convolution(
    op: Conv2D | DepthwiseConv2D,
    names: set[str],
    before: LayerFacts,
    after: LayerFacts,
    tensors: Tensors,
) -> Conv2D | DepthwiseConv2D:
    output_axis = 3 if isinstance(op, DepthwiseConv2D) else 0
    if "dilation" in names:
        tensors[op.weights] = _written_out(tensors[op.weights], op.dilation)
        op = dataclasses.replace(op, dilation=ONE)
    if "kernel_size" in names and after.kernel_size is not None:
        for axis, length in ((1, after.kernel_size.height), (2, after.kernel_size.width)):
            tensors[op.weights] = cropped(tensors[op.weights], axis, length, centred=True)
    if "groups" in names and isinstance(op, Conv2D):
        tensors[op.weights] = _ungrouped(tensors[op.weights], before.groups or 1)
    if {"filters", "groups"} & names and after.filters is not None:
        with_outputs(op.weights, op.bias, output_axis, after.filters, tensors)
    if "kernel_stride" in names and after.kernel_stride is not None:
        op = dataclasses.replace(op, stride=after.kernel_stride)
    activation = _activation(op.activation, names, after, op.output, tensors)
    _, height, width, _ = tensors[op.weights].shape
    kernel, size = Size2D(height or 1, width or 1), device_size(tensors[op.input])
    pads = op.pads
    if after.padding == "same":
        pads = same_of(size, kernel, op.stride, op.dilation)
    elif after.padding == "valid":
        pads = NO_PADS
    return dataclasses.replace(op, pads=pads, activation=activation)


def _written_out(weights: Tensor, dilation: Size2D) -> Tensor:
    assert weights.data is not None
    first, height, width, last = weights.data.shape
    rows, columns = (height - 1) * dilation.height + 1, (width - 1) * dilation.width + 1
    data = zero_filled(weights, (first, rows, columns, last))
    data[:, :: dilation.height, :: dilation.width, :] = weights.data
    return dataclasses.replace(weights, data=data, shape=data.shape)


def _ungrouped(weights: Tensor, groups: int) -> Tensor:
    """Weights of one group with zeros between the groups."""
    assert weights.data is not None
    filters, height, width, depth = weights.data.shape
    data = zero_filled(weights, (filters, height, width, depth * groups))
    each = filters // groups
    for group in range(groups):
        own = slice(group * each, (group + 1) * each)
        data[own, :, :, group * depth : (group + 1) * depth] = weights.data[own]
    return dataclasses.replace(weights, data=data, shape=data.shape)


def _activation(
    activation: Activation, names: set[str], after: LayerFacts, output: str, tensors: Tensors
) -> Activation:
    if "activation" not in names:
        return activation
    if after.activation == "none":
        tensors[output] = _signed(tensors[output])
        return Activation.NONE
    return Activation.RELU


def _signed(tensor: Tensor) -> Tensor:
    """A tensor with room for negative values: zero in the middle of its codes."""
    low, high = tensor.dtype.code_range
    middle = (low + high + 1) // 2
    scales = tensor.quantization
    if scales is None or scales.single_zero_point > low:
        return tensor
    wider = Quantization.per_tensor(2 * scales.single_scale, middle)
    return dataclasses.replace(tensor, quantization=wider)


def _with_pool(graph: Graph, index: int, after: LayerFacts) -> Graph | None:
    op = operator(graph, index)
    if not isinstance(op, MaxPool2D):
        return None
    window, stride = after.pool_size or op.window, after.pool_stride or op.stride
    pads = op.pads
    size = device_size(graph.tensors[op.input])
    if after.pool_pads == "same_on_conv_output":
        pads = same_of(size, window, stride)
    elif after.pool_pads == "zero":
        pads = NO_PADS
    changed = dataclasses.replace(op, window=window, stride=stride, pads=pads)
    return settled(replaced(graph, (op,), (changed,)), graph)


def _with_input(graph: Graph, index: int, after: LayerFacts) -> Graph | None:
    """The model fed with an image of another size, where the operator reads the image itself."""
    op = operator(graph, index)
    if not isinstance(op, Conv2D | DepthwiseConv2D) or op.input not in graph.inputs:
        return None
    source = graph.tensors[op.input]
    if len(source.shape) != 4 or after.input_size is None or after.input_channels is None:
        return None
    size = after.input_size
    shape = (source.shape[0], size.height, size.width, after.input_channels)
    tensors = {**graph.tensors, op.input: dataclasses.replace(source, shape=shape)}
    return settled(dataclasses.replace(graph, tensors=tensors), graph)


def without_activation(index: int) -> Edit:
    """An operator without its activation, and an output with room for negative values."""

    def edit(graph: Graph) -> Graph | None:
        op = operator(graph, index)
        if not isinstance(op, Weighted):
            return None
        plain = dataclasses.replace(op, activation=Activation.NONE)
        output = _signed(graph.tensors[op.output])
        return replaced(graph, (op,), (plain,), {op.output: output})

    return edit


def four_bit_input(name: str) -> Edit:
    """The model fed with 4-bit values: the same range in coarser steps."""

    def edit(graph: Graph) -> Graph | None:
        tensor = graph.tensors.get(name)
        kinds = {DType.INT8: DType.INT4, DType.UINT8: DType.UINT4}
        if tensor is None or tensor.dtype not in kinds or tensor.quantization is None:
            return None
        low, _ = tensor.dtype.code_range
        dtype = kinds[tensor.dtype]
        scale = 16 * tensor.quantization.single_scale
        first, _ = dtype.code_range
        zero = (tensor.quantization.single_zero_point - low) // 16 + first
        coarse = dataclasses.replace(
            tensor, dtype=dtype, quantization=Quantization.per_tensor(scale, zero)
        )
        names = {name: coarse}
        for op in graph.operations:  # what only moves values keeps their type
            if isinstance(op, Reshape) and op.input in names:
                moved = dataclasses.replace(
                    coarse, name=op.output, shape=graph.tensors[op.output].shape
                )
                names[op.output] = moved
        return dataclasses.replace(graph, tensors={**graph.tensors, **names})

    return edit


def relu_instead(index: int) -> Edit:
    """A ReLU in place of another activation."""

    def edit(graph: Graph) -> Graph | None:
        op = operator(graph, index)
        if not isinstance(op, CurvedActivation):
            return None
        relu = Relu(
            location=op.location,
            sources=op.sources,
            input=op.input,
            output=op.output,
            bound=Activation.RELU,
        )
        source, output = graph.tensors[op.input], graph.tensors[op.output]
        if source.quantization is None or source.dtype.is_float:
            return None
        positive = _unsigned(source)
        output = dataclasses.replace(output, dtype=source.dtype, quantization=positive)
        changed = replaced(graph, (op,), (relu,), {op.output: output})
        return settled(changed, graph)

    return edit


def _unsigned(tensor: Tensor) -> Quantization:
    """Codes from zero to the largest value a tensor holds."""
    low, high = tensor.dtype.code_range
    _, largest = tensor.real_range
    assert tensor.quantization is not None
    scale = largest / (high - low) if largest > 0.0 else tensor.quantization.single_scale
    return Quantization.per_tensor(scale, low)


def max_pool_instead(index: int) -> Edit:
    """A max pool in place of an average over windows."""

    def edit(graph: Graph) -> Graph | None:
        op = operator(graph, index)
        if not isinstance(op, AveragePool2D):
            return None
        pool = MaxPool2D(
            location=op.location,
            sources=op.sources,
            input=op.input,
            output=op.output,
            window=op.window,
            stride=op.stride,
            pads=op.pads,
            activation=op.activation,
        )
        return settled(replaced(graph, (op,), (pool,)), graph)

    return edit


def identity_behind(index: int) -> Edit:
    """An identity 1x1 convolution behind a max pool: the same values."""

    def edit(graph: Graph) -> Graph | None:
        op = operator(graph, index)
        if not isinstance(op, MaxPool2D):
            return None
        target = graph.tensors[op.output]
        inner = dataclasses.replace(target, name=graph.unused_name(f"{target.name}/before"))
        copy, tensors = identity_convolution(graph, op, target.name, target)
        first = dataclasses.replace(op, output=inner.name)
        copy = dataclasses.replace(copy, input=inner.name, sources=())
        return replaced(graph, (op,), (first, copy), {**tensors, inner.name: inner})

    return edit


def fewer_filters(index: int, filters: int) -> Edit:
    """Another number of output channels of a convolution or dense layer."""

    def edit(graph: Graph) -> Graph | None:
        op = operator(graph, index)
        if not isinstance(op, Weighted) or graph.tensors[op.weights].data is None:
            return None
        if isinstance(op, DepthwiseConv2D):
            channels = int(graph.tensors[op.input].shape[-1] or 0)
            if not channels or filters % channels:
                return None
        tensors: Tensors = dict(graph.tensors)
        axis = 3 if isinstance(op, DepthwiseConv2D) else 0
        with_outputs(op.weights, op.bias, axis, filters, tensors)
        return settled(dataclasses.replace(graph, tensors=tensors), graph)

    return edit
