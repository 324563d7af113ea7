# SPDX-License-Identifier: Apache-2.0
"""Saved plans: round trips, one form per plan, and what damage is answered with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import subprocess
import sys
import typing
import zlib
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.compare import compare
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import (
    AkidaBackendError,
    FallbackError,
    ImportModelError,
    InputError,
    ProgramError,
    UnsupportedOperationError,
)
from akida_backend.execute import Executor
from akida_backend.graph import AnyArray, DType, Graph, Opaque
from akida_backend.loading import load
from akida_backend.plan import Plan
from akida_backend.plan_format import (
    PlanDocument,
    content_hash,
    is_plan,
    plan_from_bytes,
    plan_to_bytes,
)
from akida_backend.session import InferenceSession
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

DOCUMENT_AT = 72
# Changes whenever a class that a plan file holds changes: then raise FORMAT_VERSION as well.
FORM_OF_VERSION_1 = "f9023c22c8d9a2a6"


def built(graph: Graph, **options: Any) -> Plan:  # noqa: ANN401
    """A plan of the graph as a file would hold it."""
    return compile_model(load(write_tflite(graph), name="folder/model.tflite"), **options)


def scaled_float() -> Graph:
    """Host operations only, with float attributes and a fixed batch."""
    b = GraphBuilder(1, batch=2, name="scaled.tflite")
    x = b.dequantize(b.leaky_relu(b.input(3, 4, name="x"), alpha=0.25))
    return b.build(b.transpose(x, 1, 0, 2))


NETWORKS: dict[str, Callable[[], Graph]] = {
    "classifier": networks.classifier,
    "uint8": lambda: networks.classifier(dtype=DType.UINT8),
    "two-parts": networks.interrupted,
    "rewritten-stem": networks.strided_stem,
    "two-inputs": networks.two_inputs,
    "fixed-batch": networks.fixed_batch,
    "host-only": scaled_float,
}
EACH_NETWORK = pytest.mark.parametrize("name", NETWORKS)

SAMPLE = plan_to_bytes(built(networks.classifier()))


def plain(value: object) -> object:
    """Dataclasses, arrays and mappings as nested tuples that compare equal by content."""
    match value:
        case np.ndarray():
            return str(value.dtype), value.shape, value.tolist()
        case dict():
            return sorted((key, plain(item)) for key, item in value.items())
        case tuple():
            return tuple(plain(item) for item in value)
        case _ if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            return type(value), tuple(plain(getattr(value, f.name)) for f in fields)
        case _:
            return value


def sealed(data: bytes) -> bytes:
    """`data` with size, content hash and checksum put right, as a hostile writer would."""
    body = data[64:]
    covered = struct.pack("<Q8x", len(data)) + hashlib.sha256(body).digest()
    return data[:12] + struct.pack("<I", zlib.crc32(body, zlib.crc32(covered))) + covered + body


def document(data: bytes) -> Any:  # noqa: ANN401
    (size,) = struct.unpack_from("<Q", data, 64)
    return json.loads(data[DOCUMENT_AT : DOCUMENT_AT + size])


def with_document(data: bytes, value: object) -> bytes:
    """The file with another document before the same heap, sealed again."""
    (size,) = struct.unpack_from("<Q", data, 64)
    end = DOCUMENT_AT + size
    heap = data[end + -end % 64 :]
    text = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    gap = bytes(-(DOCUMENT_AT + len(text)) % 64)
    return sealed(data[:64] + struct.pack("<Q", len(text)) + text + gap + heap)


# Round trips


@EACH_NETWORK
def test_a_plan_comes_back_but_for_folders_and_the_models_bytes(name: str) -> None:
    plan = built(NETWORKS[name]())
    back = plan_from_bytes(plan_to_bytes(plan))
    assert back.graph.name == "model.tflite"
    assert back.graph.source == b""
    assert {op.location.file for op in back.graph.operations} == {"model.tflite"}
    assert back.compiled_by.startswith("akida-backend ")
    renamed = dataclasses.replace(
        compile_model(load(plan.graph.source, name="model.tflite")), compiled_by=back.compiled_by
    )
    assert plain(dataclasses.replace(back, graph=renamed.graph, legalised=renamed.legalised)) == (
        plain(renamed)
    )
    for found, expected in ((back.graph, renamed.graph), (back.legalised, renamed.legalised)):
        assert plain(found) == plain(dataclasses.replace(expected, source=b""))


@EACH_NETWORK
@pytest.mark.parametrize("emulation", ["device", "source"])
def test_a_plan_that_came_back_computes_the_same(name: str, emulation: Any) -> None:  # noqa: ANN401
    plan = built(NETWORKS[name]())
    back = plan_from_bytes(plan_to_bytes(plan))
    feeds = networks.codes(plan.graph, 4)
    if plan.graph.batch is not None:
        feeds = {n: np.concatenate([x] * plan.graph.batch) for n, x in feeds.items()}
    expected = Executor(plan, emulation=emulation).run(feeds).values
    found = Executor(back, emulation=emulation).run(feeds).values
    assert found.keys() == expected.keys()
    for output, values in expected.items():
        np.testing.assert_array_equal(found[output], values)


def test_every_real_model_comes_back_or_names_its_opaque_operators(shared: Path) -> None:
    saved = 0
    for path in sorted((shared / "models").rglob("*.tflite")):
        try:
            plan = compile_model(path)
        except ImportModelError:
            continue
        if any(isinstance(op, Opaque) for op in plan.graph.operations):
            with pytest.raises(UnsupportedOperationError, match=r"cannot be saved as \.akp"):
                plan_to_bytes(plan)
            continue
        data = plan_to_bytes(plan)
        back = plan_from_bytes(data)
        assert plan_to_bytes(back) == data
        saved += 1
    assert saved > 20


# One form


@EACH_NETWORK
def test_writing_what_was_read_gives_the_same_bytes(name: str) -> None:
    data = plan_to_bytes(built(NETWORKS[name]()))
    assert plan_to_bytes(plan_from_bytes(data)) == data


def test_the_folder_of_the_model_and_the_case_of_the_device_leave_the_bytes_alone() -> None:
    content = write_tflite(networks.classifier())
    names = ("m.tflite", "/a/b/m.tflite", "c:\\d\\m.tflite")
    plans = [compile_model(load(content, name=name)) for name in names]
    plans.append(compile_model(load(content, name="m.tflite"), device="AKIDA2"))
    assert len({plan_to_bytes(plan) for plan in plans}) == 1


def test_another_process_and_hash_seed_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(write_tflite(networks.strided_stem()))
    script = (
        "from akida_backend.compiler import compile\n"
        "from akida_backend.plan_format import plan_to_bytes, content_hash\n"
        "print(content_hash(plan_to_bytes(compile('model.tflite'))))\n"
    )
    expected = content_hash(plan_to_bytes(compile_model(tmp_path / "model.tflite")))
    for hash_seed in ("0", "4711"):
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert result.stdout.strip() == expected


def test_equal_arrays_are_stored_once() -> None:
    plan = built(networks.classifier())
    weights = sum(t.data.nbytes for t in plan.graph.tensors.values() if t.data is not None)
    (program,) = plan.programs
    of_layers = sum(getattr(layer, "weights", np.empty(0)).nbytes for layer in program.layers)
    heap = len(plan_to_bytes(plan)) - DOCUMENT_AT
    assert document(plan_to_bytes(plan))["graph"]["tensors"].keys() <= plan.graph.tensors.keys()
    assert weights > 0
    assert heap < 64 * 1024 + 2 * (weights + of_layers)


def test_calibration_data_stay_out_and_are_named(tmp_path: Path) -> None:
    x = networks.codes(networks.classifier(), 20)["image"]
    np.savez(tmp_path / "images.npz", x=x)
    given: tuple[tuple[Any, str], ...] = (
        (tmp_path / "images.npz", "images.npz"),
        (x, "arrays"),
    )
    for data, name in given:
        back = plan_from_bytes(plan_to_bytes(built(networks.classifier(), calibration=data)))
        assert back.options.calibration == name
        notes = compare(back, {"x": x})["notes"]
        assert any(f"calibrated on '{name}'" in note for note in notes)


def test_the_form_is_that_of_version_1() -> None:
    """Every class that a plan file may hold, with the names and types of its fields."""
    pending: list[object] = [PlanDocument]
    form: dict[str, list[str]] = {}
    while pending:
        hint = pending.pop()
        pending.extend(typing.get_args(hint))
        if isinstance(hint, type) and issubclass(hint, Enum):
            form[hint.__name__] = [str(member.value) for member in hint]
        elif dataclasses.is_dataclass(hint) and getattr(hint, "__name__", "") not in form:
            assert isinstance(hint, type)
            skipped = ("threads",)
            written = [f for f in dataclasses.fields(hint) if f.name not in skipped]
            form[hint.__name__] = [f"{f.name}: {f.type}" for f in written]
            hints = typing.get_type_hints(hint)
            pending.extend(hints[f.name] for f in dataclasses.fields(hint))
    text = json.dumps(dict(sorted(form.items())), indent=1)
    assert "Conv2D" in form
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FORM_OF_VERSION_1, text


# What cannot be saved


def test_opaque_operators_are_named(tmp_path: Path) -> None:
    plan = compile_model(load(networks.absolute_file(), name="abs.tflite"))
    with pytest.raises(UnsupportedOperationError, match=r"op 0 ABS 'magnitude': .*not modelled"):
        plan.save(tmp_path / "abs.akp")
    assert list(tmp_path.iterdir()) == []


def test_host_runtime_is_refused_in_saved_plans(tmp_path: Path) -> None:
    plan = built(networks.classifier(), host="runtime")
    with pytest.raises(InputError, match="needs the model's own file"):
        plan.save(tmp_path / "m.akp")
    saved = plan_from_bytes(SAMPLE)
    with pytest.raises(InputError, match="needs the model's own file"):
        InferenceSession(saved, host="runtime")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.onnx", r"was read as tflite, so it cannot be saved as \.onnx"),
        ("m.bin", r"a saved plan is a \.akp or \.onnx or \.tflite file"),
        ("m", r"a saved plan is a \.akp or \.onnx or \.tflite file"),
        ("none/m.akp", "cannot be written"),
    ],
)
def test_other_targets_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        built(networks.classifier()).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_fit_together_is_not_written() -> None:
    plan = built(networks.classifier())
    wrong = dataclasses.replace(plan.graph, outputs=("nowhere",))
    with pytest.raises(ProgramError, match="'nowhere'"):
        plan_to_bytes(dataclasses.replace(plan, graph=wrong))


# Use


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.akp"
    built(networks.classifier()).save(path)
    return path


def images() -> dict[str, AnyArray]:
    return networks.codes(networks.classifier(), 3)


def test_a_session_takes_path_and_bytes(saved: Path) -> None:
    expected = InferenceSession(networks.classifier()).run(None, images())
    for model in (saved, str(saved), saved.read_bytes()):
        (found,) = InferenceSession(model).run(None, images())
        np.testing.assert_array_equal(found, expected[0])


def test_a_plan_is_loaded_as_it_was_saved(saved: Path) -> None:
    assert plan_to_bytes(Plan.load(saved)) == saved.read_bytes() == SAMPLE


def test_a_plan_is_known_by_its_content(saved: Path) -> None:
    renamed = saved.rename(saved.with_name("model"))
    assert InferenceSession(renamed).plan.device.name == "akida2"


def test_a_session_changes_only_how_the_plan_runs(saved: Path) -> None:
    source = InferenceSession(saved, emulation="source", device="akida2")
    assert source.get_providers()[0] == "SourceEmulation(akida2)"
    with pytest.raises(InputError, match="option 'deny' cannot change on a compiled plan"):
        InferenceSession(saved, deny=["type:ADD"])
    with pytest.raises(InputError, match=r"option 'device' cannot change.*'akida2'"):
        InferenceSession(saved, device="akd2500")
    with pytest.raises(FallbackError):
        InferenceSession(saved, fallback="strict")


def test_compare_on_a_saved_plan_is_compare_on_the_model(saved: Path) -> None:
    original = compare(load(write_tflite(networks.classifier()), name="model.tflite"), images())
    assert compare(saved, images()) == original
    assert compare(saved, images(), emulation="source")["results"][-1]["identical"]


def test_load_says_that_a_plan_is_no_model(saved: Path) -> None:
    with pytest.raises(ImportModelError, match="is a compiled plan, not a model"):
        load(saved)


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.akp: cannot be read: No such file"):
        InferenceSession(tmp_path / "none.akp")
    (tmp_path / "other.akp").write_bytes(b"something")
    with pytest.raises(ProgramError, match=r"other\.akp: the first bytes are not those of an "):
        InferenceSession(tmp_path / "other.akp")


# Damage


def test_every_truncation_is_refused() -> None:
    sizes = [*range(200), *range(200, len(SAMPLE), 97)]
    for size in sizes:
        with pytest.raises(ProgramError, match="plan bytes: "):
            plan_from_bytes(SAMPLE[:size])


def test_bit_flips_are_refused() -> None:
    for offset in [*range(200), *range(200, len(SAMPLE), 97)]:
        damaged = bytearray(SAMPLE)
        damaged[offset] ^= 1 << offset % 8
        with pytest.raises(ProgramError, match="plan bytes: "):
            plan_from_bytes(bytes(damaged))


def assert_refused_or_another_plan(data: bytes) -> None:
    """Sealed bytes are a plan in its one form, or a ProgramError: nothing else happens."""
    try:
        plan = plan_from_bytes(data)
    except ProgramError:
        return
    assert plan_to_bytes(plan) == data
    feeds = {}
    for name in plan.graph.inputs:
        tensor = plan.graph.tensors[name]
        feeds[name] = np.zeros([n or 1 for n in tensor.shape], tensor.dtype.numpy)
    try:
        Executor(plan).run(feeds)
    except AkidaBackendError:
        return


@settings(max_examples=250, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(64, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_random_hostile_bytes_never_crash(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLE)
    for offset, value in changes:
        data[offset] = value
    assert_refused_or_another_plan(sealed(bytes(data)))


def _leaves(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for k, item in value.items() for leaf in _leaves(item, (*path, k))]
    if isinstance(value, list) and value:
        return [leaf for k, item in enumerate(value) for leaf in _leaves(item, (*path, k))]
    return [path]


def _changed(value: Any, path: tuple[Any, ...], new: object) -> Any:  # noqa: ANN401
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return copy


HOSTILE_PLAN = document(SAMPLE)
LEAVES = _leaves(HOSTILE_PLAN)
HOSTILE_VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    2**31 - 1,
    2**62,
    10**30,
    0.5,
    "",
    "x",
    "inf",
    [],
    {},
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(LEAVES) - 1), st.sampled_from(HOSTILE_VALUES))
def test_hostile_values_in_any_field_never_crash(number: int, value: object) -> None:
    assert_refused_or_another_plan(
        with_document(SAMPLE, _changed(HOSTILE_PLAN, LEAVES[number], value))
    )


@pytest.mark.full
@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_every_field_takes_every_hostile_value(value: object) -> None:
    for leaf in LEAVES:
        assert_refused_or_another_plan(with_document(SAMPLE, _changed(HOSTILE_PLAN, leaf, value)))


def _field(*path: Any, to: object) -> Callable[[], bytes]:  # noqa: ANN401
    return lambda: with_document(SAMPLE, _changed(HOSTILE_PLAN, path, to))


def _patched(offset: int, form: str, value: int) -> Callable[[], bytes]:
    def make() -> bytes:
        data = bytearray(SAMPLE)
        struct.pack_into(form, data, offset, value)
        return sealed(bytes(data))

    return make


def _first_tensor() -> str:
    return str(next(iter(HOSTILE_PLAN["graph"]["tensors"])))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "first bytes are not those of an akida-backend plan"),
    "a-program": (lambda: b"\x89AKP\r\n\x1a\n" + bytes(90), "not those of an akida-backend plan"),
    "newer": (
        _patched(8, "<I", 2),
        "format version 2, this akida-backend reads 1\n  Install a newer akida-backend",
    ),
    "document-cut-off": (lambda: sealed(SAMPLE[:70]), "the document is cut off"),
    "document-too-long": (_patched(64, "<Q", 2**40), "a document of 1099511627776 bytes"),
    "no-json": (lambda: with_document(SAMPLE, b'{"class":'), "the document is not JSON"),
    "no-ascii": (lambda: with_document(SAMPLE, b'{"class\xff":1}'), "the document is not JSON"),
    "deep": (lambda: with_document(SAMPLE, b"[" * 100_000), "nested too deeply"),
    "long-number": (lambda: with_document(SAMPLE, b"1" * 10_000), "the document is not JSON"),
    "spelling": (
        lambda: with_document(SAMPLE, json.dumps(HOSTILE_PLAN, indent=1).encode()),
        "not in the form in which plans are written",
    ),
    "a-list": (lambda: with_document(SAMPLE, []), "an object expected"),
    "class": (_field("class", to="Evil"), "a PlanDocument expected, found 'Evil'"),
    "operation": (
        _field("graph", "operations", 0, "class", to="os.system"),
        r"plan\.graph\.operations\[0\]: a known class expected, found 'os.system'",
    ),
    "opaque": (
        _field(
            "graph",
            "operations",
            0,
            to={
                "class": "Opaque",
                "location": HOSTILE_PLAN["graph"]["operations"][0]["location"],
                "sources": [0],
                "operands": [],
                "results": [],
                "reason": "",
            },
        ),
        "an opaque operator",
    ),
    "further-field": (_field("graph", "more", to=1), "Graph has the fields name, "),
    "device": (
        lambda: with_document(
            SAMPLE,
            _changed(
                _changed(HOSTILE_PLAN, ("device",), "akida9"), ("options", "device"), "akida9"
            ),
        ),
        "unknown device 'akida9'",
    ),
    "device-of-options": (_field("device", to="akida9"), "options for device 'akida2'"),
    "option": (_field("options", "max_partitions", to=-1), "needs a whole number"),
    "host-runtime": (_field("options", "host", to="runtime"), "needs the model's own file"),
    "array-outside": (
        _field("graph", "tensors", _first_tensor(), "quantization", "scale", 2, to=2**30),
        "4 bytes at 1073741824 of a heap",
    ),
    "array-type": (
        _field("graph", "tensors", _first_tensor(), "quantization", "scale", 0, to="float64"),
        "an array of float32 expected, found 'float64'",
    ),
    "shape": (
        _field("graph", "tensors", _first_tensor(), "shape", 1, to=7),
        "results are declared as|but the inputs give",
    ),
    "shape-too-large": (
        _field("graph", "tensors", _first_tensor(), "shape", 1, to=2**31 - 1),
        "takes more than",
    ),
    "stride": (
        _field("graph", "operations", 0, "stride", "height", to=0),
        "stride 0x2",
    ),
    "folders": (_field("graph", "name", to="a/b"), "a file name with folders"),
    "other-outputs": (_field("legalised", "outputs", to=["image"]), "other inputs or outputs"),
    "nothing-runs": (_field("segments", 1, "operations", to=[]), "an output is never computed"),
    "segment-operations": (
        _field("segments", 1, "operations", to=[99]),
        "segment 1 runs operations that do not exist",
    ),
    "placement": (_field("placement", 0, "segment", to=7), "a segment that does not exist"),
    "placement-order": (_field("placement", 0, "index", to=3), "out of order"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rejects_and_says_why(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ProgramError, match=message):
        plan_from_bytes(make())


def test_is_plan_looks_at_the_first_bytes() -> None:
    assert is_plan(SAMPLE)
    assert not is_plan(b"\x89AKP\r\n\x1a\n")
    assert not is_plan(b"")
