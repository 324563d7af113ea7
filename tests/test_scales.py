# SPDX-License-Identifier: Apache-2.0
"""Which scale a tensor gets on the device: ranges, ties, and codes of inputs and outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compiling import AKIDA2, compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.candidate import Candidate
from akida_backend.graph import Activation, DType, Graph
from akida_backend.options import Options
from akida_backend.partition import partition
from akida_backend.placement import place
from akida_backend.program import Add, Code
from akida_backend.scales import assign_codes
from builders import GraphBuilder


def _codes(graph: Graph, *, strict: bool = False) -> dict[str, Code]:
    placement = place(graph, AKIDA2, Options(), {})
    (region,), _ = partition(graph, placement.candidates, AKIDA2)
    return assign_codes(
        graph, region.candidates, region.input, region.output, AKIDA2, None, strict=strict
    )


def _step(code: Code) -> float:
    (scale,) = code.scale
    return scale


@pytest.mark.parametrize(
    ("scaling", "activation", "peak"),
    [
        pytest.param((0.1, 0), Activation.NONE, 12.8, id="symmetric"),
        pytest.param((0.1, 100), Activation.NONE, 22.8, id="mostly-negative"),
        pytest.param((0.1, -100), Activation.NONE, 22.7, id="mostly-positive"),
        pytest.param((0.1, -128), Activation.NONE, 25.4, id="positive: two source steps each"),
        pytest.param((0.1, -128), Activation.RELU6, 6.0, id="bounded"),
        pytest.param((0.01, -128), Activation.RELU6, 2.54, id="bound-out-of-reach"),
        pytest.param((0.1, 0), Activation.RELU, 12.7, id="negatives-clamped"),
    ],
)
def test_a_scale_reaches_as_far_as_the_source(
    scaling: tuple[float, int], activation: Activation, peak: float
) -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(4, 4, 4), 4, scaling=scaling, activation=activation)
    graph = b.build(b.conv2d(x, 4))
    assert _step(_codes(graph)[x]) == pytest.approx(peak / 127)


def test_a_layers_own_clamp_counts_not_its_tensors() -> None:
    b = GraphBuilder(1)
    x = b.relu(
        b.conv2d(b.input(4, 4, 4), 4, scaling=(0.5, 0)), bound=Activation.RELU6, scaling=(0.5, -128)
    )
    graph = b.build(b.conv2d(x, 4))
    assert _step(_codes(graph)[x]) == pytest.approx(6.0 / 127)


@pytest.mark.parametrize("area", [1, 4, 16, 144])
def test_averages_are_expected_to_stay_below_the_extremes(area: int) -> None:
    b = GraphBuilder(1)
    side = math.isqrt(area)
    x = b.conv2d(b.input(side, side, 4), 4, scaling=(0.1, 0))
    graph = b.build(b.mean(x))
    expected = 12.8 / 127 * max(0.25, area**-0.25)
    assert _step(_codes(graph)["mean"]) == pytest.approx(expected)


def test_averages_with_a_scale_of_their_own_use_it() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4, scaling=(0.1, 0))
    graph = b.build(b.mean(x, scaling=(0.04, 0)))
    assert _step(_codes(graph)["mean"]) == pytest.approx(0.04 * 128 / 127)


def test_joined_maps_share_the_widest_scale() -> None:
    b = GraphBuilder(1, dtype=DType.UINT8)
    x = b.input(4, 4, 4)
    y, z = b.conv2d(x, 4, scaling=(0.1, 128)), b.conv2d(x, 4, scaling=(0.3, 128))
    graph = b.build(b.concatenation(y, z))
    codes = _codes(graph)
    assert codes[y] == codes[z] == codes["concatenation"]
    assert _step(codes[y]) == pytest.approx(0.3 * 128 / 127)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=6), st.booleans())
def test_sums_tie_scales_with_as_little_loss_as_can_be(wanted: list[float], strict: bool) -> None:
    """Every tied scale is the least of its kind, and no other base loses less."""
    b = GraphBuilder(1)
    x = b.input(3, 3, 4)
    maps = [b.conv2d(x, 4, scaling=(scale, 0)) for scale in wanted]
    total = maps[0]
    for other in maps[1:]:
        total = b.add(total, other, scaling=(wanted[0], 0))
    graph = b.build(b.conv2d(total, 4))
    codes = _codes(graph, strict=strict)
    sums = [op.outputs[0] for op in graph.operations if op.location.type == "ADD"]
    tied = [*maps, *sums]
    least = np.array([*wanted, *(wanted[0] for _ in sums)]) * 128 / 127
    scales = np.array([_step(codes[name]) for name in tied])
    assert (scales >= least * (1 - 1e-6)).all()
    assert (scales < 2 * least * (1 + 1e-6)).all()
    exponents = np.log2(scales if strict else scales / scales[0])
    np.testing.assert_allclose(exponents, np.rint(exponents), atol=1e-6)
    if not strict:

        def loss(base: float) -> float:
            grown = base * 2.0 ** np.ceil(np.log2(least / base) - 1e-6)
            return float(((grown / least) ** 2).sum())

        best = min(loss(base) for base in np.geomspace(0.5, 1.0, 400))
        assert float(((scales / least) ** 2).sum()) <= best * (1 + 1e-6)


def test_sums_that_do_not_meet_have_bases_of_their_own() -> None:
    b = GraphBuilder(1)
    x = b.input(3, 3, 4)

    def block(x: str, scale: float) -> str:
        parts = [b.conv2d(x, 4, scaling=(scale, 0)) for _ in range(2)]
        return b.add(*parts, scaling=(scale, 0))

    first = block(x, 0.1)
    second = block(b.conv2d(first, 4, scaling=(0.2, 0)), 0.13)
    plan = compiled(b.build(b.conv2d(second, 4)))
    (program,) = plan.programs
    adds = [layer for layer in program.layers if isinstance(layer, Add)]
    steps = [_step(program.tensors[add.output].code) for add in adds]
    assert steps == pytest.approx([0.1 * 128 / 127, 0.13 * 128 / 127])


def test_an_image_keeps_its_codes() -> None:
    b = GraphBuilder(1)
    x = b.input(6, 6, 3, scaling=(0.02, -20))
    graph = b.build(b.conv2d(x, 4))
    code = _codes(graph)[x]
    assert (code.bits, code.signed, code.zero_point) == (8, False, 108)
    assert _step(code) == pytest.approx(0.02)


def test_an_asymmetric_input_comes_in_two_parts_where_that_is_cheap() -> None:
    b = GraphBuilder(1)
    x = b.input(6, 6, 4, scaling=(0.02, 100))
    y = b.conv2d(b.conv2d(x, 4, kernel=1), 8)
    plan = compiled(b.build(y))
    (program,) = plan.programs
    assert program.input.parts == 2
    low, high = np.split(program.input.recode, 2)
    stored = np.arange(-128, 128)
    np.testing.assert_array_equal(low + high, stored - 100)
    assert program.tensors[x].shape == (6, 6, 8)
    assert _step(program.tensors[x].code) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("scaling", "alone", "depthwise"),
    [
        pytest.param((0.02, 0), False, False, id="symmetric"),
        pytest.param((0.02, 100), True, False, id="most-of-the-work"),
        pytest.param((0.02, 100), False, True, id="depthwise-reader"),
    ],
)
def test_other_inputs_come_in_one_part(
    scaling: tuple[float, int], alone: bool, depthwise: bool
) -> None:
    b = GraphBuilder(1)
    x = b.input(6, 6, 4, scaling=scaling)
    y = b.depthwise(x) if depthwise else b.conv2d(x, 4, kernel=1)
    if not alone:
        y = b.conv2d(y, 8)
    (program,) = compiled(b.build(y)).programs
    assert program.input.parts == 1
    reach = max(128 + scaling[1], 127 - scaling[1]) * 0.02
    assert _step(program.tensors[x].code) == pytest.approx(reach / 127)


def test_a_dense_layer_in_the_middle_has_eight_bits_and_at_the_end_thirty_two() -> None:
    b = GraphBuilder(1)
    x = b.fully_connected(b.input(8), 8)
    graph = b.build(b.fully_connected(x, 4))
    codes = _codes(graph)
    assert codes[x].bits == 8
    assert codes[graph.outputs[0]].bits == 32
    placement = place(graph, AKIDA2, Options(), {})
    assert all(isinstance(c, Candidate) for c in placement.candidates)
