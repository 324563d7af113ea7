# SPDX-License-Identifier: Apache-2.0
"""A hypothesis strategy: small graphs with branches, several inputs and outputs, host islands."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from akida_backend.graph import Activation, DType, Graph, Pads
from builders import GraphBuilder

LARGEST_SIDE = 12
MOST_CHANNELS = 12
_ACTIVATIONS = (Activation.NONE, Activation.RELU, Activation.RELU6)


@st.composite
def graphs(draw: st.DrawFn, *, most_operations: int = 9, opaque: bool = False) -> Graph:
    """Graphs of any shape.

    Args:
        draw: Of hypothesis.
        most_operations: Steps; a step adds one to four operations.
        opaque: Also operators without reference arithmetic.
    """
    dtype = draw(st.sampled_from([DType.INT8, DType.INT8, DType.UINT8]))
    b = GraphBuilder(draw(st.integers(0, 9)), dtype=dtype)
    maps, vectors = [], list[str]()
    for _ in range(draw(st.integers(1, 2))):
        maps.append(b.input(draw(st.integers(5, 7)), 6, draw(st.sampled_from([1, 3, 4]))))
    kinds = st.sampled_from(_MAP_KINDS if opaque else _MAP_KINDS[:-1])
    for _ in range(draw(st.integers(1, most_operations))):
        if vectors and draw(st.integers(0, 3)) == 0:
            x = draw(st.sampled_from(vectors))
            vectors.append(_vector_step(draw, b, x, vectors))
            continue
        x = draw(st.sampled_from(maps))
        kind = draw(kinds)
        if kind == "vector":
            vectors.append(b.mean(x) if draw(st.booleans()) else b.flatten(x))
        else:
            maps.extend(_map_step(draw, b, kind, x, maps))
    graph_outputs = [
        name
        for op in b.operations
        for name in op.outputs
        if not any(name in reader.inputs for reader in b.operations)
    ]
    if not graph_outputs:  # every draw was refused
        graph_outputs = [b.conv2d(maps[0], 4)]
    inner = [name for op in b.operations for name in op.outputs if name not in graph_outputs]
    graph_outputs += (
        draw(st.lists(st.sampled_from(inner), max_size=2, unique=True)) if inner else []
    )
    used = {name for op in b.operations for name in op.inputs}
    b.inputs = [name for name in b.inputs if name in used]
    b.tensors = {n: t for n, t in b.tensors.items() if n in used | {*graph_outputs}}
    return b.build(*graph_outputs)


_MAP_KINDS = (
    "conv2d",
    "conv2d",
    "depthwise",
    "add",
    "add",
    "concatenation",
    "max_pool",
    "relu",
    "conv and max_pool",
    "strided",
    "large",
    "average_pool",
    "tanh",
    "table",
    "swish",
    "constant",
    "pad",
    "channel_pad",
    "resize",
    "transpose_conv",
    "quantize",
    "rename",
    "split",
    "vector",
    "opaque",
)


def _map_step(
    draw: st.DrawFn, b: GraphBuilder, kind: str, x: str, maps: list[str]
) -> tuple[str, ...]:
    _, height, width, channels = (d or 0 for d in b.shape(x))
    activation = draw(st.sampled_from(_ACTIVATIONS))
    filters = draw(st.sampled_from([1, 3, 4, 6]))
    match kind:
        case "conv2d":
            kernel = draw(st.sampled_from([1, 3, 5]))
            return (b.conv2d(x, filters, kernel=kernel, activation=activation),)
        case "depthwise":
            return (b.depthwise(x, activation=activation),)
        case "add":
            others = [y for y in maps if b.shape(y) == b.shape(x) and y != x]
            y = draw(st.sampled_from(others)) if others else b.conv2d(x, channels)
            return (b.add(x, y, activation=activation),)
        case "concatenation":
            if channels > MOST_CHANNELS:
                return ()
            y = b.conv2d(x, filters, scaling=b.scaling(x))
            z = b.conv2d(x, filters, scaling=b.scaling(x))
            operands = draw(st.sampled_from([(x, y), (y, z), (y, z, x)]))
            return (b.concatenation(*operands),)
        case "max_pool":
            return (b.max_pool(x, padding="same", activation=activation),)
        case "conv and max_pool":
            y = b.max_pool(b.conv2d(x, filters), padding="same")
            return y, b.conv2d(y, filters)
        case "relu":
            return (b.relu(x),)
        case "strided":
            kernel = draw(st.sampled_from([1, 2, 3, 5]))
            return (b.conv2d(x, filters, kernel=kernel, stride=2, activation=activation),)
        case "large":
            side = draw(st.sampled_from([(9, 9), (10, 4), (2, 2), (1, 3)]))
            return (b.conv2d(x, filters, kernel=side, stride=draw(st.sampled_from([1, 2]))),)
        case "average_pool":
            return (b.average_pool(x, window=draw(st.sampled_from([2, None])), padding="same"),)
        case "tanh":
            return (b.tanh(x),)
        case "table":
            return (b.logistic(x) if draw(st.booleans()) else b.leaky_relu(x),)
        case "swish":
            return (b.mul(x, b.logistic(x), scaling=b.scaling(x)),)
        case "constant":
            low, high = b.dtype.code_range
            values = np.arange(channels) * 7 % (high - low) + low
            y = b.constant(values, scaling=(0.02, (low + high) // 2))
            return (b.mul(x, y) if draw(st.booleans()) else b.add(x, y),)
        case "pad":
            if max(height, width) > LARGEST_SIDE or min(height, width) < 2:
                return ()
            border = draw(st.sampled_from([Pads(1, 1, 1, 1), Pads(0, 1, 0, 1), Pads(2, 0, 1, 1)]))
            y = b.pad_image(x, border)
            return y, b.conv2d(y, filters, padding="valid", stride=draw(st.sampled_from([1, 2])))
        case "channel_pad":
            return (b.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2))),) if channels < MOST_CHANNELS else ()
        case "resize":
            if max(height, width) > LARGEST_SIDE:
                return ()
            return (b.resize_nearest(x, (2 * height, 2 * width)),)
        case "transpose_conv":
            return (b.transpose_conv(x, filters),) if max(height, width) <= LARGEST_SIDE else ()
        case "quantize":
            scale, zero = b.scaling(x)
            factor = draw(st.sampled_from([1.0, 1.5]))
            return (b.quantize(x, scaling=(scale * factor, zero)),)
        case "rename":
            return (b.reshape(x, height, width, channels),)
        case "split":
            return b.split(x, 1, channels - 1) if channels > 1 else ()
        case _:
            return (b.opaque(x, shape=b.shape(x)),)


def _vector_step(draw: st.DrawFn, b: GraphBuilder, x: str, vectors: list[str]) -> str:
    kind = draw(st.sampled_from(["dense", "dense", "add", "softmax", "relu", "concatenation"]))
    match kind:
        case "add":
            others = [y for y in vectors if b.shape(y) == b.shape(x) and y != x]
            y = others[-1] if others else b.fully_connected(x, b.shape(x)[-1] or 1)
            return b.add(x, y)
        case "softmax":
            return b.softmax(x)
        case "relu":
            return b.relu(x)
        case "concatenation":
            return b.concatenation(x, b.fully_connected(x, 3, scaling=b.scaling(x)), axis=1)
        case _:
            return b.fully_connected(x, draw(st.integers(1, 6)))


@st.composite
def entries(draw: st.DrawFn, graph: Graph) -> tuple[str, ...]:
    """Entries for allow or deny lists that name some of a graph's operators."""
    known = [f"type:{op.location.type}" for op in graph.operations]
    known += [f"name:{op.location.name}" for op in graph.operations]
    return tuple(draw(st.lists(st.sampled_from(sorted({*known})), max_size=4, unique=True)))
