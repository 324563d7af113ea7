# SPDX-License-Identifier: Apache-2.0
"""EPContext nodes in a session: results, and everything that is checked when they are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import context_models
import numpy as np
import onnx
import pytest
from context_models import attribute, channels_last, compiled, images
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from program_bytes import with_another_hash

from akida_backend import onnxruntime as provider
from akida_backend.epcontext import PROVIDER
from akida_backend.errors import InputError
from akida_backend.simulator import Simulator


def expected(values: NDArray[np.uint8]) -> NDArray[np.int8]:
    return np.asarray(Simulator(context_models.program()).run(channels_last(values)), np.int8)


def refusal(ort: ModuleType, built: onnx.ModelProto, **options: str) -> str:
    """The error of a session that onnxruntime makes by itself, from options that are text."""
    settings = ort.SessionOptions()
    settings.add_provider_for_devices(provider._devices(), options)
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        ort.InferenceSession(built.SerializeToString(), sess_options=settings)
    return str(caught.value)


@pytest.mark.parametrize("batch", [7, 1, 0, 3])
def test_results_equal_the_simulator_at_every_batch(ort: ModuleType, batch: int) -> None:  # noqa: ARG001
    session = provider.create_session(context_models.with_cast().SerializeToString())
    x = images(batch)
    (z,) = session.run(None, {"x": x})
    assert z.shape == (batch, 5)
    assert z.tolist() == expected(x).astype(np.int32).tolist()


def test_a_lone_node_runs_without_fallback_to_the_cpu(ort: ModuleType) -> None:
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = provider.create_session(
        context_models.single().SerializeToString(), sess_options=settings, threads=2
    )
    assert session.get_providers()[0] == PROVIDER
    x = images(4)
    assert session.run(None, {"x": x})[0].tolist() == expected(x).tolist()


@pytest.mark.parametrize("name", ["akida2", "AKIDA2"])
def test_the_device_it_was_compiled_for_may_be_named(ort: ModuleType, name: str) -> None:  # noqa: ARG001
    session = provider.create_session(context_models.single().SerializeToString(), device=name)
    assert session.run(None, {"x": images(1)})[0].shape == (1, 5)


def test_another_device_is_refused_and_both_are_named(ort: ModuleType) -> None:
    text = refusal(ort, context_models.single(), device="akd1000")
    assert "compiled for device 'akida2' by akida-backend" in text
    assert "the option asks for 'akd1000'" in text


def test_damaged_program_bytes_are_refused(ort: ModuleType) -> None:
    built = context_models.single()
    payload = attribute(built, "ep_cache_context")
    payload.s = payload.s[:200] + bytes([payload.s[200] ^ 1]) + payload.s[201:]
    assert "checksum does not match" in refusal(ort, built)


def test_truncated_program_bytes_are_refused(ort: ModuleType) -> None:
    built = context_models.single()
    payload = attribute(built, "ep_cache_context")
    payload.s = payload.s[:-8]
    assert "Compile the model again" in refusal(ort, built)


def test_a_newer_program_format_is_refused_and_both_versions_are_named(ort: ModuleType) -> None:
    built = context_models.single()
    payload = attribute(built, "ep_cache_context")
    payload.s = payload.s[:8] + b"\x07\0\0\0" + payload.s[12:]
    text = refusal(ort, built)
    assert "version 7" in text
    assert "reads 1" in text


def test_notes_of_another_program_are_refused_and_both_hashes_are_named(ort: ModuleType) -> None:
    built = context_models.single()
    data, _ = compiled().payload()
    notes = attribute(built, "notes")
    found = data[32:64].hex()
    notes.s = notes.s.replace(found.encode(), b"ab" * 32)
    text = refusal(ort, built)
    assert found in text
    assert "ab" * 32 in text


def test_a_program_whose_content_hash_is_not_its_own_is_refused(ort: ModuleType) -> None:
    built = context_models.single()
    payload, notes = attribute(built, "ep_cache_context"), attribute(built, "notes")
    before = payload.s[32:64].hex()
    payload.s = with_another_hash(payload.s)
    notes.s = notes.s.replace(before.encode(), payload.s[32:64].hex().encode())
    assert "the content hash of its program does not match" in refusal(ort, built)


@pytest.mark.parametrize(
    ("declared", "batch"),
    [
        pytest.param("INT8", 200_000, id="smaller"),
        pytest.param("INT8", 3, id="smaller-by-little"),
        pytest.param("DOUBLE", 3, id="larger"),
        pytest.param("FLOAT", 3, id="as-large"),
        pytest.param("STRING", 3, id="objects"),
    ],
)
def test_a_model_that_declares_another_output_type_is_refused(
    in_python: Callable[[str], str], declared: str, batch: int
) -> None:
    """Memory is allocated as the model declares it, and the program writes int32."""
    printed = in_python(f"""
import dataclasses, numpy as np, onnx
import context_models
from akida_backend import onnxruntime as provider
from akida_backend.graph import DType
made = context_models.compiled()
output = dataclasses.replace(made.program.output, dtype=DType.INT32)
made = dataclasses.replace(made, program=dataclasses.replace(made.program, output=output))
built = context_models.model([made.node("segment")], {{"y": onnx.TensorProto.{declared}}})
try:
    session = provider.create_session(built.SerializeToString())
    for _ in range(3):
        print(session.run(None, {{"x": context_models.images({batch})}})[0].shape)
except Exception as problem:
    print(problem)
""")
    code = onnx.TensorProto.DataType.Value(declared)
    assert f"output 'y': element type 6 was compiled, the model has {code}" in printed


def test_a_newer_format_of_the_notes_is_refused(ort: ModuleType) -> None:
    built = context_models.single()
    notes = attribute(built, "notes")
    notes.s = notes.s.replace(b'"format": 1', b'"format": 2')
    assert "format 2, this akida-backend reads 1" in refusal(ort, built)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((b'"input_transposed": [3, 64]', b'"input_transposed": [3, 65]'), id="matrix"),
        pytest.param(
            (b'"input_transposed": [3, 64]', b'"input_transposed": [3, 123456789012345678]'),
            id="huge-matrix",
        ),
        pytest.param((b'"output_shape": [-1, 5]', b'"output_shape": [-1, 6]'), id="shape"),
        pytest.param((b'"output_shape": [-1, 5]', b'"output_shape": [-1, -5]'), id="negative"),
        pytest.param((b'"output_shape": [-1, 5]', b'"output_shape": []'), id="no-shape"),
        pytest.param(
            (b'"input_view": []', b'"input_view": [0, 1, 1, 0, 1, 192, 0, 1]'), id="view-and-matrix"
        ),
        pytest.param((b'"devices"', b'"dev"'), id="no-devices"),
        pytest.param((b'"tool": "', b'"tool": "\\q'), id="unknown-escape"),
        pytest.param((b'"tool": "', b'"tool": "\\u00g0'), id="not-hexadecimal"),
        pytest.param((b"{", b"{{"), id="not-json"),
        pytest.param((b"}", b""), id="cut"),
    ],
)
def test_damaged_notes_are_refused(ort: ModuleType, change: tuple[bytes, bytes]) -> None:
    built = context_models.single()
    notes = attribute(built, "notes")
    assert change[0] in notes.s
    notes.s = notes.s.replace(*change)
    assert "Compile the model again" in refusal(ort, built)


def test_a_program_beside_the_model_is_refused(ort: ModuleType) -> None:
    built = context_models.single()
    attribute(built, "embed_mode").i = 0
    assert "embed_mode 0" in refusal(ort, built)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        pytest.param({"emulation": "source"}, "in the device's arithmetic", id="source"),
        pytest.param({"fallback": "warn"}, "no meaning for a compiled model", id="compile-option"),
        pytest.param({"bananas": "1"}, "option 'bananas'", id="unknown"),
        pytest.param({"threads": "two"}, "from 1 to 256, got 'two'", id="threads"),
    ],
)
def test_options_of_other_models_are_refused(
    ort: ModuleType,
    options: dict[str, str],
    wanted: str,
) -> None:
    assert wanted in refusal(ort, context_models.single(), **options)


def test_unknown_options_are_refused_before_onnxruntime_sees_them(ort: ModuleType) -> None:  # noqa: ARG001
    with pytest.raises(InputError, match="did you mean 'threads'"):
        provider.create_session(context_models.single().SerializeToString(), thread=2)


def test_nodes_of_other_providers_are_left_to_them(ort: ModuleType) -> None:
    built = context_models.single()
    attribute(built, "source").s = b"QNN"
    payload = attribute(built, "ep_cache_context")
    payload.s = b"theirs"
    text = refusal(ort, built)
    assert "theirs" not in text
    assert "Compile the model again" not in text


def test_the_cpu_alone_refuses_a_compiled_model(ort: ModuleType) -> None:
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED.*EPContext"):
        ort.InferenceSession(
            context_models.single().SerializeToString(), providers=["CPUExecutionProvider"]
        )


NUMBERS = st.sampled_from([-(2**31), -5, -1, 0, 1, 2, 3, 4, 5, 8, 64, 192, 255, 2**31, 10**17])
LISTS = st.lists(NUMBERS, max_size=14)
FIELDS = ("input_transposed", "output_transposed", "output_shape", "input_view", "input_real")
SIDES = st.permutations([8, 8, 3])
# A view with as many values as the program reads, but from anywhere.
VIEWS = st.builds(
    lambda fill, source, lengths, steps: [
        fill,
        3,
        *(number for pair in source for number in pair),
        3,
        *(n for length, step in zip(lengths, steps, strict=True) for n in (length, *step)),
    ],
    st.integers(-9, 300),
    # Mostly of lengths that divide the bytes given, so that it is run.
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 8, 9]), st.integers(-4, 4)), min_size=3, max_size=3
    ),
    SIDES,
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=3, max_size=3),
)


@seed(1)
@settings(max_examples=80, database=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), LISTS, min_size=1, max_size=2)
    | st.builds(
        lambda others, view: {**others, "input_view": view},
        st.sampled_from([{}, {"input_transposed": []}, {"input_transposed": [64, 3]}]),
        VIEWS,
    )
)
def test_notes_of_any_numbers_are_refused_or_run(
    ort: ModuleType,
    changes: dict[str, list[int]],
) -> None:
    built = context_models.single()
    notes = attribute(built, "notes")
    notes.s = json.dumps({**json.loads(notes.s), **changes}).encode()
    silent = ort.SessionOptions()
    silent.log_severity_level = 4
    x, told = images(2), ""
    try:
        session = provider.create_session(built.SerializeToString(), sess_options=silent)
        (y,) = session.run(None, {"x": x})
    except Exception as problem:
        told = str(problem)
        assert "Compile the model again" in told or "was compiled" in told, told
        return
    assert y.size == 5 * len(y)
    # What is read for a sample lies within it.
    other = x.copy()
    other.reshape(-1)[x.nbytes // len(y) :] ^= 255
    assert session.run(None, {"x": other})[0][0].tolist() == y[0].tolist()
