# SPDX-License-Identifier: Apache-2.0
"""Registering, many sessions and threads, forks and ends of processes."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import context_models
import numpy as np
import pytest
from context_models import channels_last, images
from turns import turns_during

from akida_backend import onnxruntime as provider
from akida_backend.epcontext import PROVIDER
from akida_backend.graph import Activation
from akida_backend.onnx_writer import OnnxForm, write_onnx
from akida_backend.simulator import Simulator
from builders import GraphBuilder

SESSION = """
import context_models, numpy as np
from akida_backend import onnxruntime as provider
def session():
    return provider.create_session(context_models.single().SerializeToString())
def total(session):
    return int(session.run(None, {"x": context_models.images(3)})[0].astype(int).sum())
"""

RuntimeText = Callable[[str], str]


# Registering


def test_importing_registers_nothing(in_python: RuntimeText) -> None:
    printed = in_python("""
import akida_backend, akida_backend.onnxruntime
import onnxruntime
print([each.ep_name for each in onnxruntime.get_ep_devices()])
""")
    assert printed == "['CPUExecutionProvider']"


def test_automatic_selection_takes_the_provider_only_once_it_is_registered(
    in_python: RuntimeText,
) -> None:
    printed = in_python("""
import context_models, onnxruntime
from akida_backend import onnxruntime as provider
from akida_backend.onnx_writer import write_onnx
data = write_onnx(context_models.residual())
def chosen():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    policy = onnxruntime.OrtExecutionProviderDevicePolicy.PREFER_CPU
    options.set_provider_selection_policy(policy)
    return onnxruntime.InferenceSession(data, sess_options=options).get_providers()[0]
print(chosen())
provider._register()
print(chosen())
""")
    assert printed.split() == ["CPUExecutionProvider", PROVIDER]


def test_registering_again_changes_nothing(ort: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        provider.register()
        provider.register()
    names = [each.ep_name for each in ort.get_ep_devices()]
    assert names.count(PROVIDER) == 1


def test_the_provider_is_attached_to_the_cpu(ort: ModuleType) -> None:
    (found,) = (each for each in ort.get_ep_devices() if each.ep_name == PROVIDER)
    assert found.device.type == ort.OrtHardwareDeviceType.CPU
    assert "simulated" in found.ep_vendor


def test_providers_by_name_work_or_are_warned_of(ort: ModuleType) -> None:
    data = context_models.single().SerializeToString()
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 25):
        with pytest.warns(UserWarning, match="create_session"):
            provider.register()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        provider.register()
    session = ort.InferenceSession(data, providers=[PROVIDER, "CPUExecutionProvider"])
    assert session.get_providers() == [PROVIDER, "CPUExecutionProvider"]
    x = images(2)
    expected = Simulator(context_models.program()).run(channels_last(x))
    assert session.run(None, {"x": x})[0].tolist() == expected.tolist()
    options = {"device": "akida2", "threads": "2"}
    session = ort.InferenceSession(data, providers=[(PROVIDER, options), "CPUExecutionProvider"])
    assert session.run(None, {"x": x})[0].tolist() == expected.tolist()


def test_unregistering_under_a_live_session_does_no_harm(in_python: RuntimeText) -> None:
    printed = in_python(
        SESSION
        + """
import onnxruntime
live = session()
before = total(live)
onnxruntime.unregister_execution_provider_library("AkidaExecutionProvider")
print(total(live) == before)
del live
again = session()
print(total(again) == before)
"""
    )
    assert printed.split() == ["True", "True"]


# The host's version


class _ApiBase(ctypes.Structure):
    _fields_ = (("get_api", ctypes.c_void_p), ("version", ctypes.c_void_p))


GET_API = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
VERSION = ctypes.CFUNCTYPE(ctypes.c_void_p)
CREATE_STATUS = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)


@pytest.mark.parametrize(
    ("version", "newest", "asked", "told"),
    [
        pytest.param(b"1.22.2", 22, [1], "onnxruntime 1.22.2 is too old", id="too-old"),
        pytest.param(b"1.23.0", 22, [23, 1], "is too old", id="lies"),
        pytest.param(b"nonsense", 22, [1], "onnxruntime nonsense is too old", id="unreadable"),
        pytest.param(b"1.99.0", 23, [24, 1], "is too old", id="newer-than-known"),
    ],
)
def test_tables_are_only_asked_for_in_versions_that_both_sides_know(
    ort: ModuleType,  # noqa: ARG001
    version: bytes,
    newest: int,
    asked: list[int],
    told: str,
) -> None:
    library = ctypes.CDLL(str(provider.library_path()))
    said: list[str] = []
    wanted: list[int] = []
    text = ctypes.create_string_buffer(version)

    def create_status(_: int, message: bytes) -> int:
        said.append(message.decode())
        return 77

    make_status = CREATE_STATUS(create_status)
    table = (ctypes.c_void_p * 1)(ctypes.cast(make_status, ctypes.c_void_p).value)

    def get_api(number: int) -> int | None:
        wanted.append(number)
        return ctypes.addressof(table) if number <= newest and number != 23 else None

    callbacks = GET_API(get_api), VERSION(lambda: ctypes.addressof(text))
    base = _ApiBase(*(ctypes.cast(each, ctypes.c_void_p).value for each in callbacks))
    factories = (ctypes.c_void_p * 4)()
    count = ctypes.c_size_t(9)
    library.CreateEpFactories.restype = ctypes.c_void_p
    status = library.CreateEpFactories(
        b"name", ctypes.byref(base), None, factories, ctypes.c_size_t(4), ctypes.byref(count)
    )
    assert (status, count.value, wanted) == (77, 0, asked)
    assert told in said[0]


# Many at once


def test_eight_threads_share_a_session(ort: ModuleType) -> None:  # noqa: ARG001
    session = provider.create_session(context_models.with_cast().SerializeToString())
    inputs = [images(1 + seed % 3, seed) for seed in range(8)]
    simulator = Simulator(context_models.program())
    expected = [simulator.run(channels_last(x)).astype(np.int32) for x in inputs]

    def work(number: int) -> bool:
        return all(
            np.array_equal(session.run(None, {"x": inputs[number]})[0], expected[number])
            for _ in range(100)
        )

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [True] * 8


def test_inference_does_not_hold_the_interpreter_lock(ort: ModuleType) -> None:  # noqa: ARG001
    b = GraphBuilder(7)
    x = b.input(48, 48, 16, name="x")
    for _ in range(4):
        x = b.conv2d(x, 16, activation=Activation.RELU)
    session = provider.create_session(write_onnx(b.build(x), OnnxForm.QOPERATOR))
    feeds = {"x": np.zeros((64, 48, 48, 16), np.int8)}
    assert max(turns_during(lambda: session.run(None, feeds)) for _ in range(4)) >= 4


def test_eight_threads_create_sessions(ort: ModuleType) -> None:  # noqa: ARG001
    data = context_models.single().SerializeToString()
    x = images(2)
    expected = Simulator(context_models.program()).run(channels_last(x)).tolist()
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(provider.create_session, data) for _ in range(16)]
        assert [each.result().run(None, {"x": x})[0].tolist() for each in made] == [expected] * 16


def resident_kilobytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_hundred_sessions_leave_no_memory_behind(ort: ModuleType) -> None:  # noqa: ARG001
    data = context_models.single().SerializeToString()
    x = images(2)

    def use(sessions: int) -> int:
        for _ in range(sessions):
            provider.create_session(data).run(None, {"x": x})
        return resident_kilobytes()

    use(20)
    before = use(5)
    assert use(100) - before < 4000  # a loaded program alone takes 150 kB


# Ends of processes


def test_a_process_may_end_with_a_live_session(in_python: RuntimeText) -> None:
    assert in_python(SESSION + "import sys\nlive = session()\nsys.live = live\nprint(total(live))")


def test_a_process_may_end_with_a_live_session_that_computes_in_python(
    in_python: RuntimeText,
) -> None:
    printed = in_python("""
import sys
import networks, numpy as np
from akida_backend import onnxruntime as provider
from akida_backend.onnx_writer import write_onnx
live = provider.create_session(write_onnx(networks.strided_stem()), emulation="source")
sys.live = live
(entry,) = live.get_inputs()
print(live.run(None, {entry.name: np.zeros((2, *entry.shape[1:]), np.int8)})[0].shape)
""")
    assert printed == "(2, 4)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_runs_and_goes_in_a_forked_process(in_python: RuntimeText, threads: int) -> None:
    """Its interpreter does not end: at that onnxruntime's own threads hang, whatever runs."""
    printed = in_python(
        SESSION
        + f"""
import gc, onnxruntime
from forking import in_child
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
live = provider.create_session(
    context_models.single().SerializeToString(), sess_options=options, threads={threads}
)
before = total(live)
def go_on():
    global live
    assert total(live) == before
    live = None
    gc.collect()
print(in_child(go_on, ends=False), total(live) == before)
"""
    )
    assert printed == "0 True"
