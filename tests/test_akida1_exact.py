# SPDX-License-Identifier: Apache-2.0
"""Sources of at most four bits on Akida 1.0: the same integers without calibration inputs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from compiling import layers
from onnx import TensorProto, helper
from onnx_models import OnnxBuilder, feeds_of

from akida_backend.akida_arithmetic import Integers
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import InputError
from akida_backend.execute import run_source
from akida_backend.graph import Activation, AnyArray, Conv2D, DType, Graph
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.program import Akida1Layer, Code, Program, StepActivation
from akida_backend.program_check import check_program
from akida_backend.simulator import encode_input, run_layers
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

    def image(self, scale: float = 2.0**-6) -> str:
        return self.quant(self.input(("N", 3, 8, 8)), scale, 8, signed=False)

    def conv(
        self, x: str, weights: Integers, scale: float, bits: int, *, signed: bool = True
    ) -> str:
        filters, _, kernel, _ = weights.shape
        real = self.quant(self.constant(weights * scale), scale, bits, signed=signed)
        bias = self.constant(np.random.default_rng(filters).uniform(-1, 1, filters))
        return self.node("Relu", self.node("Conv", x, real, bias, pads=[kernel // 2] * 4))


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
    return {graph.inputs[0]: random.uniform(0, 4, (SAMPLES, 3, 8, 8)).astype(np.float32)}


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
    for _, found, wanted in device_and_source(plan, images(graph)):
        assert np.abs(found - wanted).max() <= 1
        assert (found != wanted).mean() < 0.03
        assert np.unique(wanted).size > SPREAD


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
    plan = exact(graph)
    names = ["InputConvolutional", "Convolutional", "FullyConnected", "FullyConnected"]
    assert [type(layer).__name__ for layer in layers(plan)] == names
    for _, found, wanted in device_and_source(plan, images(graph)):
        codes = wanted.reshape(found.shape)
        assert np.abs(found - codes).max() <= 1
        assert (found != codes).mean() < 0.03
        assert np.unique(codes).size > SPREAD


WHOLE = 3001  # potentials of the image layer per code


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
    pairs = device_and_source(plan, images(graph))
    assert len(pairs) == 2
    for _, found, wanted in pairs:
        np.testing.assert_array_equal(found, wanted)
        assert np.unique(wanted).size > SPREAD
    assert " 0 lie a potential off" in remarks(plan)[0]


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
    for _, found, wanted in device_and_source(plan, random_inputs(graph, SAMPLES)):
        assert np.abs(found - wanted).max() <= 1
        assert (found != wanted).mean() < 0.03
        assert np.unique(wanted).size > SPREAD


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
