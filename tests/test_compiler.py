# SPDX-License-Identifier: Apache-2.0
"""Policy, rounds and rows of compilation; what layers become is tested beside their operations."""

from __future__ import annotations

import dataclasses
import logging
from unittest.mock import Mock

import numpy as np
import pytest
from compiling import compiled, layer_names, layers, reasons, row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import graphs

from akida_backend.compiler import compile as compile_model
from akida_backend.errors import FallbackError, InputError
from akida_backend.execute import Executor
from akida_backend.graph import Activation, DType, Graph
from akida_backend.plan import DeviceSegment, HostSegment
from akida_backend.program import Add, NoActivation
from akida_backend.reference import run_graph
from akida_backend.rewrites import legalise
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder, random_inputs


def _islands(*filters: int) -> Graph:
    """Convolutions with a TANH between: one segment each, of growing work."""
    b = GraphBuilder(1)
    x = b.input(6, 6, 4)
    for count in filters:
        x = b.conv2d(b.tanh(x), count, kernel=1)
    return b.build(x)


def _residual(activation: Activation = Activation.RELU) -> Graph:
    b = GraphBuilder(2)
    x = b.conv2d(b.input(8, 8, 3), 4, activation=Activation.RELU)
    y = b.add(x, b.conv2d(x, 4), activation=activation)
    return b.build(b.softmax(b.fully_connected(b.mean(y), 5)))


# Limits on segments


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_largest_segments_stay(most: int) -> None:
    graph = _islands(8, 2, 6)  # 1152, 576 and 432 multiplications
    plan = compiled(graph, max_partitions=most)
    macs = sorted(s.device_macs for s in plan.segments if isinstance(s, DeviceSegment))
    assert macs == [432, 576, 1152][3 - most :]
    for placed in plan.placement:
        if placed.type == "CONV_2D" and not placed.on_device:
            (reason,) = placed.reasons
            assert reason.code == "POLICY-MAX-PARTITIONS"
            assert str(most) in reason.rule


@pytest.mark.parametrize(("least", "left"), [(0, 3), (433, 2), (577, 1), (1152, 1), (1153, 0)])
def test_small_segments_go_to_the_host(least: int, left: int) -> None:
    plan = compiled(_islands(8, 2, 6), min_partition_macs=least)
    assert len(plan.programs) == left


def test_both_limits_hold_together() -> None:
    plan = compiled(_islands(8, 2, 6), min_partition_macs=500, max_partitions=1)
    (program,) = plan.programs
    assert program.output.tensor == "conv"
    found = {p.name: [r.code for r in p.reasons] for p in plan.placement if p.type == "CONV_2D"}
    assert found == {
        "conv": [],
        "conv.1": ["POLICY-MAX-PARTITIONS"],
        "conv.2": ["POLICY-MIN-MACS"],
    } or found == {
        "conv": [],
        "conv.1": ["POLICY-MIN-MACS"],
        "conv.2": ["POLICY-MAX-PARTITIONS"],
    }


# Lists


def test_a_denied_type_splits_the_network() -> None:
    plan = compiled(_residual(), deny=("type:ADD",))
    assert "Add" not in layer_names(plan)
    assert reasons(plan, 2) == {"POLICY-DENIED": "denied by 'type:ADD'"}
    assert len(plan.programs) == 2 + 1
    assert plan.macs_on_device == plan.macs


def test_a_denied_name_keeps_one_operator_back() -> None:
    plan = compiled(_residual(), deny="name:conv.1")
    assert next(placed.name for placed in plan.placement if not placed.on_device) == "conv.1"
    assert set(reasons(plan, 2)) == {"V2-GRAPH-BRANCHES"}


def test_an_allowed_type_takes_nothing_else_along() -> None:
    plan = compiled(_residual(), allow="type:CONV_2D,type:ADD")
    assert layer_names(plan) == ["InputConv2D", "Conv2D", "Add"]
    assert reasons(plan, 3)["POLICY-NOT-ALLOWED"] == "in no allow entry"


def test_deny_wins_over_allow() -> None:
    plan = compiled(_residual(), allow=("type:CONV_2D",), deny=("name:conv",))
    assert reasons(plan, 0) == {"POLICY-DENIED": "denied by 'name:conv'"}
    assert row(plan, 1).on_device


@pytest.mark.parametrize("option", ["allow", "deny"])
def test_entries_that_name_no_operator_are_refused(option: str) -> None:
    with pytest.raises(InputError, match=r"operator type in allow .* did you mean 'CONV_2D'"):
        compile_model(_residual(), **{option: ("type:CONV2D",)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown operator number in allow or deny '99'"):
        compile_model(_residual(), **{option: "op:99"})


def test_a_denied_number_keeps_one_operator_back() -> None:
    plan = compiled(_residual(), deny="op:1")
    assert reasons(plan, 1) == {"POLICY-DENIED": "denied by 'op:1'"}
    assert row(plan, 0).on_device


def test_a_shortened_name_is_refused_with_the_numbers_it_stands_for() -> None:
    b = GraphBuilder(0)
    graph = b.build(b.tanh(b.tanh(b.input(3))))
    operations = tuple(
        dataclasses.replace(op, location=dataclasses.replace(op.location, name=f"{folder}/tanh"))
        for op, folder in zip(graph.operations, "ab", strict=True)
    )
    graph = dataclasses.replace(graph, operations=operations)
    with pytest.raises(InputError, match=r"shortened name\n.*number of the operator: op:0, op:1$"):
        compile_model(graph, deny="name:tanh")


# Strictness


def test_strict_hardware_relies_on_no_activation_of_add() -> None:
    plan = compiled(_residual(), strict_hardware=True)
    (add,) = (layer for layer in layers(plan) if isinstance(layer, Add))
    assert isinstance(add.activation, NoActivation)
    assert layer_names(plan) == ["InputConv2D", "Conv2D", "Add", "Conv2D", "Dense1D"]
    assert row(plan, 2).rewrites[0] == "relu-after-add"
    (segment,) = (s for s in plan.segments if isinstance(s, DeviceSegment))
    assert segment.assumptions == ()


def test_without_it_the_assumption_is_named() -> None:
    plan = compiled(_residual())
    (segment,) = (s for s in plan.segments if isinstance(s, DeviceSegment))
    (assumption,) = segment.assumptions
    assert "Add" in assumption


# Fallback


def test_error_names_every_operator_and_reason() -> None:
    with pytest.raises(FallbackError) as error:
        compile_model(_islands(4, 4), fallback="error")
    message = str(error.value)
    assert message.count("TANH") >= 2
    assert "OP-NO-LAYER" in message


def test_error_lets_a_softmax_at_the_output_stay_and_strict_does_not() -> None:
    assert compiled(_residual(), fallback="error").programs
    with pytest.raises(FallbackError, match="SOFTMAX"):
        compile_model(_residual(), fallback="strict")


def test_warn_prints_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "akida_backend"):
        compiled(_islands(4, 4), fallback="warn")
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "TANH" in record.getMessage()


# Devices and models


@pytest.mark.parametrize("name", ["akida2", "AKIDA2", "Akida2"])
def test_names_of_devices_ignore_case(name: str) -> None:
    assert compile_model(_residual(), device=name).device.name == "akida2"


def test_an_unknown_device_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'akida2'"):
        compile_model(_residual(), device="akida2x")


def test_the_first_generation_needs_calibration_inputs() -> None:
    with pytest.raises(InputError, match=r"'akd1000' has 4-bit weights .*\n.* allow_uncalibrated"):
        compile_model(_residual(), device="akd1000")
    plan = compile_model(_residual(), device="akd1000", allow_uncalibrated=True)
    assert {program.generation for program in plan.programs} == {1}


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'max_partitions'"):
        compile_model(_residual(), max_partition=1)


def test_compiles_bytes_as_well_as_graphs() -> None:
    graph = _residual()
    plan = compile_model(write_tflite(graph))
    assert [placed.on_device for placed in plan.placement] == [
        placed.on_device for placed in compiled(graph).placement
    ]


# Rows and segments


def test_rows_count_the_sources_work_and_the_devices() -> None:
    b = GraphBuilder(2)
    x = b.conv2d(b.input(8, 8, 4, scaling=(0.02, 0)), 4, kernel=1)
    x = b.conv2d(x, 6, kernel=2)  # becomes 3x3
    graph = b.build(b.tanh(x))
    plan = compiled(graph)
    first, second, host = plan.placement
    assert (first.macs, first.device_macs) == (8 * 8 * 4 * 4, 8 * 8 * 4 * 4)
    assert (second.macs, second.device_macs) == (8 * 8 * 6 * 4 * 4, 8 * 8 * 6 * 4 * 9)
    assert (host.macs, host.device_macs) == (0, 0)
    device, tail = plan.segments
    assert isinstance(device, DeviceSegment)
    assert isinstance(tail, HostSegment)
    assert device.source_macs == plan.macs == plan.macs_on_device
    assert device.device_macs == first.device_macs + second.device_macs


def test_fused_operators_share_the_layer() -> None:
    b = GraphBuilder(2)
    x = b.max_pool(b.relu(b.conv2d(b.input(8, 8, 4), 4)))
    plan = compiled(b.build(b.conv2d(x, 4)))
    assert [placed.layer for placed in plan.placement] == ["Conv2D"] * 4
    assert [placed.segment for placed in plan.placement] == [0] * 4
    assert len(layers(plan)) == 2


def test_a_lowering_that_refuses_leaves_its_operator_as_it_was_written() -> None:
    """The kernel grows to 7x7 in a rewrite, then the accumulator's proof fails."""
    b = GraphBuilder(2)
    x = b.conv2d(b.input(8, 8, 4), 240, kernel=1)
    x = b.conv2d(x, 3, kernel=6, bias=False, weights=b.random.integers(120, 128, (3, 6, 6, 240)))
    graph = b.build(x)
    plan = compiled(graph)
    assert row(plan, 0).on_device
    assert row(plan, 1).rewrites == ()
    assert "LOWER-ACCUMULATOR" in reasons(plan, 1)
    (host,) = (s for s in plan.segments if isinstance(s, HostSegment))
    assert host.operations[0] is graph.operations[1]


def test_refusals_of_one_segment_take_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    b = GraphBuilder(2)
    x = b.input(4, 4, 4)
    for _ in range(20):
        x = b.conv2d(x, 4, kernel=1)
    for name in [name for name in b.tensors if "bias" in name][1::2]:
        huge = np.full(4, 2**31 - 1, np.int32)
        b.tensors[name] = dataclasses.replace(b.tensors[name], data=huge)
    legalised = Mock(wraps=legalise)
    monkeypatch.setattr("akida_backend.compiler.legalise", legalised)
    plan = compiled(b.build(x))
    assert [placed.on_device for placed in plan.placement] == [True, False] * 10
    assert all("LOWER-ACCUMULATOR" in reasons(plan, i) for i in range(1, 20, 2))
    assert legalised.call_count == 2


def test_a_float_network_stays_as_it_is() -> None:
    b = GraphBuilder(2)
    b.conv2d(b.input(49, 10, 1), 4, kernel=(10, 4), stride=2)
    (name,) = b.inputs
    for tensor in (name, "conv"):
        b.tensors[tensor] = dataclasses.replace(
            b.tensors[tensor], dtype=DType.FLOAT32, quantization=None
        )
    graph = b.build()
    plan = compiled(graph)
    assert reasons(plan, 0) == {"GRAPH-NOT-QUANTIZED": f"'{name}' is float32"}
    assert row(plan, 0).rewrites == ()
    assert plan.legalised.operations == graph.operations


def test_integers_between_float_inputs_and_outputs_run_on_the_device() -> None:
    b = GraphBuilder(2)
    x = b.quantize(b.input(8, 8, 3, dtype=DType.FLOAT32))
    graph = b.build(b.dequantize(b.conv2d(x, 4)))
    plan = compiled(graph)
    assert [placed.on_device for placed in plan.placement] == [False, True, False]
    feeds = random_inputs(graph, 2)
    found, expected = Executor(plan).run(feeds).values, run_graph(graph, feeds)
    (name,) = graph.outputs
    step = graph.tensors["conv"].quantization
    assert step is not None
    assert abs(found[name].astype(float) - expected[name]).max() <= 4 * step.single_scale


# Scales no sane network has


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(graphs(most_operations=6), st.sampled_from([1, 4, 12, 30]), st.integers(0, 999))
def test_extreme_scales_are_lowered_or_refused(graph: Graph, span: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    tensors = dict(graph.tensors)
    for name, tensor in graph.tensors.items():
        scales = tensor.quantization
        if scales is not None and tensor.dtype in (DType.INT8, DType.UINT8):
            factor = np.exp2(random.uniform(-span, span, scales.scale.shape))
            wild = dataclasses.replace(scales, scale=(scales.scale * factor).astype(np.float32))
            tensors[name] = dataclasses.replace(tensor, quantization=wild)
    plan = compiled(dataclasses.replace(graph, tensors=tensors))
    assert all(placed.on_device or placed.reasons for placed in plan.placement)


@pytest.mark.parametrize(
    ("scale", "code"),
    [
        pytest.param(1e12, "V2-CNV-DOWNSCALE", id="a sum that vanishes"),
        pytest.param(1e-9, "LOWER-POST-OP", id="a sum that overflows"),
    ],
)
def test_a_sum_on_an_impossible_scale_stays_on_the_host(scale: float, code: str) -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(4, 4, 4), 4)
    y = b.add(x, b.conv2d(x, 4), scaling=(scale, 0))
    plan = compiled(b.build(y))
    assert set(reasons(plan, 2)) == {code}


def test_a_sum_with_a_map_of_zeros_has_a_scale() -> None:
    """The highest code stands for zero, and ReLU leaves nothing below."""
    b = GraphBuilder(3)
    x = b.input(6, 6, 4)
    zeros = b.conv2d(x, 4, activation=Activation.RELU, scaling=(0.1, 127))
    graph = b.build(b.add(zeros, b.conv2d(x, 4)))
    plan = compiled(graph)
    feeds = random_inputs(graph, 2)
    assert Executor(plan).run(feeds).values.keys() == set(graph.outputs)
