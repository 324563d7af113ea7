# SPDX-License-Identifier: Apache-2.0
"""One network, one program: TFLite, QDQ and QOperator twins compile to the same bytes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import networks
import numpy as np
import onnx_twins
import pytest

from akida_backend.compiler import compile as compile_model
from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    Activation,
    Arithmetic,
    DType,
    Graph,
    Opaque,
    Pads,
    TransposeConv2D,
)
from akida_backend.loading import load
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.program import Program
from akida_backend.program_format import program_to_bytes
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from write_twins import FORMS, main, twin, with_sayable_borders

CODES = pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8], ids=lambda t: t.value)
FAMOUS = (
    "mlperf_tiny/mlperf_kws_ref_int8.tflite",
    "mlperf_tiny/mlperf_resnet8_int8.tflite",
    "mlperf_tiny/mlperf_ad01_int8.tflite",
    "wake_vision/wakevision_k_2_c_3.tflite",
    "mlonmcu/micro_kws_m_quantized__micro_kws_m_static_qdq.onnx",
    "mlonmcu/micro_kws_m_quantized__micro_kws_m_static_qoperator.onnx",
    "onnxruntime/conv.int4_weights.qdq.onnx",
)


def programs_of(graph: Graph) -> tuple[Program, ...]:
    return compile_model(graph, "akida2").programs


def program_bytes(graph: Graph) -> list[bytes]:
    return [program_to_bytes(program) for program in programs_of(graph)]


def twins(graph: Graph) -> dict[str, Graph]:
    """The graph written in each form and read again."""
    return {form: load(twin(graph, form), name=f"twin.{form}") for form in FORMS}


def residual(dtype: DType) -> Graph:
    return networks.classifier(dtype=dtype)


def pooled(dtype: DType) -> Graph:
    """Depthwise stem of one channel, pools, a global mean, dense layers on maps."""
    b = GraphBuilder(2, dtype=dtype)
    x = b.depthwise(b.input(16, 16, 1), multiplier=8, activation=Activation.RELU6)
    x = b.max_pool(x, window=2)
    x = b.conv2d(x, 12, kernel=3, stride=2, activation=Activation.RELU)
    y = b.fully_connected(b.mean(b.conv2d(x, 16, kernel=1)), 7)
    return b.build(y, b.softmax(b.fully_connected(x, 5)))


def bordered(dtype: DType) -> Graph:
    """Pads that TFLite has no padding for, and a map as output."""
    b = GraphBuilder(6, dtype=dtype)
    x = b.conv2d(b.input(8, 8, 3), 8, stride=2, padding=Pads(1, 1, 1, 1))
    x = b.pad_image(x, Pads(1, 1, 1, 1))
    return b.build(b.conv2d(x, 4, padding="valid"))


def joined(dtype: DType) -> Graph:
    b = GraphBuilder(8, dtype=dtype)
    x = b.conv2d(b.input(8, 8, 4), 8)
    y = b.concatenation(x, b.max_pool(x, window=3, stride=1, padding="same"), axis=3)
    return b.build(b.fully_connected(b.flatten(b.conv2d(y, 4, kernel=1)), 3))


NETWORKS = [residual, pooled, bordered, joined]


@CODES
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_twins_compile_to_the_same_bytes(network: onnx_twins.Network, dtype: DType) -> None:
    graph = with_sayable_borders(network(dtype))
    expected = program_bytes(graph)
    assert expected
    for form, read in twins(graph).items():
        assert program_bytes(read) == expected, form
        assert (read.inputs, read.outputs) == (graph.inputs, graph.outputs)


@CODES
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_twins_compute_the_same_in_one_arithmetic(
    network: onnx_twins.Network, dtype: DType
) -> None:
    graph = dataclasses.replace(with_sayable_borders(network(dtype)), arithmetic=Arithmetic.ONNX)
    feeds = random_inputs(graph, 4)
    expected = run_graph(graph, feeds)
    for read in twins(graph).values():
        found = run_graph(dataclasses.replace(read, arithmetic=Arithmetic.ONNX), feeds)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("form", list(OnnxForm), ids=lambda form: form.value)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_channels_first_interfaces_change_only_the_names_at_the_boundary(
    network: onnx_twins.Network, form: OnnxForm
) -> None:
    graph = with_sayable_borders(network(DType.INT8))
    content = write_onnx(graph, form, interface=Interface.CHANNELS_FIRST)
    read = load(content)
    assert read.tensors[read.inputs[0]].shape[1] == graph.tensors[graph.inputs[0]].shape[3]
    for program, other in zip(programs_of(graph), programs_of(read), strict=True):
        assert program_to_bytes(nameless(program)) == program_to_bytes(nameless(other))


def nameless(program: Program) -> Program:
    """A program whose tensors and layers are numbered."""
    order = [program.input.device, *(layer.output for layer in program.layers)]
    names = {name: f"tensor{number}" for number, name in enumerate(order)}
    return dataclasses.replace(
        program,
        tensors={
            names[name]: dataclasses.replace(tensor, name=names[name])
            for name, tensor in program.tensors.items()
        },
        layers=tuple(
            dataclasses.replace(
                layer,
                name=names[layer.output],
                inputs=tuple(names[name] for name in layer.inputs),
                output=names[layer.output],
            )
            for layer in program.layers
        ),
        input=dataclasses.replace(
            program.input, tensor="input", device=names[program.input.device]
        ),
        output=dataclasses.replace(
            program.output, tensor="output", device=names[program.output.device]
        ),
    )


@pytest.mark.parametrize("model", FAMOUS)
def test_real_models_have_twins_of_the_same_bytes(shared: Path, model: str) -> None:
    assert_same_programs(with_sayable_borders(load(shared / "models" / model)))


@pytest.mark.full
def test_all_real_models_have_twins_of_the_same_bytes(shared: Path) -> None:
    """Those that load, and whose operators all have meaning."""
    compared = 0
    for model in sorted((shared / "models").rglob("*")):
        if model.suffix not in (".tflite", ".onnx"):
            continue
        try:
            graph = with_sayable_borders(load(model))
        except ImportModelError:
            continue
        kinds = {t.dtype for t in graph.tensors.values()}
        if any(isinstance(op, Opaque) for op in graph.operations) or DType.UINT16 in kinds:
            continue
        assert_same_programs(graph)
        compared += 1
    assert compared >= 90


def assert_same_programs(graph: Graph) -> None:
    tflite, *others = (program_bytes(read) for read in twins(graph).values())
    for other in others:
        assert other == tflite, graph.name


@pytest.mark.full
def test_onnxruntime_computes_twins_of_real_models_as_the_reference_does(shared: Path) -> None:
    """QOperator form, bit for bit, except for what has only a float kernel there."""
    compared = 0
    for model in sorted((shared / "models").rglob("*.tflite")):
        graph = dataclasses.replace(load(model), arithmetic=Arithmetic.ONNX)
        floats = any(t.dtype.is_float for t in graph.tensors.values())
        unsayable = any(isinstance(op, Opaque | TransposeConv2D) for op in graph.operations)
        if floats or unsayable:
            continue
        feeds = random_inputs(graph, graph.batch or 2)
        expected = run_graph(graph, feeds)
        found = onnx_twins.through_onnxruntime(write_onnx(graph, OnnxForm.QOPERATOR), feeds)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=str(model))
        compared += 1
    assert compared >= 45


def test_the_command_writes_three_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "small.tflite"
    model.write_bytes(twin(residual(DType.INT8), "tflite"))
    assert main([str(model), "-o", str(tmp_path / "out")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = [path.name for path in written]
    assert names == ["small.tflite", "small.qdq.onnx", "small.qoperator.onnx"]
    assert {len(program_bytes(load(path))) for path in written} == {1}


def test_a_twin_does_not_replace_its_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(twin(residual(DType.INT8), "tflite"))
    before = model.read_bytes()
    assert main([str(model), "-o", str(tmp_path), "--interface", "nchw"]) == 2
    assert "itself, which would be lost" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [model]
    assert model.read_bytes() == before


def test_the_command_refuses_and_names_the_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "absolute.tflite"
    model.write_bytes(networks.absolute_file())
    assert main([str(model), "-o", str(tmp_path / "out"), "--form", "qdq"]) == 2
    assert "op 0 ABS 'magnitude': has no ONNX form here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
