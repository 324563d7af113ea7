# SPDX-License-Identifier: Apache-2.0
"""Sources of at most four bits on Akida 1.0: the same integers without calibration inputs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from compiling import layers
from onnx import TensorProto, helper
from onnx_models import OnnxBuilder, feeds_of

from akida_backend.akida1_exact import real_reach
from akida_backend.akida_arithmetic import Integers
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import InputError
from akida_backend.execute import run_source
from akida_backend.graph import Activation, AnyArray, Conv2D, DType, Graph
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.program import Akida1Layer, Code, Program, StepActivation
from akida_backend.program_check import check_program
from akida_backend.simulator import Simulator, encode_input, run_layers
from builders import GraphBuilder, random_inputs

QONNX = "qonnx.custom_op.general"
ONNX_WITH_INT4 = 21
SAMPLES = 6


class FewBits(OnnxBuilder):
    """Chains of convolutions whose weights and activations have few bits."""

    def quant(self, x: str, scale: float, bits: int, *, signed: bool) -> str:
        inputs = (x, *(self.constant(value) for value in (scale, 0.0, float(bits))))
        return self.node(
            "Quant", *inputs, domain=QONNX, signed=int(signed), narrow=0, rounding_mode="ROUND"
        )

    def image(self, scale: float = 2.0**-6, size: int = 8) -> str:
        return self.quant(self.input(("N", 3, size, size)), scale, 8, signed=False)

    def conv(
        self, x: str, weights: Integers, scale: float, bits: int, *, signed: bool = True
    ) -> str:
        real = self.quant(self.constant(weights * scale), scale, bits, signed=signed)
        return self.node("Relu", self.linear(x, real, weights.shape))

    def linear(self, x: str, weights: str, shape: tuple[int, ...], group: int = 1) -> str:
        filters, _, kernel, _ = shape
        bias = self.constant(np.random.default_rng(filters).uniform(-1, 1, filters))
        return self.node("Conv", x, weights, bias, pads=[kernel // 2] * 4, group=group)

    def stem(self, size: int = 8) -> str:
        """Codes of which one is an odd number of potentials: no sum lies in the middle."""
        image = self.image(size=size)
        x = self.conv(image, random_weights(4, (8, 3, 3, 3), 8, signed=True), 2.0**-7, 8)
        return self.quant(x, WHOLE * 2.0**-13, 4, signed=False)


WHOLE = 3001  # potentials of the image layer per code
SPREAD = 3  # values found in an output that show it is no constant


def random_weights(seed: int, shape: tuple[int, ...], bits: int, *, signed: bool) -> Integers:
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    return np.random.default_rng(seed).integers(low, high, shape)


def qonnx(bits: int, *, signed: bool = True, heights: tuple[float, ...] = (0.25, 0.31)) -> Graph:
    b = FewBits()
    x = b.image()
    x = b.conv(x, random_weights(1, (8, 3, 3, 3), 8, signed=True), 2.0**-7, 8)
    x = b.quant(x, heights[0], 4, signed=False)
    x = b.conv(x, random_weights(2, (8, 8, 3, 3), bits, signed=signed), 0.05, bits, signed=signed)
    x = b.quant(x, heights[1], 4, signed=False)
    x = b.conv(x, random_weights(3, (5, 8, 1, 1), bits, signed=signed), 0.05, bits, signed=signed)
    b.output(b.quant(x, 0.25, 8, signed=False))
    return b.graph()


def exact(graph: Graph) -> Plan:
    plan = compile_model(graph, "akd1000")
    for program in plan.programs:
        check_program(program)
    return plan


def images(graph: Graph, seed: int = 0) -> dict[str, AnyArray]:
    """Real inputs that use all codes of the image."""
    random = np.random.default_rng(seed)
    (name,) = graph.inputs
    _, *shape = graph.tensors[name].shape
    sizes = [int(length or 0) for length in shape]
    return {name: random.uniform(0, 4, (SAMPLES, *sizes)).astype(np.float32)}


def device_and_source(
    plan: Plan, feeds: dict[str, AnyArray]
) -> list[tuple[Akida1Layer, Integers, Integers]]:
    """Output codes of all layers with activation, on the device and in the source."""
    (program,) = plan.programs
    names = [layer.output for layer in program.layers[:-1]]
    graph = plan.legalised
    source = run_source(graph, feeds, tensors=[*names, program.input.tensor])
    found = run_layers(program, encode_input(program, source[program.input.tensor]))
    pairs: list[tuple[Akida1Layer, Integers, Integers]] = []
    for layer in program.layers[:-1]:
        assert isinstance(layer, Akida1Layer)
        quantization = graph.tensors[layer.output].quantization
        assert quantization is not None
        codes = source[layer.output].astype(np.int64) - quantization.single_zero_point
        pairs.append((layer, found[layer.output], codes))
    return pairs


def assert_equal(plan: Plan, feeds: dict[str, AnyArray]) -> list[str]:
    """Codes are the source's; gives the names of the layers."""
    for _, found, wanted in device_and_source(plan, feeds):
        np.testing.assert_array_equal(found, wanted.reshape(found.shape))
        assert np.unique(wanted).size > SPREAD
    assert " 0 lie a potential off" in remarks(plan)[0]
    return [type(layer).__name__ for layer in layers(plan)]


def assert_near(plan: Plan, feeds: dict[str, AnyArray]) -> list[str]:
    """Codes are the source's but for steps a potential off; gives the names of the layers."""
    for _, found, wanted in device_and_source(plan, feeds):
        codes = wanted.reshape(found.shape)
        assert np.abs(found - codes).max() <= 1
        assert (found != codes).mean() < 0.03
        assert np.unique(codes).size > SPREAD
    return [type(layer).__name__ for layer in layers(plan)]


@pytest.mark.parametrize(
    ("bits", "signed"),
    [
        pytest.param(4, True, id="4"),
        pytest.param(2, True, id="2"),
        pytest.param(2, False, id="2-unsigned"),
        pytest.param(1, False, id="1-unsigned"),
    ],
)
def test_integers_of_qonnx_stay_and_no_calibration_is_needed(bits: int, *, signed: bool) -> None:
    graph = qonnx(bits, signed=signed)
    plan = exact(graph)
    assert len(plan.programs) == 1
    for number, layer in enumerate(layers(plan)[1:]):
        assert isinstance(layer, Akida1Layer)
        shape = [(8, 8, 3, 3), (5, 8, 1, 1)][number]
        wanted = random_weights(number + 2, shape, bits, signed=signed).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(layer.weights, wanted)
    assert_near(plan, images(graph))


def test_pooling_and_dense_layers_keep_their_integers() -> None:
    b = FewBits()
    x = b.conv(b.image(), random_weights(1, (8, 3, 3, 3), 8, signed=True), 2.0**-7, 8)
    x = b.node("MaxPool", b.quant(x, 0.25, 4, signed=False), kernel_shape=[2, 2], strides=[2, 2])
    x = b.conv(x, random_weights(2, (8, 8, 3, 3), 4, signed=True), 0.05, 4)
    x = b.node("Flatten", b.quant(x, 0.31, 4, signed=False))
    dense = b.constant(random_weights(3, (128, 10), 4, signed=True) * 0.05)
    x = b.node("MatMul", x, b.quant(dense, 0.05, 4, signed=True))
    x = b.quant(b.node("Relu", x), 0.5, 4, signed=False)
    last = b.constant(random_weights(4, (10, 5), 2, signed=True) * 0.05)
    b.output(
        b.quant(b.node("MatMul", x, b.quant(last, 0.05, 2, signed=True)), 0.25, 8, signed=True)
    )
    graph = b.graph()
    names = assert_near(exact(graph), images(graph))
    assert names == ["InputConvolutional", "Convolutional", "FullyConnected", "FullyConnected"]


def test_whole_odd_steps_give_the_sources_integers() -> None:
    """An odd number of potentials per code: no sum lies in the middle between two codes."""
    b = FewBits()
    x = b.conv(b.image(), random_weights(4, (8, 3, 3, 3), 8, signed=True), 2.0**-7, 8)
    x = b.quant(x, WHOLE * 2.0**-13, 4, signed=False)
    x = b.conv(x, random_weights(5, (8, 8, 3, 3), 4, signed=True), 2.0**-4, 4)
    x = b.quant(x, 75 * WHOLE * 2.0**-17, 4, signed=False)
    x = b.conv(x, random_weights(6, (5, 8, 1, 1), 4, signed=True), 2.0**-4, 4)
    b.output(b.quant(x, 0.25, 8, signed=False))
    graph = b.graph()
    plan = exact(graph)
    assert len(assert_equal(plan, images(graph))) == 3


def remarks(plan: Plan) -> list[str]:
    return [
        line for part in plan.segments if isinstance(part, DeviceSegment) for line in part.remarks
    ]


def test_whole_even_steps_differ_at_ties_only() -> None:
    """ONNX rounds half to even, a staircase cannot: every second tie goes the other way."""
    weights = random_weights(7, (8, 8, 1, 1), 4, signed=True)
    b = FewBits()
    x = b.conv(b.image(), random_weights(8, (8, 3, 3, 3), 8, signed=True), 2.0**-7, 8)
    x = b.quant(x, 2.0**-2, 4, signed=False)
    scale = 2.0**-4
    x = b.node("Conv", x, b.quant(b.constant(weights * scale), scale, 4, signed=True))
    x = b.quant(b.node("Relu", x), 8 * 2.0**-6, 4, signed=False)
    x = b.conv(x, random_weights(9, (5, 8, 1, 1), 4, signed=True), 2.0**-4, 4)
    b.output(b.quant(x, 0.25, 8, signed=False))
    graph = b.graph()
    (_, entry, _), (_, found, wanted) = device_and_source(exact(graph), images(graph))
    differ = np.argwhere(found != wanted)
    assert len(differ)
    for n, y, x_, f in differ.tolist():
        taps = zip(weights[f, :, 0, 0].tolist(), entry[n, y, x_].tolist(), strict=True)
        exactly = Fraction(sum(w * code for w, code in taps), 8)
        assert exactly.denominator == 2
        assert wanted[n, y, x_, f] in (exactly - Fraction(1, 2), exactly + Fraction(1, 2))


def test_every_step_is_where_the_best_threshold_and_step_put_it() -> None:
    """Against every integer threshold and every step of a fine grid, in Python integers."""
    graph = qonnx(4)
    plan = exact(graph)
    (program,) = plan.programs
    _, layer, _ = program.layers
    assert isinstance(layer, Akida1Layer)
    _, op, _ = (op for op in graph.operations if isinstance(op, Conv2D))
    assert op.bias is not None
    bias = graph.constant(op.bias).tolist()
    step = Fraction(0.31) / (Fraction(0.25) * Fraction(0.05))
    for f in range(2):
        wanted = [-(-(k * step - step / 2) // 1) - bias[f] for k in range(1, 16)]
        assert isinstance(layer.activation, StepActivation)
        exact_step = Fraction(
            int(layer.activation.step[f]), 2 ** int(layer.activation.step_shift[f])
        )
        threshold = int(layer.threshold[f])
        found = [threshold + (k * exact_step) // 1 + 1 for k in range(15)]
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 1
        off = sum(a != b for a, b in zip(found, wanted, strict=True))
        tried = [
            sum(
                wanted[0] - 1 + shift + (k * Fraction(s, 200)) // 1 + 1 != wanted[k]
                for k in range(15)
            )
            for shift in (-1, 0, 1)
            for s in range(int(200 * step) - 60, int(200 * step) + 61)
        ]
        assert off <= min(tried)


def test_int4_and_uint4_of_onnx_need_no_calibration() -> None:
    b = OnnxBuilder(opset=ONNX_WITH_INT4, ir_version=10)

    def four(name: str, kind: int, shape: list[int], values: list[int]) -> str:
        b.constants.append(helper.make_tensor(name, kind, shape, values))
        return name

    x = b.real_input(("N", 3, 8, 8), 2.0**-6, 128)
    stem = random_weights(1, (8, 3, 3, 3), 8, signed=True)
    x = b.node("Relu", b.node("Conv", x, b.weights(stem, 2.0**-7), pads=[1] * 4))
    scale, zero = b.constant(0.25), four("zero", TensorProto.UINT4, [], [0])
    codes = b.node("QuantizeLinear", x, scale, zero)
    x = b.node("DequantizeLinear", codes, scale, zero)
    inner = random_weights(2, (6, 8, 3, 3), 4, signed=True)
    stored = four("inner", TensorProto.INT4, list(inner.shape), inner.ravel().tolist())
    weight_zero = four("weight_zero", TensorProto.INT4, [], [0])
    weights = b.node("DequantizeLinear", stored, b.constant(0.05), weight_zero)
    b.finish(b.node("Relu", b.node("Conv", x, weights, pads=[1] * 4)), 0.1, 0)
    graph = b.graph()
    assert DType.INT4 in {tensor.dtype for tensor in graph.tensors.values()}
    plan = exact(graph)
    ((_, found, wanted),) = device_and_source(plan, feeds_of(graph, SAMPLES))
    assert np.abs(found - wanted).max() <= 1
    assert (found != wanted).mean() < 0.03
    _, last = layers(plan)
    assert isinstance(last, Akida1Layer)
    np.testing.assert_array_equal(last.weights, inner.transpose(0, 2, 3, 1))


def test_weights_that_hardly_count_beside_a_bias_stay() -> None:
    """16 sums around a step, 3,001 to a code: codes n and n + 1 of a filter with bias n + 0.5."""
    b = FewBits()
    x, unit = b.stem(), WHOLE * 2.0**-16
    weights = np.eye(8, dtype=np.int64).reshape(8, 8, 1, 1)
    bias = b.constant((np.arange(1, 9) * WHOLE + WHOLE // 2 - 7) * unit)
    real = b.quant(b.constant(weights * 2.0**-3), 2.0**-3, 4, signed=True)
    x = b.quant(b.node("Relu", b.node("Conv", x, real, bias)), WHOLE * unit, 4, signed=False)
    x = b.conv(x, random_weights(3, (5, 8, 1, 1), 4, signed=True), 0.05, 4)
    b.output(b.quant(x, 0.25, 8, signed=False))
    graph = b.graph()
    plan = exact(graph)
    assert_equal(plan, images(graph))
    layer = layers(plan)[1]
    assert isinstance(layer, Akida1Layer)
    np.testing.assert_array_equal(layer.weights.reshape(8, 8), weights.reshape(8, 8))


# Averages


def averaged(*, last: bool = False) -> Graph:
    """A global average of 16 codes on a 7x7 map, 21 sums to a code: none lies in the middle."""
    b = FewBits()
    x = b.conv(b.stem(size=7), random_weights(2, (8, 8, 3, 3), 4, signed=True), 2.0**-4, 4)
    x = b.quant(x, 75 * WHOLE * 2.0**-17, 4, signed=False)
    x = b.node("GlobalAveragePool", x)
    if last:
        b.output(b.quant(x, WHOLE * 2.0**-15, 8, signed=False))
        return b.graph()
    x = b.node("Flatten", b.quant(x, 75 * WHOLE * 2.0**-17 * 3 / 7, 4, signed=False))
    dense = b.constant(random_weights(3, (8, 10), 4, signed=True) * 0.05)
    x = b.node("MatMul", x, b.quant(dense, 0.05, 4, signed=True))
    b.output(b.quant(x, 0.5, 8, signed=True))
    return b.graph()


def test_averages_of_sixteen_codes_need_no_calibration() -> None:
    """An identity convolution carries them: its potentials are the codes themselves."""
    graph = averaged()
    names = assert_equal(exact(graph), images(graph))
    assert names == ["InputConvolutional", "Convolutional", "Convolutional", "FullyConnected"]


def test_averages_that_leave_the_device_are_the_sources() -> None:
    graph = averaged(last=True)
    plan = exact(graph)
    (program,) = plan.programs
    feeds = images(graph)
    source = run_source(graph, feeds, tensors=[program.input.tensor, program.output.tensor])
    entry = encode_input(program, source[program.input.tensor])
    *_, before, carrier = program.layers
    values = run_layers(program, entry)
    total = values[before.output].sum(axis=(1, 2))
    np.testing.assert_array_equal(values[carrier.output].reshape(total.shape), total)
    found = Simulator(program).run(source[program.input.tensor])
    np.testing.assert_array_equal(found, source[program.output.tensor].reshape(found.shape))
    assert np.unique(found).size > SPREAD


def test_averages_of_tflite_need_no_calibration() -> None:
    b = GraphBuilder(53, weight_dtype=DType.INT4)
    x = b.input(9, 9, 3, scaling=(0.2, 0))
    x = b.conv2d(x, 8, activation=Activation.RELU6, scaling=SIXTEEN)
    x = b.conv2d(x, 8, activation=Activation.RELU6, scaling=SIXTEEN)
    graph = b.build(b.fully_connected(b.mean(x), 5))
    names = assert_near(exact(graph), random_inputs(graph, SAMPLES))
    assert names == ["InputConvolutional", "Convolutional", "Convolutional", "FullyConnected"]


def test_an_average_behind_a_requantization_says_why_it_is_not_kept() -> None:
    """The device sums potentials; the source has rounded them to 8 bits before."""
    b = FewBits()
    weights = random_weights(2, (8, 8, 3, 3), 4, signed=True)
    x = b.linear(b.stem(), b.quant(b.constant(weights * 0.05), 0.05, 4, signed=True), weights.shape)
    x = b.node("GlobalAveragePool", b.quant(x, 0.31, 8, signed=True))
    x = b.quant(b.node("Relu", x), 0.11, 4, signed=False)
    x = b.conv(x, random_weights(3, (5, 8, 1, 1), 4, signed=True), 0.05, 4)
    b.output(b.quant(x, 0.25, 8, signed=False))
    graph = b.graph()
    step = f"{0.31 / (WHOLE * 2.0**-13 * 0.05):.4g}"
    with pytest.raises(
        InputError, match=f"rounds or cuts them to int8, {step} to a code, in front"
    ):
        exact(graph)
    plan = compile_model(graph, "akd1000", allow_uncalibrated=True)
    assert len(plan.programs) == 1
    assert any(
        "Not kept as it is" in line and "where the device keeps" in line for line in remarks(plan)
    )


# Separable layers


def separable(low: int, high: int, *, per_code: float | None = 1.0, part: float = 0.6) -> Graph:
    """Depthwise weights of the range, part of them, and so many sums to a code behind them.

    None: what stands between the halves is not quantized.
    """
    b = FewBits()
    random = np.random.default_rng(5)
    weights = random.integers(low, high + 1, (8, 1, 3, 3)) * (random.random((8, 1, 3, 3)) < part)
    depthwise = b.quant(b.constant(weights * 2.0**-3), 2.0**-3, 4, signed=True)
    x = b.linear(b.stem(), depthwise, weights.shape, group=8)
    if per_code is not None:
        x = b.quant(x, per_code * WHOLE * 2.0**-16, 8, signed=True)
    x = b.conv(x, random_weights(9, (6, 8, 1, 1), 4, signed=True), 2.0**-4, 4)
    x = b.quant(x, 25 * WHOLE * 2.0**-20, 4, signed=False)
    x = b.conv(x, random_weights(3, (5, 6, 1, 1), 4, signed=True), 0.05, 4)
    b.output(b.quant(x, 0.25, 8, signed=False))
    return b.graph()


@pytest.mark.parametrize(
    ("low", "high", "per_code"),
    [pytest.param(-1, 1, 1.0, id="eight-bits"), pytest.param(-8, 7, None, id="not-quantized")],
)
def test_separable_layers_whose_middle_holds_the_sums_need_no_calibration(
    low: int, high: int, per_code: float | None
) -> None:
    graph = separable(low, high, per_code=per_code)
    plan = exact(graph)
    names = assert_equal(plan, images(graph))
    assert names == ["InputConvolutional", "SeparableConvolutional", "Convolutional"]
    assert "nothing is lost between them" in remarks(plan)[1]


def test_the_middle_may_hold_a_multiple_of_the_sums() -> None:
    """Biases in half potentials: some steps of the source are ties."""
    graph = separable(0, 1, per_code=0.5, part=0.3)
    names = assert_near(exact(graph), images(graph))
    assert names == ["InputConvolutional", "SeparableConvolutional", "Convolutional"]


@pytest.mark.parametrize(
    ("low", "high", "per_code"),
    [pytest.param(-8, 7, 1, id="cut"), pytest.param(-1, 1, 2, id="rounded")],
)
def test_separable_layers_with_a_requantization_say_why_they_are_not_kept(
    low: int, high: int, per_code: int
) -> None:
    graph = separable(low, high, per_code=per_code)
    reason = f"rounds or cuts them to uint8, {per_code} to a code, in front of"
    with pytest.raises(InputError, match=reason):
        exact(graph)
    (name,) = graph.inputs
    feeds = {name: np.concatenate([images(graph, seed)[name] for seed in range(6)])}
    plan = compile_model(graph, "akd1000", calibration=feeds)
    first, second = remarks(plan)
    assert reason in first
    assert "became one SeparableConvolutional: its output lies" in second


def test_a_depthwise_half_of_several_scales_says_why_it_is_not_kept() -> None:
    b = FewBits()
    weights = random_weights(7, (8, 1, 3, 3), 2, signed=True)
    scales = np.resize([2.0**-3, 2.0**-4], 8).reshape(8, 1, 1, 1)
    parameters = (b.constant(scales), b.constant(0.0), b.constant(4.0))
    real = b.node(
        "Quant", b.constant(weights * scales), *parameters, domain=QONNX, signed=1, narrow=0
    )
    x = b.quant(b.linear(b.stem(), real, weights.shape, group=8), 2.0**-3, 8, signed=True)
    x = b.conv(x, random_weights(9, (6, 8, 1, 1), 4, signed=True), 2.0**-4, 4)
    x = b.conv(
        b.quant(x, 0.1, 4, signed=False), random_weights(3, (5, 6, 1, 1), 4, signed=True), 0.05, 4
    )
    b.output(b.quant(x, 0.25, 8, signed=False))
    with pytest.raises(InputError, match=r"'conv_\d+_node' has weights of several scales, and the"):
        exact(b.graph())


# Types of 1 and 2 bits


def test_signs_need_no_calibration() -> None:
    b = FewBits()
    random = np.random.default_rng(6)
    signs = []
    x = b.stem()
    for filters, step in ((8, 9), (5, 63)):
        real = random.normal(size=(filters, 8, 3, 3))
        signs.append(np.where(real >= 0, 1, -1))
        weights = b.node("BipolarQuant", b.constant(real), b.constant(0.5), domain=QONNX)
        x = b.node("Relu", b.linear(x, weights, real.shape))
        x = b.quant(x, step * WHOLE * 2.0 ** (-14 - len(signs) // 2), 4, signed=False)
    x = b.conv(x, random_weights(3, (4, 5, 1, 1), 2, signed=True), 0.05, 2)
    b.output(b.quant(x, 0.25, 8, signed=False))
    graph = b.graph()
    plan = exact(graph)
    assert_equal(plan, images(graph))
    for layer, wanted in zip(layers(plan)[1:], signs, strict=False):
        assert isinstance(layer, Akida1Layer)
        np.testing.assert_array_equal(layer.weights, wanted.transpose(0, 2, 3, 1))


SIXTEEN = (0.4, -128)  # 6 / 0.4 = 15: a bounded ReLU uses 16 codes


def tflite(*, few_codes: bool) -> Graph:
    b = GraphBuilder(51, weight_dtype=DType.INT4)
    scaling = SIXTEEN if few_codes else None
    x = b.input(9, 9, 3, scaling=(0.2, 0))
    x = b.conv2d(x, 8, activation=Activation.RELU6, scaling=scaling)
    x = b.conv2d(x, 8, activation=Activation.RELU6, scaling=scaling)
    return b.build(b.conv2d(x, 5, kernel=1))


def test_int4_weights_and_sixteen_codes_of_tflite_need_no_calibration() -> None:
    graph = tflite(few_codes=True)
    plan = exact(graph)
    assert_near(plan, random_inputs(graph, SAMPLES))


def stored_weights(graph: Graph) -> list[AnyArray]:
    return [graph.constant(op.weights) for op in graph.operations if isinstance(op, Conv2D)]


def test_int4_weights_behind_8_bit_activations_stay_but_want_calibration() -> None:
    graph = tflite(few_codes=False)
    with pytest.raises(InputError, match="without calibration inputs"):
        exact(graph)
    for options in ({"calibration": random_inputs(graph, 32, 1)}, {"allow_uncalibrated": True}):
        plan = compile_model(graph, "akd1000", **options)
        for layer, wanted in zip(layers(plan), stored_weights(graph), strict=True):
            assert isinstance(layer, Akida1Layer)
            np.testing.assert_array_equal(layer.weights, wanted)
        notes = [n for s in plan.segments if isinstance(s, DeviceSegment) for n in s.weight_notes]
        assert notes == []


def test_the_input_of_a_segment_keeps_its_four_bits() -> None:
    graph = qonnx(4)
    first = next(op.location.name for op in graph.operations if isinstance(op, Conv2D))
    plan = compile_model(graph, "akd1000", deny=(f"name:{first}",))
    (program,) = plan.programs
    assert program.tensors[program.input.device].code == Code((0.25,), 4, signed=False)
    assert _table(program) == [min(code, 15) for code in range(256)]


def _table(program: Program) -> list[int]:
    assert program.input.recode is not None
    table: list[int] = program.input.recode.tolist()
    return table


# What a tensor can hold


def test_a_chain_of_minima_costs_its_length() -> None:
    b = GraphBuilder(54)
    x = b.conv2d(b.input(2, 2, 3), 4, activation=Activation.RELU6, scaling=SIXTEEN)
    for _ in range(64):
        x = b.minimum(x, x)
    low, high = real_reach(x, b.build(x))
    assert (low, high) == (0.0, 6.0)


def test_long_chains_of_convolutions_need_no_stack() -> None:
    b = GraphBuilder(55)
    x = b.input(1, 1, 1, scaling=(1.0, 0))
    one = np.ones((1, 1, 1, 1), np.int8)
    for _ in range(1200):
        x = b.conv2d(x, 1, kernel=1, bias=False, weights=one, scaling=(1.0, 0))
    graph = b.build(x)
    low, high = real_reach(x, graph)
    assert -1e-6 < low <= high < 1e-6  # weights of about 0.01
