# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile ONNX files cost little and give one clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import OnnxBuilder

ROOT = Path(__file__).parents[2]
SECONDS = 5.0
MEGABYTES = 2500


def network() -> bytes:
    """Most kinds of nodes and constants in one file."""
    random = np.random.default_rng(0)
    b = OnnxBuilder()
    x = b.real_input((1, 4, 8, 8), 0.5, 3)
    weights = b.weights(random.integers(-9, 9, (4, 4, 3, 3)), [0.1] * 4, axis=0)
    bias = b.weights(random.integers(-9, 9, 4), [0.05] * 4, axis=0, dtype=np.int32)
    real = b.node("Relu", b.node("Conv", x, weights, bias, pads=[1, 1, 1, 1]))
    y = b.dequantize(b.quantize(real, 0.25, 0), 0.25, 0)
    z = b.dequantize(b.quantize(b.node("Add", y, x), 0.5, 1), 0.5, 1)
    pooled = b.node("MaxPool", z, kernel_shape=[2, 2], strides=[2, 2])
    shape = b.node("Concat", b.constant([-1], np.int64), b.constant([64], np.int64), axis=0)
    flat = b.node("Reshape", pooled, shape)
    odd = b.node("Erf", b.node("Gemm", flat, b.weights(random.integers(-9, 9, (64, 5)), 0.1)))
    b.finish(b.node("Softmax", b.dequantize(b.quantize(odd, 0.1), 0.1)), 1 / 256, 0)
    return b.content()


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "fuzz_import.py", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("count", "options"),
    [
        pytest.param(300, ["--load-only"], id="loaded"),
        pytest.param(100, [], id="run"),
        pytest.param(3_000, [], id="many", marks=pytest.mark.full),
    ],
)
def test_random_damage_is_refused_or_does_no_harm(
    tmp_path: Path, count: int, options: list[str]
) -> None:
    model = tmp_path / "network.onnx"
    model.write_bytes(network())
    done = fuzz(str(model), "--count", str(count), "--seconds", str(SECONDS), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout
    assert (" loaded" if options else " ran") in done.stdout
    assert "wrong" not in done.stdout


@pytest.mark.full
def test_random_damage_of_real_models_is_loaded_or_refused(shared: Path) -> None:
    models = sorted((shared / "models").rglob("*.onnx"))
    done = fuzz(*map(str, models), "--count", "100", "--load-only", "--seconds", str(SECONDS))
    assert done.returncode == 0, done.stdout + done.stderr


# Files made to be slow or large


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def many_nodes() -> bytes:
    """Two bytes each in the file, a hundred and more in memory."""
    return b"\x08\x08" + field(7, field(1, b"") * 2**22)


def many_attributes() -> bytes:
    return b"\x08\x08" + field(7, field(1, field(5, b"") * 2**21))


def many_integers() -> bytes:
    """One byte each in the file, eight in memory."""
    return b"\x08\x08" + field(7, field(5, field(7, bytes(2**26 + 2**20))))


def deep() -> bytes:
    content = b""
    for _ in range(500):
        content = field(1, field(5, field(6, content)))
    return b"\x08\x08" + field(7, content)


def chain(count: int, build: Callable[[int, str], onnx.NodeProto], shape: list[int]) -> bytes:
    nodes = [build(i, "x" if i == 0 else f"y{i - 1}") for i in range(count)]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape if name == "x" else None)
        for name in ("x", f"y{count - 1}")
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [2], [2, 2]))
    graph.initializer.append(
        helper.make_tensor("pads", TensorProto.INT64, [4], [0, 0, 2**30, 2**30])
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def growing_pads() -> bytes:
    return chain(200, lambda i, x: helper.make_node("Pad", [x, "pads"], [f"y{i}"]), [1, 1])


def doubling_constants() -> bytes:
    """Each node makes a constant four times as large, which import would evaluate."""
    nodes = [
        helper.make_node("Tile", ["c" if i == 0 else f"c{i - 1}", "two"], [f"c{i}"])
        for i in range(40)
    ]
    nodes.append(helper.make_node("Add", ["x", "c39"], ["y"]))
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [2], [2, 2]))
    graph.initializer.append(helper.make_tensor("c", TensorProto.FLOAT, [1, 1], [1.0]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def huge_constant_of_shape() -> bytes:
    node = helper.make_node("ConstantOfShape", ["two"], ["c"])
    add = helper.make_node("Add", ["x", "c"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in ("x", "y")]
    graph = helper.make_graph([node, add], "g", values[:1], values[1:])
    graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [2], [2**30, 2**30]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def declared_two_gigabytes() -> bytes:
    b = OnnxBuilder()
    x = b.real_input((1, 2, 4, 4))
    b.finish(b.node("Conv", x, b.weights(np.ones((3, 2, 1, 1)), 0.5)))
    model = b.model()
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.dims[0] = 2**30
    return bytes(model.SerializeToString())


def functions(count: int, calls: Callable[[int], list[int]]) -> bytes:
    """Local functions in a row that call others, by their numbers."""
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]

    def body(number: int) -> list[onnx.NodeProto]:
        called = calls(number)
        names = ["a", *(f"t{i}" for i in range(len(called)))]
        nodes = [
            helper.make_node(f"f{other}", [names[i]], [names[i + 1]], domain="local")
            for i, other in enumerate(called)
        ]
        return [*nodes, helper.make_node("Erf", [names[-1]], ["b"])]

    made = [
        helper.make_function("local", f"f{i}", ["a"], ["b"], body(i), domains) for i in range(count)
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    call = helper.make_node(f"f{count - 1}", ["x"], ["y"], domain="local")
    graph = helper.make_graph([call], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=domains, functions=made, ir_version=8)
    return bytes(model.SerializeToString())


def doubling_functions() -> bytes:
    return functions(60, lambda i: [i - 1, i - 1] if i else [])


def recursive_function() -> bytes:
    return functions(2, lambda i: [1 - i])


def nested_functions() -> bytes:
    """As many as there may be nodes: 13 steps of doubling make 16383."""
    return functions(13, lambda i: [i - 1, i - 1] if i else [])


def long_chain() -> bytes:
    """Many nodes, each with a result that inference has to find."""
    return chain(1000, lambda i, x: helper.make_node("Erf", [x], [f"y{i}"]), [1, 4])


def many_inputs() -> bytes:
    """Each gets its scale from the DequantizeLinear behind a Flatten of its own."""
    b = OnnxBuilder()
    scales = b.scales(0.5, 0, np.int8)
    for number in range(3000):
        x = b.node("Flatten", b.input((1, 4), np.int8, f"x{number}"))
        b.output(b.node("DequantizeLinear", x, *scales))
    return b.content()


def long_tail() -> bytes:
    """Clamps that are never quantized, behind something that is."""
    b = OnnxBuilder()
    x = b.real_input((1, 4))
    for _ in range(1000):
        x = b.node("Relu", x)
    b.output(x)
    return b.content()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many-nodes": many_nodes,
    "many-attributes": many_attributes,
    "many-integers": many_integers,
    "deep": deep,
    "growing-pads": growing_pads,
    "doubling-constants": doubling_constants,
    "huge-constant-of-shape": huge_constant_of_shape,
    "declared-two-gigabytes": declared_two_gigabytes,
    "doubling-functions": doubling_functions,
    "recursive-function": recursive_function,
    "nested-functions": nested_functions,
    "long-chain": long_chain,
    "many-inputs": many_inputs,
    "long-tail": long_tail,
}
SOUND = {"nested-functions": 2**13 - 1, "long-chain": 1000, "many-inputs": 6000, "long-tail": 1001}

PROGRAM = f"""
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, ({MEGABYTES} * 10**6, {MEGABYTES} * 10**6))
from akida_backend.errors import ImportModelError
from akida_backend.loading import load
for path in sys.argv[1:]:
    start = time.process_time()  # other work on the machine is not the importer's
    try:
        result = len(load(path).operations)
    except ImportModelError as error:
        result = str(error)
    print(json.dumps([result, time.process_time() - start]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | int, float]]:
    """Number of operations or message, and seconds, of each hostile file."""
    if sys.platform == "win32":
        pytest.skip("the resource module is for Unix")
    folder = tmp_path_factory.mktemp("hostile")
    for name, make in HOSTILE.items():
        (folder / f"{name}.onnx").write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(folder / f"{name}.onnx" for name in HOSTILE)],
        # More threads of the numeric libraries would count against the address space.
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_cost_little(name: str, loaded: dict[str, tuple[str | int, float]]) -> None:
    result, seconds = loaded[name]
    assert seconds < SECONDS
    if name in SOUND:
        assert result == SOUND[name]
    else:
        assert "\n  " in str(result), "refused with a remedy"
