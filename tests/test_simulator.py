# SPDX-License-Identifier: Apache-2.0
"""The int64 simulator against Python's integers, and layers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import TypedDict

import numpy as np
import pytest
import scalar_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from program_strategies import (
    options_of,
    programs,
    random_device_input,
    random_input,
    seeded_program,
)

from akida_backend import simulator
from akida_backend.errors import InputError, ProgramError
from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Add,
    Bias,
    Code,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense1D,
    DepthwiseConv2D,
    DepthwiseConv2DTranspose,
    DeviceTensor,
    InputConv2D,
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
)
from akida_backend.program_check import output_size
from akida_backend.simulator import Simulator, encode_input, run_layer, run_layers, run_program

SEEDS_IN_CI = 400
ONE = Size2D(1, 1)
TWO = Size2D(2, 2)


# Against the scalar model


def assert_layers_equal_the_scalar_model(program: Program, seed: int) -> None:
    device_input = random_device_input(program, seed, batch=2)
    got = run_layers(program, device_input)
    assert got.keys() == program.tensors.keys()
    for sample, codes in enumerate(device_input.tolist()):
        for name, expected in scalar_model.run_layers(program, codes).items():
            assert got[name][sample].tolist() == expected, f"tensor '{name}'"


def assert_run_equals_the_scalar_model(program: Program, seed: int) -> None:
    x = random_input(program, seed, batch=3)
    stored, codes = run_program(program, x, raw=True)
    for sample, values in enumerate(x.reshape(len(x), -1).tolist()):
        layers = scalar_model.run_layers(program, scalar_model.host_codes(program, values))
        expected = layers[program.output.device]
        assert codes[sample].tolist() == expected
        assert stored[sample].ravel().tolist() == scalar_model.host_integers(program, expected)


@settings(max_examples=150, deadline=None)
@given(programs(), st.integers(0, 2**32))
def test_every_tensor_equals_the_scalar_model(program: Program, seed: int) -> None:
    assert_layers_equal_the_scalar_model(program, seed)


@pytest.mark.parametrize("first", range(0, SEEDS_IN_CI, 50))
def test_seeded_programs_equal_the_scalar_model(first: int) -> None:
    for seed in range(first, first + 50):
        program = seeded_program(seed)
        assert_layers_equal_the_scalar_model(program, seed)
        assert_run_equals_the_scalar_model(program, seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(SEEDS_IN_CI, 4000, 100))
def test_many_seeded_programs_equal_the_scalar_model(first: int) -> None:
    for seed in range(first, first + 100):
        program = seeded_program(seed, max_layers=6, channels=8)
        assert_layers_equal_the_scalar_model(program, seed)
        assert_run_equals_the_scalar_model(program, seed)


ACTIVATIONS = ("NoActivation", "ReLU", "bounded ReLU", "LookUpTable")
MAC_LAYERS = (
    "InputConv2D",
    "Conv2D",
    "DepthwiseConv2D",
    "Conv2DTranspose",
    "DepthwiseConv2DTranspose",
    "Dense1D",
)
SPATIAL_LAYERS = MAC_LAYERS[:3]


def test_seeds_of_ci_reach_every_layer_type_and_option() -> None:
    wanted = {"Concatenate", "Add left", "Add right", "Add to 4 bits", "Add to 32 bits"}
    wanted |= {"left shift", "right shift beyond 24", "multiplier 0", "Dense1D to 32 bits"}
    wanted |= {f"Add {activation}" for activation in ACTIVATIONS[:3]}
    wanted |= {f"{layer} {activation}" for layer in MAC_LAYERS for activation in ACTIVATIONS}
    wanted |= {f"{layer} to {bits} bits" for layer in MAC_LAYERS for bits in (4, 8)}
    wanted |= {f"{layer} weights of {bits} bits" for layer in MAC_LAYERS for bits in (4, 8)}
    wanted |= {f"{layer} from {bits} bits" for layer in MAC_LAYERS[1:] for bits in (4, 8)}
    wanted |= {f"{layer} pool {kind}" for layer in SPATIAL_LAYERS for kind in ("same", "valid")}
    wanted |= {f"{layer} kernel {side}" for layer in SPATIAL_LAYERS for side in (1, 3, 5, 7)}
    wanted |= {f"{layer} stride {step}" for layer in SPATIAL_LAYERS for step in (1, 2, 3, 4)}
    wanted |= {f"{layer} kernel {side}" for layer in MAC_LAYERS[3:5] for side in (3, 4)}
    wanted |= {"Conv2D global average", "DepthwiseConv2D global average"}
    wanted |= {"Conv2D input shift", "Dense1D input shift", "InputConv2D same"}
    wanted |= {"InputConv2D valid", "InputConv2D kernel 4", "input of 1 parts", "input of 2 parts"}
    seen = Counter(o for seed in range(SEEDS_IN_CI) for o in options_of(seeded_program(seed)))
    assert wanted - seen.keys() == set()


# Layers by hand


class Common(TypedDict):
    name: str
    inputs: tuple[str, ...]
    output: str
    bias: Bias
    rescale: Rescale


def common(bias: list[int], shift: int = 0) -> Common:
    """Fields of a layer that rescales by ``2**shift``."""
    filters = len(bias)
    return Common(
        name="layer",
        inputs=("in",),
        output="out",
        bias=Bias(np.array(bias, np.int8), np.zeros(filters, np.uint8)),
        rescale=Rescale(np.ones(filters, np.uint8), np.full(filters, shift, np.int8)),
    )


def one_layer(layer: ProgramLayer, shape: tuple[int, int, int], code: Code) -> Program:
    """Program of one layer that reads 'in' (twice, where it takes two operands)."""
    bits = 8 if isinstance(layer, Concatenate) else layer.output_bits
    size = output_size(layer, *(shape for _ in layer.inputs))
    tensors = {
        "in": DeviceTensor("in", shape, code),
        "out": DeviceTensor("out", size, Code((1.0,), bits=bits, signed=bits != 4)),
    }
    low, high = code.limits
    recode = np.clip(np.arange(-128, 128), low, high).astype(np.int16)
    return Program(
        name="by-hand",
        device="akida2",
        tensors=tensors,
        layers=(layer,),
        input=InputPort("x", DType.INT8, (None, *shape), "in", recode),
        output=OutputPort(
            "y", DType.INT32, (None, *size), "out", np.ones(1), 0, -(2**31), 2**31 - 1
        ),
    )


SIGNED = Code((1.0,))
IMAGE = Code((1.0,), signed=False, zero_point=3)


def outcome(layer: ProgramLayer, x: NDArray[np.int64], code: Code = SIGNED) -> list[object]:
    """Output codes for one sample, (height, width, channels), channels of one left out."""
    height, width, channels = x.shape
    codes = run_layers(one_layer(layer, (height, width, channels), code), x[np.newaxis])["out"][0]
    result: list[object] = (codes[:, :, 0] if codes.shape[2] == 1 else codes).tolist()
    return result


def column(*values: int) -> NDArray[np.int64]:
    """A map of one channel and one row."""
    return np.array(values, np.int64).reshape(1, -1, 1)


def test_image_border_holds_the_padding_value_and_the_zero_point_stays() -> None:
    layer = InputConv2D(
        **common([1]),
        weights=np.array([1, 10, 2], np.int8).reshape(1, 1, 3, 1),
        activation=NoActivation(),
        stride=ONE,
        padding=Padding.SAME,
        padding_value=np.array([7], np.uint8),
    )
    # 7 | 1 2 3 | 7
    assert outcome(layer, column(1, 2, 3), IMAGE) == [[7 + 10 + 4 + 1, 1 + 20 + 6 + 1, 47]]


def test_even_same_kernel_has_its_smaller_border_in_front() -> None:
    layer = InputConv2D(
        **common([0]),
        weights=np.array([1, 2, 4, 8], np.int8).reshape(1, 1, 4, 1),
        activation=NoActivation(),
        stride=ONE,
        padding=Padding.SAME,
        padding_value=np.array([0], np.uint8),
    )
    assert outcome(layer, column(1, 0, 0), IMAGE) == [[2, 1, 0]]


def test_stride_2_same_pads_an_even_map_at_its_end_only() -> None:
    layer = Conv2D(
        **common([0]),
        weights=np.array([1, 10, 100], np.int8).reshape(1, 1, 3, 1),
        activation=NoActivation(),
        stride=TWO,
    )
    assert outcome(layer, column(1, 0, 0, 1)) == [[1, 10]]
    assert outcome(layer, column(1, 0, 1)) == [[10, 10]]


def test_kernels_are_not_flipped() -> None:
    layer = Conv2D(
        **common([0]),
        weights=np.array([1, 2, 3], np.int8).reshape(1, 1, 3, 1),
        activation=NoActivation(),
        stride=ONE,
    )
    assert outcome(layer, column(0, 1, 0)) == [[3, 2, 1]]


def test_input_shift_is_per_input_channel() -> None:
    layer = Conv2D(
        **common([5]),
        weights=np.array([1, 1], np.int8).reshape(1, 1, 1, 2),
        activation=NoActivation(),
        stride=ONE,
        input_shift=np.array([0, 4], np.uint8),
    )
    assert outcome(layer, np.array([[[-1, 2]]])) == [[-1 + 32 + 5]]


def test_same_pool_of_negative_accumulators_ignores_cells_outside() -> None:
    layer = DepthwiseConv2D(
        **common([0]),
        weights=np.ones((1, 1, 1, 1), np.int8),
        activation=NoActivation(),
        stride=ONE,
        pool=MaxPool(Size2D(1, 2), Size2D(1, 2), Padding.SAME),
    )
    assert outcome(layer, column(-5, -6, -7)) == [[-5, -7]]


def test_valid_pool_drops_what_does_not_fill_a_window() -> None:
    layer = DepthwiseConv2D(
        **common([0]),
        weights=np.ones((1, 1, 1, 1), np.int8),
        activation=NoActivation(),
        stride=ONE,
        pool=MaxPool(Size2D(1, 2), Size2D(1, 2), Padding.VALID),
    )
    assert outcome(layer, column(-5, -6, -7)) == [[-5]]


def test_pooling_comes_before_the_look_up_table() -> None:
    falling = np.arange(1023, -1025, -1, dtype=np.int16)
    neutral = common([0])["rescale"]
    layer = DepthwiseConv2D(
        **common([0]),
        weights=np.ones((1, 1, 1, 1), np.int8),
        activation=LookUpTable(neutral, falling),
        stride=ONE,
        pool=MaxPool(Size2D(1, 2), Size2D(1, 2), Padding.SAME),
    )
    assert outcome(layer, column(10, 20)) == [[-21]]


def test_global_average_is_a_sum_behind_the_activation() -> None:
    layer = Conv2D(
        **common([0]),
        weights=np.ones((1, 1, 1, 1), np.int8),
        activation=ReLU(np.array([9], np.uint8), np.array([0], np.uint8)),
        stride=ONE,
        global_average=True,
    )
    assert outcome(layer, column(-100, 5, 50)) == [[0 + 5 + 9]]


def test_transposed_3x3_keeps_its_first_row() -> None:
    weights = np.zeros((1, 3, 3, 1), np.int8)
    weights[0, 0, :, 0] = [1, 2, 3]
    layer = Conv2DTranspose(**common([0]), weights=weights, activation=NoActivation())
    # full row: 1 2 3+10 20 30, the last column falls off
    assert outcome(layer, column(1, 10)) == [[1, 2, 13, 20], [0, 0, 0, 0]]


def test_transposed_4x4_loses_one_row_on_each_side() -> None:
    weights = np.zeros((1, 4, 4, 1), np.int8)
    weights[0, 1, :, 0] = [1, 2, 3, 4]
    layer = DepthwiseConv2DTranspose(**common([0]), weights=weights, activation=NoActivation())
    # full row: 1 2 3+10 4+20 30 40
    assert outcome(layer, column(1, 10)) == [[2, 13, 24, 30], [0, 0, 0, 0]]


def test_dense_reads_rows_before_columns_before_channels() -> None:
    weights = np.zeros((1, 8), np.int8)
    weights[0, 6] = 1
    layer = Dense1D(**common([0]), weights=weights, activation=NoActivation())
    assert outcome(layer, np.arange(8).reshape(2, 2, 2)) == [[6]]


def test_dense_accumulators_leave_unchanged_as_32_bits() -> None:
    layer = Dense1D(
        **common([-1]),
        weights=np.full((1, 4), 127, np.int8),
        activation=NoActivation(),
        output_bits=32,
    )
    program = one_layer(layer, (1, 1, 4), SIGNED)
    stored, codes = run_program(program, np.full((1, 1, 1, 4), -128, np.int8), raw=True)
    assert codes.dtype == np.int32
    assert codes.tolist() == stored.tolist() == [[[[-65025]]]]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        pytest.param(32, [0, 60], id="32-bits-after-relu"),
        pytest.param(8, [0, 30], id="8-bits"),
        pytest.param(4, [0, 15], id="4-bits"),
    ],
)
def test_add_aligns_then_clips_then_rescales(bits: int, expected: list[int]) -> None:
    layer = Add(
        name="add",
        inputs=("in", "in"),
        output="out",
        a_shift=1,
        b_shift=0,
        output_shift=0 if bits == 32 else -1,
        activation=ReLU(),
        output_bits=bits,
    )
    assert outcome(layer, column(-7, 20)) == [expected]


def test_concatenation_joins_channels_in_order() -> None:
    layer = Concatenate(name="join", inputs=("in", "in"), output="out")
    assert outcome(layer, np.array([[[1, 2]]])) == [[[1, 2, 1, 2]]]


# Boundary


def identity(output: OutputPort | None = None) -> Program:
    layer = DepthwiseConv2D(
        **common([0]),
        weights=np.ones((1, 1, 1, 1), np.int8),
        activation=NoActivation(),
        stride=ONE,
    )
    program = one_layer(layer, (1, 5, 1), SIGNED)
    return program if output is None else dataclasses.replace(program, output=output)


def test_output_rounds_half_to_even_then_adds_the_zero_point_and_clips() -> None:
    port = OutputPort("y", DType.UINT8, (None, 5), "out", np.array([0.5]), 3, 2, 60)
    x = np.array([-128, 1, 3, 5, 127], np.int8).reshape(1, 1, 5, 1)
    stored = run_program(identity(port), x)
    assert stored.dtype == np.uint8
    assert stored.tolist() == [[2, 3, 5, 5, 60]]


def test_input_codes_come_from_the_table_of_the_host_type() -> None:
    recode = np.arange(256, dtype=np.int16) - 128
    ports = {
        dtype: InputPort("x", dtype, (None, 5), "in", recode) for dtype in (DType.INT8, DType.UINT8)
    }
    program = identity()
    x = np.array([[0, 1, 2, 126, 127]])
    signed = dataclasses.replace(program, input=ports[DType.INT8])
    assert encode_input(signed, x.astype(np.int8)).ravel().tolist() == [0, 1, 2, 126, 127]
    unsigned = dataclasses.replace(program, input=ports[DType.UINT8])
    assert encode_input(unsigned, x.astype(np.uint8)).ravel().tolist() == [-128, -127, -126, -2, -1]


def test_input_in_two_parts_fills_as_many_channels_again() -> None:
    layer = Conv2D(
        **common([0]),
        weights=np.array([1, 0, 10, 0], np.int8).reshape(1, 1, 1, 4),
        activation=NoActivation(),
        stride=ONE,
    )
    program = one_layer(layer, (1, 1, 4), Code((1.0,), parts=2))
    recode = np.concatenate([np.arange(256) // 16, np.arange(256) % 16]).astype(np.int16)
    port = InputPort("x", DType.UINT8, (None, 1, 1, 2), "in", recode)
    program = dataclasses.replace(program, input=port)
    x = np.array([[[[35, 16]]]], np.uint8)  # 2 and 3, 1 and 0
    assert encode_input(program, x).tolist() == [[[[2, 1, 3, 0]]]]
    assert run_program(program, x).tolist() == [[[[2 + 10 * 3]]]]


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("seed", range(20))
def test_batch_size_and_working_memory_change_nothing(
    seed: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = seeded_program(seed)
    x = random_input(program, seed, batch=7)[:batch]
    whole, codes = run_program(program, x, raw=True)
    output = program.tensors[program.output.device]
    assert codes.shape == (batch, *output.shape)
    assert codes.dtype == output.code.dtype
    assert whole.shape == (batch, *program.output.shape[1:])
    assert whole.dtype == program.output.dtype.numpy
    monkeypatch.setattr(simulator, "WORKING_BYTES", 1)
    single, single_codes = run_program(program, x, raw=True)
    np.testing.assert_array_equal(single, whole)
    np.testing.assert_array_equal(single_codes, codes)
    layers = Simulator(program).run_layers(encode_input(program, x))
    np.testing.assert_array_equal(layers[output.name], codes)
    assert {values.dtype for values in layers.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_alone_gives_what_it_gives_within_the_program(seed: int) -> None:
    program = seeded_program(seed)
    values = run_layers(program, random_device_input(program, seed, batch=2))
    for layer in program.layers:
        result = run_layer(layer, tuple(values[name] for name in layer.inputs))
        np.testing.assert_array_equal(result, values[layer.output])


@pytest.mark.parametrize(
    ("x", "found"),
    [
        pytest.param(np.zeros((1, 1, 5, 1), np.uint8), "found uint8", id="other-dtype"),
        pytest.param(np.zeros((1, 5, 1, 1), np.int8), r"of \(1, 5, 1, 1\)", id="other-shape"),
        pytest.param(np.zeros((1, 5), np.int8), r"of \(1, 5\)", id="other-rank"),
    ],
)
def test_refuses_host_input_that_is_not_the_ports(x: NDArray[np.generic], found: str) -> None:
    with pytest.raises(InputError, match=rf"needs int8 of shape \(batch, 1, 5, 1\), .*{found}"):
        run_program(identity(), x)


@pytest.mark.parametrize(
    ("codes", "found"),
    [
        pytest.param(np.zeros((5, 1)), r"shape \(5, 1\)", id="no-batch"),
        pytest.param(np.zeros((1, 5, 1, 1)), r"shape \(1, 5, 1, 1\)", id="other-shape"),
        pytest.param(np.full((1, 1, 5, 1), 128), r"outside \[-128, 127\]", id="above"),
        pytest.param(np.full((1, 1, 5, 1), -129), r"outside \[-128, 127\]", id="below"),
    ],
)
def test_refuses_device_input_that_does_not_fit(codes: NDArray[np.generic], found: str) -> None:
    with pytest.raises(InputError, match=found):
        run_layers(identity(), codes.astype(np.int64))


def test_refuses_a_malformed_program_before_running_it() -> None:
    program = dataclasses.replace(identity(), layers=())
    with pytest.raises(ProgramError, match="no layer"):
        run_program(program, np.zeros((1, 1, 5, 1), np.int8))


def test_largest_sums_a_device_can_hold_stay_exact() -> None:
    """A Dense1D close to 2**27 and an image filter close to 2**31, odd to the last bit."""
    count = (2**27 - 1 - 127) // (127 * 128)
    dense = Dense1D(
        **common([127]),
        weights=np.full((1, count), -127, np.int8),
        activation=NoActivation(),
        output_bits=32,
    )
    lowest = np.full((1, 1, count), -128)
    assert outcome(dense, lowest) == [[127 * 128 * count + 127]]
    side = math.isqrt((2**31 - 128) // (127 * 255 * 3))
    image = InputConv2D(
        **common([127], shift=-24),
        weights=np.full((1, side, side, 3), 127, np.int8),
        activation=NoActivation(),
        stride=Size2D(side, side),
        padding=Padding.VALID,
        padding_value=np.zeros(3, np.uint8),
    )
    total = 127 * 255 * 3 * side**2 + 127
    assert outcome(image, np.full((side, side, 3), 255), IMAGE) == [[(total + 2**23) >> 24]]
