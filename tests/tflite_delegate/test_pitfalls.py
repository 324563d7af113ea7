# SPDX-License-Identifier: Apache-2.0
"""What is known to go wrong with delegates: each of these once cost somebody a day."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_tflite
import networks
import numpy as np
import pytest
from fake_tflite import FakeRuntime
from interpreters import Runtime, equal, kernels, random_feeds, run
from tflite import BuiltinOperator, TensorType
from turns import turns_during

import akida_backend as ab
from akida_backend.graph import Activation, AnyArray, Arithmetic, Graph
from akida_backend.program_format import program_to_bytes
from akida_backend.simulator import Simulator
from akida_backend.tflite_records import (
    CUSTOM,
    PROGRAM_OPERATOR,
    FileRecord,
    OperatorRecord,
    TensorRecord,
)
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

ROOT = Path(__file__).parents[2]


def convolution() -> Graph:
    b = GraphBuilder(1)
    return b.build(b.conv2d(b.input(6, 6, 4), 8, activation=Activation.RELU))


def one_of_the_chain() -> bytes:
    """A model whose output fits its own input."""
    b = GraphBuilder(2)
    return write_tflite(b.build(b.conv2d(b.input(4, 4, 2), 2, activation=Activation.RELU)))


def chain_program() -> bytes:
    (program,) = ab.compile(one_of_the_chain()).programs
    return program_to_bytes(program)


def delegate_of(runtime_library: str) -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(runtime_library)
    library.tflite_plugin_create_delegate.restype = ctypes.c_void_p
    library.tflite_plugin_destroy_delegate.argtypes = [ctypes.c_void_p]
    pointer: int = library.tflite_plugin_create_delegate(None, None, 0, None)
    return library, pointer


# 1. The interpreter lock


def test_inference_does_not_hold_the_interpreter_lock(runtime: Runtime) -> None:
    b = GraphBuilder(7)
    x = b.input(48, 48, 16)
    for _ in range(4):
        x = b.conv2d(x, 16, activation=Activation.RELU)
    interpreter = runtime.interpreter(write_tflite(b.build(x)), ab.tflite.load_delegate())
    run(interpreter, random_feeds(interpreter, 64))
    assert max(turns_during(interpreter.invoke) for _ in range(4)) >= 4


# 2. report_error lives only while a delegate is made


def test_errors_after_creation_go_to_the_interpreter(runtime: Runtime, library: str) -> None:
    delegate = runtime.module.load_delegate(library, {"fallback": "strict"})
    gc.collect()  # the callback of creation is gone
    with pytest.raises(RuntimeError, match="fallback 'strict' wants no operation on the host"):
        runtime.interpreter(write_tflite(networks.interrupted()), delegate)


# 3. A library that is not there


def test_a_missing_library_is_named_before_a_runtime_looks_for_it() -> None:
    code = (
        "import akida_backend as ab\n"
        "for ask in (ab.tflite.library_path, ab.tflite.load_delegate):\n"
        "    try: ask()\n"
        "    except ab.AkidaBackendError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AKIDA_BACKEND_LIBRARY": "/nowhere/lib.so", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.count("EngineError no delegate: AKIDA_BACKEND_LIBRARY=/nowhere/lib.so") == 2


# 4. Failures in a kernel's init


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def carrier(
    options: bytes, *, inputs: int = 1, count: int = 1, shape: tuple[int, ...] = (1, 4, 4, 2)
) -> bytes:
    """A chain of operators `akida-program`, all with these options."""
    tensors = [
        TensorRecord(f"t{i}", TensorType.INT8, shape, scale=[0.5], zero_point=[0])
        for i in range(count + 1)
    ]
    operators = [
        OperatorRecord(
            CUSTOM, [i] * inputs, [i + 1], custom_name=PROGRAM_OPERATOR, custom_options=options
        )
        for i in range(count)
    ]
    return FileRecord(tensors, operators, [0], [count]).to_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(lambda p: carrier(damaged(p)), "operator 0: program bytes", id="damaged"),
        pytest.param(lambda p: carrier(p[:100]), "operator 0: program bytes", id="truncated"),
        pytest.param(lambda _: carrier(b"nothing"), "operator 0: program bytes", id="foreign"),
        pytest.param(lambda _: carrier(b""), "needs one input, one output", id="empty"),
        pytest.param(lambda p: carrier(p, inputs=2), "needs one input, one output", id="inputs"),
        pytest.param(
            lambda p: carrier(p, shape=(1, 4, 5, 2)), "does not fit the input", id="shape"
        ),
        pytest.param(lambda p: carrier(p, shape=(1, 32)), "does not fit the input", id="rank"),
    ],
)
def test_programs_are_checked_before_the_runtime_divides_its_graph(
    runtime: Runtime, content: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        runtime.interpreter(content(chain_program()), ab.tflite.load_delegate())


def test_a_kernel_that_was_not_initialised_refuses_to_run(library: str) -> None:
    """tflite-runtime 2.14 goes on after an `init` that failed."""
    plugin, delegate = delegate_of(library)
    fake = FakeRuntime([chain_program()], [(1, 4, 4, 2)] * 2, [[0]])
    assert fake.apply(delegate) == 0
    assert fake.registration is not None
    (kernel,) = fake.kernels
    assert kernel not in (None, fake_tflite.FAILED)
    context = ctypes.addressof(fake.context)
    foreign = fake.partition([0])
    # Outside of ModifyGraphWithDelegate nothing is on offer.
    assert fake.registration.init(context, ctypes.addressof(foreign), 0) == fake_tflite.FAILED
    for user_data in (fake_tflite.FAILED, None):
        node = fake.kernel_node(user_data)
        assert fake.registration.prepare(context, ctypes.addressof(node)) != 0
        assert fake.registration.invoke(context, ctypes.addressof(node)) != 0
        fake.registration.free(context, user_data)
    fake.registration.free(context, kernel)
    plugin.tflite_plugin_destroy_delegate(delegate)


# 5. Tensors inside a partition, and tensors that move


def test_tensors_inside_a_kernel_need_no_memory(runtime: Runtime) -> None:
    """Three programs behind one another in one kernel: LiteRT gives the middle ones no buffer."""
    content = carrier(chain_program(), count=3)
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    assert len(kernels(interpreter)) == 1
    feeds = random_feeds(interpreter)
    x = next(iter(feeds.values()))
    simulator = ab.InferenceSession(one_of_the_chain())
    for _ in range(3):
        (x,) = simulator.run(None, {simulator.get_inputs()[0].name: x})
    (found,) = run(interpreter, feeds).values()
    assert np.array_equal(found, x)


def test_tensors_are_looked_up_at_every_invocation(library: str) -> None:
    plugin, delegate = delegate_of(library)
    fake = FakeRuntime([chain_program()], [(1, 4, 4, 2)] * 2, [[0]])
    assert fake.apply(delegate) == 0
    assert fake.registration is not None
    (kernel,) = fake.kernels
    session = ab.InferenceSession(one_of_the_chain())
    (entry,) = session.get_inputs()
    context, node = ctypes.addressof(fake.context), fake.kernel_node(kernel)
    for seed in range(3):  # other memory each time, and other tensors, too
        x = np.random.default_rng(seed).integers(-128, 128, (1, 4, 4, 2)).astype(np.int8)
        y = np.zeros_like(x)
        moved = (fake_tflite.Tensor * 2)(*fake.tensors)
        for tensor, array in zip(moved, (x, y), strict=True):
            tensor.data, tensor.bytes = array.ctypes.data, array.nbytes
        fake.context.tensors = ctypes.addressof(moved)
        assert fake.registration.prepare(context, ctypes.addressof(node)) == 0
        assert fake.registration.prepare(context, ctypes.addressof(node)) == 0
        assert fake.registration.invoke(context, ctypes.addressof(node)) == 0, fake.text
        assert np.array_equal(y, session.run(None, {entry.name: x})[0])
    fake.registration.free(context, kernel)
    plugin.tflite_plugin_destroy_delegate(delegate)


# 6. Resizing


def test_a_batch_is_resized_up_and_down(runtime: Runtime) -> None:
    content = write_tflite(networks.classifier())
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    session = ab.InferenceSession(content)
    for samples in (1, 5, 2, 1, 64, 3):
        feeds = random_feeds(interpreter, samples, seed=samples)
        (found,), (wanted,) = run(interpreter, feeds).values(), session.run(None, feeds)
        assert np.array_equal(found, wanted), samples


def test_another_height_is_refused_and_the_interpreter_stays_usable(runtime: Runtime) -> None:
    content = write_tflite(convolution())
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    (entry,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(entry["index"], (1, 7, 6, 4))
    with pytest.raises(RuntimeError, match="only axis 0 may be resized"):
        interpreter.allocate_tensors()
    interpreter.resize_tensor_input(entry["index"], (1, 6, 6, 4))
    interpreter.allocate_tensors()
    feeds = random_feeds(interpreter)
    (wanted,) = ab.InferenceSession(content).run(None, feeds)
    (found,) = run(interpreter, feeds).values()
    assert np.array_equal(found, wanted)


# 7. Graphs with dynamic tensors; tensors that are preserved


def computed_shape() -> bytes:
    """A RESHAPE to a shape that is known only when it runs, and a convolution behind it."""
    weights = np.random.default_rng(2).integers(-9, 10, (8, 1, 1, 4)).astype(np.int8)
    int8: dict[str, Any] = {"type": TensorType.INT8, "scale": [0.5], "zero_point": [0]}
    tensors = [
        TensorRecord("x", shape=(1, 144), **int8),
        TensorRecord("shape", TensorType.INT32, (4,)),
        TensorRecord("image", shape=(1, 6, 6, 4), signature=(-1, 6, 6, 4), **int8),
        TensorRecord("weights", shape=weights.shape, data=weights.tobytes(), **int8),
        TensorRecord(
            "bias", TensorType.INT32, (8,), scale=[0.25], zero_point=[0], data=bytes(4 * 8)
        ),
        TensorRecord(
            "y", TensorType.INT8, (1, 6, 6, 8), (-1, 6, 6, 8), scale=[4.0], zero_point=[0]
        ),
    ]
    steps = ("StrideW", "StrideH", "DilationWFactor", "DilationHFactor")
    operators = [
        OperatorRecord(BuiltinOperator.RESHAPE, [0, 1], [2], table="ReshapeOptions"),
        OperatorRecord(
            BuiltinOperator.CONV_2D,
            [2, 3, 4],
            [5],
            table="Conv2DOptions",
            options=dict.fromkeys(steps, 1),
            version=3,
        ),
    ]
    return FileRecord(tensors, operators, [0, 1], [5]).to_bytes()


def test_shapes_known_only_at_run_time_reach_the_kernel(runtime: Runtime) -> None:
    content = computed_shape()
    plain = runtime.interpreter(content)
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    assert len(kernels(interpreter)) == 1
    x = np.random.default_rng(1).integers(-128, 128, (1, 144)).astype(np.int8)
    feeds: dict[str, AnyArray] = {"x": x, "shape": np.array([1, 6, 6, 4], np.int32)}
    (found,), (wanted,) = run(interpreter, feeds).values(), run(plain, feeds).values()
    assert found.shape == wanted.shape == (1, 6, 6, 8)
    (program,) = ab.compile(content).programs
    assert np.array_equal(found, Simulator(program).run(x.reshape(1, 6, 6, 4)))
    feeds["shape"] = np.array([1, 4, 6, 6], np.int32)
    with pytest.raises(RuntimeError, match="only axis 0 may be resized"):
        run(interpreter, feeds)


@pytest.mark.parametrize(
    "groups", [pytest.param([[0], [1]], id="apart"), pytest.param([[0, 1]], id="joined")]
)
def test_programs_run_whether_a_runtime_joins_them_or_not(
    library: str, groups: list[list[int]]
) -> None:
    plugin, delegate = delegate_of(library)
    fake = FakeRuntime([chain_program()] * 2, [(1, 4, 4, 2)] * 3, groups)
    assert fake.apply(delegate) == 0, fake.text
    assert fake.registration is not None
    assert len(fake.kernels) == len(groups)
    assert fake_tflite.FAILED not in fake.kernels
    for kernel in fake.kernels:
        fake.registration.free(ctypes.addressof(fake.context), kernel)
    plugin.tflite_plugin_destroy_delegate(delegate)


def test_preserved_tensors_keep_operators_apart(runtime: Runtime) -> None:
    """LiteRT then makes one kernel per operator: segments of several stay in the runtime."""
    content = write_tflite(networks.classifier())
    interpreter = runtime.interpreter(
        content, ab.tflite.load_delegate(), experimental_preserve_all_tensors=True
    )
    feeds = random_feeds(interpreter)
    if runtime.arithmetic is Arithmetic.TFLITE_2_14:  # joins operators all the same
        assert len(kernels(interpreter)) == 1
        (wanted,) = ab.InferenceSession(content).run(None, feeds)
        (found,) = run(interpreter, feeds).values()
        assert np.array_equal(found, wanted)
        return
    assert not kernels(interpreter)
    assert equal(run(interpreter, feeds), run(runtime.interpreter(content), feeds))
    with pytest.raises(RuntimeError, match="does not keep these operators together: 0 1"):
        runtime.interpreter(
            content,
            ab.tflite.load_delegate(fallback="error"),
            experimental_preserve_all_tensors=True,
        )


# 11. Malformed files


def test_damaged_files_are_refused_before_a_runtime_reads_them() -> None:
    """tflite-runtime 2.14 crashes on most of them."""
    content = write_tflite(networks.classifier())
    for size in range(8, len(content), len(content) // 20):
        with pytest.raises(ab.ImportModelError):
            ab.InferenceSession(content[:size], host="runtime")
