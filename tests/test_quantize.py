# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import venv
from pathlib import Path

import networks
import numpy as np
import pytest
from onnx_models import OnnxBuilder

import akida_backend
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import InputError
from akida_backend.graph import DType
from akida_backend.quantize import quantize
from akida_backend.report import quantization_kind
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

ROOT = Path(akida_backend.__file__).parents[1]


def test_a_model_that_is_not_float_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(write_tflite(networks.classifier()))
    with pytest.raises(InputError, match=r"input 'image' is int8, not float32"):
        quantize(tmp_path / "model.tflite", tmp_path / "none.npz")


def test_without_the_package_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    b = GraphBuilder(0)
    graph = b.build(b.quantize(b.input(4, dtype=DType.FLOAT32)))
    (tmp_path / "model.tflite").write_bytes(write_tflite(graph))
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match="pip install ai-edge-quantizer"):
        quantize(tmp_path / "model.tflite", tmp_path / "x.npy")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_float_onnx_model_becomes_an_int8_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    b = OnnxBuilder()
    weights = b.constant(np.random.default_rng(0).normal(size=(4, 3, 3, 3)))
    name = b.input(["N", 3, 6, 6])
    b.output(b.node("Relu", b.node("Conv", name, weights)))
    path = tmp_path / "model.onnx"
    path.write_bytes(b.model().SerializeToString())
    x = np.random.default_rng(1).normal(size=(20, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    plan = compile_model(quantize(path, tmp_path / "x.npz"))
    assert quantization_kind(plan) == "INT8"
    (program,) = plan.programs
    assert [type(layer).__name__ for layer in program.layers] == ["InputConv2D"]


@pytest.mark.full
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mlperf_tiny/mlperf_resnet8_float.tflite", id="without-signature"),
        pytest.param("ai_edge_quantizer/aiedgeq_conv_fc_mnist.tflite", id="with-signature"),
    ],
)
def test_the_printed_commands_make_an_int8_model(shared: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(shared / "models" / name, tmp_path / "my model.tflite")
    plan = compile_model(tmp_path / "my model.tflite")
    shape = [length or 1 for length in plan.graph.tensors[plan.graph.inputs[0]].shape]
    samples = np.random.default_rng(0).uniform(0, 1, (16, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=samples)
    commands = [line.strip() for line in plan.report().splitlines() if line.startswith("    ")][:2]
    assert commands[0].startswith("pip install ")

    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def run(command: str) -> str:
        return subprocess.run(
            shlex.split(command),
            env=environment,
            cwd=tmp_path,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    run(f"pip install -q {shlex.quote(str(ROOT))}")
    for command in commands:
        run(command.replace("SAMPLES", "samples.npz"))
    made = json.loads(run("akida-backend inspect model_int8.tflite --json -"))
    assert made["model"]["inputs"][0]["type"] == "int8"
    assert made["summary"]["mac_fraction_on_device"] > 0.5
