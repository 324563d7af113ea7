# SPDX-License-Identifier: Apache-2.0
"""Output shapes, and the contradictions that a TFLite file cannot show.

The tests of the importers cover the shapes themselves: there they meet what a file declares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akida_backend.graph import Node, Operation, Pads, Size2D
from akida_backend.importers.shape_inference import (
    FixedShape,
    InconsistentShapesError,
    output_shapes,
    same_pads,
)
from builders import GraphBuilder

lengths = st.integers(1, 40)


@given(lengths, lengths, lengths, st.integers(1, 4))
def test_same_pads_give_every_stride_a_window(
    size: int, window: int, stride: int, dilation: int
) -> None:
    pads = same_pads(Size2D(size, 1), Size2D(window, 1), Size2D(stride, 1), Size2D(dilation, 1))
    reach = (window - 1) * dilation + 1
    starts = range(-pads.top, size + pads.bottom - reach + 1, stride)
    assert len(starts) == len(range(0, size, stride))
    assert (pads.left, pads.right) == (0, 0)
    # As few as possible, and the odd one at the end.
    assert pads.bottom - pads.top in (0, 1)
    assert pads.top + pads.bottom == max(starts[-1] - starts[0] + reach - size, 0)


def built(
    make: Callable[[GraphBuilder], str],
    **changes: Any,  # noqa: ANN401
) -> tuple[Operation, GraphBuilder]:
    b = GraphBuilder(batch=1)
    make(b)
    return dataclasses.replace(b.operations[-1], **changes), b


def shapes(
    op: Operation, b: GraphBuilder, known: dict[str, FixedShape] | None = None
) -> tuple[FixedShape, ...]:
    def shape_of(name: str) -> FixedShape:
        fixed = (known or {}).get(name, b.shape(name))
        return tuple(length for length in fixed if length is not None)

    return output_shapes(op, shape_of)


def image(b: GraphBuilder) -> str:
    return b.input(4, 4, 2, name="x")


CONVOLUTION = built(lambda b: b.conv2d(image(b), 3))
TRANSPOSED = built(lambda b: b.transpose_conv(image(b), 3))
DENSE = built(lambda b: b.fully_connected(b.input(6, name="x"), 2))


@pytest.mark.parametrize(
    ("given_op", "known", "message"),
    [
        pytest.param(CONVOLUTION, {"x": (1, 4)}, "not an NHWC tensor", id="rank"),
        pytest.param(CONVOLUTION, {"conv_weights": (3, 3, 2)}, "weights of shape", id="weights"),
        pytest.param(CONVOLUTION, {"conv_weights": (3, 0, 3, 2)}, "weights of", id="no-weights"),
        pytest.param(CONVOLUTION, {"x": (1, 4, 4, 5)}, "for 5 channels", id="channels"),
        pytest.param(TRANSPOSED, {"x": (1, 4, 4, 5)}, "for 5 channels", id="transposed-channels"),
        pytest.param(
            built(lambda b: b.transpose_conv(image(b), 3), pads=Pads(9, 9, 0, 0)),
            {},
            "cut the whole output",
            id="transposed-pads",
        ),
        pytest.param(
            built(lambda b: b.transpose_conv(image(b), 0, depthwise=True)),
            {"transpose_conv_weights": (3, 3, 3, 2)},
            "for 2 channels",
            id="transposed-depthwise",
        ),
        pytest.param(DENSE, {"fully_connected_weights": (2, 6, 1)}, "weights of", id="dense-rank"),
        pytest.param(DENSE, {"x": (1, 7)}, "for 6 weights a unit", id="dense-input"),
        pytest.param(
            built(lambda b: b.pad(image(b), [(0, 0)] * 4), amounts=((0, 0), (-1, 0))),
            {},
            "paddings",
            id="paddings",
        ),
        pytest.param(
            built(lambda b: b.strided_slice(image(b), *[slice(None)] * 3), step=(1, 1, 0, 1)),
            {},
            "4 slices of",
            id="step-zero",
        ),
        pytest.param(
            built(lambda b: b.pack(image(b), b.input(4, 4, 2, name="z"))),
            {"z": (1, 4, 4, 3)},
            "do not stack",
            id="pack",
        ),
        pytest.param(built(lambda b: b.pack(image(b)), axis=5), {}, "stacking", id="pack-axis"),
    ],
)
def test_contradictions_are_named(
    given_op: tuple[Operation, GraphBuilder], known: dict[str, FixedShape], message: str
) -> None:
    with pytest.raises(InconsistentShapesError, match=message):
        shapes(*given_op, known)


def test_a_depthwise_transposed_convolution_keeps_the_channels() -> None:
    op, b = built(lambda b: b.transpose_conv(image(b), 0, depthwise=True))
    assert shapes(op, b) == ((1, 8, 8, 2),)


def test_opaque_results_are_what_the_file_says() -> None:
    op, b = built(lambda b: b.opaque(image(b), shape=(7, 3)))
    assert isinstance(op, Node)
    assert shapes(op, b) == ((7, 3),)


def test_the_shape_of_a_tensor_has_its_rank() -> None:
    op, b = built(lambda b: b.shape_of(image(b)))
    assert shapes(op, b) == ((4,),)
