# SPDX-License-Identifier: Apache-2.0
"""Models found in the wild, where this machine has them."""

from __future__ import annotations

import collections
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from akida_backend.graph import Graph, Opaque
from akida_backend.loading import load

# Operators that no operation stands for, by model.
OPAQUE = {
    "coral/coral_movenet_single_pose_lightning_ptq.tflite": {
        "DIV": 1,
        "FLOOR_DIV": 2,
        "GATHER_ND": 4,
        "SQRT": 1,
    },
    "tflm/tflm_mnist_lstm_int8.tflite": {"UNIDIRECTIONAL_SEQUENCE_LSTM": 1},
}

# Networks that mix the batch with other axes: time unrolled over axis 0, or a flattened map.
FIXED_BATCH = {
    "ai_edge_quantizer/aiedgeq_branching_conv_fc.tflite": 3,
    "arm/arm_rnnoise_int8.tflite": 1,
    "coral/coral_movenet_single_pose_lightning_ptq.tflite": 1,
    "mlonmcu/lstm2__lstm2.tflite": 1,
    "tflm/tflm_mnist_lstm_int8.tflite": 1,
}


def tflite_models(shared: Path) -> dict[str, dict[str, str]]:
    with (shared / "models" / "MANIFEST.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    return {path: row for path, row in rows.items() if path.endswith(".tflite")}


def histogram(graph: Graph) -> dict[str, int]:
    locations = [op.location for op in (*graph.operations, *graph.folded)]
    return dict(collections.Counter(location.type for location in locations))


def test_every_model_loads_with_all_its_operators(shared: Path) -> None:
    models = tflite_models(shared)
    assert len(models) >= 80
    for path, row in models.items():
        graph = load(shared / "models" / path)
        assert list(graph.problems()) == [], path
        listed = (entry.rpartition(":") for entry in row["op_histogram"].split())
        assert histogram(graph) == {kind: int(count) for kind, _, count in listed}, path
        opaque = collections.Counter(
            op.location.type for op in graph.operations if isinstance(op, Opaque)
        )
        assert dict(opaque) == OPAQUE.get(path, {}), path
        assert graph.batch == FIXED_BATCH.get(path), path


def test_every_tensor_has_the_shape_and_scale_litert_sees(shared: Path) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    for path in tflite_models(shared):
        graph = load(shared / "models" / path)
        interpreter = interpreter_module.Interpreter(str(shared / "models" / path))
        interpreter.allocate_tensors()
        details: dict[str, list[dict[str, Any]]] = {}
        for detail in interpreter.get_tensor_details():
            details.setdefault(str(detail["name"]), []).append(detail)
        for name, tensor in graph.tensors.items():
            if len(details.get(name, [])) != 1:  # names given twice are told apart by a suffix
                continue
            (detail,) = details[name]
            shape = tuple(detail["shape"])
            nominal = tuple(
                length if declared is None else declared
                for declared, length in zip(tensor.shape, shape, strict=True)
            )
            assert nominal == shape, (path, name)
            scales = detail["quantization_parameters"]["scales"]
            if tensor.quantization is not None:
                # LiteRT repeats a single scale where a kernel wants one per channel.
                scale = np.broadcast_to(tensor.quantization.scale, scales.shape)
                assert scale.tolist() == scales.tolist(), (path, name)
            elif not tensor.dtype.is_float:
                assert scales.size == 0, (path, name)


def test_shape_arithmetic_of_wake_vision_is_folded(shared: Path) -> None:
    graph = load(shared / "models" / "wake_vision" / "wakevision_mcunet-5fps_vww.tflite")
    assert [f.location.type for f in graph.folded] == ["SHAPE", "STRIDED_SLICE", "PACK"]
    assert graph.batch is None
