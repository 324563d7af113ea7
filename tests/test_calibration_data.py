# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import zipfile
from pathlib import Path

import networks
import numpy as np
import pytest
from numpy.typing import NDArray

from akida_backend.calibration_data import (
    calibration_samples,
    digests,
    first_samples,
    random_samples,
    read_samples,
    stored_feeds,
)
from akida_backend.errors import InputError
from akida_backend.graph import DType
from builders import GraphBuilder

GRAPH = networks.classifier()  # 'image': int8 [N, 8, 8, 3]
PAIR = networks.two_inputs()
X = networks.codes(GRAPH, 6)["image"]


def saved(path: Path, **arrays: NDArray[np.generic]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_reads_x_and_labels_of_an_npz(tmp_path: Path) -> None:
    path = saved(tmp_path / "data.npz", x=X, y=np.arange(6), other=np.array(["not", "read"]))
    samples = read_samples(GRAPH, path)
    np.testing.assert_array_equal(samples.feeds["image"], X)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert (samples.count, samples.origin, samples.path) == (6, str(path), path)


def test_reads_arrays_by_input_name(tmp_path: Path) -> None:
    feeds = networks.codes(PAIR, 3)
    samples = read_samples(PAIR, saved(tmp_path / "data.npz", **feeds))
    for name in ("left", "right"):
        np.testing.assert_array_equal(samples.feeds[name], feeds[name])


def test_reads_a_single_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.testing.assert_array_equal(read_samples(GRAPH, tmp_path / "x.npy").feeds["image"], X)


def test_takes_arrays_and_mappings_as_they_are() -> None:
    np.testing.assert_array_equal(read_samples(GRAPH, X).feeds["image"], X)
    np.testing.assert_array_equal(read_samples(GRAPH, {"image": X}).feeds["image"], X)


def test_calibration_takes_the_first_samples() -> None:
    np.testing.assert_array_equal(calibration_samples(GRAPH, X, 4).feeds["image"], X[:4])


@pytest.mark.parametrize(
    ("reals", "stored"),
    [
        pytest.param(0.5, 1, id="half-away-from-zero"),
        pytest.param(-0.5, -1, id="minus-half-away-from-zero"),
        pytest.param(2.5, 3, id="not-to-even"),
        pytest.param(0.49999997, 0, id="just-below-half"),
        pytest.param(1e30, 127, id="saturates-high"),
        pytest.param(-1e30, -128, id="saturates-low"),
    ],
)
def test_float32_is_quantized_as_tflite_does(reals: float, stored: int) -> None:
    b = GraphBuilder(0)
    graph = b.build(b.relu(b.input(1, name="x", scaling=(1.0, 0))))
    found = stored_feeds(graph, {"x": np.array([[reals]], np.float32)})
    assert found["x"].tolist() == [[stored]]
    assert found["x"].dtype == np.int8


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((6, 192), id="flat"),
        pytest.param((6, 1, 8, 8, 3), id="extra-axis-of-one"),
    ],
)
def test_samples_may_be_reshaped_where_no_axes_can_be_swapped(shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(stored_feeds(GRAPH, {"image": X.reshape(shape)})["image"], X)


@pytest.mark.parametrize(
    ("array", "problem", "found"),
    [
        pytest.param(X.astype(np.float64), "type", "float64", id="float64"),
        pytest.param(X.astype(np.int16), "type", "int16", id="other-integer"),
        pytest.param(X.view(np.uint8), "type", "uint8", id="other-sign"),
        pytest.param(X.transpose(0, 3, 1, 2), "shape", r"\[6, 3, 8, 8\]", id="channels-first"),
        pytest.param(X[0], "shape", r"\[8, 8, 3\]", id="no-batch"),
        pytest.param(X[:0], "no samples", r"\[0, 8, 8, 3\]", id="no-samples"),
        pytest.param(
            np.full((1, 8, 8, 3), np.nan, np.float32), "not finite", "nan", id="not-a-number"
        ),
        pytest.param(np.full((1, 8, 8, 3), np.inf, np.float32), "not finite", "inf", id="infinite"),
        pytest.param(np.array("text"), "shape", "<U4", id="text"),
    ],
)
def test_refuses_data_and_names_expected_and_found(
    array: NDArray[np.generic], problem: str, found: str
) -> None:
    with pytest.raises(InputError, match=rf"'image' of classifier\.tflite: .*{problem}") as error:
        stored_feeds(GRAPH, {"image": array})
    assert "expected int8 [N, 8, 8, 3], stored values -128..127, or float32" in str(error.value)
    error.match(f"found .*{found}")


def test_four_bit_values_out_of_range_are_refused() -> None:
    b = GraphBuilder(0)
    name = b.input(2, name="x", dtype=DType.INT4, scaling=(1.0, 0))
    graph = b.build(b.reshape(name, 2, 1))
    assert stored_feeds(graph, {"x": np.array([[-8, 7]], np.int8)})["x"].tolist() == [[-8, 7]]
    with pytest.raises(InputError, match=r"outside the range\n.*-8\.\.7"):
        stored_feeds(graph, {"x": np.array([[-9, 7]], np.int8)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"left": "a"}, "no value for input 'right'", id="missing"),
        pytest.param(
            {"left": "a", "right": "a", "lefft": "a"}, "did you mean 'left'", id="unknown"
        ),
        pytest.param({"left": "a", "right": "b"}, "'left' 3, 'right' 2", id="counts-differ"),
    ],
)
def test_refuses_feeds_that_do_not_match_the_inputs(given: dict[str, str], message: str) -> None:
    arrays = {"a": np.zeros((3, 4, 4, 2), np.int8), "b": np.zeros((2, 4, 4, 2), np.int8)}
    with pytest.raises(InputError, match=message):
        stored_feeds(PAIR, {name: arrays[which] for name, which in given.items()})


def test_a_file_without_the_inputs_says_what_it_holds(tmp_path: Path) -> None:
    path = saved(tmp_path / "data.npz", left=np.zeros(1), up=np.zeros(1))
    with pytest.raises(InputError, match=r"expected arrays 'left', 'right'; found 'left', 'up'"):
        read_samples(PAIR, path)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(np.zeros(5, np.int64), id="too-few"),
        pytest.param(np.zeros(6, np.float32), id="float"),
        pytest.param(np.zeros((6, 2), np.int64), id="one-hot"),
    ],
)
def test_refuses_labels_that_do_not_fit(labels: NDArray[np.generic]) -> None:
    with pytest.raises(InputError, match=r"labels 'y' .*\n.*expected 6 class indices"):
        read_samples(GRAPH, {"x": X, "y": labels})


def archive_with(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return file.getvalue()


def header(shape: str, dtype: str = "|i1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


PICKLED = io.BytesIO()
np.save(PICKLED, np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "not a readable", id="empty"),
        pytest.param(b"PK\x03\x04 no archive", "its end is missing", id="broken-archive"),
        pytest.param(header("(1000000000000, 8, 8, 3)"), "more than the file holds", id="huge-npy"),
        pytest.param(
            archive_with(header("(99999999999, 8, 8, 3)")),
            "more than the file holds",
            id="huge-npz",
        ),
        pytest.param(header("(-1, 8)"), "not a readable", id="negative-shape"),
        pytest.param(header("(2,")[:40], "not a readable", id="truncated-header"),
        pytest.param(header("__import__('os')"), "not a readable", id="code-in-header"),
        pytest.param(PICKLED.getvalue(), "never loaded", id="pickle"),
        pytest.param(archive_with(PICKLED.getvalue()), "never loaded", id="pickle-in-archive"),
        pytest.param(
            archive_with(header("(4,)") + b"1234")[:-30],
            "begins as a .npz, but its end is missing",
            id="cut-archive",
        ),
    ],
)
def test_damaged_and_hostile_files_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_samples(GRAPH, path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("data", [4, [np.zeros(1)]], ids=["number", "list"])
def test_samples_of_another_type_are_refused(data: object) -> None:
    with pytest.raises(InputError, match=f"arrays by name, not as {type(data).__name__}"):
        read_samples(GRAPH, data)  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz: no such file"):
        read_samples(GRAPH, tmp_path / "none.npz")


def test_random_samples_are_repeatable_and_span_the_codes() -> None:
    first, second = random_samples(GRAPH), random_samples(GRAPH)
    np.testing.assert_array_equal(first.feeds["image"], second.feeds["image"])
    assert (first.count, first.labels, first.origin) == (32, None, "32 random samples, seed 0")
    values = first.feeds["image"]
    assert (int(values.min()), int(values.max())) == (-128, 127)
    # The figures of a report depend on them: PCG64 is the same on every machine.
    assert (
        values.ravel()[:4].tolist()
        == np.random.default_rng(0)
        .integers(-128, 127, (32, 8, 8, 3), endpoint=True)
        .ravel()[:4]
        .tolist()
    )


def test_random_samples_of_a_fixed_batch_fill_it() -> None:
    assert random_samples(networks.fixed_batch(3), 4).feeds["x"].shape == (6, 3)


def test_a_limit_keeps_groups_of_a_fixed_batch_whole() -> None:
    graph = networks.fixed_batch(2)
    samples = read_samples(graph, networks.codes(graph, 8)["x"])
    assert [first_samples(graph, samples, limit).count for limit in (1, 5, None)] == [2, 4, 8]


def test_a_graph_without_inputs_has_one_sample() -> None:
    b = GraphBuilder(0)
    graph = b.build(b.relu(b.constant([[1, -1]], scaling=(0.5, 0))))
    assert random_samples(graph).count == 1


@pytest.mark.parametrize("recoded", [False, True], ids=["integer-input", "float-input"])
def test_values_outside_the_range_of_an_input_are_said_to_be_cut_off(recoded: bool) -> None:
    b = GraphBuilder(0)
    x = b.input(4, name="x", dtype=DType.FLOAT32) if recoded else b.input(4, name="x")
    graph = b.build(b.relu(b.quantize(x) if recoded else x))
    low, high = graph.tensors[graph.operations[0].outputs[0] if recoded else "x"].real_range
    values = np.full((25, 4), (low + high) / 2, np.float32)
    values.flat[:2] = high + (high - low)
    values.flat[2] = low  # inside
    (note,) = read_samples(graph, values).notes
    assert note == (
        f"array: 2 % of the values lie outside {low:.4g}..{high:.4g}, the range of input 'x'; "
        "they were cut off"
    )
    values.flat[1] = high  # 1 % is no more than chance
    assert read_samples(graph, values).notes == ()
    values[:] = high + (high - low) / 256  # nor is the last code's other half
    assert read_samples(graph, values).notes == ()


def test_equal_samples_have_equal_digests_and_are_left_out_in_whole_groups() -> None:
    graph = networks.fixed_batch(2)
    x = networks.codes(graph, 6)["x"]
    x[5] = x[0]
    samples = read_samples(graph, x)
    one, two, *_, last = digests(samples.feeds)
    assert one == last != two
    np.testing.assert_array_equal(samples.without({two}, 2).feeds["x"], x[2:])
    np.testing.assert_array_equal(samples.without({two}, None).feeds["x"], x[[0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(samples.without({one}, 2).feeds["x"], x[2:4])
